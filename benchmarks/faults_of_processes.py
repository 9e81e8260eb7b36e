"""Faults of the server's own processes and of what the machine gives them."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx

import servers
from crowd import asking
from fault import MODEL, ROWS, Fault, NotHere
from load import HOST, Clock, Request, evenly, percentile, run, saturate
from processes import pipe_read_until, resident, serve, wait_for, workers
from relay import relaying

PAIR = ("--workers", "2", "--model", MODEL)
QUIET = 2.0


def one_worker_killed(folder: Path) -> Fault:
    return _killed(folder, 1)


def all_workers_killed(folder: Path) -> Fault:
    return _killed(folder, 2)


def _killed(folder: Path, count: int) -> Fault:
    with serve(folder / "store", *PAIR) as server, asking(server.port, MODEL, ROWS) as crowd:
        time.sleep(QUIET)
        since, victims = time.monotonic(), workers(server.pid)[-count:]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        took = wait_for(lambda: len([pid for pid in workers(server.pid) if _answers(pid, victims)]) == 2, 90)
        crowd.wait_until_well(30)
    return Fault(f"broken connections, tried again; a new worker after {took:.1f} s", crowd, since)


def _answers(pid: int, victims: list[int]) -> bool:
    """Whether it has loaded torch and a model: it holds connections then."""
    return pid not in victims and resident(pid) > 150e6


def worker_stopped(folder: Path) -> Fault:
    return _stopped(folder, silence=8, timeout=30)


def worker_stopped_for_long(folder: Path) -> Fault:
    return _stopped(folder, silence=12, timeout=4)


def _stopped(folder: Path, silence: float, timeout: float) -> Fault:
    variables = {"ELBOD_MODEL": MODEL}
    with (
        serve(folder / "store", variables=variables, silence=silence) as server,
        asking(server.port, MODEL, ROWS, timeout=timeout) as crowd,
    ):
        time.sleep(QUIET)
        since, victim = time.monotonic(), workers(server.pid)[0]
        os.kill(victim, signal.SIGSTOP)
        took = wait_for(lambda: victim not in workers(server.pid), silence + 30)
        crowd.wait_until_well(30)
    seen = f"callers on it wait; it is killed after {took:.1f} s (limit set to {silence:g} s, by default 60)"
    return Fault(f"{seen}; the client's timeout is {timeout:g} s", crowd, since)


def rolling_restart(folder: Path) -> Fault:
    """Two servers behind a relay; the one that the callers' connections are at ends."""
    with ExitStack() as stack:
        first = stack.enter_context(serve(folder / "store", *PAIR))
        second = stack.enter_context(serve(folder / "store", *PAIR))
        relay = stack.enter_context(relaying(first.port, second.port))
        with asking(relay.port, MODEL, ROWS) as crowd:
            time.sleep(QUIET)
            since = time.monotonic()
            took = first.end(signal.SIGTERM)
            crowd.wait_until_well(20)
        code = first.exit_code
    seen = "503 or a closed connection, tried again at the other server"
    return Fault(f"{seen}; drained in {took:.1f} s, exit code {code}", crowd, since)


def restart(folder: Path) -> Fault:
    """The same port again, when the old server has left."""
    with ExitStack() as stack:
        port = servers.free_port()
        first = stack.enter_context(serve(folder / "store", *PAIR, port=port))
        with asking(port, MODEL, ROWS) as crowd:
            time.sleep(QUIET)
            since = time.monotonic()
            took = first.end(signal.SIGTERM)
            stack.enter_context(serve(folder / "store", *PAIR, port=port))
            away = time.monotonic() - since - took
            crowd.wait_until_well(30)
    seen = f"503, then refused for {away:.1f} s while the new server starts"
    return Fault(f"{seen}; drained in {took:.1f} s", crowd, since)


def supervisor_killed(folder: Path) -> Fault:
    """Started again at once, as a service manager does."""
    with ExitStack() as stack:
        port = servers.free_port()
        first = stack.enter_context(serve(folder / "store", *PAIR, port=port))
        left = workers(first.pid)
        with asking(port, MODEL, ROWS) as crowd:
            time.sleep(QUIET)
            since = time.monotonic()
            first.end(signal.SIGKILL)
            took = wait_for(lambda: not any(Path(f"/proc/{pid}").exists() and resident(pid) for pid in left), 60)
            stack.enter_context(serve(folder / "store", *PAIR, port=port))
            away = time.monotonic() - since - took
            crowd.wait_until_well(30)
    seen = f"the workers drain and leave in {took:.1f} s; then refused for {away:.1f} s until it is started again"
    return Fault(seen, crowd, since)


