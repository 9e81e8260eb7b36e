"""Worker processes: replaced when they die, gone when the supervisor is, drained together."""

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import numpy as np
import pytest

from elbod.api.balance import Balance, Loads
from elbod.errors import StartupError
from elbod.machine import usable_cores
from elbod.process import Worker
from elbod.settings import Settings, load_settings
from elbod.supervisor import restart_delay, worker_count
from elbod_store import ModelStore
from tests.support import ELBOD, LEVELS, Server, draft, install_family, starts, wait_for, workers

BODY = {"num_samples": 20, "seed": 3}


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def pair(served_store: ModelStore, start_server: Callable[..., Server]) -> Server:
    """A server of two workers."""
    return start_server(served_store.objects.url, "--model", "levels", "--workers", "2")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_that_dies_is_replaced_and_the_other_one_never_fails(pair: Server, how: signal.Signals) -> None:
    parent = pair.process.pid
    before = workers(parent)
    assert len(before) == 2
    expected = httpx.post(f"{pair.url}/sample", json=BODY).content
    stop, asking = threading.Event(), threading.Barrier(4)

    def keep_asking() -> tuple[int, set[bytes]]:
        """Connections lost, and the different answers."""
        lost, answers, first = 0, set(), True
        while not stop.is_set():
            with httpx.Client(base_url=pair.url, timeout=30) as http:
                try:
                    while not stop.is_set():
                        response = http.post("/sample", json=BODY)
                        if response.status_code == 503 and how is signal.SIGTERM:
                            break
                        answers.add(response.content)
                        if first:
                            first = False
                            asking.wait(60)
                except httpx.TransportError:
                    lost += 1
        return lost, answers

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(keep_asking) for _ in range(3)]
        asking.wait(60)
        victim = min(before)
        os.kill(victim, how)
        wait_for(lambda: len(workers(parent) - {victim}) == 2)
        replacement = next(iter(workers(parent) - before))
        wait_for(lambda: starts(pair) == 3)
        # Only the replacement is left to answer.
        os.kill(next(iter(before - {victim})), signal.SIGKILL)
        assert httpx.post(f"{pair.url}/sample", json=BODY, timeout=60).content == expected
        stop.set()
        results = [client.result(60) for client in clients]
    assert replacement != victim
    # A client loses what it had on a killed worker, at most once for each of the two.
    assert all(lost <= 2 for lost, _ in results)
    assert set.union(*(answers for _, answers in results)) == {expected}


def test_workers_leave_with_a_killed_supervisor_and_free_the_port(pair: Server) -> None:
    port = int(pair.url.rpartition(":")[2])
    before = workers(pair.process.pid)
    pair.stop(signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in before))
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize(
    ("send", "how", "code"),
    [(os.kill, signal.SIGTERM, 0), (os.killpg, signal.SIGTERM, 0), (os.killpg, signal.SIGINT, 130)],
    ids=["supervisor alone", "whole group, as systemd", "whole group, as a terminal"],
)
def test_both_workers_finish_what_they_admitted(
    served_store: ModelStore, tmp_path: Path, send: Callable[[int, int], None], how: signal.Signals, code: int
) -> None:
    command = [ELBOD, "serve", "--store", served_store.objects.url, "--model", "levels", "--port", "0"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--workers", "2"], stdout=subprocess.PIPE, stderr=log, text=True, process_group=0
        )
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    body = {"x": np.zeros((100, 8, 8), int).tolist(), "num_samples": 100, "seed": 1}

    def ask(_: int) -> int:
        return httpx.post(f"{url}/elbo", json=body, timeout=60).status_code

    with process, concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(ask, i) for i in range(6)]
        wait_for(lambda: httpx.get(f"{url}/healthz").json()["busy_seconds"] > 0)
        send(process.pid, how)
        statuses = [answer.exception(60) or answer.result() for answer in answers]
        assert process.wait(60) == code
    # What came too late was refused at the door; what came in was answered, or told to go elsewhere.
    assert 200 in statuses
    assert all(status in (200, 503) or isinstance(status, httpx.ConnectError) for status in statuses)


def test_a_worker_told_to_end_by_a_service_manager_and_by_its_supervisor_finishes(
    served_store: ModelStore, start_server: Callable[..., Server]
) -> None:
    """systemd, for one, sends SIGTERM to every process of a service."""
    server = start_server(served_store.objects.url, "--model", "levels")
    body = {"x": np.zeros((200, 8, 8), int).tolist(), "num_samples": 200}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, f"{server.url}/elbo", json=body, timeout=60)
        wait_for(lambda: httpx.get(f"{server.url}/healthz").json()["busy_seconds"] > 0)
        (worker,) = workers(server.process.pid)
        os.kill(worker, signal.SIGTERM)
        wait_for(lambda: "Shutting down" in server.log.read_text())
        assert server.stop() == 0
        assert answer.result(60).status_code == 200
    assert "Traceback" not in server.log.read_text()


def test_a_second_signal_ends_supervisor_and_workers_at_once(pair: Server) -> None:
    before = workers(pair.process.pid)
    body = {"x": np.zeros((1000, 8, 8), int).tolist(), "num_samples": 1000}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, f"{pair.url}/elbo", json=body, timeout=60)
        wait_for(lambda: httpx.get(f"{pair.url}/healthz").json()["busy_seconds"] > 0)
        pair.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "Shutting down" in pair.log.read_text())
        assert pair.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        assert not any(alive(pid) for pid in before)
        assert isinstance(answer.exception(30), httpx.TransportError)


