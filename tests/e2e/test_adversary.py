"""The promise under attack: whatever else a server is doing, the same request has the same bytes.

`ELBOD_ADVERSARY_REQUESTS` says how many requests each caller sends; `make adversary` lets them send many.
"""

import concurrent.futures
import json
import os
import random
import socket
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from elbod_store import ModelStore
from tests.support import Server

REQUESTS = int(os.environ.get("ELBOD_ADVERSARY_REQUESTS", "10"))
CALLERS = 12
# Enough that most requests come more than once, in other company.
SCRIPTS = 150

Request = tuple[str, bytes]


def scripted(number: int) -> Request:
    """The request of that number: any verb, model, size and seed, decided by the number alone."""
    rng = random.Random(number)
    model = rng.choice(["levels", "levels", "vamp", "convolutional", "mixture", "flow_posterior", "labels", "ladder"])
    rows = rng.choice([1, 1, 1, 2, 5, 31, 32, 33, 100])
    fields: dict[str, Any] = {"model": model, "seed": rng.randrange(2**63), "first_index": rng.randrange(2**40)}
    x = np.random.default_rng(number).integers(0, 17, (rows, 8, 8)).tolist()
    label = {"label": rng.randrange(3)} if model == "labels" else {}
    verb = rng.choice(["sample", "encode", "elbo", "elbo"])
    if verb == "sample":
        fields |= {"num_samples": rows, "temperature": rng.choice([0.0, 0.8, 1.0])} | label
    elif verb == "encode":
        fields |= {"x": x, "num_samples": rng.choice([0, 1, 4])} | label
    else:
        fields |= {"x": x, "num_samples": rng.choice([1, 3, 16]), **rng.choice([{}, label])}
        fields |= rng.choice([{}, {"num_importance_samples": 40}, {"include": ["reconstruction_map"]}])
    return f"/{verb}", json.dumps(fields).encode()


def ask(http: httpx.Client, request: Request) -> bytes:
    path, body = request
    response = http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text
    return response.content


def leave(url: str, request: Request, rng: random.Random) -> None:
    """Send a request, or a part of it, and go."""
    path, body = request
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        raw = head.encode() + body
        connection.sendall(raw if rng.random() < 0.8 else raw[: rng.randrange(1, len(raw))])


def attack(url: str, caller: int) -> list[tuple[int, bytes]]:
    rng, answers = random.Random(caller), []
    with httpx.Client(base_url=url, timeout=120) as http:
        for _ in range(REQUESTS):
            number = rng.randrange(SCRIPTS)
            if rng.random() < 0.2:
                leave(url, scripted(number), rng)
            else:
                answers.append((number, ask(http, scripted(number))))
    return answers


def test_random_company_cancels_other_workers_and_a_restart_change_no_byte(
    served_store: ModelStore, start_server: Callable[..., Server]
) -> None:
    server = start_server(served_store.objects.url, "--workers", "2")
    with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
        attacks = [pool.submit(attack, server.url, caller) for caller in range(CALLERS)]
        answers = [answer for each in attacks for answer in each.result()]
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()
    alone: dict[int, bytes] = {}
    restarted = start_server(served_store.objects.url)
    with httpx.Client(base_url=restarted.url, timeout=120) as http:
        for number, answer in answers:
            if number not in alone:
                alone[number] = ask(http, scripted(number))
            if answer != alone[number]:
                a, b = json.loads(answer), json.loads(alone[number])
                differs = {k: (a[k], b[k]) for k in a if a[k] != b[k]}
                raise AssertionError(scripted(number)[1][:80], differs)
    assert len(answers) > REQUESTS * CALLERS / 2
