"""An array of an answer is declared once: whatever documents answers or reads them knows exactly those."""

import re
from dataclasses import fields
from typing import Any

import httpx
import pytest

import elbod_client
from docsite import tables
from elbod.engine.columns import ELBO, ENCODE, POSTERIOR, SAMPLE, Column

ROWS = [[[1] * 8] * 8] * 2
NAMES = {"Values", "PackedArray"}

TABLES = [
    ("/sample", "SampleResponse", SAMPLE),
    ("/encode", "PosteriorParameters", POSTERIOR),
    ("/encode", "EncodeResponse", ENCODE),
    ("/elbo", "ElboResponse", ELBO),
]


@pytest.fixture(scope="module")
def documented(server: Any) -> dict[str, Any]:
    """The properties of each response's schema."""
    found = httpx.get(f"{server.url}/openapi.json").json()["components"]["schemas"]
    return {name: found[name]["properties"] for _, name, _ in TABLES}


def is_array(schema: dict[str, Any]) -> bool:
    kinds = schema.get("anyOf", [schema])
    return any(kind.get("$ref", "").rpartition("/")[2] in NAMES for kind in kinds)


def may_be_null(schema: dict[str, Any]) -> bool:
    return {"type": "null"} in schema["anyOf"]


@pytest.mark.parametrize(("path", "name", "table"), TABLES)
def test_the_document_describes_exactly_the_columns(
    documented: dict[str, Any], path: str, name: str, table: tuple[Column, ...]
) -> None:
    arrays = {field: schema for field, schema in documented[name].items() if is_array(schema)}
    assert list(arrays) == [column.name for column in table]
    for column in table:
        assert arrays[column.name]["description"] == column.described
        assert may_be_null(arrays[column.name]) == (column.null is not None)


@pytest.mark.parametrize(
    ("kind", "table"),
    [(elbod_client.Samples, SAMPLE), (elbod_client.Posterior, ENCODE), (elbod_client.Scores, ELBO)],
)
def test_a_result_of_the_client_has_exactly_the_columns(kind: type[Any], table: tuple[Column, ...]) -> None:
    arrays = {field.name for field in fields(kind) if "ndarray" in str(field.type)}
    assert arrays - {"parameters"} == {column.name for column in table}


def test_the_parameters_of_a_posterior_are_attributes_of_the_client_s_result() -> None:
    assert all(isinstance(getattr(elbod_client.Posterior, column.name), property) for column in POSTERIOR)


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/sample", {"num_samples": 2}),
    ("/sample", {"num_samples": 2, "output": "mean"}),
    ("/sample", {"model": "linear", "num_samples": 2}),
    ("/encode", {"x": ROWS}),
    ("/encode", {"x": ROWS, "num_samples": 3}),
    ("/encode", {"model": "linear", "x": [[0.5] * 6] * 2, "num_samples": 3}),
    ("/encode", {"model": "flow_posterior", "x": ROWS, "num_samples": 3}),
    ("/elbo", {"x": ROWS}),
    ("/elbo", {"x": ROWS, "num_samples": 2, "num_importance_samples": 30, "include": ["reconstruction_map"]}),
    ("/elbo", {"x": ROWS, "target_standard_error": 0.5}),
    ("/elbo", {"model": "mixture", "x": ROWS, "num_samples": 2}),
    ("/elbo", {"model": "linear", "x": [[0.5] * 6] * 2}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_an_answer_has_the_columns_in_their_order_shapes_and_dtypes(
    http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    answer = http.post(path, json=body | {"encoding": "base64"}).json()
    tables = {name: table for at, name, table in TABLES if at == path}
    if (parameters := tables.pop("PosteriorParameters", None)) is not None:
        check(answer["posterior"], parameters, absent=True)
    for table in tables.values():
        check(answer, table)
        named = [column.name for column in table if column.single is None]
        assert [name for name in answer if name in named] == named


CHAINS: list[tuple[str, dict[str, Any]]] = [
    ("/sample", {"num_samples": 2, "include": ["trajectory"], "trajectory_steps": 3}),
    ("/encode", {"x": ROWS, "num_samples": 3, "level": 4}),
    ("/elbo", {"x": ROWS, "num_samples": 2, "include": ["reconstruction_map", "bound_map", "kl_per_level"]}),
    ("/elbo", {"x": ROWS, "num_levels": 2, "num_samples": 2}),
]


@pytest.mark.parametrize(("path", "body"), CHAINS)
def test_an_answer_of_a_model_with_levels_has_the_columns(
    chain_http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    test_an_answer_has_the_columns_in_their_order_shapes_and_dtypes(chain_http, path, body)


def check(answer: dict[str, Any], table: tuple[Column, ...], *, absent: bool = False) -> None:
    sizes = {"n": 2, "S": 3}
    for column in table:
        if absent and column.name not in answer:
            continue
        value = answer[column.name]
        if value is None:
            assert column.null is not None, column.name
        elif isinstance(value, int):
            assert column.single is not None, column.name
        else:
            assert value["dtype"] in re.findall(r"\w+", column.dtype), column.name
            axes = column.shape.strip("(),").split(", ")
            known = [sizes.get(axis) for axis in axes]
            assert all(size in (None, found) for size, found in zip(known, value["shape"], strict=False)), column.name
            assert len(value["shape"]) == len(axes) or "*event_shape" in axes, column.name


def test_the_documentation_lists_exactly_the_columns() -> None:
    listed = [line.split(" | ")[0].strip("|` ") for line in tables.columns().splitlines()[2:]]
    assert listed == [column.name for _, _, table in TABLES for column in table]
