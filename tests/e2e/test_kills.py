"""Workers are killed again and again while the Python client asks: no answer is lost, and none differs."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from elbod_client import AsyncClient, Client, Scores
from elbod_store import ModelStore
from tests.support import Server, starts, wait_for, workers

CALLERS = 12
# How many of the two workers are killed at a time.
KILLS = (1, 1, 2)


def kill_again_and_again(server: Server, stop: threading.Event) -> None:
    """Kill workers, each time when those before them have been replaced; then tell the callers to stop."""
    try:
        for count in KILLS:
            before = starts(server)
            for pid in sorted(workers(server.process.pid))[-count:]:
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda wanted=before + count: starts(server) >= wanted, 100)  # type: ignore[misc]
    finally:
        stop.set()


@pytest.fixture
def pair(served_store: ModelStore, start_server: Callable[..., Server]) -> Server:
    server = start_server(served_store.objects.url, "--model", "levels", "--workers", "2")
    wait_for(lambda: starts(server) == 2)
    return server


def differing(answers: list[Scores], expected: Scores) -> int:
    return sum(answer.elbo.tobytes() != expected.elbo.tobytes() for answer in answers)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_client_loses_no_answer_when_workers_are_killed(pair: Server, levels_rows: Any) -> None:
    rows, stop = np.tile(levels_rows, (5, 1, 1)), threading.Event()
    with Client(pair.url, timeout=60, chunk_rows=60) as client, ThreadPoolExecutor(CALLERS + 1) as pool:

        def keep_asking(_: int) -> list[Scores]:
            answers = []
            while not stop.is_set():
                answers.append(client.elbo(rows, num_samples=20, seed=1))
            return answers

        expected = client.elbo(rows, num_samples=20, seed=1)
        killing = pool.submit(kill_again_and_again, pair, stop)
        answers = [answer for each in pool.map(keep_asking, range(CALLERS)) for answer in each]
        killing.result()
    assert len(answers) >= CALLERS
    assert differing(answers, expected) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_asyncio_client_loses_no_answer_when_workers_are_killed(pair: Server, levels_rows: Any) -> None:
    rows, stop = np.tile(levels_rows, (5, 1, 1)), threading.Event()

    async def ask_all() -> tuple[Scores, list[Scores]]:
        async with AsyncClient(pair.url, timeout=60, chunk_rows=60) as client:

            async def keep_asking() -> list[Scores]:
                answers = []
                while not stop.is_set():
                    answers.append(await client.elbo(rows, num_samples=20, seed=1))
                return answers

            expected = await client.elbo(rows, num_samples=20, seed=1)
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(kill_again_and_again, pair, stop))
                asking = [group.create_task(keep_asking()) for _ in range(CALLERS)]
            return expected, [answer for task in asking for answer in task.result()]

    expected, answers = asyncio.run(ask_all())
    assert len(answers) >= CALLERS
    assert differing(answers, expected) == 0