@contextmanager
def supervised(store: str, log: Path, model: str, **variables: str) -> "Iterator[subprocess.Popen[str]]":
    """A server of one worker that is replaced after five seconds of silence."""
    program = f"""
from elbod.settings import load_settings
from elbod.supervisor import supervise
settings = load_settings(store={store!r}, model={model!r}, port=0, workers=1)
raise SystemExit(supervise(settings, announce=lambda url: print(url, flush=True), silence=5))
"""
    command = [sys.executable, "-c", program]
    environment = os.environ | variables
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment) as process,
    ):
        try:
            yield process
        finally:
            # A test that failed would else wait for it.
            process.kill()


def test_a_worker_that_is_silent_is_killed_and_replaced(served_store: ModelStore, tmp_path: Path) -> None:
    with supervised(served_store.objects.url, tmp_path / "log", "levels") as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        (stuck,) = workers(process.pid)
        os.kill(stuck, signal.SIGSTOP)
        wait_for(lambda: workers(process.pid) not in (set(), {stuck}))
        assert httpx.post(f"{url}/sample", json=BODY, timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "does not answer" in (tmp_path / "log").read_text()


def only_starts(settings: Settings, listener: socket.socket, balance: Balance, pipe: Connection) -> None:
    """A worker whose first word is that it has started."""
    pipe.send_bytes(b"started")
    threading.Event().wait()


def test_what_a_worker_was_asked_while_it_started_is_owed_from_its_first_word_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("elbod.process._work", only_starts)
    with socket.socket() as listener:
        worker = Worker(load_settings(), listener, Loads(1), number=0, delay=0.0)
        try:
            worker.ask(worker.born - 100)
            assert worker.pipe.poll(60)
            assert worker.listen() is None
            assert worker.started
            now = time.monotonic()
            assert not worker.silent(now, 60)
            assert worker.silent(now + 61, 60)
        finally:
            worker.end(signal.SIGKILL)
            worker.bury()


ENDLESS = """
import threading
import elbod.api.service
from elbod.generators.vae import VAE

elbod.api.service.STUCK_AFTER = 1.0

class Endless(VAE):
    family = "endless"

    def encode(self, x, label=None):
        if (x.flatten(1).sum(1) == 16 * 64).any():
            threading.Event().wait()
        return super().encode(x)
"""


def test_a_worker_whose_compute_thread_is_stuck_is_replaced(tmp_path: Path) -> None:
    known = install_family(tmp_path / "packages", "endless", ENDLESS)
    store = ModelStore.open(tmp_path / "store")
    store.publish(replace(draft("endless", LEVELS), family="endless"))
    with supervised(store.objects.url, tmp_path / "log", "endless", **known) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        (stuck,) = workers(process.pid)
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{url}/elbo", json={"x": [[[16] * 8] * 8]}, timeout=60)
        wait_for(lambda: workers(process.pid) not in (set(), {stuck}))
        assert httpx.post(f"{url}/sample", json=BODY, timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "does not answer" in (tmp_path / "log").read_text()


def test_replacements_that_cannot_start_are_tried_ever_more_slowly_and_stop_nobody(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    store = tmp_path / "store"
    ModelStore.open(store)
    server = start_server(store, "--workers", "2")
    parent = server.process.pid
    with httpx.Client(base_url=server.url, timeout=30) as http:
        assert http.get("/healthz").status_code == 200
        store.rename(tmp_path / "away")
        store.write_text("no folder")
        # Whichever of the two does not hold this client's connection.
        listening = sorted(workers(parent))
        holder = next(pid for pid in listening if connected(pid, http))
        os.kill(next(pid for pid in listening if pid != holder), signal.SIGKILL)
        wait_for(lambda: server.log.read_text().count("cannot open the model store") >= 2)
        assert http.get("/healthz").status_code == 200
        store.unlink()
        (tmp_path / "away").rename(store)
        wait_for(lambda: starts(server) == 3)
    assert server.stop() == 0


def connected(pid: int, http: httpx.Client) -> bool:
    """Whether the process holds the server's end of the client's connection."""
    port = http.base_url.port
    established = {
        fields[9]
        for fields in (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "01"
    }
    held = set()
    for path in (Path("/proc") / str(pid) / "fd").iterdir():
        held.add(str(path.readlink()).removeprefix("socket:[").removesuffix("]"))
    return bool(established & held)


def test_a_private_store_has_one_worker() -> None:
    assert worker_count(load_settings(store="memory://", device="cpu")) == 1
    with pytest.raises(StartupError, match="--workers 1"):
        worker_count(load_settings(store="memory://", device="cpu", workers=2))


def test_a_gpu_has_one_worker_and_cores_at_most_eight() -> None:
    assert worker_count(load_settings(device="cuda:0")) == 1
    assert worker_count(load_settings(device="cuda", workers=3)) == 3
    assert worker_count(load_settings(device="cpu")) == min(8, usable_cores())


def test_delays_double_up_to_a_limit_and_a_long_run_forgives() -> None:
    delays = [0.0]
    for _ in range(9):
        delays.append(restart_delay(delays[-1], ran=1))
    assert delays[1:4] == [0.1, 0.2, 0.4]
    assert delays[-1] == 10
    assert restart_delay(10, ran=31) == 0.1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/gone\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n3:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        ({}, None),
    ],
)
def test_the_quota_of_a_control_group_bounds_the_cores(
    tmp_path: Path, files: dict[str, str], cores: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))
