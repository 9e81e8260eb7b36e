"""The main job with real processes: a worker publishes, a service hosts, callers never notice how."""

import concurrent.futures
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from elbod_store import ModelStore
from tests.support import ELBOD, HANG, Server, wait_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def worker(store: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [ELBOD, "train", "--recipe", "digits", "--store", str(store), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=HANG)
    assert process.returncode == 0, output
    return output


def test_a_worker_publishes_twice_while_callers_are_answered(
    folder: Path, start_server: Callable[..., Server], levels_rows: Any
) -> None:
    assert "digits@1" in finish(worker(folder, "--epochs", "2", "--alias", "production"))
    server = start_server(folder)
    stop = threading.Event()

    def keep_asking() -> list[tuple[int, int]]:
        answers = []
        with httpx.Client(base_url=server.url, timeout=30) as http:
            while not stop.is_set():
                response = http.post("/elbo", json={"x": levels_rows[:3].tolist(), "seed": 1})
                answers.append((response.status_code, response.json()["model"]["version"]))
        return answers

    with concurrent.futures.ThreadPoolExecutor(2) as pool, httpx.Client(base_url=server.url) as http:
        asking = [pool.submit(keep_asking) for _ in range(2)]
        finish(worker(folder, "--epochs", "3", "--alias", "production"))
        wait_for(lambda: http.post("/sample", json={}).json()["model"]["version"] == 2)
        stop.set()
        answers = [answer for future in asking for answer in future.result(60)]
        reference = http.get("/models/digits/versions/2/reference").json()
        request = {"x": reference["x"], "seed": 0, "num_samples": 16}
        scores = http.post("/elbo", json=request).json()
        blank = http.post("/elbo", json={"x": [[[0] * 8] * 8], "num_samples": 16}).json()
        manifest = http.get("/models/digits/versions/2").json()
        history = http.get("/models/digits").json()["history"]["production"]
    assert {status for status, _ in answers} == {200}
    assert {version for _, version in answers} == {1, 2}
    # The service answers with the numbers that the worker published.
    assert manifest["metrics"]["num_samples"] == 16
    for name in ("elbo", "reconstruction", "kl", "entropy"):
        assert scores[name] == pytest.approx(reference[name], rel=1e-4)
    assert [entry["version"] for entry in history] == [1, 2]
    # Held-out rows are typical, a blank sheet is not.
    calibration = manifest["training"]["split"]["calibration"]
    assert (scores["reference_size"], scores["reference_num_samples"]) == (calibration, 16)
    assert max(scores["typicality"]) > 0.3
    assert blank["typicality"][0] == pytest.approx(2 / (calibration + 1))


def test_a_worker_killed_while_it_publishes_leaves_every_reader_fine(
    folder: Path, start_server: Callable[..., Server]
) -> None:
    finish(worker(folder, "--epochs", "1"))
    store = ModelStore.open(folder)
    server = start_server(folder)
    with httpx.Client(base_url=server.url, timeout=30) as http:
        newest = store.versions("digits")[-1]
        publishing = worker(folder, "--publish-every", "1")
        wait_for(lambda: store.versions("digits")[-1] >= newest + 2)
        os.kill(publishing.pid, signal.SIGKILL)
        publishing.communicate(timeout=30)
        for version in store.versions("digits"):
            for blob in store.manifest("digits", version).blobs:
                store.read(blob)
        newest = store.versions("digits")[-1]
        wait_for(
            lambda: http.post("/sample", json={}).json()["model"]["version"] == newest,
            5,
        )
        assert http.get("/readyz").json()["problems"] == []
        finish(worker(folder, "--epochs", "1"))
        wait_for(lambda: http.post("/sample", json={}).json()["model"]["version"] == newest + 1)


def test_a_service_can_be_watched_learning_and_old_versions_are_retired(
    folder: Path, start_server: Callable[..., Server]
) -> None:
    output = finish(worker(folder, "--epochs", "4", "--publish-every", "1", "--keep", "2"))
    store = ModelStore.open(folder)
    assert store.versions("digits")[-1] >= 4
    assert len(store.versions("digits")) == 2
    assert "retired digits@1" in output
    with httpx.Client(base_url=start_server(folder).url) as http:
        assert http.post("/sample", json={"model": "digits@latest"}).json()["model"]["version"] == max(
            store.versions("digits")
        )
        gone = http.post("/sample", json={"model": "digits@1"})
        assert gone.status_code == 404
        assert "retired" in gone.json()["detail"]


def test_the_demo_trains_once_and_its_curl_lines_work_as_printed(tmp_path: Path) -> None:
    first = subprocess.run([ELBOD, "demo", "--no-serve"], cwd=tmp_path, capture_output=True, text=True, timeout=HANG)
    assert first.returncode == 0, first.stderr
    assert "bits/dim" in first.stdout
    with (tmp_path / "log").open("w") as log:
        demo = subprocess.Popen(
            [ELBOD, "demo", "--port", "0"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert demo.stdout is not None
    printed = []
    for line in demo.stdout:
        printed.append(line)
        if "Ctrl-C" in line:
            break
    assert "using digits@1" in printed[0]
    commands = [line for line in printed if line.startswith("curl")]
    assert len(commands) == 3
    try:
        answers = [
            subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, timeout=30).stdout
            for command in commands
        ]
    finally:
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert b'"posterior"' in answers[1]
    assert b'"elbo"' in answers[2]
