"""Hostile versions in a store that a running service polls: they are not served, and everything else is."""

import json
import random
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load, save

from elbod_store import Draft, ModelStore, StoreError
from tests.fuzz.conftest import Budget
from tests.fuzz.honest import Caller, unharmed, workers
from tests.support import BITS, LABELS, LEVELS, LINEAR, MIXTURE, VAMP, Server, draft, publish, wait_for

# A service that waits for none of the broken versions sees the next good one well within this.
_PATIENCE = 60.0
_KINDS = (LEVELS, BITS, LABELS, LINEAR, VAMP, MIXTURE)
_NUMBERS = (-1, 0, 1, 2**31, 2**40, 0.5, 1e308, True)
_ODD: tuple[Any, ...] = (None, *_NUMBERS, "", "x" * 1000, [], [0], [[]], [30_000, 30_000], {}, {"a": 1})
# So that a version which takes all memory takes a worker's, not the machine's.
_MEMORY = 4 * 1024**3

Change = Callable[[Draft, random.Random], Draft]


def _weights(change: Callable[[dict[str, Any], random.Random], None]) -> Change:
    def changed(hostile: Draft, rng: random.Random) -> Draft:
        assert isinstance(hostile.weights, bytes)
        tensors = load(hostile.weights)
        change(tensors, rng)
        return replace(hostile, weights=save(tensors))

    return changed


def _poison(tensors: dict[str, Any], rng: random.Random) -> None:
    name = rng.choice(sorted(tensors))
    tensors[name] = np.full_like(tensors[name], rng.choice((np.nan, np.inf, -np.inf, 3e38, 0)))


def _reshape(tensors: dict[str, Any], rng: random.Random) -> None:
    name = rng.choice(sorted(tensors))
    tensors[name] = rng.choice((np.zeros((2, 3), np.float32), np.zeros(0, np.float32), np.zeros((), np.float32)))


def _rename(tensors: dict[str, Any], rng: random.Random) -> None:
    tensors[rng.choice(("a", "", "x" * 5000, "../x"))] = tensors.pop(rng.choice(sorted(tensors)))


def _retype(tensors: dict[str, Any], rng: random.Random) -> None:
    name = rng.choice(sorted(tensors))
    tensors[name] = tensors[name].astype(rng.choice((np.float64, np.int64, np.float16, np.bool_)))


def _spec(hostile: Draft, rng: random.Random) -> Draft:
    spec = dict(hostile.spec)
    spec[rng.choice([*spec, "unknown"])] = rng.choice(_ODD)
    return replace(hostile, spec=spec)


def _fields(hostile: Draft, rng: random.Random) -> Draft:
    name = rng.choice(("levels", "event_shape", "likelihood", "family", "labels", "binarization"))
    odd: dict[str, tuple[Any, ...]] = {
        "levels": (None, 1, 3, 65_536, 2**31, 2**40),
        "event_shape": ((1,), (64, 64), (2**20, 2**20), (8, 8, 1), (1,) * 30),
        "likelihood": ("gaussian", "bernoulli", "none", "x" * 5000),
        "family": ("ppca", "mixture", "cvae", "ladder", "none", "vae "),
        "labels": (None, ("a",), tuple("ab"), ("x" * 5000,) * 3),
        "binarization": (None, "stochastic", "none"),
    }
    return replace(hostile, **{name: rng.choice(odd[name])})


def _attachments(hostile: Draft, rng: random.Random) -> Draft:
    shape, dtype = rng.choice(((0,), (3,), (2, 8, 8), ())), rng.choice((np.float64, np.float32, np.uint8))
    tensor = np.full(shape, rng.choice((0, 1, np.nan)) if dtype != np.uint8 else 1, dtype)
    names = ["elbo_1", "elbo_0", "elbo_-4", "elbo_x", "elbo_given_label_1", "x", "label", "reconstruction_at_mode"]
    blob = save(dict.fromkeys(rng.sample(names, rng.randrange(1, 4)), tensor))
    return replace(hostile, **{rng.choice(("calibration", "reference")): blob})


CHANGES: tuple[Change, ...] = (
    _weights(_poison),
    _weights(_reshape),
    _weights(_rename),
    _weights(_retype),
    _spec,
    _fields,
    _attachments,
)


def hostile_version(store: ModelStore, folder: Path, rng: random.Random) -> None:
    """Publish a version of `victim` that is broken, or break the bytes of one that is there."""
    if rng.random() < 0.25:
        versions = sorted((folder / "models" / "victim" / "versions").glob("0*.json"))
        _break(rng.choice([*versions, *(folder / "models" / "victim").rglob("_*")]), rng)
        return
    hostile = draft("victim", rng.choice(_KINDS), seed=rng.randrange(100))
    for change in rng.sample(CHANGES, rng.choice((1, 1, 2))):
        try:
            hostile = change(hostile, rng)
        except ValueError:
            continue
    try:
        store.publish(hostile)
    except (StoreError, TypeError, ValueError):
        # Refused at the door: nothing to serve.
        return


def _break(path: Path, rng: random.Random) -> None:
    """Overwrite a part of a file, cut it short, or put JSON of another shape there."""
    raw = path.read_bytes() or b"1"
    start = rng.randrange(len(raw))
    odd = json.dumps(rng.choice(_ODD)).encode()
    path.write_bytes(rng.choice((raw[:start], raw[:start] + rng.randbytes(4) + raw[start:], odd, b"[" * 50_000)))


@pytest.mark.share(0.2)
def test_hostile_versions_harm_no_other_model(
    tmp_path: Path, budget: Budget, start_server: Callable[..., Server]
) -> None:
    store = ModelStore.open(tmp_path / "store")
    publish(store, "levels", LEVELS)
    publish(store, "victim", LEVELS)
    publish(store, "growing", BITS)
    server = start_server(tmp_path / "store", "--model", "levels", ELBOD_POLL_INTERVAL="0.1")
    for worker in workers(server):
        resource.prlimit(worker, resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    with unharmed(server) as honest, httpx.Client(base_url=server.url, timeout=_PATIENCE) as http:
        for seed in budget.seeds():
            rng = random.Random(seed)
            for _ in range(5):
                hostile_version(store, tmp_path / "store", rng)
                # A request makes the service load it now.
                victim = http.post("/sample", json={"model": "victim", "seed": 1})
                assert victim.status_code in (200, 404, 500, 502, 503, 504), (seed, victim.text)
                assert len(victim.content) < 1024**2
            _check_still_following(http, store, honest)


def _check_still_following(http: httpx.Client, store: ModelStore, honest: Caller) -> None:
    """A good version of another model is served soon, and the default model as ever."""
    version = publish(store, "growing", BITS, seed=1).version
    wait_for(lambda: _served(http) == version, _PATIENCE)
    assert http.get("/healthz").status_code == 200
    honest.check()


def _served(http: httpx.Client) -> int:
    answer = http.post("/sample", json={"model": "growing", "seed": 1})
    assert answer.status_code == 200, answer.text
    version: int = answer.json()["model"]["version"]
    return version
