"""A model that is conditional on labels and has a null label, through the door."""

from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.test_levels import LEVELS, ROW, refused
from tests.api.test_verbs import post

MODEL = {"model": "labelled"}


@pytest.mark.parametrize(
    ("path", "fields", "pointer", "sentence"),
    [
        ("/sample", {"model": "levels", "guidance": 1}, "/guidance", "one level of latents: it takes no guidance"),
        ("/sample", {"model": "diffusion", "guidance": 1}, "/guidance", "no null label to guide away from"),
        ("/sample", MODEL | {"guidance": 1}, "/guidance", "guidance draws towards a label: give label, or leave"),
        ("/sample", MODEL | {"guidance": -1, "label": 1}, "/guidance", "greater than or equal to 0"),
        ("/sample", MODEL | {"label": 3}, "/label", "label is 3; model 'labelled' has the classes 0 ... 2"),
        ("/elbo", MODEL | {"x": ROW, "label": 1, "marginal": "labels"}, "/marginal", "give one of label and marginal"),
        ("/elbo", {"model": "levels", "x": ROW, "marginal": "labels"}, "/marginal", "not conditional: there are no"),
        ("/elbo", MODEL | {"x": ROW, "marginal": "both"}, "/marginal", "'labels' or 'null label'"),
        (
            "/elbo",
            MODEL | {"x": ROW, "marginal": "labels", "num_levels": 2},
            "/marginal",
            "the marginal over labels needs whole paths: leave num_levels out",
        ),
        (
            "/elbo",
            MODEL | {"x": ROW, "marginal": "labels", "include": ["bound_map"]},
            "/include",
            "bound_map is of one label, or of the null label: leave marginal out",
        ),
    ],
)
def test_what_labels_cannot_do_is_refused_with_the_way_out(
    chain_http: httpx.Client, path: str, fields: dict[str, Any], pointer: str, sentence: str
) -> None:
    place, said = refused(chain_http, path, fields)
    assert place == pointer
    assert sentence in said


def test_a_sum_over_labels_that_is_too_much_work_is_refused_with_ways_out_that_it_has(
    chain_http: httpx.Client,
) -> None:
    asked: dict[str, Any] = MODEL | {"x": ROW * 40, "num_samples": 100, "marginal": "labels"}
    pointer, sentence = refused(chain_http, "/elbo", asked)
    assert pointer == ""
    assert sentence.startswith("the request takes 60000 network passes, the limit is 20000: split its rows, or give a")
    assert "or give a smaller num_steps: a draw takes 5 passes" in sentence
    assert sentence.endswith("or leave marginal out, or give labels: the sum scores each row under all 3")


def test_a_score_says_which_of_three_models_it_bounds(chain_http: httpx.Client) -> None:
    asked: dict[str, Any] = MODEL | {"x": ROW, "seed": 1}
    null, summed = post(chain_http, "/elbo", **asked), post(chain_http, "/elbo", **asked, marginal="labels")
    given = post(chain_http, "/elbo", **asked, label=2)
    assert (null["conditional_on"], null["marginal"], null["passes"]) == (None, "null label", LEVELS + 1)
    assert (summed["conditional_on"], summed["marginal"], summed["passes"]) == (None, "labels", 3 * (LEVELS + 1))
    assert (given["conditional_on"], given["marginal"]) == ("label", None)
    assert len({null["elbo"][0], summed["elbo"][0], given["elbo"][0]}) == 3
    assert post(chain_http, "/elbo", **asked, marginal="null label") == null
    assert post(chain_http, "/elbo", model="diffusion", x=ROW)["marginal"] is None


def test_sampled_levels_and_maps_are_those_of_a_label_or_of_none(chain_http: httpx.Client) -> None:
    for label in ({}, {"label": 1}):
        found = post(chain_http, "/elbo", **MODEL, x=ROW, include=["bound_map", "kl_per_level"], **label)
        assert np.sum(found["bound_map"]) == pytest.approx(found["elbo"][0], rel=1e-12)
        assert post(chain_http, "/elbo", **MODEL, x=ROW, num_levels=2, **label)["passes"] == 3


def test_a_label_a_class_and_none_are_drawn_from(chain_http: httpx.Client) -> None:
    asked: dict[str, Any] = MODEL | {"seed": 3}
    null = post(chain_http, "/sample", **asked, num_samples=3)
    each = post(chain_http, "/sample", **asked, label=[0, 1, 2])
    same = post(chain_http, "/sample", **asked, label=1, num_samples=3)
    assert each["x"][1] == same["x"][1]
    assert null["x"] != same["x"]
    assert all(answer["process"]["scored"] for answer in (null, each, same))


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_guided_draws_are_never_scored(chain_http: httpx.Client, sampler: str) -> None:
    asked: dict[str, Any] = MODEL | {"seed": 3, "label": 1, "num_samples": 4, "sampler": sampler}
    plain = post(chain_http, "/sample", **asked)
    guided = post(chain_http, "/sample", **asked, guidance=2)
    none = post(chain_http, "/sample", **asked, guidance=0)
    assert (guided["process"]["guidance"], guided["process"]["scored"]) == (2, False)
    assert none == plain
    assert (plain["process"]["guidance"], plain["process"]["scored"]) == (0, sampler == "ancestral")
    assert guided["x"] != plain["x"]
    link = chain_http.get("/sample", params=asked | {"guidance": 2})
    assert link.json() == guided
    assert link.headers["etag"] != chain_http.get("/sample", params=asked).headers["etag"]


def test_an_encoding_needs_no_label(chain_http: httpx.Client) -> None:
    plain = post(chain_http, "/encode", **MODEL, x=ROW, seed=2)
    assert post(chain_http, "/encode", **MODEL, x=ROW, label=1, seed=2)["posterior"] == plain["posterior"]
