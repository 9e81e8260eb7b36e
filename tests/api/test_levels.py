"""A model whose draws take passes through the door: what is asked of its levels, and what is refused."""

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.api.test_verbs import SAFETENSORS, metadata, post

# T of the served model, and its default level.
LEVELS, MIDDLE = 4, 2
ROW = [[[3] * 8] * 8]
NAMES = ("levels", "diffusion", "labelled")


def refused(http: httpx.Client, path: str, body: dict[str, Any]) -> tuple[str, str]:
    """The pointer and the sentence of a refusal."""
    answer = http.post(path, json=body)
    assert answer.status_code == 422, answer.text
    (place,) = answer.json()["errors"]
    return place["pointer"], place["detail"]


NONE = "model 'levels' has one level of latents: it"


@pytest.mark.parametrize(
    ("path", "fields", "pointer", "sentence"),
    [
        ("/sample", {"num_steps": 2}, "/num_steps", f"{NONE} takes no num_steps"),
        ("/sample", {"level": 0}, "/level", f"{NONE} takes no level"),
        ("/sample", {"sampler": "ancestral"}, "/sampler", f"{NONE} takes no sampler"),
        ("/sample", {"trajectory_steps": 2}, "/trajectory_steps", f"{NONE} takes no trajectory_steps"),
        ("/sample", {"include": ["trajectory"]}, "/include", f"{NONE} has no trajectory"),
        ("/encode", {"x": ROW, "num_steps": 2}, "/num_steps", f"{NONE} takes no num_steps"),
        ("/encode", {"x": ROW, "level": 0}, "/level", f"{NONE} takes no level"),
        ("/elbo", {"x": ROW, "num_steps": 2}, "/num_steps", f"{NONE} takes no num_steps"),
        ("/elbo", {"x": ROW, "num_levels": 2}, "/num_levels", f"{NONE} takes no num_levels"),
        ("/elbo", {"x": ROW, "include": ["bound_map"]}, "/include", f"{NONE} has no bound_map"),
        ("/elbo", {"x": ROW, "include": ["kl_per_level"]}, "/include", f"{NONE} has no kl_per_level"),
    ],
)
def test_a_model_of_one_level_refuses_what_levels_have(
    chain_http: httpx.Client, path: str, fields: dict[str, Any], pointer: str, sentence: str
) -> None:
    assert refused(chain_http, path, {"model": "levels", **fields}) == (pointer, sentence)


@pytest.mark.parametrize(
    ("path", "fields", "pointer", "sentence"),
    [
        (
            "/sample",
            {"temperature": 0.5},
            "/temperature",
            "the draws of model 'diffusion' take passes, which have no temperature: leave it out",
        ),
        ("/sample", {"num_steps": 5}, "/num_steps", "num_steps is 5, model 'diffusion' has 4 levels"),
        ("/encode", {"x": ROW, "num_steps": 5}, "/num_steps", "num_steps is 5, model 'diffusion' has 4 levels"),
        ("/sample", {"level": 5}, "/level", "level is 5; draws in 4 steps stop at 0, 1, 2, 3, 4"),
        ("/encode", {"x": ROW, "num_steps": 2, "level": 1}, "/level", "level is 1; draws in 2 steps stop at 0, 2, 4"),
        (
            "/sample",
            {"trajectory_steps": 3},
            "/trajectory_steps",
            'trajectory_steps counts what include: ["trajectory"] shows',
        ),
        ("/elbo", {"x": ROW, "num_levels": 5}, "/num_levels", "num_levels is 5, the model has 4 levels"),
        (
            "/elbo",
            {"x": ROW, "num_levels": 2, "num_steps": 4},
            "/num_steps",
            "num_levels samples among all levels: leave num_steps out",
        ),
        (
            "/elbo",
            {"x": ROW, "num_levels": 2, "num_importance_samples": 3},
            "/num_importance_samples",
            "importance weights need whole paths: leave num_levels out",
        ),
        (
            "/elbo",
            {"x": ROW, "num_levels": 2, "include": ["kl_per_level"]},
            "/include",
            "maps and profiles need whole paths: leave num_levels out",
        ),
    ],
)
def test_levels_refuse_what_they_cannot_do(
    chain_http: httpx.Client, path: str, fields: dict[str, Any], pointer: str, sentence: str
) -> None:
    assert refused(chain_http, path, fields) == (pointer, sentence)


