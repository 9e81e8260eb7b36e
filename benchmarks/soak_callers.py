"""The callers of the soak, good and bad, each a thread (or a task) that runs until it is told to stop."""

import asyncio
import contextlib
import itertools
import json
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from elbod_client import AsyncClient, Client, ElbodError
from elbod_client._results import Result
from load import HOST, Answers, RawConnection, Request
from soak_scripts import CHUNK_ROWS, Script, read, read_result

# A good caller waits between requests: the load generator shares the cores.
PAUSE = 0.12
RAW_ATTEMPTS, RAW_DELAY = 6, 0.5

# Requests that are refused, and with what.
BAD: tuple[tuple[str, str, bytes, dict[str, str], set[int]], ...] = (
    ("POST", "/elbo", b"{", {}, {400}),
    ("POST", "/elbo", b"[]", {}, {400}),
    ("POST", "/elbo", b'{"model":"levels"}', {}, {422}),
    ("POST", "/elbo", b'{"model":"levels","x":[[1,2],[3]]}', {}, {422}),
    ("POST", "/elbo", b'{"model":"levels","x":[[[99,0]]]}', {}, {422}),
    ("POST", "/elbo", b'{"model":"levels","wrong":1}', {}, {422}),
    ("POST", "/sample", b'{"model":"nobody"}', {}, {404}),
    ("POST", "/sample", b'{"model":"levels@999999"}', {}, {404}),
    ("POST", "/sample", b'{"model":"levels@../x"}', {}, {404, 422}),
    ("POST", "/sample", b'{"model":"levels","num_samples":1000000000}', {}, {422}),
    ("POST", "/elbo", b"\x08\0\0\0\0\0\0\0{}      ", {"Content-Type": "application/x-safetensors"}, {400, 422}),
    ("POST", "/elbo", b"x=1", {"Content-Type": "text/plain"}, {415}),
    ("GET", "/elbo", b"", {}, {405}),
    ("GET", "/nowhere", b"", {}, {404}),
    ("GET", "/sample?model=levels&seed=minus", b"", {}, {422}),
    ("POST", "/sample", b'{"model":"levels"}', {"Accept": "text/html"}, {406}),
)


@dataclass
class Tally:
    """What all callers counted."""

    stop: threading.Event = field(default_factory=threading.Event)
    requests: Counter[str] = field(default_factory=Counter)
    expected: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, counter: Counter[str], what: str) -> None:
        with self._lock:
            counter[what] += 1

    def pause(self, rng: random.Random, mean: float = PAUSE) -> None:
        self.stop.wait(rng.uniform(0, 2 * mean))


@dataclass(frozen=True)
class Play:
    """What is asked of whom, and what must come back."""

    base: str
    port: int
    scripts: list[Script]
    expected: dict[tuple[str, int], str]
    tally: Tally

    def choose(self, rng: random.Random, *doors: str) -> Script:
        return rng.choice([script for script in self.scripts if script.door in doors])

    def compare(self, script: Script, found: tuple[str, str]) -> None:
        """Count an answer, and one of wrong bytes."""
        self.tally.add(self.tally.requests, script.title)
        if self.expected.get((found[0], script.number)) != found[1]:
            self.tally.add(self.tally.wrong, f"{script.title}, script {script.number}, model {script.model}")


def reference(rng: random.Random, model: str) -> str:
    """By alias, the newest, or a version."""
    return model + rng.choice(["@production", "@production", "@production", "", "@1"])


def ask_with_client(play: Play, seed: int) -> None:
    rng = random.Random(seed)
    with Client(play.base, chunk_rows=CHUNK_ROWS) as client:
        while not play.tally.stop.is_set():
            script = play.choose(rng, "client")
            try:
                result: Result = getattr(client, script.verb)(**script.kwargs(reference(rng, script.model)))
                play.compare(script, read_result(result))
            except ElbodError as error:
                play.tally.add(play.tally.lost, f"client: {_named(error)}")
            play.tally.pause(rng)


def ask_with_async_client(play: Play, seed: int, tasks: int) -> None:
    async def caller(client: AsyncClient, rng: random.Random) -> None:
        while not play.tally.stop.is_set():
            script = play.choose(rng, "client")
            try:
                result: Result = await getattr(client, script.verb)(**script.kwargs(reference(rng, script.model)))
                play.compare(script, read_result(result))
            except ElbodError as error:
                play.tally.add(play.tally.lost, f"async client: {_named(error)}")
            await asyncio.sleep(rng.uniform(0, 2 * PAUSE))

    async def main() -> None:
        async with AsyncClient(play.base, chunk_rows=CHUNK_ROWS) as client:
            await asyncio.gather(*(caller(client, random.Random(seed + task)) for task in range(tasks)))

    asyncio.run(main())


