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
import torch
from safetensors.numpy import load, save
from safetensors.torch import save as save_torch

from elbod_store import Draft, ModelStore, StoreError
from tests.fuzz.conftest import Budget
from tests.fuzz.honest import MAX_ERROR_BYTES, Caller, unharmed, workers
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
    shape = rng.choice(((), (0,), (3,), (2, 8, 8), (2, *hostile.event_shape)))
    tensor = torch.full(shape, rng.choice((0, 1)), dtype=rng.choice((torch.float64, torch.bfloat16, torch.uint8)))
    scores = ["elbo_1", "elbo_0", "elbo_-4", "elbo_x", "elbo_given_label_1"]
    rows = ["x", "reconstruction_at_mode"]
    if rng.random() < 0.5:
        return replace(hostile, calibration=_copies(rng.sample(scores, 2), tensor))
    return replace(hostile, reference=_copies(rng.choice((rows, rows[:1], ["label", *rows])), tensor))


def _copies(names: list[str], tensor: torch.Tensor) -> bytes:
    return save_torch({name: tensor.clone() for name in names})


CHANGES: tuple[Change, ...] = (
    _weights(_poison),
    _weights(_reshape),
    _weights(_rename),
    _weights(_retype),
    _spec,
    _fields,
    _attachments,
    _attachments,
)


def publish_hostile(store: ModelStore, rng: random.Random) -> int | None:
    """Publish a version of `victim` that is broken in one or two ways; its number, or None if the store refuses it."""
    hostile = draft("victim", rng.choice(_KINDS), seed=rng.randrange(100))
    for change in rng.sample(CHANGES, rng.choice((1, 1, 2))):
        try:
            hostile = change(hostile, rng)
        except ValueError:
            continue
    try:
        return store.publish(hostile).version
    except (StoreError, TypeError, ValueError):
        return None


def break_file(folder: Path, rng: random.Random) -> None:
    """Overwrite a part of one of the folder's files, cut it short, or put JSON of another shape there."""
    path = rng.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
    raw = path.read_bytes() or b"1"
    start = rng.randrange(len(raw))
    odd = json.dumps(rng.choice(_ODD)).encode()
    path.write_bytes(rng.choice((raw[:start], raw[:start] + rng.randbytes(4) + raw[start:], odd, b"[" * 50_000)))


@pytest.mark.share(0.2)
def test_hostile_versions_harm_no_other_model(
    tmp_path: Path, budget: Budget, start_server: Callable[..., Server]
) -> None:
    store = ModelStore.open(tmp_path / "store")
    for name in ("levels", "victim", "broken", "growing"):
        publish(store, name, LEVELS)
    server = start_server(tmp_path / "store", "--model", "levels", ELBOD_POLL_INTERVAL="0.1")
    for worker in workers(server):
        resource.prlimit(worker, resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    with unharmed(server) as honest, httpx.Client(base_url=server.url, timeout=_PATIENCE) as http:
        # Loaded, so that the service follows them.
        assert {_served(http, name) for name in ("victim", "broken", "growing")} == {1}
        for seed in budget.seeds():
            rng = random.Random(seed)
            for _ in range(3):
                version = publish_hostile(store, rng)
                break_file(tmp_path / "store" / "models" / "broken", rng)
                if version is not None:
                    # It may be harmless. Otherwise the service says that it could not load it.
                    wait_for(lambda version=version: _seen(http, version), _PATIENCE)  # type: ignore[misc]
                for name in ("victim", "broken"):
                    answer = http.post("/sample", json={"model": name, "seed": 1})
                    assert answer.status_code in (200, 404, 422, 500, 502, 503, 504), (seed, answer.text)
                    assert answer.is_success or len(answer.content) <= MAX_ERROR_BYTES
            _check_still_following(http, store, honest)


def _check_still_following(http: httpx.Client, store: ModelStore, honest: Caller) -> None:
    """A good version is served soon, after bad ones and of another model; the default model is served as ever."""
    for name in ("growing", "victim"):
        version = publish(store, name, LEVELS, seed=1).version
        wait_for(lambda name=name, version=version: _served(http, name) == version, _PATIENCE)  # type: ignore[misc]
    assert http.get("/healthz").status_code == 200
    honest.check()


def _seen(http: httpx.Client, version: int) -> bool:
    """Whether the service has that version of `victim` loaded, or names it among its problems."""
    state = http.get("/readyz").json()
    return any(f"victim@{version}" in text for text in (*state["loaded"], *state["problems"]))


def _served(http: httpx.Client, name: str) -> int | None:
    """The version that answers; None while none can."""
    answer = http.post("/sample", json={"model": name, "seed": 1})
    return answer.json()["model"]["version"] if answer.is_success else None
