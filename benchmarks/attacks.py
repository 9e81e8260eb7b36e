"""What other callers feel while one of them attacks: liveness, a row's latency, memory.

    python benchmarks/attacks.py [--only NAME ...] [--seconds N]

For each attack a fresh `elbod serve --workers 1`: some seconds in quiet, then some under attack. Meanwhile a prober
asks /healthz on new connections and another caller one row of /elbo on kept ones, both by a clock, so that a stall
counts in full. A worker past 3 GB is ended, and the row says so. Exit code 1 if a target is missed.
"""

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import attackers
import servers
import workload
from elbod_store import ModelStore
from load import Answer, Clock, Request, evenly, percentile, run
from processes import pipe_read_until, resident, serve, workers
from relay import Relay, relaying
from report import number, table
from servers import NotStarted, Server

RATE, PATIENCE, QUIET = 25.0, 5.0, 4.0
# Attacks that need longer to hurt, by how much.
SLOW = {"unread answers": 2.0}
MOST_BYTES = 3 * 1024**3
HEALTH_LIMIT, SLOWDOWN_LIMIT, MEMORY_LIMIT = 0.050, 2.0, 1e9
COLUMNS = (
    "attack",
    "sent / answered",
    "/healthz p99, ms (quiet)",
    "one row median, ms (quiet)",
    "x",
    "failed",
    "memory above ready, MB",
    "answers after, s",
    "stops in, s",
    "",
)


@dataclass
class Scene:
    """A server under attack, and what else the attack needs."""

    server: Server
    # Makes the world worse just before the attack begins.
    worsen: Callable[[], None] = lambda: None
    peak: int = 0
    ready: int = 0
    ended: str = ""
    seen: set[int] = field(default_factory=set)

    async def watch(self, until: Callable[[], bool]) -> None:
        """Keep the worker's peak memory, and end one that takes too much."""
        while not until():
            for pid in workers(self.server.pid):
                self.seen.add(pid)
                self.peak = max(self.peak, taken := resident(pid))
                if taken > MOST_BYTES:
                    self.ended = f"ended at {taken / 1e9:.1f} GB"
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self.server.pid, signal.SIGKILL)
            await asyncio.sleep(0.03)


@dataclass(frozen=True)
class Probed:
    """What two callers felt. Seconds; an answer that failed counts as long as it was waited for at most."""

    health: list[Answer]
    row: list[Answer]

    def p99(self) -> float:
        return percentile(_felt(self.health), 0.99)

    def median(self) -> float:
        return percentile(_felt(self.row), 0.5)

    def failed(self) -> int:
        return sum(answer.status != 200 for answer in self.health + self.row)


def _felt(answers: list[Answer]) -> list[float]:
    return [answer.latency if answer.status == 200 else PATIENCE for answer in answers]


async def probe(port: int, seconds: float) -> Probed:
    end = time.perf_counter() + seconds
    clocks = [
        Clock(port, Request("/healthz"), evenly(RATE), PATIENCE, keep=False),
        Clock(port, workload.as_json(1), evenly(RATE), PATIENCE),
    ]
    health, row = await asyncio.gather(*(clock.run(lambda: time.perf_counter() >= end) for clock in clocks))
    return Probed(health, row)


async def under(scene: Scene, name: str, seconds: float) -> tuple[Probed, Probed, dict[str, Any]]:
    """What was felt in quiet and under attack, and what the attacker says."""
    over = False
    watching = asyncio.create_task(scene.watch(lambda: over))
    # The first answers are slower.
    await probe(scene.server.port, 1)
    quiet = await probe(scene.server.port, QUIET)
    scene.ready, scene.peak = scene.peak, 0
    scene.worsen()
    command = [sys.executable, attackers.__file__, name, str(scene.server.port), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacker:
        # Not by its import: the attack begins with its first request.
        await asyncio.sleep(0.3)
        loud = await probe(scene.server.port, seconds - 0.5)
        said, _ = await asyncio.to_thread(attacker.communicate, None, seconds + 20)
    over = True
    await watching
    return quiet, loud, json.loads(said)


@contextmanager
def plain(store: Path) -> Iterator[Scene]:
    with serve(store, "--workers", "1", "--model", workload.NAME) as server:
        yield Scene(server)


@contextmanager
def with_stalled_log(store: Path) -> Iterator[Scene]:
    """Its stderr is a pipe that somebody reads until the attack begins."""
    stalled = threading.Event()
    flags = ("--workers", "1", "--model", workload.NAME)
    with pipe_read_until(stalled) as writer, serve(store, *flags, stderr=writer) as server:
        yield Scene(server, worsen=stalled.set)


@contextmanager
def on_a_store_that_hangs(store: Path) -> Iterator[Scene]:
    """On S3, whose packets are held from the attack on."""
    from tests.seaweed import running

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weed")))
        seaweed = stack.enter_context(running(folder))
        os.environ |= seaweed.environment
        url = seaweed.prefix()
        publish(url)
        relay = stack.enter_context(relaying(int(seaweed.endpoint.rpartition(":")[2])))
        endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}"}
        flags = ("--workers", "1", "--model", workload.NAME)
        yield Scene(stack.enter_context(serve(url, *flags, variables=endpoint)), worsen=lambda: hold(relay))


