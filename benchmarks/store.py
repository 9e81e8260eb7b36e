"""What the model store costs: a publication of 1 GiB, a look-up in a long history, a poll, a verification.

    python benchmarks/store.py [--versions N] [--moves N] [--mebibytes N]

Times are of a local folder; requests are counted at a real S3 server (SeaweedFS), through a proxy that only counts.
"""

import argparse
import contextlib
import datetime
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
from safetensors.numpy import save_file

from elbod_store import ModelStore
from elbod_store.manifest import seal
from elbod_store.names import alias_prefix, numbered, version_key
from elbod_store.testing import WHO, a_draft

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.seaweed import running

CHUNK = 8 * 1024**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--moves", type=int, default=1_000)
    parser.add_argument("--mebibytes", type=int, default=1024)
    arguments = parser.parse_args()
    say(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        large(Path(folder), arguments.mebibytes)
    with tempfile.TemporaryDirectory(prefix="weed") as folder:
        requests(Path(folder), arguments.versions, arguments.moves)


def large(folder: Path, mebibytes: int) -> None:
    """A publication in a process of its own, for its memory; next to copies, which are written to the disk, too."""
    weights = folder / "weights.safetensors"
    save_file({"w": np.random.default_rng(0).integers(0, 2**32, mebibytes * 2**18, dtype=np.uint32)}, weights)
    size = weights.stat().st_size

    def copy(name: str) -> None:
        with weights.open("rb") as source, (folder / name).open("xb") as target:
            shutil.copyfileobj(source, target, CHUNK)
            target.flush()
            os.fsync(target.fileno())

    program = """
import resource, sys, time
from dataclasses import replace
from pathlib import Path
from elbod_store import ModelStore
from elbod_store.testing import a_draft
store = ModelStore.open(sys.argv[2])
store.publish(a_draft("warm"))
draft = replace(a_draft("large"), weights=Path(sys.argv[1]))
before, since = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
store.publish(draft)
print(time.perf_counter() - since, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    copied, published, extra, hashed, verified = [], [], 0.0, [], []
    for turn in range(3):
        # To a new file, as a publication writes one.
        copied.append(seconds(lambda name=f"copy-{turn}": copy(name)))
        (folder / f"copy-{turn}").unlink()
        command = [sys.executable, "-c", program, str(weights), str(folder / f"store-{turn}")]
        took, kibibytes = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        published.append(took)
        extra = max(extra, kibibytes / 1024)
        hashed.append(seconds(lambda: subprocess.run(["sha256sum", weights], check=True, capture_output=True)))
        store = ModelStore.open(folder / f"store-{turn}")
        verified.append(seconds(lambda store=store: list(store.verify())))
        shutil.rmtree(folder / f"store-{turn}")
    say("| of " + f"{size / 2**30:.2f} GiB | seconds, three rounds | MB/s, best |\n|---|---|---|\n")
    for name, times in (
        ("copy, to the disk", copied),
        ("publish", published),
        ("sha256sum", hashed),
        ("verify", verified),
    ):
        say(f"| {name} | {', '.join(f'{t:.2f}' for t in times)} | {size / min(times) / 1e6:,.0f} |\n")
    say(f"\npublish / copy {100 * min(copied) / min(published):.0f} %, extra memory {extra:.0f} MiB, ")
    say(f"verify / sha256sum {100 * min(hashed) / min(verified):.0f} %\n\n")


def requests(folder: Path, versions: int, moves: int) -> None:
    """Requests of a cold process, with a short and with a long history."""
    with running(folder) as seaweed, counting(seaweed.endpoint) as (address, counter):
        os.environ |= seaweed.environment
        say("| requests | " + " | ".join(OPERATIONS) + " |\n" + "|---" * (len(OPERATIONS) + 1) + "|\n")
        for count, entries in ((10, 10), (versions, moves)):
            url = seaweed.prefix()
            fill(url, count, entries)
            found = []
            for operation in OPERATIONS.values():
                os.environ["AWS_ENDPOINT_URL"] = address
                act = operation(ModelStore.open(url, cache_dir=folder / "cache"))
                counter.clear()
                act()
                found.append(", ".join(f"{n} {kind}" for kind, n in sorted(counter.items())) or "none")
                os.environ["AWS_ENDPOINT_URL"] = seaweed.endpoint
            say(f"| {count:,} versions, {entries:,} moves | " + " | ".join(found) + " |\n")


def _poll(store: ModelStore) -> Callable[[], object]:
    watch = store.watch("digits")
    watch.poll()
    watch.poll()  # of a long history the second look remembers what its writers announced
    return watch.poll


OPERATIONS: dict[str, Callable[[ModelStore], Callable[[], object]]] = {
    "resolve an alias": lambda store: lambda: store.resolve("digits@production"),
    "resolve latest": lambda store: lambda: store.resolve("digits@latest"),
    "poll": _poll,
}


def fill(url: str, versions: int, moves: int) -> None:
    """A history, written straight: each publication would look at it first."""
    store = ModelStore.open(url)
    manifest = msgspec.to_builtins(store.publish(a_draft("digits")))
    for version in range(2, versions + 1):
        body = seal({**manifest, "version": version})
        store.objects.put(version_key("digits", version), body, durable=False)
    entry = msgspec.to_builtins(store.promote("digits", "production", 1, **WHO))
    for number in range(2, moves + 1):
        body = seal({**entry, "expected": number - 1, "version": 1 + number % min(versions, 9)})
        store.objects.put(numbered(alias_prefix("digits", "production"), number), body, durable=False)
    for prefix, number in (("models/digits/versions", versions), (alias_prefix("digits", "production"), moves)):
        store.objects.put(f"{prefix}/_last", str(number).encode(), durable=False)


@contextlib.contextmanager
def counting(endpoint: str) -> Iterator[tuple[str, Counter[str]]]:
    """A proxy before an S3 server and what passed it, by kind."""
    target, counter = urlsplit(endpoint), Counter[str]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            counter["LIST" if "list-type=2" in self.path else self.command] += 1
            connection = http.client.HTTPConnection(target.hostname or "", target.port)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            content = response.read()
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if self.command == "HEAD" or name.lower() not in {"content-length", "transfer-encoding"}:
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        def do_GET(self) -> None:
            self._pass()

        def do_HEAD(self) -> None:
            self._pass()

        def do_PUT(self) -> None:
            self._pass()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", counter
        server.shutdown()


def seconds(act: Callable[[], object]) -> float:
    since = time.perf_counter()
    act()
    return time.perf_counter() - since


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
