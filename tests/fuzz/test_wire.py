"""The wire formats against decoders of others: orjson with numpy, and the safetensors library."""

import base64
import json
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors import SafetensorError
from safetensors.numpy import load, save

from elbod.api import wire
from elbod.errors import ElbodError
from tests.fuzz.conftest import Budget
from tests.fuzz.honest import check_answer, unharmed
from tests.support import Server

NAMES = ("x", "z", "label")
DTYPES = ("uint8", "int64", "float32", "float64")

Decoded = tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]

plain_values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=6)
fields = st.dictionaries(
    names.filter(lambda name: name not in (*NAMES, "pad")),
    plain_values | st.lists(plain_values, max_size=4),
    max_size=6,
)
shapes = npst.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
numbers = st.sampled_from(DTYPES).flatmap(
    lambda dtype: npst.arrays(
        dtype, shapes, elements={"allow_nan": False, "allow_infinity": False} if "f" in dtype else None
    )
)
arrays = st.dictionaries(st.sampled_from(NAMES), numbers)
# How bytes are damaged: a slice is replaced by others, some of which mean something to a parser.
tokens = st.sampled_from(
    [b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"null", b"true", b"1e999", b"NaN", b"-", b"0"]
)
damage = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 8), st.one_of(tokens, st.binary(max_size=8))), min_size=1, max_size=4
)