def hold(relay: Relay) -> None:
    relay.held = True


SCENES: dict[str, Callable[[Path], contextlib.AbstractContextManager[Scene]]] = {
    "nothing": plain,
    "unknown keys": plain,
    "long list": plain,
    "endless header": plain,
    "endless URL": plain,
    "waiting for a load": on_a_store_that_hangs,
    "unread answers": plain,
    "stalled log": with_stalled_log,
    "largest JSON in": plain,
    "largest JSON out": plain,
    "long Accept": plain,
}


def publish(url: str | Path) -> None:
    """The model that is asked, and a small one that nobody has loaded."""
    store = ModelStore.open(url)
    store.publish(workload.draft())
    small = replace(workload.BLUEPRINT, spec={"latent_dim": 2, "hidden": [4]})
    store.publish(workload.as_draft(attackers.UNLOADED, workload.untrained(small)))


def measure(name: str, store: Path, seconds: float) -> tuple[list[str], bool]:
    """The table's row, and whether all targets were met."""
    with ExitStack() as stack:
        scene = stack.enter_context(SCENES[name](store))
        quiet, loud, said = run(under(scene, name, seconds * SLOW.get(name, 1.0)))
        after = answers_after(scene.server)
        since = time.monotonic()
        stack.close()
        stopped = time.monotonic() - since
    slowdown, above = loud.median() / quiet.median(), max(0, scene.peak - scene.ready)
    missed = [
        what
        for what, bad in (
            ("health", loud.p99() >= HEALTH_LIMIT),
            ("latency", slowdown > SLOWDOWN_LIMIT),
            ("memory", above >= MEMORY_LIMIT or bool(scene.ended)),
        )
        if bad
    ]
    died = f"{len(scene.seen) - 1} workers died" if len(scene.seen) > 1 else ""
    notes = [note for note in (scene.ended, died, f"**missed: {', '.join(missed)}**" if missed else "met") if note]
    row = [
        name,
        f"{said['sent']:,} / {said['answered']:,} {_statuses(said['statuses'])}".strip(),
        f"{1e3 * loud.p99():.1f} ({1e3 * quiet.p99():.1f})",
        f"{1e3 * loud.median():.1f} ({1e3 * quiet.median():.1f})",
        number(slowdown),
        str(loud.failed()),
        number(above / 1e6),
        after,
        f"{stopped:.1f}",
        "; ".join(notes),
    ]
    return row, not missed


def _statuses(found: dict[str, int]) -> str:
    return f"({', '.join(f'{count} x {status}' for status, count in sorted(found.items()))})" if found else ""


def answers_after(server: Server, seconds: float = 10.0) -> str:
    """Seconds from the attacker's end until a row is answered."""
    since = time.monotonic()
    try:
        server.wait_until(workload.as_json(1), seconds)
    except NotStarted:
        return f"not in {seconds:.0f}"
    return f"{time.monotonic() - since:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SCENES, metavar="NAME", help=", ".join(SCENES))
    parser.add_argument("--seconds", type=float, default=8, help="of an attack")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    say(f"{datetime.date.today()}, {servers.CORES} cores, Python {platform.python_version()}, ")
    say(f"{servers.versions(Path(sys.executable), ['elbod', 'torch', 'uvicorn'])}, load {os.getloadavg()[0]:.1f}\n\n")
    say("\n".join(table(COLUMNS, [])) + "\n")
    met = True
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        publish(store)
        for name in arguments.only or SCENES:
            try:
                row, good = measure(name, store, arguments.seconds)
            except NotStarted as error:
                row, good = [name, *[""] * (len(COLUMNS) - 2), str(error)], False
            met &= good
            say(f"| {' | '.join(row)} |\n")
    say(
        f"\n/healthz p99 under {1e3 * HEALTH_LIMIT:.0f} ms, one row at most {SLOWDOWN_LIMIT:g} x its median in quiet, "
        f"less than {MEMORY_LIMIT / 1e9:g} GB above ready: {'met' if met else 'missed'}. An answer that did not come "
        f"counts as {PATIENCE:g} s.\n"
    )
    return 0 if met else 1


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
