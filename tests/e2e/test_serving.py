"""Real processes: hot swap under load, same bytes under load, restarts, a corrupt version, signals, start-up errors."""

import concurrent.futures
import contextlib
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from elbod_store import ModelStore
from elbod_store.names import blob_key
from tests.support import ELBOD, HANG, LEVELS, Server, publish, wait_for


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore.open(tmp_path / "store")
    publish(store, "levels", LEVELS, 1)
    store.promote("levels", "production", 1, who="test", why="first")
    return store


def test_an_alias_move_is_seen_and_no_request_fails(
    store: ModelStore, start_server: Callable[..., Server], levels_rows: Any
) -> None:
    server = start_server(store.objects.url)
    stop = threading.Event()

    def keep_asking(seed: int) -> list[tuple[int, int]]:
        answers = []
        with httpx.Client(base_url=server.url, timeout=30) as http:
            while not stop.is_set():
                response = http.post("/elbo", json={"x": levels_rows[:4].tolist(), "seed": seed})
                answers.append((response.status_code, response.json()["model"]["version"]))
        return answers

    with concurrent.futures.ThreadPoolExecutor(4) as pool, httpx.Client(base_url=server.url) as http:
        asking = [pool.submit(keep_asking, seed) for seed in range(4)]
        publish(store, "levels", LEVELS, 2)
        store.promote("levels", "production", 2, who="test", why="better")
        wait_for(lambda: http.post("/sample", json={}).json()["model"]["version"] == 2)
        stop.set()
        answers = [future.result(30) for future in asking]
    for sequence in answers:
        assert {status for status, _ in sequence} == {200}
        versions = [version for _, version in sequence]
        assert versions == sorted(versions)
        assert versions[0] == 1


def test_a_hundred_samples_equal_ten_calls_of_ten_alone_and_under_load(
    store: ModelStore, start_server: Callable[..., Server], levels_rows: Any
) -> None:
    server = start_server(store.objects.url)
    stop, disturbing = threading.Event(), threading.Barrier(17)

    def disturb(seed: int) -> int:
        count, rows = 0, levels_rows[: 1 + seed % 40].tolist()
        verbs = [
            ("/elbo", {"x": rows, "num_samples": 1 + seed}),
            ("/encode", {"x": rows, "num_samples": 2}),
            ("/sample", {"num_samples": 7}),
        ]
        with httpx.Client(base_url=server.url, timeout=60) as http:
            while not stop.is_set():
                path, body = verbs[count % 3]
                assert http.post(path, json=body).status_code == 200
                count += 1
                if count == 1:
                    disturbing.wait(60)
        return count

    with httpx.Client(base_url=server.url, timeout=60) as http:

        def ten(i: int) -> Any:
            return http.post("/sample", json={"num_samples": 10, "seed": 7, "first_index": 10 * i}).json()

        whole = http.post("/sample", json={"num_samples": 100, "seed": 7}).json()
        alone = [ten(i) for i in range(10)]
        with concurrent.futures.ThreadPoolExecutor(26) as pool:
            others = [pool.submit(disturb, seed) for seed in range(16)]
            disturbing.wait(60)
            loaded = list(pool.map(ten, range(10)))
            again = http.post("/sample", json={"num_samples": 100, "seed": 7}).json()
            stop.set()
            assert sum(other.result(60) for other in others) > 16
    for name in ("x", "z"):
        assert [row for part in alone for row in part[name]] == whole[name]
        assert [row for part in loaded for row in part[name]] == whole[name]
        assert again[name] == whole[name]


def test_a_restarted_server_and_a_second_one_give_the_same_bytes(
    store: ModelStore, start_server: Callable[..., Server], levels_rows: Any
) -> None:
    body = {"x": levels_rows.tolist(), "num_samples": 20, "num_importance_samples": 30, "seed": 12}
    answers = []
    first, second = start_server(store.objects.url), start_server(store.objects.url)
    for server in (first, second):
        answers.append(httpx.post(f"{server.url}/elbo", json=body).content)
    assert first.stop() == 0
    answers.append(httpx.post(f"{start_server(store.objects.url).url}/elbo", json=body).content)
    assert answers[0] == answers[1] == answers[2]


