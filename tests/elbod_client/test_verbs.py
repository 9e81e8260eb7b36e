"""The client against a real server: what the verbs return."""

from typing import Any

import httpx
import numpy as np
import pytest

from elbod_client import Client, DeadlineExceeded, InvalidInput, NotFound
from elbod_store import ModelStore
from tests.support import HANG, Server

SCORE_FIELDS = ("elbo", "standard_error", "reconstruction", "kl", "log_joint", "entropy", "bits_per_dim", "iwae")
MORE_SCORE_FIELDS = ("iwae_standard_error", "effective_sample_size", "pareto_k", "gap", "gap_standard_error")


def test_sample_gives_rows_in_data_units_and_their_latents(client: Client) -> None:
    samples = client.sample(5, seed=7, first_index=2)
    assert samples.x.shape == (5, 8, 8)
    assert samples.x.dtype == np.uint8
    assert samples.z.shape == (5, 5)
    assert samples.z.dtype == np.float32
    assert samples.x.max() <= 16
    assert (samples.seed, samples.first_index) == (7, 2)


def test_one_sample_is_the_default(client: Client) -> None:
    assert len(client.sample().x) == 1


def test_a_hundred_samples_in_one_call_equal_ten_calls_of_ten(client: Client) -> None:
    whole = client.sample(100, seed=11)
    parts = [client.sample(10, seed=11, first_index=first) for first in range(0, 100, 10)]
    assert np.concatenate([part.x for part in parts]).tobytes() == whole.x.tobytes()
    assert np.concatenate([part.z for part in parts]).tobytes() == whole.z.tobytes()


def test_a_drawn_seed_is_below_2_to_the_53_and_repeats_the_answer(client: Client) -> None:
    first, second = client.sample(8), client.sample(8)
    assert first.seed != second.seed
    assert max(first.seed, second.seed) < 2**53
    assert client.sample(8, seed=first.seed).x.tobytes() == first.x.tobytes()


def test_given_latents_are_decoded(client: Client) -> None:
    prior = client.sample(6, seed=1, output="mean")
    decoded = client.sample(z=prior.z, output="mean")
    assert decoded.x.dtype == np.float32
    np.testing.assert_array_equal(decoded.x, prior.x)
    np.testing.assert_array_equal(decoded.z, prior.z)


def test_reconstruction_decodes_the_posterior_mean(client: Client, levels_rows: Any) -> None:
    rows = client.sample(x=levels_rows, temperature=0, output="mean")
    np.testing.assert_array_equal(rows.z, client.encode(levels_rows).mean)
    assert rows.x.shape == levels_rows.shape


def test_encode_gives_parameters_and_the_draws_asked_for(client: Client, levels_rows: Any) -> None:
    posterior = client.encode(levels_rows, num_samples=3, seed=2)
    assert posterior.family == "normal"
    assert posterior.mean.shape == posterior.stddev.shape == (40, 5)
    assert posterior.z is not None
    assert posterior.z.shape == (40, 3, 5)
    assert posterior.kl_per_dimension is not None
    np.testing.assert_allclose(posterior.kl_per_dimension.sum(1), posterior.kl)
    assert client.encode(levels_rows).z is None


def test_a_kl_that_must_be_drawn_is_none_without_draws(client: Client, levels_rows: Any) -> None:
    bare = client.encode(levels_rows[:3], model="vamp")
    assert bare.kl is None
    assert bare.mean.shape == (3, 3)
    drawn = client.encode(levels_rows[:3], num_samples=4, model="ladder")
    assert not drawn.closed_form
    assert drawn.kl is not None
    assert drawn.log_q is not None
    assert drawn.log_q.shape == (3, 4)


def test_a_full_posterior_has_one_scale_for_all_rows(client: Client) -> None:
    posterior = client.encode(np.zeros((4, 6)), model="linear")
    assert posterior.family == "multivariate_normal"
    scale = posterior.parameters["scale_tril"]
    assert scale.shape == (2, 2)
    np.testing.assert_allclose(posterior.stddev, np.tile(np.linalg.norm(scale, axis=1), (4, 1)), rtol=1e-6)
    assert posterior.kl_per_dimension is None


def test_elbo_equals_the_servers_json_answer_to_the_last_bit(
    client: Client, http: httpx.Client, levels_rows: Any
) -> None:
    settings: Any = {"seed": 3, "num_samples": 4, "num_importance_samples": 32}
    scores = client.elbo(levels_rows, **settings, include=["reconstruction_map"])
    body = {"x": levels_rows.tolist(), **settings, "include": ["reconstruction_map"]}
    answer = http.post("/elbo", json=body).raise_for_status().json()
    for name in (*SCORE_FIELDS, *MORE_SCORE_FIELDS, "reconstruction_map"):
        ours, theirs = getattr(scores, name), answer[name]
        if theirs is None:
            assert ours is None
        else:
            assert ours.dtype == np.float64
            assert ours.tobytes() == np.array(theirs, dtype=np.float64).tobytes(), name
    for name in ("likelihood", "measure", "units", "event_dims", "kl_estimator", "gap_kind", "num_samples"):
        assert getattr(scores, name) == answer[name]
    for name, value in answer["summary"].items():
        assert getattr(scores.summary, name) == value
    model = scores.model
    assert {"name": model.name, "version": model.version, "digest": model.digest} == answer["model"]
    assert scores.fingerprint == answer["fingerprint"]
    assert scores.reproducible is answer["reproducible"]


