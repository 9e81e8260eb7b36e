"""Labels through the door: samples of a class, embeddings and scores given one, and the marginal over all."""

from typing import Any

import httpx
import numpy as np

from tests.api.test_verbs import SAFETENSORS, metadata, post, safetensors


def test_samples_of_a_class_depend_on_it_and_a_label_a_row_says_how_many(http: httpx.Client) -> None:
    one = post(http, "/sample", model="labels", label=1, num_samples=3, seed=4)
    mixed = post(http, "/sample", model="labels", label=[1, 0, 1], seed=4)
    assert np.shape(mixed["x"]) == (3, 8, 8)
    assert [one["x"][i] == mixed["x"][i] for i in range(3)] == [True, False, True]


def test_a_score_says_whether_it_is_given_a_label(http: httpx.Client, levels_rows: Any) -> None:
    x = levels_rows[:3].tolist()
    given = post(http, "/elbo", model="labels", x=x, label=[0, 1, 2], num_samples=4, seed=1)
    marginal = post(http, "/elbo", model="labels", x=x, num_samples=4, seed=1)
    assert (given["conditional_on"], given["kl_estimator"]) == ("label", "closed_form")
    assert (marginal["conditional_on"], marginal["kl_estimator"]) == (None, "monte_carlo")
    assert given["elbo"] != marginal["elbo"]
    for body in (given, marginal):
        np.testing.assert_allclose(body["elbo"], np.array(body["reconstruction"]) - body["kl"], rtol=1e-12)


def test_labels_may_be_a_tensor(http: httpx.Client, levels_rows: Any) -> None:
    x, label = levels_rows[:3], np.array([2, 0, 1])
    body = safetensors({"x": x, "label": label}, model="labels", seed=1, num_samples=4)
    answer = http.post("/elbo", content=body, headers={"Content-Type": SAFETENSORS, "Accept": SAFETENSORS})
    assert answer.status_code == 200, answer.text
    assert metadata(answer.content)["conditional_on"] == "label"
    encoded = post(http, "/encode", model="labels", x=x.tolist(), label=label.tolist())
    assert np.shape(encoded["posterior"]["mean"]) == (3, 3)


def test_latents_and_rows_are_decoded_under_their_label(http: httpx.Client, levels_rows: Any) -> None:
    for given in ({"z": [[0, 0, 0]] * 2}, {"x": levels_rows[:2].tolist(), "temperature": 0}):
        both = post(http, "/sample", model="labels", label=[0, 2], output="mean", seed=3, **given)
        zero = post(http, "/sample", model="labels", label=0, output="mean", seed=3, **given)
        assert both["x"][0] == zero["x"][0]
        assert both["x"][1] != zero["x"][1]