@pytest.mark.parametrize(
    ("path", "fields", "pointer"),
    [
        ("/sample", {"num_steps": 0}, "/num_steps"),
        ("/sample", {"num_steps": 1.5}, "/num_steps"),
        ("/sample", {"level": -1}, "/level"),
        ("/sample", {"sampler": "heun"}, "/sampler"),
        ("/sample", {"include": ["trajectory"], "trajectory_steps": 17}, "/trajectory_steps"),
        ("/sample", {"include": ["bound_map"]}, "/include/0"),
        ("/sample", {"num_levels": 2}, "/num_levels"),
        ("/encode", {"x": ROW, "sampler": "ddim"}, "/sampler"),
        ("/elbo", {"x": ROW, "level": 0}, "/level"),
        ("/elbo", {"x": ROW, "num_levels": 0}, "/num_levels"),
        ("/elbo", {"x": ROW, "include": ["trajectory"]}, "/include/0"),
        ("/sample", {"label": 1}, "/label"),
        ("/elbo", {"x": ROW, "label": [1]}, "/label"),
    ],
)
def test_a_field_that_is_none_of_the_verb_s_is_named(
    chain_http: httpx.Client, path: str, fields: dict[str, Any], pointer: str
) -> None:
    assert refused(chain_http, path, fields)[0] == pointer


def test_importance_samples_are_bounded_by_passes(chain_http: httpx.Client) -> None:
    pointer, sentence = refused(chain_http, "/elbo", {"x": ROW, "num_importance_samples": 4096})
    assert pointer == "/num_importance_samples"
    assert "4096" in sentence
    assert post(chain_http, "/elbo", x=ROW, num_importance_samples=100)["iwae"] is not None


@pytest.mark.parametrize(
    ("path", "fields", "way_out"),
    [
        ("/elbo", {"x": ROW * 40, "num_samples": 200}, "split its rows, or give a smaller num_steps or num_levels"),
        ("/elbo", {"x": ROW, "num_samples": 4096}, "ask for fewer draws, or give a smaller num_steps or num_levels"),
        ("/sample", {"num_samples": 4096}, "split its rows, or give a smaller num_steps"),
    ],
)
def test_more_passes_than_the_queue_holds_are_refused_with_a_way_out(
    chain_http: httpx.Client, path: str, fields: dict[str, Any], way_out: str
) -> None:
    pointer, sentence = refused(chain_http, path, fields)
    assert pointer == ""
    draws = fields["num_samples"] * len(fields.get("x", [0]))
    limit = "the limit is 20000"
    assert sentence == f"the request takes {5 * draws} network passes, {limit}: {way_out}: a draw takes 5 passes"
    assert chain_http.post(path, json=fields | {"num_steps": 1}).status_code == 200


def test_a_target_is_admitted_at_its_most_draws_and_refused_with_a_way_out(chain_http: httpx.Client) -> None:
    """A row may take the 64 draws of its pilot and as many as the server allows, 5,000 here."""
    target = "give num_samples in place of target_standard_error, which may take 5064 draws a row"
    smaller = "give a smaller num_steps or num_levels: a draw takes 5 passes"
    for rows, way_out in ((1, f"{target}, or {smaller}"), (2, f"split its rows, or {target}, or {smaller}")):
        pointer, sentence = refused(chain_http, "/elbo", {"x": ROW * rows, "target_standard_error": 2.0})
        assert pointer == ""
        passes = 5 * 5064 * rows
        assert sentence == f"the request takes {passes} network passes, the limit is 20000: {way_out}"
    for fields in ({"target_standard_error": 2.0, "num_levels": 2}, {"num_samples": 64}):
        assert chain_http.post("/elbo", json={"x": ROW, **fields}).status_code == 200


