"""`GET /metrics`: exact counts, all workers together, labels that nobody can multiply."""

import contextlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from elbod.api.histograms import Histogram, decades
from elbod_store import ModelStore
from tests.support import LEVELS, Server, disk_of, publish, wait_for

Labels = frozenset[tuple[str, str]]
X = np.zeros((3, 8, 8), int).tolist()


def scrape(server: Server) -> dict[tuple[str, Labels], float]:
    """Every sample by name and labels, the pid left out."""
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: dict[tuple[str, Labels], float], name: str, **labels: str) -> float:
    return samples.get((f"elbod_{name}", frozenset(labels.items())), 0.0)


@pytest.fixture
def own(served_store: ModelStore, start_server: Callable[..., Server]) -> Server:
    return start_server(served_store.objects.url, "--model", "levels", ELBOD_MAX_ROWS="10")


def test_known_requests_give_exact_numbers(own: Server) -> None:
    with httpx.Client(base_url=own.url, timeout=30) as http:
        for _ in range(2):
            assert http.post("/elbo", json={"x": X, "num_samples": 4, "seed": 1}).status_code == 200
        assert http.post("/sample", json={"num_samples": 5}).status_code == 200
        assert http.post("/sample", json={"num_samples": 2}, headers={"Accept": "image/png"}).status_code == 200
        assert http.post("/encode", json={"x": X[:1]}).status_code == 200
        assert http.post("/sample", json={"num_samples": 11}).status_code == 422
        elbo = http.post("/elbo", json={"x": X, "num_samples": 4, "seed": 1}).json()
    samples = scrape(own)

    assert value(samples, "requests_total", verb="elbo", status="200") == 3
    assert value(samples, "requests_total", verb="sample", status="200") == 2
    assert value(samples, "requests_total", verb="sample", status="422") == 1
    assert value(samples, "rejects_total", reason="invalid-input") == 1
    assert value(samples, "rows_total", verb="elbo") == 9
    assert value(samples, "rows_total", verb="sample") == 7
    assert value(samples, "rows_total", verb="encode") == 1
    for phase in ("queue", "compute", "encode", "total"):
        assert value(samples, "request_seconds_count", verb="elbo", phase=phase) == 3
        assert value(samples, "request_seconds_sum", verb="elbo", phase=phase) > 0
    # 3 rows of /elbo thrice and one of /encode; 4 draws of each of the 9, and 7 samples.
    assert value(samples, "tile_units_total", stage="encode") == 10
    assert value(samples, "tile_units_total", stage="draw") == 9 * 4 + 7 + 0
    assert value(samples, "tiles_total", stage="encode") == 4
    assert value(samples, "tile_places_total", stage="encode") >= 10
    version = {"model": "levels", "version": "1"}
    assert value(samples, "kl_nats_count", **version) == 9
    assert value(samples, "kl_nats_sum", **version) == pytest.approx(3 * sum(elbo["kl"]))
    assert value(samples, "elbo_nats_per_dim_sum", **version) == pytest.approx(3 * sum(elbo["elbo"]) / 64)
    assert value(samples, "loads_total") == 1
    assert value(samples, "loaded_models") == 1
    assert value(samples, "model_bytes", **version) > 0
    assert value(samples, "workers") == value(samples, "ready_workers") == value(samples, "worker_starts_total") == 1
    assert value(samples, "queue_row_draws") == value(samples, "queue_bytes") == 0
    memory = [amount for (name, _), amount in samples.items() if name == "elbod_resident_memory_bytes"]
    assert len(memory) == 1
    assert memory[0] > 10 * 1024**2


def test_given_up_rows_are_counted(own: Server) -> None:
    body = {"x": np.zeros((10, 8, 8), int).tolist(), "num_samples": 1000, "num_importance_samples": 16_000}
    assert httpx.post(f"{own.url}/elbo", json=body, headers={"Request-Timeout": "0.5"}).status_code == 504
    samples = scrape(own)
    assert value(samples, "cancelled_rows_total") == 10
    assert value(samples, "rejects_total", reason="deadline-exceeded") == 1


def test_workers_are_added_up_and_a_dead_ones_work_still_counts(
    served_store: ModelStore, start_server: Callable[..., Server]
) -> None:
    server = start_server(served_store.objects.url, "--model", "levels", "--workers", "2")
    for _ in range(12):
        # A connection each, so that either worker may take it.
        assert httpx.post(f"{server.url}/sample", json={"num_samples": 3}).status_code == 200
    wait_for(lambda: value(scrape(server), "rows_total", verb="sample") == 36)
    samples = scrape(server)
    assert value(samples, "workers") == 2
    pids = {dict(labels)["pid"] for name, labels in samples if name == "elbod_resident_memory_bytes"}
    assert len(pids) == 2
    os.kill(int(min(pids)), signal.SIGKILL)
    wait_for(lambda: value(scrape(server), "worker_starts_total") == 3)
    wait_for(lambda: value(scrape(server), "ready_workers") == 2)
    samples = scrape(server)
    assert value(samples, "workers") == 2
    assert value(samples, "rows_total", verb="sample") == 36
    assert min(pids) not in {dict(labels).get("pid") for _, labels in samples}


