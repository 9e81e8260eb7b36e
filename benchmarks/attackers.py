"""Hostile callers, each a separate process: `python attackers.py NAME PORT SECONDS`.

Each attacks until its time is up and holds few bytes itself. Imports nothing heavy, since it shares the cores.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from load import HOST, Answers, Request

X_DIM = 784
# The store's other model, which nobody has loaded: small, so that its rows cost little but bytes.
UNLOADED = "unloaded"
ROW = [0] * X_DIM


class Caller:
    """One connection, opened again when the server closes it."""

    def __init__(self, port: int, until: float, window: int | None = None) -> None:
        self._port, self._until, self._window = port, until, window
        self.sent = self.answered = 0
        self.statuses: dict[int, int] = {}

    def connect(self) -> socket.socket:
        connection = socket.socket()
        if self._window is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._window)
        connection.settimeout(max(0.1, self._until - time.monotonic()))
        connection.connect((HOST, self._port))
        return connection

    def ask(self, raw: bytes, pause: float = 0.0) -> None:
        """One request after another until the time is up, each so long after the last is answered."""
        while time.monotonic() < self._until:
            with contextlib.suppress(OSError), self.connect() as connection:
                while time.monotonic() < self._until:
                    connection.settimeout(max(0.1, self._until - time.monotonic()))
                    self.sent += 1
                    connection.sendall(raw)
                    self._read(connection)
                    time.sleep(pause)
            time.sleep(0.01)

    def trickle(self, head: bytes, filler: bytes) -> None:
        """A head without an end, as fast as it is taken; from the start when the server ends it."""
        while time.monotonic() < self._until:
            with contextlib.suppress(OSError), self.connect() as connection:
                self.sent += 1
                connection.sendall(head)
                while time.monotonic() < self._until:
                    connection.settimeout(max(0.1, self._until - time.monotonic()))
                    connection.sendall(filler)
            time.sleep(0.01)

    def hold(self, raw: bytes) -> None:
        """Ask until it is granted, and read no more of the answer than that."""
        while time.monotonic() < self._until:
            with contextlib.suppress(OSError), self.connect() as connection:
                self.sent += 1
                connection.sendall(raw)
                status = connection.recv(12)[9:]
                if status.isdigit():
                    self.answered += 1
                    self.statuses[int(status)] = self.statuses.get(int(status), 0) + 1
                if status == b"200":
                    time.sleep(max(0.0, self._until - time.monotonic()))
            time.sleep(0.5)

    def _read(self, connection: socket.socket) -> None:
        answers = Answers()
        while data := connection.recv(262_144):
            if answer := answers.feed(data):
                self.answered += 1
                self.statuses[answer[0]] = self.statuses.get(answer[0], 0) + 1
                return
        raise ConnectionResetError


def _post(path: str, body: bytes) -> bytes:
    return Request(path, body).raw


def _elbo(**fields: object) -> bytes:
    return _post("/elbo", json.dumps({"x": [ROW], "seed": 1, **fields}).encode())


def unknown_keys() -> bytes:
    """300,000 fields that nobody knows, 3.9 MB."""
    return _post("/elbo", b"{" + b",".join(b'"k%06d":0' % n for n in range(300_000)) + b"}")


def long_list() -> bytes:
    """A field of three million wrong items, 6 MB."""
    return _post("/elbo", b'{"x":[%s],"include":[%s]}' % (json.dumps(ROW).encode(), b",".join([b"1"] * 3_000_000)))


def largest_in() -> bytes:
    """JSON rows up to the limit of a body, 32 MB."""
    row = b"[" + b",".join([b"0"] * X_DIM) + b"],"
    rows = (32 * 1024**2 - 100) // len(row)
    return _post("/elbo", b'{"x":[' + (row * rows)[:-1] + b'],"seed":1}')


def largest_out(rows: int) -> bytes:
    """20 bytes of JSON for each of 784 numbers a row."""
    return _post("/sample", json.dumps({"model": UNLOADED, "num_samples": rows, "output": "mean", "seed": 1}).encode())


def long_accept() -> bytes:
    """10 MB in one header's value."""
    accept = b",".join([b"a/b"] * 2_500_000)
    return _elbo().replace(b"Accept: application/json", b"Accept: " + accept)


def many(count: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _attacks(port: int, seconds: float) -> dict[str, Callable[[], Iterator[Caller]]]:
    until = time.monotonic() + seconds

    def asking(raw: Callable[[], bytes], count: int = 1, pause: float = 0.0) -> Callable[[], Iterator[Caller]]:
        def attack() -> Iterator[Caller]:
            body = raw()
            callers = [Caller(port, until) for _ in range(count)]
            taken = iter(callers)
            many(count, lambda: next(taken).ask(body, pause))
            yield from callers

        return attack

    def trickling(head: bytes) -> Callable[[], Iterator[Caller]]:
        def attack() -> Iterator[Caller]:
            caller = Caller(port, until)
            caller.trickle(head, b"a" * 65_536)
            yield caller

        return attack

    def holding(raw: bytes, count: int) -> Callable[[], Iterator[Caller]]:
        def attack() -> Iterator[Caller]:
            callers = [Caller(port, until, window=4_096) for _ in range(count)]
            taken = iter(callers)
            many(count, lambda: next(taken).hold(raw))
            yield from callers

        return attack

    return {
        "nothing": lambda: iter([Caller(port, until)]),
        "unknown keys": asking(unknown_keys),
        "long list": asking(long_list),
        "endless header": trickling(b"GET /version HTTP/1.1\r\nHost: x\r\nX-Long: "),
        "endless URL": trickling(b"GET /"),
        "waiting for a load": asking(lambda: _elbo(model=UNLOADED), 45),
        "unread answers": holding(largest_out(6_000), 43),
        "largest JSON in": asking(largest_in),
        "largest JSON out": asking(lambda: largest_out(65_536)),
        "long Accept": asking(long_accept),
        "stalled log": asking(lambda: Request("/version").raw, pause=0.005),
    }


def main(name: str, port: str, seconds: str) -> None:
    callers = list(_attacks(int(port), float(seconds))[name]())
    statuses: dict[int, int] = {}
    for caller in callers:
        for status, count in caller.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    sent, answered = sum(caller.sent for caller in callers), sum(caller.answered for caller in callers)
    sys.stdout.write(json.dumps({"sent": sent, "answered": answered, "statuses": statuses}) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