def test_an_encoding_is_sampled_from_at_the_level_where_it_stands(chain_http: httpx.Client) -> None:
    """Without a level both verbs mean the same one, also where the draws take fewer steps."""
    for asked in ({}, {"num_steps": 2}, {"num_steps": 1}):
        code = post(chain_http, "/encode", x=ROW * 3, seed=5, num_samples=1, **asked)
        assert code["level"] in ({MIDDLE} if asked != {"num_steps": 1} else {0, LEVELS})
        assert (code["posterior"]["family"], code["posterior"]["closed_form"]) == ("normal", True)
        varied = post(chain_http, "/sample", x=ROW * 3, seed=5, **asked)
        again = post(chain_http, "/sample", z=[draws[0] for draws in code["z"]], seed=5, **asked)
        assert varied["process"]["level"] == again["process"]["level"] == code["level"]
        assert varied["z"] == again["z"]
        assert varied["x"] == again["x"]


def test_only_a_divergence_at_the_top_has_a_closed_form(chain_http: httpx.Client) -> None:
    top = post(chain_http, "/encode", x=ROW, level=LEVELS)
    assert top["kl"][0] > 0
    assert top["log_snr"] < 0
    assert post(chain_http, "/encode", x=ROW, level=1)["kl"] is None


@pytest.mark.parametrize(
    ("asked", "scored"),
    [
        ({}, True),
        ({"num_steps": 2, "level": 0}, True),
        ({"sampler": "ddim"}, False),
        ({"output": "mean"}, False),
        ({"x": ROW}, False),
        ({"z": [[0.0] * 64]}, False),
    ],
)
def test_a_sample_says_whether_a_score_bounds_what_was_drawn(
    chain_http: httpx.Client, asked: dict[str, Any], scored: bool
) -> None:
    process = post(chain_http, "/sample", seed=1, **asked)["process"]
    assert process["scored"] is scored
    assert process["sampler"] == asked.get("sampler", "ancestral")
    assert process["num_steps"] == asked.get("num_steps", LEVELS)
    assert process["level"] == asked.get("level", MIDDLE)


@pytest.mark.parametrize("output", ["sample", "mean"])
@pytest.mark.parametrize("level", [0, MIDDLE, LEVELS])
@pytest.mark.parametrize("given", [{}, {"x": ROW}, {"z": [[0.5] * 64]}])
def test_a_trajectory_shows_the_levels_that_the_draw_passes(
    chain_http: httpx.Client, given: dict[str, Any], level: int, output: str
) -> None:
    asked: dict[str, Any] = {**given, "level": level, "output": output, "seed": 3}
    for steps in (1, 16):
        drawn = post(chain_http, "/sample", **asked, include=["trajectory"], trajectory_steps=steps)
        first, last = level if "z" in given else LEVELS, level if output == "mean" else 0
        passed = list(range(first, last - 1, -1))
        assert drawn["trajectory_levels"] == (passed[-1:] if steps == 1 else passed)
        assert np.shape(drawn["trajectory"]) == (1, len(drawn["trajectory_levels"]), 8, 8)
        assert drawn["x"] == post(chain_http, "/sample", **asked)["x"]