def test_a_corrupt_version_is_refused_and_the_old_one_keeps_serving(
    store: ModelStore, start_server: Callable[..., Server]
) -> None:
    server = start_server(store.objects.url, "--model", "levels@latest")
    broken = publish(store, "levels", LEVELS, 2)
    path = store.objects.local_path(blob_key(broken.weights.digest))
    assert path is not None
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with httpx.Client(base_url=server.url) as http:
        wait_for(lambda: bool(http.get("/readyz").json()["problems"]))
        ready = http.get("/readyz")
        assert ready.status_code == 200
        assert "levels@2" in ready.json()["problems"][0]
        assert "sha256" in ready.json()["problems"][0]
        assert http.post("/sample", json={}).json()["model"]["version"] == 1
        refused = http.post("/sample", json={"model": "levels@2"})
        assert refused.status_code == 502
        assert "/readyz" in refused.json()["detail"]
        assert str(store.objects.url) not in refused.text
    wait_for(lambda: "levels@2" in server.log.read_text())


def test_a_server_without_a_model_is_alive_and_not_ready_until_one_is_published(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    store = ModelStore.open(tmp_path / "empty")
    server = start_server(store.objects.url)
    with httpx.Client(base_url=server.url) as http:
        assert http.get("/healthz").status_code == 200
        assert http.get("/readyz").status_code == 503
        refused = http.post("/sample", json={})
        assert refused.status_code == 503
        assert "no model yet" in refused.json()["detail"]
        publish(store, "levels", LEVELS)
        wait_for(lambda: http.get("/readyz").status_code == 200)
        assert http.post("/sample", json={}).status_code == 200


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_drained_server_answers_what_it_admitted_and_exits_by_the_convention(
    store: ModelStore, start_server: Callable[..., Server], how: signal.Signals, code: int
) -> None:
    server = start_server(store.objects.url)
    rows = np.zeros((200, 8, 8), int).tolist()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        body = {"x": rows, "num_samples": 200, "seed": 1}
        answer = pool.submit(httpx.post, f"{server.url}/elbo", json=body, timeout=60)
        wait_for(lambda: httpx.get(f"{server.url}/healthz").json()["busy_seconds"] > 0)
        server.process.send_signal(how)
        assert answer.result(60).status_code == 200
    with server.process:
        assert server.process.wait(30) == code


def run_serve(*flags: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ELBOD, "serve", *flags], capture_output=True, text=True, timeout=60, cwd=cwd)


def check_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


def test_a_port_in_use_is_one_clear_line(store: ModelStore, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_serve("--store", store.objects.url, "--port", str(port), cwd=tmp_path)
        demo = [ELBOD, "demo", "--store", str(tmp_path / "new"), "--port", str(port)]
        early = subprocess.run(demo, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    check_one_line(done, f"127.0.0.1:{port}", "in use", "--port")
    check_one_line(early, f"127.0.0.1:{port}", "in use", "--port")


def test_a_store_that_cannot_be_opened_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    check_one_line(run_serve("--store", str(tmp_path / "file/store"), cwd=tmp_path), str(tmp_path / "file/store"))
    check_one_line(run_serve("--store", "ftp://x/y", cwd=tmp_path), "ftp://x/y")


def test_a_bad_setting_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "elbod.toml").write_text("port = 123456\n")
    check_one_line(run_serve(cwd=tmp_path), "port", "65535")
    (tmp_path / "elbod.toml").write_text("colour = 1\n")
    check_one_line(run_serve(cwd=tmp_path), "elbod.toml", "colour")
    (tmp_path / "elbod.toml").write_text("port = \n")
    check_one_line(run_serve(cwd=tmp_path), "elbod.toml")


def test_a_door_open_to_the_network_needs_a_word(tmp_path: Path) -> None:
    check_one_line(run_serve("--host", "0.0.0.0", "--port", "0", cwd=tmp_path), "0.0.0.0", "--insecure")


def test_admin_without_keys_for_every_page_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "elbod.toml").write_text('cors_origins = ["*"]\n')
    check_one_line(run_serve("--admin", "--port", "0", cwd=tmp_path), "--admin", "cors_origins", "--keys-file")


