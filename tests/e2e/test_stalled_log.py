"""A log that nobody reads, or that cannot be written: the server answers, drains and ends all the same."""

import concurrent.futures
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from elbod_store import ModelStore
from tests.support import ELBOD, wait_for

# More than the pipe and the queue hold: each line has its path.
LONG = "/" + "p" * 10_000
ASKED = 1000


@contextmanager
def serving(store: ModelStore, stderr: int, workers: int) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    command = [ELBOD, "serve", "--store", store.objects.url, "--model", "levels", "--port", "0"]
    with subprocess.Popen(
        [*command, "--workers", str(workers)], stdout=subprocess.PIPE, stderr=stderr, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.kill()


def ask(url: str, count: int) -> set[int]:
    with httpx.Client(base_url=url, timeout=60) as http:
        return {http.get(LONG).status_code for _ in range(count)}


def dropped(url: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("elbod_log_lines_dropped_total "))


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pipe_that_nobody_reads_stops_neither_workers_nor_supervisor(served_store: ModelStore, workers: int) -> None:
    reader, writer = os.pipe()
    try:
        with serving(served_store, writer, workers) as (process, url):
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                for statuses in pool.map(ask, [url] * 4, [ASKED * workers // 4] * 4):
                    assert statuses == {404}
            wait_for(lambda: dropped(url) > 0)
            # The supervisor has something to say, and goes on without being heard.
            before = set(children(process.pid))
            os.kill(min(before), signal.SIGKILL)
            wait_for(lambda: len(set(children(process.pid)) - {min(before)}) == workers)
            wait_for(lambda: answers(url))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    finally:
        os.close(reader)
        os.close(writer)


def answers(url: str) -> bool:
    try:
        return httpx.post(f"{url}/sample", json={}, timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def test_lines_that_were_dropped_are_counted_in_the_log_once_it_is_read_again(served_store: ModelStore) -> None:
    reader, writer = os.pipe()
    with serving(served_store, writer, 1) as (process, url):
        os.close(writer)
        ask(url, ASKED)
        wait_for(lambda: dropped(url) > 0)
        with concurrent.futures.ThreadPoolExecutor(1) as pool, os.fdopen(reader) as log:
            lines = pool.submit(log.readlines)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            documents = [json.loads(line) for line in lines.result(30)]
    lost = sum(int(d["message"].split()[0]) for d in documents if "lines of the log were dropped" in d["message"])
    asked = [d for d in documents if d.get("path") == LONG]
    assert lost > 0
    # Every request is a line, or is counted; so are a few of the server itself.
    assert ASKED <= len(asked) + lost < ASKED + 100


def test_a_closed_pipe_stops_nobody(served_store: ModelStore) -> None:
    reader, writer = os.pipe()
    with serving(served_store, writer, 1) as (process, url):
        os.close(writer)
        os.close(reader)
        assert ask(url, 20) == {404}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_lines_of_two_workers_never_mix(served_store: ModelStore) -> None:
    reader, writer = os.pipe()
    with serving(served_store, writer, 2) as (process, url), os.fdopen(reader) as log:
        os.close(writer)
        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            lines = pool.submit(log.readlines)

            def ask_often(_: int) -> None:
                with httpx.Client(base_url=url, timeout=60) as http:
                    for _ in range(50):
                        http.get("/healthz")

            list(pool.map(ask_often, range(8)))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            documents = [json.loads(line) for line in lines.result(30)]
    assert sum(d.get("path") == "/healthz" for d in documents) == 400