def test_a_score_says_what_a_draw_is(chain_http: httpx.Client) -> None:
    paths = post(chain_http, "/elbo", x=ROW, num_steps=2, include=["bound_map", "kl_per_level"], num_samples=3)
    assert paths["estimator"] == {"kind": "paths", "num_levels": None}
    assert (paths["num_steps"], paths["passes"], paths["kl_estimator"]) == (2, 3, "monte_carlo")
    assert np.sum(paths["bound_map"]) == pytest.approx(paths["elbo"][0], rel=1e-12)
    assert np.shape(paths["kl_per_level"]) == (1, 3)
    levels = post(chain_http, "/elbo", x=ROW, num_levels=1)
    assert levels["estimator"] == {"kind": "levels", "num_levels": 1}
    assert (levels["num_steps"], levels["passes"], levels["kl_estimator"]) == (LEVELS, 2, "conditional")
    assert levels["bound_map"] is levels["kl_per_level"] is None


def test_the_fields_of_levels_are_null_for_a_model_of_one(chain_http: httpx.Client) -> None:
    drawn = post(chain_http, "/sample", model="levels")
    assert drawn["process"] is drawn["trajectory"] is drawn["trajectory_levels"] is None
    code = post(chain_http, "/encode", model="levels", x=ROW)
    assert code["level"] is code["log_snr"] is None
    scores = post(chain_http, "/elbo", model="levels", x=ROW)
    assert scores["estimator"] is scores["num_steps"] is scores["passes"] is None
    assert scores["bound_map"] is scores["kl_per_level"] is None


def test_the_levels_of_a_version_are_those_that_encode_names(chain_http: httpx.Client) -> None:
    path = "/models/diffusion/versions/1/levels"
    for num_steps, stops in ((None, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (1, [0, 4])):
        asked = {} if num_steps is None else {"num_steps": num_steps}
        found = chain_http.get(path, params=asked).raise_for_status().json()
        assert found["levels"] == stops
        assert found["default_level"] == post(chain_http, "/encode", x=ROW, **asked)["level"]
        codes = [post(chain_http, "/encode", x=ROW, level=level, **asked) for level in stops]
        assert found["log_snr"] == [code["log_snr"] for code in codes]


def test_levels_are_null_for_a_model_of_one(chain_http: httpx.Client) -> None:
    path = "/models/levels/versions/1/levels"
    found = chain_http.get(path).raise_for_status().json()
    assert (found["levels"], found["log_snr"], found["default_level"]) == (None, None, None)
    null_labels = [chain_http.get(f"/models/{name}/versions/1/levels").json()["null_label"] for name in NAMES]
    assert null_labels == [False, False, True]
    answer = chain_http.get(path, params={"num_steps": 2})
    assert answer.status_code == 422
    assert answer.json()["detail"] == f"{NONE} takes no num_steps"


def test_levels_of_more_steps_than_a_model_has_are_refused(chain_http: httpx.Client) -> None:
    answer = chain_http.get("/models/diffusion/versions/1/levels?num_steps=5")
    assert answer.status_code == 422
    assert answer.json()["detail"] == "num_steps is 5, model 'diffusion' has 4 levels"


def test_samples_of_passes_are_pictures(chain_http: httpx.Client) -> None:
    body = {"seed": 7, "num_samples": 9, "num_steps": 2}
    answer = chain_http.post("/sample", json=body, headers={"Accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (98, 98)
    assert chain_http.get("/sample", params=body | {"format": "png"}).content == answer.content


def test_tensors_say_the_same_as_json(chain_http: httpx.Client) -> None:
    from safetensors.numpy import load

    for path, body, names in (
        ("/sample", {"seed": 7, "num_samples": 2, "include": ["trajectory"]}, ("x", "z", "trajectory")),
        ("/elbo", {"seed": 7, "x": ROW, "include": ["bound_map", "kl_per_level"]}, ("bound_map", "kl_per_level")),
    ):
        plain = post(chain_http, path, **body)
        packed = chain_http.post(path, json=body, headers={"Accept": SAFETENSORS})
        tensors, fields = load(packed.content), metadata(packed.content)
        for name in names:
            np.testing.assert_array_equal(tensors[name], np.array(plain[name], tensors[name].dtype))
        for name in {"process", "trajectory_levels", "estimator", "num_steps", "passes"} & plain.keys():
            assert fields[name] == plain[name], name
