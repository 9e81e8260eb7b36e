"""The three verbs through the door of a real server."""

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

SAFETENSORS = "application/x-safetensors"


def safetensors(tensors: dict[str, Any], **request: Any) -> bytes:
    return save_safetensors(tensors, metadata={"request": json.dumps(request)})


def metadata(body: bytes) -> dict[str, Any]:
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    response: dict[str, Any] = json.loads(header["__metadata__"]["response"])
    return response


def post(http: httpx.Client, path: str, **fields: Any) -> dict[str, Any]:
    response = http.post(path, json=fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_every_answer_says_which_model_seed_and_fingerprint_it_is_of(http: httpx.Client, levels_rows: Any) -> None:
    x = levels_rows[:2].tolist()
    for body in (
        post(http, "/sample", seed=3, first_index=4),
        post(http, "/encode", x=x, seed=3, first_index=4),
        post(http, "/elbo", x=x, seed=3, first_index=4),
    ):
        assert body["model"]["name"] == "levels"
        assert body["model"]["version"] == 1
        assert len(body["model"]["digest"]) == 64
        assert (body["seed"], body["first_index"], body["reproducible"]) == (3, 4, True)
        assert body["fingerprint"].startswith("elbod-")


def test_grey_images_may_have_their_channel_as_an_axis_or_not(http: httpx.Client, levels_rows: Any) -> None:
    x = levels_rows[:2]
    plain, with_axis = (post(http, "/elbo", x=rows.tolist(), seed=1) for rows in (x, x[:, None]))
    assert plain == with_axis
    assert post(http, "/encode", x=x[:, None].tolist(), seed=1) == post(http, "/encode", x=x.tolist(), seed=1)


@pytest.mark.parametrize("model", ["levels", "mixture"])
def test_a_reconstruction_map_sums_to_the_reconstruction_drawn_or_exact(
    http: httpx.Client, levels_rows: Any, model: str
) -> None:
    x = levels_rows[:5].tolist()
    body = post(http, "/elbo", model=model, x=x, num_samples=2, seed=2, include=["reconstruction_map"])
    np.testing.assert_allclose(np.array(body["reconstruction_map"]).sum((1, 2)), body["reconstruction"], rtol=1e-9)


def test_a_missing_seed_is_drawn_and_returned(http: httpx.Client) -> None:
    first, second = post(http, "/sample"), post(http, "/sample")
    assert first["seed"] != second["seed"]
    assert first["seed"] < 2**53
    assert post(http, "/sample", seed=first["seed"])["x"] == first["x"]


def test_samples_have_the_training_dtype_and_support(http: httpx.Client) -> None:
    body = post(http, "/sample", num_samples=20, seed=1, encoding="base64")
    assert body["x"]["dtype"] == "uint8"
    assert body["x"]["shape"] == [20, 8, 8]
    assert body["z"]["dtype"] == "float32"
    assert body["z"]["shape"] == [20, 5]
    x = np.frombuffer(base64.b64decode(body["x"]["data"]), np.uint8)
    assert x.max() <= 16
    bits = post(http, "/sample", model="bits", num_samples=3)
    assert set(np.ravel(bits["x"])) <= {0, 1}


def test_json_base64_and_safetensors_carry_the_same_numbers(http: httpx.Client, levels_rows: Any) -> None:
    request: dict[str, Any] = {"seed": 9, "num_samples": 3, "num_importance_samples": 30}
    nested = post(http, "/elbo", x=levels_rows.tolist(), **request)
    packed = {"dtype": "uint8", "shape": [40, 8, 8], "data": base64.b64encode(levels_rows.tobytes()).decode()}
    encoded = post(http, "/elbo", x=packed, encoding="base64", **request)
    binary = http.post(
        "/elbo",
        content=safetensors({"x": levels_rows}, **request),
        headers={"Content-Type": SAFETENSORS, "Accept": SAFETENSORS},
    )
    assert binary.headers["content-type"] == SAFETENSORS
    tensors = load_safetensors(binary.content)
    assert metadata(binary.content)["summary"] == nested["summary"]
    for name in ("elbo", "standard_error", "reconstruction", "kl", "iwae", "pareto_k", "gap"):
        assert np.array(nested[name]).tobytes() == tensors[name].tobytes()
        assert base64.b64decode(encoded[name]["data"]) == tensors[name].tobytes()
    assert "log_evidence" not in tensors
    assert nested["log_evidence"] is None
    # Levels as integral floats are the same levels.
    assert post(http, "/elbo", x=levels_rows.astype(float).tolist(), **request)["elbo"] == nested["elbo"]


def test_the_parts_of_the_bound_add_up(http: httpx.Client, levels_rows: Any) -> None:
    body = post(http, "/elbo", x=levels_rows.tolist(), num_samples=5, seed=2, include=["reconstruction_map"])
    arrays = {name: np.array(body[name]) for name in ("elbo", "reconstruction", "kl", "log_joint", "entropy")}
    np.testing.assert_allclose(arrays["elbo"], arrays["reconstruction"] - arrays["kl"], rtol=1e-12)
    np.testing.assert_allclose(arrays["elbo"], arrays["log_joint"] + arrays["entropy"], rtol=1e-9)
    np.testing.assert_allclose(np.array(body["reconstruction_map"]).sum((1, 2)), arrays["reconstruction"], rtol=1e-9)
    np.testing.assert_allclose(body["bits_per_dim"], -arrays["elbo"] / (64 * np.log(2)))
    assert (body["units"], body["measure"], body["event_dims"]) == ("nats", "pmf", 64)
    assert (body["kl_estimator"], body["conditional_on"], body["gap_kind"]) == ("closed_form", None, None)
    assert body["summary"]["mean"] == pytest.approx(arrays["elbo"].mean())
    assert body["summary"]["standard_error"] == pytest.approx(arrays["elbo"].std(ddof=1) / np.sqrt(40))
    errors = np.array(body["standard_error"])
    assert body["summary"]["monte_carlo_standard_error"] == pytest.approx(np.sqrt((errors**2).sum()) / 40)
    single = post(http, "/elbo", x=levels_rows[:1].tolist(), seed=2)
    assert single["standard_error"] is None
    assert single["summary"]["standard_error"] is None


def test_a_density_has_no_bits_per_dimension_and_an_exact_family_has_the_evidence(http: httpx.Client) -> None:
    x = np.random.default_rng(0).normal(size=(3, 6)).tolist()
    body = post(http, "/elbo", model="linear", x=x, num_samples=50, num_importance_samples=30, seed=1)
    assert body["measure"] == "density"
    assert body["bits_per_dim"] is None
    assert body["gap_kind"] == "exact"
    assert body["pareto_k"] is None
    np.testing.assert_allclose(body["iwae"], body["log_evidence"], rtol=1e-9)
    encoded = post(http, "/encode", model="linear", x=x, num_samples=2)
    assert encoded["posterior"]["family"] == "multivariate_normal"
    factor = np.array(encoded["posterior"]["scale_tril"])
    np.testing.assert_allclose(np.sqrt((factor**2).sum(1)), encoded["posterior"]["stddev"][0])
    assert encoded["kl_per_dimension"] is None
    assert np.array(encoded["z"]).shape == (3, 2, 2)


def test_encode_returns_parameters_alone_unless_asked_for_draws(http: httpx.Client, levels_rows: Any) -> None:
    body = post(http, "/encode", x=levels_rows[:3].tolist())
    assert body["posterior"]["family"] == "normal"
    assert body["z"] is None
    mean, stddev = np.array(body["posterior"]["mean"]), np.array(body["posterior"]["stddev"])
    per_dimension = 0.5 * (mean**2 + stddev**2 - 1) - np.log(stddev)
    np.testing.assert_allclose(body["kl_per_dimension"], per_dimension, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(body["kl"], np.sum(body["kl_per_dimension"], 1))


def test_a_posterior_without_closed_form_says_so_and_gives_draws_with_their_density(
    http: httpx.Client, levels_rows: Any
) -> None:
    x = levels_rows[:3].tolist()
    bare = post(http, "/encode", model="ladder", x=x)
    assert bare["posterior"] == {"family": "ladder", "closed_form": False}
    assert bare["kl"] is None
    drawn = post(http, "/encode", model="ladder", x=x, num_samples=5)
    assert np.shape(drawn["z"])[:2] == (3, 5)
    assert np.shape(drawn["log_q"]) == (3, 5)
    assert np.isfinite(drawn["log_q"]).all()
    assert post(http, "/elbo", model="ladder", x=x)["kl_estimator"] == "conditional"


def test_samples_come_as_one_picture(http: httpx.Client) -> None:
    response = http.post("/sample", json={"num_samples": 10, "seed": 4}, headers={"Accept": "image/png"})
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-elbod-model"] == "levels@1"
    assert response.headers["x-elbod-seed"] == "4"
    image = Image.open(io.BytesIO(response.content))
    assert image.size == (4 * 33 - 1, 3 * 33 - 1)
    x = np.array(post(http, "/sample", num_samples=10, seed=4)["x"])
    first = np.asarray(image)[:32:4, :32:4]
    np.testing.assert_array_equal(first, np.rint(x[0] * 255 / 16))
    refused = http.post("/sample", json={"model": "linear"}, headers={"Accept": "image/png"})
    assert refused.status_code == 406


def test_given_latents_are_decoded_and_returned(http: httpx.Client) -> None:
    z = [[0.1, -0.2, 0.3, 0.0, 1.0], [0.0] * 5]
    body = post(http, "/sample", z=z, output="mean")
    np.testing.assert_allclose(body["z"], z, rtol=1e-6)
    assert np.array(body["x"]).shape == (2, 8, 8)
    assert post(http, "/sample", z=z, output="mean", seed=5)["x"] == body["x"]


def test_grey_values_are_binarized_on_request(http: httpx.Client) -> None:
    x = np.random.default_rng(1).random((2, 3, 4))
    threshold = post(http, "/elbo", model="bits", x=x.tolist(), binarize="threshold", seed=1)
    plain = post(http, "/elbo", model="bits", x=(x > 0.5).astype(int).tolist(), seed=1)
    assert threshold["elbo"] == plain["elbo"]
    first = post(http, "/encode", model="bits", x=x.tolist(), binarize="stochastic", seed=1)
    second = post(http, "/encode", model="bits", x=x.tolist(), binarize="stochastic", seed=1)
    assert first["posterior"] == second["posterior"]


def test_the_timing_of_each_phase_is_in_a_header(http: httpx.Client) -> None:
    response = http.post("/sample", json={})
    assert [part.split(";")[0].strip() for part in response.headers["server-timing"].split(",")] == [
        "parse",
        "queue",
        "compute",
        "encode",
    ]


def test_request_ids_are_echoed_or_made(http: httpx.Client) -> None:
    assert http.get("/version", headers={"X-Request-Id": "a.b-c_1"}).headers["x-request-id"] == "a.b-c_1"
    made = {http.get("/version", headers={"X-Request-Id": "no spaces"}).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    assert "no spaces" not in made


def test_a_target_error_gives_each_row_its_own_number_of_draws(http: httpx.Client, levels_rows: Any) -> None:
    x = levels_rows.tolist()
    body = post(http, "/elbo", x=x, seed=3, target_standard_error=0.5)
    assert len(body["num_samples"]) == len(body["target_met"]) == 40
    assert min(body["num_samples"]) >= 64
    assert set(body["target_met"]) <= {True, False}
    for met, error in zip(body["target_met"], body["standard_error"], strict=True):
        assert met == (error <= 0.5)
    binary = http.post(
        "/elbo",
        content=safetensors({"x": levels_rows}, seed=3, target_standard_error=0.5),
        headers={"Content-Type": SAFETENSORS, "Accept": SAFETENSORS},
    )
    tensors = load_safetensors(binary.content)
    assert tensors["num_samples"].tolist() == body["num_samples"]
    assert tensors["target_met"].tolist() == body["target_met"]


@pytest.mark.parametrize(("target", "draws"), [(1e241, 64), (1e-241, 1024)])
def test_a_target_error_of_any_size_has_an_answer(
    http: httpx.Client, levels_rows: Any, target: float, draws: int
) -> None:
    body = post(http, "/elbo", x=levels_rows[:1].tolist(), target_standard_error=target)
    assert body["num_samples"] == [draws]


def test_a_model_without_calibration_says_why_it_ranks_nothing(http: httpx.Client, levels_rows: Any) -> None:
    body = post(http, "/elbo", x=levels_rows[:2].tolist())
    assert body["quantile"] is None
    assert body["typicality"] is None
    assert body["reference_size"] is None
    assert "without calibration" in body["reference_reason"]