def test_a_swap_is_counted(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    store = ModelStore.open(tmp_path / "store")
    publish(store, "levels", LEVELS, 1)
    server = start_server(store.objects.url, "--model", "levels@latest")
    publish(store, "levels", LEVELS, 2)
    wait_for(lambda: value(scrape(server), "swaps_total") == 1)
    assert value(scrape(server), "loads_total") == 2
    wait_for(lambda: value(scrape(server), "model_bytes", model="levels", version="1") == 0)


def test_no_label_comes_from_a_request(own: Server) -> None:
    secret = "s3cret"
    with httpx.Client(base_url=own.url, timeout=30, headers={"Authorization": f"Bearer {secret}"}) as http:
        before = set(scrape(own))
        for i in range(20):
            assert http.get(f"/{secret}/{i}").status_code == 404
            assert http.post("/sample", json={"model": f"{secret}-{i}"}).status_code == 404
            assert http.request(f"BREW{i}", "/sample").status_code in (400, 405)
            assert http.post("/sample", json={"num_samples": i, "wrong": secret}).status_code == 422
            http.post("/elbo", content=b"{", headers={"X-Request-Id": f"{secret}-{i}"})
        text = http.get("/metrics").text
        new = set(scrape(own)) - before
    assert secret not in text
    labelled = {(name, labels) for name, labels in new if not name.startswith("elbod_request_seconds")}
    assert len(labelled) < 20
    assert {dict(labels)["verb"] for name, labels in new if name == "elbod_requests_total"} <= {
        "sample",
        "encode",
        "elbo",
        "other",
    }
    for name, labels in scrape(own):
        if name.startswith("elbod_"):
            assert {label for label, _ in labels} <= {
                *("verb", "status", "phase", "stage", "reason", "model", "version", "pid", "le"),
            }


def test_a_prefix_of_a_proxy_changes_no_verb(served_store: ModelStore, start_server: Callable[..., Server]) -> None:
    server = start_server(served_store.objects.url, "--model", "levels", "--root-path", "/models-api")
    for prefix in ("", "/models-api"):
        assert httpx.post(f"{server.url}{prefix}/sample", json={}).status_code == 200
    assert value(scrape(server), "requests_total", verb="sample", status="200") == 2


def test_the_folder_of_the_metrics_goes_with_the_server(
    served_store: ModelStore, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for how in (signal.SIGTERM, signal.SIGKILL):
        server = start_server(served_store.objects.url, "--model", "levels", "--workers", "2", TMPDIR=str(temporary))
        assert len(list(temporary.iterdir())) == 1
        server.stop(how)
        wait_for(lambda: not list(temporary.iterdir()))


@pytest.mark.parametrize("seed", range(5))
def test_many_observations_at_once_are_those_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bounds = (-1.0, -0.1, 0.0, 0.5, 2.0)
    values = np.concatenate([rng.normal(0, 1, 500), bounds, [1e9, -1e9]])
    one, many = (Histogram("h", "", registry=CollectorRegistry(), buckets=bounds) for _ in range(2))
    for x in values:
        one.observe(x)
    many.observe_many(values)
    many.observe_many(np.array([]))
    many.observe_many(np.array([np.nan]))
    ((a,), (b,)) = one.collect(), many.collect()
    assert [(s.name, s.labels, s.value) for s in a.samples if not s.name.endswith("created")] == [
        (s.name, s.labels, s.value) for s in b.samples if not s.name.endswith("created")
    ]


def test_buckets_climb_by_a_third() -> None:
    bounds = np.array(decades(0.01, 10))
    assert bounds[0] == 0.01
    assert bounds[-1] == 10
    assert (bounds[1:] / bounds[:-1] < 1.36).all()
    assert json.loads(json.dumps(decades(0.1, 1))) == [0.1, 0.133, 0.178, 0.237, 0.316, 0.422, 0.562, 0.75, 1.0]


def test_the_media_type_follows_accept(http: httpx.Client) -> None:
    assert http.get("/metrics").headers["content-type"].startswith("text/plain")
    accept = "application/openmetrics-text; version=1.0.0"
    response = http.get("/metrics", headers={"Accept": accept})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert re.search(r"# EOF\n$", response.text)


def test_a_full_disk_stops_the_metrics_and_not_the_answers(
    served_store: ModelStore, start_server: Callable[..., Server], small_disk: Path
) -> None:
    server = start_server(served_store.objects.url, "--model", "levels", TMPDIR=str(small_disk))
    with httpx.Client(base_url=server.url, timeout=10) as http:
        with (small_disk / "fill").open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65536))
                file.flush()
        # Each path is a label that has no place in the files yet.
        for path in ("/nowhere", "/sample", "/models", "/encode"):
            http.get(path)
        wait_for(lambda: "metrics stand still" in server.log.read_text())
        assert http.post("/sample", json={"seed": 1}).status_code == 200
    assert "ended with code" not in server.log.read_text()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(16, tmp_path / "small") as disk:
        yield disk
