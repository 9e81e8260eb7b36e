"""GET /sample: the same bytes as POST /sample, for links, pages and caches."""

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image


def get(http: httpx.Client, headers: dict[str, str] | None = None, **query: Any) -> httpx.Response:
    return http.get("/sample", params=query, headers=headers)


def test_a_link_gives_what_the_same_post_gives(http: httpx.Client) -> None:
    fields = {"model": "levels@1", "seed": 7, "num_samples": 5, "first_index": 3, "temperature": 0.5, "output": "mean"}
    assert get(http, **fields).content == http.post("/sample", json=fields).content


def test_a_picture_is_a_png_that_says_what_it_shows(http: httpx.Client) -> None:
    response = get(http, seed=7, num_samples=9, format="png")
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-elbod-model"] == "levels@1"
    assert Image.open(io.BytesIO(response.content)).size == (98, 98)


def test_a_caller_who_has_the_bytes_is_told_so(http: httpx.Client) -> None:
    first = get(http, seed=7, num_samples=4, format="png")
    tag = first.headers["etag"]
    for header in (tag, f'"other", W/{tag}', "*"):
        again = get(http, {"If-None-Match": header}, seed=7, num_samples=4, format="png")
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert get(http, {"If-None-Match": '"other"'}, seed=7, num_samples=4, format="png").content == first.content


@pytest.mark.parametrize(
    "change",
    [{"seed": 8}, {"num_samples": 5}, {"first_index": 1}, {"temperature": 0.9}, {"output": "mean"}, {"model": "vamp"}],
)
def test_whatever_changes_the_bytes_changes_the_tag(http: httpx.Client, change: dict[str, Any]) -> None:
    base: dict[str, Any] = {"model": "levels", "seed": 7, "num_samples": 4}
    first, other = get(http, **base), get(http, **base | change)
    assert other.content != first.content
    assert other.headers["etag"] != first.headers["etag"]


@pytest.mark.parametrize(
    "change",
    [
        {"num_steps": 2},
        {"level": 1},
        {"sampler": "ddim"},
        {"include": "trajectory"},
        {"include": "trajectory", "trajectory_steps": 2},
    ],
)
def test_whatever_changes_the_passes_changes_the_tag(chain_http: httpx.Client, change: dict[str, Any]) -> None:
    asked: list[dict[str, Any]] = [{}, {"include": "trajectory"} if "trajectory_steps" in change else {"level": 2}]
    others = [get(chain_http, seed=7, num_samples=4, **fields).raise_for_status() for fields in asked]
    found = get(chain_http, seed=7, num_samples=4, **change).raise_for_status()
    for other in others:
        assert other.content != found.content
        assert other.headers["etag"] != found.headers["etag"]
    again = get(chain_http, {"If-None-Match": found.headers["etag"]}, seed=7, num_samples=4, **change)
    assert again.status_code == 304


@pytest.mark.parametrize(
    ("plain", "written"),
    [
        ({}, {"num_steps": 4}),
        ({}, {"level": 2}),
        ({}, {"sampler": "ancestral", "temperature": 1, "output": "sample"}),
        ({"num_steps": 2}, {"num_steps": 2, "level": 2}),
        ({"include": "trajectory"}, {"include": "trajectory", "trajectory_steps": 8}),
    ],
)
def test_defaults_that_are_written_out_change_neither_bytes_nor_tag(
    chain_http: httpx.Client, plain: dict[str, Any], written: dict[str, Any]
) -> None:
    one, other = (get(chain_http, seed=7, num_samples=4, **fields).raise_for_status() for fields in (plain, written))
    assert other.content == one.content
    assert other.headers["etag"] == one.headers["etag"]


def test_a_link_of_passes_gives_what_the_same_post_gives(chain_http: httpx.Client) -> None:
    fields: dict[str, Any] = {"seed": 7, "num_samples": 3, "num_steps": 2, "level": 2, "trajectory_steps": 2}
    posted = chain_http.post("/sample", json=fields | {"include": ["trajectory"]})
    assert get(chain_http, **fields, include="trajectory").content == posted.content
    assert posted.json()["trajectory_levels"] == [4, 0]


def test_a_link_includes_one_name(chain_http: httpx.Client) -> None:
    twice = chain_http.get("/sample?include=trajectory&include=trajectory")
    assert (twice.status_code, twice.json()["detail"]) == (422, "include is given 2 times: give it once")
    unknown = get(chain_http, include="bound_map")
    assert (unknown.status_code, unknown.json()["errors"][0]["pointer"]) == (422, "/include/0")


def test_only_a_pinned_version_and_seed_never_change(http: httpx.Client) -> None:
    assert "immutable" in get(http, model="levels@1", seed=7).headers["cache-control"]
    assert get(http, model="levels", seed=7).headers["cache-control"] == "no-cache"
    drawn = get(http, model="levels@1")
    assert drawn.headers["cache-control"] == "no-store"
    assert "etag" not in drawn.headers


def test_a_label_chooses_the_class(http: httpx.Client) -> None:
    asked = [get(http, model="labels", seed=1, num_samples=3, label=label).json()["x"] for label in (0, 1)]
    assert not np.array_equal(*asked)
    assert get(http, model="labels", seed=1).json()["errors"][0]["pointer"] == "/label"


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"seed": -1}, "/seed"),
        ({"num_samples": 0}, "/num_samples"),
        ({"num_samples": 5001}, "/num_samples"),
        ({"format": "gif"}, "/format"),
        ({"colour": "red"}, "/colour"),
        ({"num_steps": 2}, "/num_steps"),
        ({"level": 0}, "/level"),
        ({"sampler": "ancestral"}, "/sampler"),
        ({"include": "trajectory"}, "/include"),
    ],
)
def test_a_bad_link_names_the_place(http: httpx.Client, query: dict[str, Any], pointer: str) -> None:
    refused = get(http, **query)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == pointer