def ask_raw(play: Play, seed: int) -> None:
    """JSON, base64 and safetensors of POST, and links with their ETags; tries again by its own simple rule."""
    rng, tally = random.Random(seed), play.tally
    tags: dict[str, str] = {}
    with httpx.Client(timeout=60) as http:
        while not tally.stop.is_set():
            script = play.choose(rng, "json", "base64", "safetensors", "link", "link")
            request = script.request(play.base, reference(rng, script.model))
            key = str(request.url)
            if script.door == "link" and key in tags and rng.random() < 0.7:
                request.headers["If-None-Match"] = tags[key]
            response = _persist(lambda request=request: http.send(request), tally)  # type: ignore[misc]
            if response is None:
                tally.add(tally.unexpected, f"{script.title}: no answer in {RAW_ATTEMPTS} attempts")
            elif response.status_code == 200:
                tags |= {key: response.headers["etag"]} if "etag" in response.headers else {}
                play.compare(script, read(script.door, response.content))
            elif response.status_code == 304 and response.headers.get("etag") == request.headers.get("if-none-match"):
                tally.add(tally.requests, f"{script.title}, 304")
            else:
                tally.add(tally.unexpected, f"{script.title}: {response.status_code} {response.text[:80]}")
            tally.pause(rng)


def _persist(ask: Callable[[], httpx.Response], tally: Tally) -> httpx.Response | None:
    """An answer that is no 429 or 503; None when the attempts are used up."""
    for attempt in itertools.count(1):
        try:
            response = ask()
        except httpx.TransportError as error:
            tally.add(tally.expected, f"raw caller: {type(error).__name__} (a worker was killed), tried again")
        else:
            if response.status_code not in (429, 503):
                return response
            tally.add(tally.expected, f"raw caller: {response.status_code}, tried again")
        if attempt == RAW_ATTEMPTS:
            return None
        time.sleep(RAW_DELAY * attempt)
    return None


def leave_early(play: Play, seed: int) -> None:
    """Send a request, or a part of it, and go."""
    rng = random.Random(seed)
    while not play.tally.stop.is_set():
        request = play.choose(rng, "json", "base64", "safetensors").request(play.base, "levels")
        raw = Request(request.url.path, request.content, request.headers["content-type"]).raw
        part = raw if rng.random() < 0.7 else raw[: rng.randrange(1, len(raw))]
        with contextlib.suppress(OSError), socket.create_connection((HOST, play.port), timeout=30) as connection:
            connection.sendall(part)
            time.sleep(rng.choice([0, 0, 0.002, 0.02]))
        play.tally.add(play.tally.requests, "left before the answer")
        play.tally.pause(rng)


def read_slowly(play: Play, seed: int) -> None:
    """Ask for 2 MB and take some seconds to read them."""
    rng, tally = random.Random(seed), play.tally
    body = json.dumps({"model": "levels@1", "num_samples": 8_000, "output": "mean", "seed": 1}).encode()
    expected: bytes | None = None
    while not tally.stop.is_set():
        answers, answer = Answers(), None
        with contextlib.suppress(OSError), socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
            connection.settimeout(60)
            connection.connect((HOST, play.port))
            connection.sendall(Request("/sample", body).raw)
            while answer is None and (data := connection.recv(65_536)):
                answer = answers.feed(data)
                time.sleep(0.002 if tally.stop.is_set() else rng.uniform(0, 0.05))
        if answer is None:
            tally.add(tally.expected, "slow reader: broken off (a worker was killed)")
        elif answer[0] != 200:
            tally.add(tally.unexpected, f"slow reader: {answer[0]}")
        else:
            expected = expected or answer[1]
            tally.add(tally.requests, "read slowly")
            if answer[1] != expected:
                tally.add(tally.wrong, "read slowly")
        tally.pause(rng)


def ask_badly(play: Play, seed: int) -> None:
    rng, tally = random.Random(seed), play.tally
    with httpx.Client(base_url=play.base, timeout=60) as http:
        while not tally.stop.is_set():
            method, path, body, headers, statuses = rng.choice(BAD)
            headers = {"Content-Type": "application/json", **headers}
            response = _persist(
                lambda m=method, p=path, b=body, h=headers: http.request(m, p, content=b, headers=h),  # type: ignore[misc]
                tally,
            )
            if response is None or response.status_code not in statuses:
                got = "no answer" if response is None else str(response.status_code)
                tally.add(tally.unexpected, f"bad request {method} {path} {body[:40]!r}: {got}")
            else:
                tally.add(tally.requests, f"refused as they should be ({response.status_code})")
            tally.pause(rng, 2 * PAUSE)


def ask_one_row(play: Play, seed: int) -> None:
    """Latencies of one row of JSON, on a connection that is kept until its worker dies."""
    tally, rng = play.tally, random.Random(seed)
    body = json.dumps({"model": "levels@1", "x": [[[0] * 8] * 8], "seed": 1}).encode()
    raw = Request("/elbo", body).raw
    while not tally.stop.is_set():
        try:
            with RawConnection(play.port, timeout=60) as connection:
                while not tally.stop.is_set():
                    since = time.perf_counter()
                    status, _ = connection.ask(raw)
                    tally.latencies.append(time.perf_counter() - since)
                    tally.add(tally.requests if status == 200 else tally.unexpected, f"one row of JSON ({status})")
                    tally.pause(rng, 0.05)
        except OSError:
            tally.add(tally.expected, "one row: connection broken (a worker was killed), tried again")


def count_retries(tally: Tally) -> None:
    """By what the Python client logs of each."""

    class Counting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tally.add(tally.retries, _first_words(str(record.args[-1]) if isinstance(record.args, tuple) else ""))

    logger = logging.getLogger("elbod_client")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(Counting())


def _named(error: ElbodError) -> str:
    return f"{type(error).__name__}: {_first_words(str(error))}"


def _first_words(text: str) -> str:
    return text.partition("http://")[0] + text.rpartition(": ")[2][:60]
