"""GET /models/{name}/versions/{version}/calibration: the scores that quantile and typicality compare with."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import load, save

from elbod.api.schemas import CalibrationResponse
from elbod_store import ModelStore
from tests.support import LABELS, Server, draft

SCORES = {
    f"{kind}_{count}": np.sort(np.random.default_rng(seed).normal(-90, 5, 120))
    for seed, (kind, count) in enumerate((k, c) for k in ("elbo", "elbo_given_label") for c in (1, 4, 16, 64))
}


@pytest.fixture
def http(tmp_path: Path, start_server: Callable[..., Server]) -> Iterator[httpx.Client]:
    store = ModelStore.open(tmp_path / "store")
    store.publish(replace(draft("labels", LABELS), calibration=save(SCORES)))
    store.publish(draft("labels", LABELS, seed=1))
    with httpx.Client(base_url=start_server(tmp_path / "store").url) as client:
        yield client


def test_scores_are_those_that_an_elbo_of_as_many_draws_is_ranked_among(http: httpx.Client) -> None:
    path = "/models/labels/versions/1/calibration"
    for asked, used in ((1, 1), (3, 1), (16, 16), (1000, 64)):
        answer = http.get(path, params={"num_samples": asked}).raise_for_status().json()
        CalibrationResponse.model_validate(answer)
        assert (answer["num_samples"], answer["units"], answer["conditional_on"]) == (used, "nats", None)
        assert answer["scores"] == SCORES[f"elbo_{used}"].tolist()
    given = http.get(path, params={"conditional_on": "label"}).json()
    assert given["scores"] == SCORES["elbo_given_label_16"].tolist()
    binary = http.get(path, headers={"Accept": "application/x-safetensors"})
    assert load(binary.content)["scores"].tolist() == SCORES["elbo_16"].tolist()
    score = http.post("/elbo", json={"model": "labels@1", "x": [[[1] * 8] * 8], "label": 0, "num_samples": 16}).json()
    rank = (1 + np.sum(SCORES["elbo_given_label_16"] <= score["elbo"][0])) / 121
    assert score["quantile"] == [rank]
    none = http.get("/models/labels/versions/2/calibration")
    assert (none.status_code, none.json()["detail"]) == (404, "labels@2 was published without calibration scores")
    assert http.get(path, params={"num_samples": 0}).status_code == 422