def test_scores_that_are_undefined_for_all_rows_are_none(client: Client, levels_rows: Any) -> None:
    scores = client.elbo(levels_rows[:1])
    assert scores.standard_error is None
    assert scores.iwae is None
    assert scores.log_evidence is None
    assert scores.reconstruction_map is None
    assert scores.summary.standard_error is None


def test_densities_have_an_exact_evidence_and_no_bits(client: Client) -> None:
    scores = client.elbo(np.random.default_rng(0).normal(size=(5, 6)), model="linear", num_samples=2)
    assert scores.log_evidence is not None
    np.testing.assert_array_equal(scores.gap, scores.log_evidence - scores.elbo)
    assert scores.bits_per_dim is None
    assert (scores.measure, scores.gap_kind) == ("density", "exact")


def test_grey_rows_are_binarized_on_the_server(client: Client) -> None:
    grey = np.random.default_rng(0).random((3, 3, 4), dtype=np.float32)
    threshold = client.elbo(grey, model="bits", binarize="threshold", seed=5)
    np.testing.assert_array_equal(threshold.elbo, client.elbo(grey > 0.5, model="bits", seed=5).elbo)


@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        lambda x: x.astype(np.int16),
        lambda x: x.astype(np.uint64),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(np.float32),
        lambda x: x.astype(">f8"),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
    ],
)
def test_the_container_of_x_does_not_change_the_answer(client: Client, levels_rows: Any, convert: Any) -> None:
    expected = client.elbo(levels_rows, seed=4).elbo
    np.testing.assert_array_equal(client.elbo(convert(levels_rows), seed=4).elbo, expected)


def test_numpy_integers_count_as_integers(client: Client) -> None:
    assert len(client.sample(np.int32(3), seed=np.uint64(7), first_index=np.int64(1)).x) == 3


def test_the_calls_model_wins_over_the_clients(server: Server) -> None:
    with Client(server.url, model="bits") as client:
        assert str(client.sample().model) == "bits@1"
        assert str(client.sample(model="linear@1").model) == "linear@1"


def test_models_are_listed_with_versions_and_what_is_loaded(client: Client, served_store: ModelStore) -> None:
    listed = {model.name: model for model in client.models()}
    assert listed.keys() == set(served_store.names())
    assert listed["levels"].versions == (1,)
    assert listed["levels"].loaded[0].digest == served_store.manifest("levels", 1).digest


def test_the_servers_version_is_text(client: Client) -> None:
    assert client.version().count(".") == 2


def test_a_started_server_is_ready(client: Client) -> None:
    client.wait_until_ready(timeout=HANG)


def test_an_unknown_model_is_not_found_and_close_names_are_suggested(client: Client) -> None:
    with pytest.raises(NotFound, match="levels") as caught:
        client.sample(model="level")
    assert caught.value.problem is not None
    assert caught.value.problem["status"] == caught.value.status_code == 404


def test_a_value_out_of_the_support_is_named_with_its_place(client: Client, levels_rows: Any) -> None:
    rows = levels_rows.copy()
    rows[3, 0, 1] = 99
    with pytest.raises(InvalidInput, match=r"x\[3\] has value 99") as caught:
        client.elbo(rows)
    assert caught.value.problem is not None
    assert caught.value.problem["errors"][0]["pointer"] == "/x/3/0/1"
    assert caught.value.request_id is not None
    assert caught.value.request_id in caught.value.problem["instance"]
    assert caught.value.__notes__ == [f"request id: {caught.value.request_id}"]


@pytest.mark.parametrize(
    ("arguments", "pointer"),
    [
        ({"num_samples": 3, "z": [[0.0] * 5]}, "/num_samples"),
        ({"z": [[0.0] * 5], "x": [[[0] * 8] * 8]}, "/z"),
        ({"temperature": -1.0}, "/temperature"),
        ({"output": "median"}, "/output"),
        ({"seed": -1}, "/seed"),
        ({"seed": 2**63}, "/seed"),
        ({"first_index": 2**56}, "/first_index"),
    ],
)
def test_what_the_server_refuses_is_invalid_input(client: Client, arguments: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.sample(**arguments)
    assert caught.value.problem is not None
    assert caught.value.problem["errors"][0]["pointer"] == pointer


def test_work_that_takes_longer_than_the_timeout_is_dropped_by_the_server(server: Server, levels_rows: Any) -> None:
    with Client(server.url, timeout=0.5, chunk_rows=1000) as client, pytest.raises(DeadlineExceeded) as caught:
        client.elbo(np.tile(levels_rows, (25, 1, 1)), num_samples=1000)
    assert caught.value.status_code == 504


def test_results_are_read_only_and_describe_themselves_briefly(client: Client) -> None:
    samples = client.sample(1000, seed=1)
    with pytest.raises(ValueError, match="read-only"):
        samples.x[0] = 0
    assert "x=<uint8 (1000, 8, 8)>" in repr(samples)
    assert "model=levels@1" in repr(samples)