def overload(folder: Path) -> Fault:
    """Five times the requests that it answers, evenly, on a queue of 20,000 row-draws."""
    rows = b"[" + b",".join([b"[" + b",".join([b"[" + b",".join([b"0"] * 8) + b"]"] * 8) + b"]"] * 100) + b"]"
    request = Request("/elbo", b'{"x":' + rows + b',"num_samples":40,"seed":1}')
    with serve(folder / "store", *PAIR, variables={"ELBOD_MAX_QUEUE_ROWS": "20000"}) as server:
        peak = saturate(server.port, request, connections=4, seconds=4).per_second
        end = time.perf_counter() + 8
        clock = Clock(server.port, request, evenly(5 * peak), 30.0)
        retry_after: list[str] = []
        asker = threading.Thread(target=_refusal, args=(server.port, request, retry_after, end))
        asker.start()
        answers = run(clock.run(lambda: time.perf_counter() >= end))
        asker.join()
    good = [answer.latency for answer in answers if answer.status == 200]
    refused = sum(answer.status == 429 for answer in answers)
    other = len(answers) - len(good) - refused
    return Fault(
        f"of {len(answers):,} requests at 5 x {peak:.0f}/s {len(good):,} answered ({len(good) / 8:.0f}/s, median "
        f"{percentile(good, 0.5):.2f} s, p99 {percentile(good, 0.99):.2f} s), {refused:,} refused with 429 and "
        f"Retry-After: {retry_after[0] if retry_after else '**none**'}, {other} failed"
    )


def _refusal(port: int, request: Request, found: list[str], end: float) -> None:
    with httpx.Client(timeout=30, headers={"Content-Type": request.media_type}) as http:
        while time.perf_counter() < end and not found:
            response = http.post(f"http://{HOST}:{port}{request.path}", content=request.body)
            if response.status_code == 429 and "retry-after" in response.headers:
                found.append(response.headers["retry-after"])


def descriptors_used_up(folder: Path) -> Fault:
    """300 idle connections at a server that may open 140 files a process."""
    few = _refuses(folder, 24)
    with ExitStack() as stack:
        server = stack.enter_context(serve(folder / "store", *PAIR, prefix=("prlimit", "--nofile=140")))
        with asking(server.port, MODEL, ROWS) as crowd:
            time.sleep(QUIET)
            since = time.monotonic()
            with ExitStack() as idle:
                for _ in range(300):
                    idle.enter_context(socket.create_connection((HOST, server.port), timeout=10))
                time.sleep(6)
                alive = len(workers(server.pid))
            crowd.wait_until_well(30)
    seen = f"kept connections are answered, new ones wait; {alive} workers live; with 24 files: {few}"
    return Fault(seen, crowd, since)


def _refuses(folder: Path, files: int) -> str:
    command = ["prlimit", f"--nofile={files}", str(Path(sys.executable).with_name("elbod")), "serve", "--port", "0"]
    try:
        done = subprocess.run(
            [*command, "--store", str(folder / "store"), *PAIR], capture_output=True, text=True, timeout=30
        )
    except subprocess.TimeoutExpired:
        return "starts"
    lines = done.stderr.strip().splitlines()
    traceback = " with a traceback" if "Traceback" in done.stderr else ""
    return f"does not start, {len(lines)} lines{traceback}"


def log_stalled(folder: Path) -> Fault:
    """Nobody reads its log for ten seconds."""
    stalled = threading.Event()
    with (
        pipe_read_until(stalled) as writer,
        serve(folder / "store", *PAIR, stderr=writer) as server,
        asking(server.port, MODEL, ROWS, timeout=5) as crowd,
    ):
        time.sleep(QUIET)
        since = time.monotonic()
        stalled.set()
        time.sleep(10)
        silent = sum(call.ended > time.monotonic() - 3 for call in list(crowd.calls)) == 0
        stalled.clear()
        crowd.wait_until_well(30)
    seen = "nobody is answered until it is read again" if silent else "nothing"
    return Fault(f"{seen}; the client's timeout is 5 s", crowd, since)


def clock_jump(folder: Path) -> Fault:
    """The wall clock goes a day forward, then two back; the monotonic clock does not."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        raise NotHere("no libfaketime: apt-get install faketime")
    moment = folder / "moment"
    moment.write_text("+0")
    variables = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(moment),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with (
        serve(folder / "store", *PAIR, variables=variables) as server,
        asking(server.port, MODEL, ROWS) as crowd,
    ):
        time.sleep(QUIET)
        before, since = set(workers(server.pid)), time.monotonic()
        for jump in ("+1d", "-1d"):
            moment.write_text(jump)
            time.sleep(4)
        crowd.wait_until_well(20)
        same = "the same workers" if set(workers(server.pid)) == before else "**workers were replaced**"
        days = len({line[9:19] for line in server.log.splitlines() if line.startswith('{"time":"')})
    return Fault(f"nothing; {same}, {days} dates in the log", crowd, since)


FAULTS: dict[str, Callable[[Path], Fault]] = {
    "kill -9 of one worker": one_worker_killed,
    "kill -9 of all workers": all_workers_killed,
    "SIGSTOP of a worker": worker_stopped,
    "SIGSTOP, impatient callers": worker_stopped_for_long,
    "SIGTERM, another server behind a balancer": rolling_restart,
    "SIGTERM, started again on the port": restart,
    "kill -9 of the supervisor": supervisor_killed,
    "overload 5x": overload,
    "out of file descriptors": descriptors_used_up,
    "log pipe stalled": log_stalled,
    "clock jump": clock_jump,
}