def test_too_few_file_descriptors_are_one_clear_line(store: ModelStore, tmp_path: Path) -> None:
    command = f"ulimit -n 24 && exec {ELBOD} serve --store {store.objects.url} --port 0"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    check_one_line(done, "24 file descriptors", "ulimit -n")


def test_file_descriptors_that_run_out_are_survived(store: ModelStore, start_server: Callable[..., Server]) -> None:
    server = start_server(store.objects.url)
    (worker,) = (int(pid) for pid in children(server.process.pid))
    _, most = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (len(list(Path(f"/proc/{worker}/fd").iterdir())) + 10, most))
    host, port = server.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
        wait_for(lambda: "cannot accept a connection" in server.log.read_text())
    assert httpx.post(f"{server.url}/sample", json={}, timeout=30).status_code == 200
    assert children(server.process.pid) == [str(worker)]


def children(pid: int) -> list[str]:
    """The workers of a supervisor, with nobody else among its children."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(
    store: ModelStore, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "elbod.toml").write_text('max_rows = 1\nmax_num_samples = 1\nmodel = "nothing"\n')
    server = start_server(store.objects.url, "--model", "levels", ELBOD_MAX_ROWS="2", ELBOD_MODEL="nobody")
    refused = httpx.post(f"{server.url}/sample", json={"num_samples": 3}).json()
    assert "the limit is 2" in refused["detail"]
    refused = httpx.post(f"{server.url}/encode", json={"x": [[[0] * 8] * 8], "num_samples": 2}).json()
    assert "the limit is 1" in refused["detail"]


def test_a_second_signal_does_not_wait(store: ModelStore, start_server: Callable[..., Server]) -> None:
    server = start_server(store.objects.url)
    rows = np.zeros((1000, 8, 8), int).tolist()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        body = {"x": rows, "num_samples": 1000}
        answer = pool.submit(httpx.post, f"{server.url}/elbo", json=body, timeout=60)
        wait_for(lambda: httpx.get(f"{server.url}/healthz").json()["busy_seconds"] > 0)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "Shutting down" in server.log.read_text())
        server.process.send_signal(signal.SIGTERM)
        with server.process:
            server.process.wait(HANG)
        assert answer.exception(30) is not None or answer.result().status_code >= 500


def test_work_that_outlasts_the_drain_is_told_so(store: ModelStore, start_server: Callable[..., Server]) -> None:
    server = start_server(store.objects.url, ELBOD_DRAIN_TIMEOUT="1")
    rows = np.zeros((1000, 8, 8), int).tolist()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        body = {"x": rows, "num_samples": 1000}
        answer = pool.submit(httpx.post, f"{server.url}/elbo", json=body, timeout=60)
        wait_for(lambda: httpx.get(f"{server.url}/healthz").json()["busy_seconds"] > 0)
        server.process.send_signal(signal.SIGTERM)
        refused = answer.result(30)
    assert refused.status_code == 503
    assert "shut down before the answer" in refused.json()["detail"]
    with server.process:
        assert server.process.wait(30) == 0


def test_an_ipv6_address_is_announced_as_a_url(store: ModelStore, start_server: Callable[..., Server]) -> None:
    server = start_server(store.objects.url, "--host", "::1")
    assert server.url.startswith("http://[::1]:")
    assert httpx.get(f"{server.url}/readyz").status_code == 200