def damaged(body: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for place, cut, put in edits:
        start = int(place * len(body))
        body = body[:start] + put + body[start + cut :]
    return body


def packed(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "data": base64.b64encode(array.tobytes()).decode(),
    }


def decoded(body: bytes) -> Decoded | None:
    """What the body holds, or None where it is refused; anything else that is raised fails the test."""
    try:
        return wire.decode_json(bytearray(body), NAMES)
    except ElbodError:
        return None


def same(one: Decoded | None, other: Decoded | None) -> bool:
    if one is None or other is None:
        return one is other
    return (
        one[0] == other[0]
        and one[1].keys() == other[1].keys()
        and all(
            np.array_equal(one[1][name], other[1][name]) and one[1][name].dtype == other[1][name].dtype
            for name in one[1]
        )
    )


def reference(body: bytes) -> Decoded | None:
    """orjson's reading of it, each array as numpy makes it of the lists; None where either refuses."""
    try:
        found = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
        values = {name: found.pop(name) for name in NAMES if name in found}
        return found, {name: _of_lists(value) for name, value in values.items() if value is not None}
    except (ValueError, TypeError, AttributeError):
        return None


def _of_lists(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, dict):
        return np.frombuffer(base64.b64decode(value["data"]), value["dtype"]).reshape(value["shape"])
    return np.array(value, np.float64)


@pytest.mark.share(0.03)
def test_what_is_well_formed_is_read_as_it_was_written(budget: Budget) -> None:
    def check(of: tuple[dict[str, Any], dict[str, Any], bool, int | None]) -> None:
        plain, given, as_base64, indent = of
        written = {name: packed(array) if as_base64 else array.tolist() for name, array in given.items()}
        found = decoded(json.dumps(plain | written, indent=indent).encode())
        assert found is not None
        assert found[0] == plain
        assert found[1].keys() == given.keys()
        for name, array in given.items():
            assert found[1][name].shape == array.shape
            assert np.array_equal(found[1][name], array)

    budget.check(st.tuples(fields, arrays, st.booleans(), st.sampled_from([None, 0, 2])), check)


@pytest.mark.share(0.03)
def test_damaged_json_is_refused_or_read_as_others_read_it(budget: Budget) -> None:
    def check(of: tuple[dict[str, Any], dict[str, Any], list[tuple[float, int, bytes]]]) -> None:
        plain, given, edits = of
        body = damaged(json.dumps(plain | {name: a.tolist() for name, a in given.items()}).encode(), edits)
        found = decoded(body)
        if found is not None:
            expected = reference(body)
            assert expected is not None, body
            # Of values that no field has, objects for one, only the name must be kept.
            assert found[0].keys() == expected[0].keys()
            assert found[1].keys() == expected[1].keys()
            for name, array in found[1].items():
                assert np.array_equal(array.astype(np.float64), expected[1][name].astype(np.float64))

    budget.check(st.tuples(fields, arrays, damage), check)


@pytest.mark.share(0.03)
def test_an_escape_changes_nothing(budget: Budget) -> None:
    """Bodies without escapes may be decoded in a quicker way, which must read and refuse the same."""

    def check(of: tuple[dict[str, Any], dict[str, Any], list[tuple[float, int, bytes]]]) -> None:
        plain, given, edits = of
        body = damaged(json.dumps(plain | {name: a.tolist() for name, a in given.items()}).encode(), edits)
        end = body.rfind(b"}")
        if end < 0 or b"\\" in body:
            return
        comma = b"," if body[:end].strip() != b"{" else b""
        quick = decoded(body[:end] + comma + b'"pad":"a"' + body[end:])
        slow = decoded(body[:end] + comma + b'"pad":"\\u0061"' + body[end:])
        assert same(quick, slow)

    budget.check(st.tuples(fields, arrays, damage | st.just([])), check)


@pytest.mark.share(0.03)
def test_safetensors_are_refused_or_read_as_the_library_reads_them(budget: Budget) -> None:
    def check(of: tuple[dict[str, Any], dict[str, Any], list[tuple[float, int, bytes]]]) -> None:
        plain, given, edits = of
        whole = save({name: np.ascontiguousarray(a) for name, a in given.items()}, {"request": json.dumps(plain)})
        body = damaged(whole, edits)
        try:
            found = wire.decode_safetensors(bytearray(body), NAMES)
        except ElbodError as error:
            if body == whole:
                pytest.fail(f"what the library wrote is refused: {error}")
            return
        try:
            expected = load(body)
        except SafetensorError as error:
            pytest.fail(f"the library refuses what is read here: {error}")
        assert found[1].keys() == expected.keys()
        # By their bytes: damage makes numbers that are none.
        assert all(found[1][name].tobytes() == expected[name].tobytes() for name in expected)

    budget.check(st.tuples(fields, arrays, damage | st.just([])), check)


@pytest.mark.share(0.02)
def test_a_media_type_is_one_of_the_offers_or_none(budget: Budget) -> None:
    offers = (wire.JSON_TYPE, wire.SAFETENSORS_TYPE, wire.PNG_TYPE)
    ranges = st.sampled_from([*offers, "*/*", "application/*", "image/*", "text/html", ""])
    quality = st.one_of(st.floats(0, 1).map(str), st.sampled_from(["", "nan", "inf", "-1", "1_0", "x"]))
    parts = st.tuples(ranges, quality).map(lambda of: f"{of[0]};q={of[1]}")

    def check(accept: str) -> None:
        assert wire.best_media_type(accept, offers) in (*offers, None)
        assert wire.best_media_type(f"{accept}, image/png;q=1, */*;q=0", offers) in (*offers, None)

    budget.check(st.one_of(st.text(max_size=60), st.lists(parts, max_size=6).map(", ".join)), check)


@pytest.mark.share(0.1)
def test_hostile_bodies_get_short_refusals(plain: Server, budget: Budget) -> None:
    document = httpx.get(f"{plain.url}/openapi.json").json()
    repeated = st.tuples(st.sampled_from([b"[", b'{"a":', b"1,", b'"include":[1,1],', b" "]), st.integers(1, 100_000))
    bodies = st.one_of(
        st.tuples(arrays, damage).map(
            lambda of: damaged(json.dumps({name: a.tolist() for name, a in of[0].items()}).encode(), of[1])
        ),
        st.tuples(arrays, damage).map(lambda of: damaged(save(of[0], {"request": "{}"}), of[1])),
        repeated.map(lambda of: b"{" + of[0] * of[1] + b"}"),
        st.integers(1, 20_000).map(lambda count: json.dumps({f"k{i}": i for i in range(count)}).encode()),
        st.integers(1, 200_000).map(lambda count: json.dumps({"x": [[1]], "include": [1] * count}).encode()),
        st.integers(1, 500_000).map(lambda length: json.dumps({"model": "m" * length, "m" * length: 1}).encode()),
    )
    types = st.sampled_from([wire.JSON_TYPE, wire.SAFETENSORS_TYPE])
    with unharmed(plain), httpx.Client(base_url=plain.url, timeout=60) as http:

        def check(of: tuple[bytes, str, str]) -> None:
            body, media, path = of
            answer = http.post(path, content=body, headers={"Content-Type": media})
            check_answer(answer, document, path)

        budget.check(st.tuples(bodies, types, st.sampled_from(["/sample", "/encode", "/elbo"])), check)
