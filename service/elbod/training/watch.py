"""`elbod train --watch`: train again whenever the data have changed."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from elbod.generators.device import choose_device
from elbod.training import datasets
from elbod.training.errors import TrainingError
from elbod.training.held_out import rows_to_score
from elbod.training.identity import Identity
from elbod.training.progress import Listener
from elbod.training.recipes import Recipe, command_line
from elbod.training.run import newest_unfinished
from elbod.training.worker import promote, run_training
from elbod_store import Manifest, ModelStore, StoreError, Unavailable, UnknownModel

# A file's path with its size and time of change, for every file of the data.
Signature = tuple[tuple[str, int, int], ...]


def signature(source: str) -> Signature:
    """What a look at the files, without reading them, says of their contents; empty for named sets."""
    root = Path(source)
    found = []
    for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(found)


def train_on_change(
    train: Callable[[], None],
    source: str,
    progress: Listener,
    *,
    interval: float,
) -> None:
    """Call `train` now and after every change of the data at `source`, for ever; look every `interval` seconds.

    A change counts once two looks in a row agree: whoever copies files is then done. What `train` cannot do is said,
    and tried again when the data change, or at the next look if the store was away.
    """
    wait = threading.Event().wait
    before = signature(source)
    done: Signature | None = None
    while True:
        now = signature(source)
        if now == before and now != done:
            done = now
            try:
                train()
            except Unavailable as error:
                progress.note(f"{error}; trying again in {interval:g} s")
                done = None
            except (TrainingError, StoreError) as error:
                progress.note(f"{error}; waiting for a change of {source}")
        before = now
        wait(interval)


def train_if_changed(
    recipe: Recipe,
    store: ModelStore,
    *,
    name: str,
    seed: int,
    device: str,
    alias: str | None,
    gated: bool,
    publish_every: int | None,
    progress: Listener,
    **options: Any,
) -> None:
    """Train, unless the newest version is of the data as they are now, by this recipe and seed, and its run has ended;
    then its alias is moved if that was not done.

    Raises TrainingError and the store's StoreError.
    """
    digest = datasets.load(recipe.data, recipe.image_size).digest
    newest = _newest(store, name)
    same = newest is not None and _trained_on(newest) == (command_line(recipe, seed), digest)
    identity = Identity(name, recipe, seed, digest, choose_device(device).type, 1, publish_every)
    if newest is None or not same or newest_unfinished(store, identity, progress) is not None:
        run_training(
            recipe,
            store,
            name=name,
            seed=seed,
            device=device,
            alias=alias,
            gated=gated,
            publish_every=publish_every,
            progress=progress,
            # Of these data and no others, so that a worker that was killed goes on when it is started again.
            resume=True,
            **options,
        )
        return
    progress.note(f"{newest.name}@{newest.version} was trained on these data")
    if alias is not None:
        test = torch.from_numpy(rows_to_score(newest, None).x) if gated else None
        promote(store, newest, alias, test, recipe.num_samples, progress)


def _newest(store: ModelStore, name: str) -> Manifest | None:
    try:
        return store.resolve(f"{name}@latest")
    except UnknownModel:
        return None


def _trained_on(manifest: Manifest) -> tuple[object, object]:
    """The command that trained a version, and the digest of its data."""
    data = manifest.training.get("data")
    return manifest.training.get("command"), data.get("digest") if isinstance(data, dict) else None
