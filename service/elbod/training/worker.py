"""A training run from data to a published version: `run_training`."""

import contextlib
import getpass
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from elbod.generators import checkpoint
from elbod.generators.base import Blueprint, Generator
from elbod.generators.checkpoint import InvalidCheckpoint
from elbod.generators.device import choose_device, keep_freed_memory
from elbod.generators.likelihoods import LIKELIHOODS, Likelihood, make_likelihood
from elbod.training import datasets
from elbod.training.check import check_model
from elbod.training.datasets import Dataset
from elbod.training.errors import Diverged, InvalidDataset, InvalidRecipe, NotPromoted, RefusedModel
from elbod.training.gate import best_alias, promote_if_not_worse
from elbod.training.identity import Identity
from elbod.training.loop import Loop, Point, conditions
from elbod.training.metrics import headline
from elbod.training.parallel import Group, join, launched
from elbod.training.pauses import Signals
from elbod.training.progress import Listener, Silence
from elbod.training.publish import History, Material, make_draft
from elbod.training.randomness import derive_seed
from elbod.training.recipes import Recipe
from elbod.training.run import Follower, Run, newest_unfinished, unfinished
from elbod.training.splits import Labels, Split, fashion_split, split
from elbod.training.state import State
from elbod_store import Conflict, Draft, Manifest, ModelStore, UnknownAlias
from elbod_store.canonical import canonical
from elbod_store.names import check_alias, check_name

_MAX_LEVELS = 65_536
# Without a given label a row is scored under each of them.
_MAX_LABELS = 1_000
# Seconds between two states of a run.
SAVE_EVERY = 600.0


def run_training(
    recipe: Recipe,
    store: ModelStore,
    *,
    name: str | None = None,
    seed: int = 0,
    device: str = "auto",
    alias: str | None = None,
    gated: bool = False,
    publish_every: int | None = None,
    keep: int | None = None,
    save_every: float = SAVE_EVERY,
    resume: str | bool = False,
    progress: Listener | None = None,
    on_step: Callable[[str], None] = lambda step: None,
    began: Callable[[str], None] = lambda run: None,
) -> Manifest:
    """Train by the recipe and publish the result as `name` (default: the recipe's); the manifest of that version.

    The final version has the weights of the best held-out bound. With `publish_every`, the weights of every so many
    epochs become a version too, so that a service can be watched learning. `alias` is moved to the final version, if
    `gated` only when it is not worse than the best that ever held it (`elbod.training.gate`). With `keep`, all but the
    newest `keep` versions are retired, except those that an alias names. The same recipe, data, seed, machine, number
    of threads and of processes give the same weights.

    The run's state goes to the store every `save_every` seconds (0: after every epoch), and at the first SIGINT or
    SIGTERM. `resume` names a run to go on with, to the weights that it would have had, or is True for the newest
    unfinished run that trains just this; without one a new run begins. Under `torchrun` all processes train together,
    the first one publishes, and all of them return its manifest. `on_step` is told each step of every write,
    `began` the run of it.

    Raises TrainingError, Stopped and the store's StoreError; whatever happens, a version is published whole or not at
    all.
    """
    started = time.perf_counter()
    name = check_name(name or recipe.name)
    if alias is not None:
        check_alias(alias)
        best_alias(alias)
    place = _device(device)
    with join(place) as group:
        progress = progress if progress is not None and group.first else Silence()
        if group.first:
            # Whatever is wrong with the store is said before an hour of training, not after it.
            store.probe()
        dataset = datasets.load(recipe.data, recipe.image_size)
        keep_freed_memory()
        with _threads(recipe.threads):
            generator, parts = prepare(recipe, dataset, seed)
            _check_family(generator, parts)
            material = Material.of(name, recipe, dataset, parts, generator, seed, place)
            identity = Identity(name, recipe, seed, material.digest, place.type, group.size, publish_every)
            group.agree(canonical(identity.to_json()), "recipe, data, seed and machine")
            size = sum(tensor.numel() for tensor in generator.state_dict().values())
            progress.note(
                f"training {name}: {recipe.family}, {size:,} weights, "
                + ", ".join(f"{rows:,} {part}" for part, rows in parts.sizes.items())
                + f" rows of {dataset.name}, {place.type}"
                + (f", {group.size} processes" if group.size > 1 else "")
            )
            loop = Loop(generator, parts, recipe, seed, place, also_every=publish_every, group=group)
            if not group.first:
                _follow(loop, group)
                return store.manifest(name, int(group.share(b"")))
            options = {"progress": progress, "save_every": save_every, "on_step": on_step}
            run = _open_run(store, identity, resume, {"alias": alias, "gated": gated, "keep": keep}, options)
            with contextlib.closing(run):
                began(run.id)
                _restore(loop, group.share(run.state()), run)
                try:
                    manifest = _train(loop, run, material, store, publish_every, keep, progress)
                except (Diverged, RefusedModel):
                    # It would end like this again.
                    run.finish()
                    raise
                _report(manifest, progress)
                progress.note(f"published {name}@{manifest.version} in {time.perf_counter() - started:.1f} s")
                refused = None
                if alias is not None:
                    test = torch.from_numpy(parts.test).to(place) if gated else None
                    try:
                        promote(store, manifest, alias, test, recipe.num_samples, progress)
                    except NotPromoted as error:
                        refused = error
                _retire(store, name, keep, progress)
                run.finish()
            group.share(str(manifest.version).encode())
            if refused is not None:
                raise refused
    return manifest


def _train(
    loop: Loop,
    run: Run,
    material: Material,
    store: ModelStore,
    publish_every: int | None,
    keep: int | None,
    progress: Listener,
) -> Manifest:
    """Every version of the run, published; the manifest of the last."""

    def publish(weights: Generator, point: Point) -> Manifest:
        def draft() -> Draft:
            history = History(
                point=point,
                curve=tuple(loop.curve),
                steps=loop.steps,
                skipped_steps=loop.skipped_steps,
                steps_per_second=loop.steps_per_second,
                wall_time=run.wall_time,
                run=run.id,
                publication=run.publications,
            )
            return make_draft(weights, material, history)

        return run.publish(draft)

    manifest, published = None, None
    progress.begin(material.recipe.epochs)
    try:
        with run.signals:
            for point in loop.points(run):
                progress.point(point, loop.steps_per_second)
                if publish_every is not None and point.epoch % publish_every == 0:
                    manifest, published = publish(loop.current, point), point
                    progress.note(f"published {manifest.name}@{manifest.version}: {_bound(manifest)}")
                    _retire(store, material.name, keep, progress)
    finally:
        progress.end()
    if run.signals.number is not None:
        run.stop()
    if loop.skipped_steps:
        progress.note(f"skipped {loop.skipped_steps} of {loop.steps} steps: their objective was not finite")
    assert loop.best_point is not None
    if manifest is None or published is not loop.best_point:
        manifest = publish(loop.best, loop.best_point)
    return manifest


def _follow(loop: Loop, group: Group) -> None:
    """Train along with the first process."""
    _restore(loop, group.share(b""))
    with Signals() as signals:
        for _ in loop.points(Follower(signals)):
            pass


def _open_run(
    store: ModelStore, identity: Identity, resume: str | bool, arguments: dict[str, Any], options: dict[str, Any]
) -> Run:
    """The run that `resume` asks for, or a new one; says which."""
    progress, who = options["progress"], _who()
    entry = None
    if isinstance(resume, str):
        entry = unfinished(store, resume)
    elif resume:
        entry = newest_unfinished(store, identity, progress)
        if entry is None:
            progress.note(f"no unfinished run of {identity.name} by this recipe on these data: a new one begins")
    if entry is None:
        run = Run.begin(store, identity, arguments, who, **options)
        progress.note(f"run {run.id}: if it is interrupted, `elbod train --resume {run.id}` goes on")
        return run
    for warning in identity.check(entry):
        progress.note(warning)
    run = Run.resume(store, entry, who, **options)
    # Another worker may have saved it once more.
    entry = run.entry if run.entry.step > entry.step else entry
    at = f"from step {entry.step:,} in epoch {entry.epoch:,}" if entry.blobs else "from the start"
    progress.note(f"run {run.id}: resumed {at}, saved {entry.when:%Y-%m-%d %H:%M} UTC")
    return run


def _restore(loop: Loop, raw: bytes, run: Run | None = None) -> None:
    if raw:
        state = State.unpack(raw)
        loop.restore(state)
        if run is not None:
            run.restore(state)


def promote(
    store: ModelStore, manifest: Manifest, alias: str, test: torch.Tensor | None, samples: int, progress: Listener
) -> None:
    """Move the alias to a version that never held it; given test rows, only if it passes the gate.

    One that held it was promoted before an interruption, or rolled back for a reason. Raises NotPromoted, StoreError.
    """
    with contextlib.suppress(UnknownAlias):
        if any(entry.version == manifest.version for entry in store.history(manifest.name, alias)):
            return
    why = f"elbod train: {_bound(manifest)}"
    passed = ""
    if test is None:
        store.promote(manifest.name, alias, manifest.version, who=_who(), why=why)
    else:
        verdict = promote_if_not_worse(store, manifest, alias, test, samples, who=_who(), why=why)
        passed = f" ({verdict})" if verdict else " (nothing to compare it with)"
    progress.note(f"{manifest.name}@{manifest.version} is now {manifest.name}@{alias}{passed}")


def prepare(recipe: Recipe, dataset: Dataset, seed: int) -> tuple[Generator, Split]:
    """An initialized generator and the parts of the data in the dtype of training; checks all that can be wrong."""
    try:
        likelihood = make_likelihood(recipe.likelihood, dataset.event_shape, _levels(recipe, dataset))
        if recipe.binarization is None:
            datasets.check_support(dataset.name, dataset.x, likelihood)
        parts = cut(recipe, dataset, likelihood)
        labels = _labels(recipe, dataset, parts)
        blueprint = Blueprint(
            family=recipe.family,
            spec=recipe.spec,
            likelihood=recipe.likelihood,
            event_shape=dataset.event_shape,
            levels=likelihood.levels,
            binarization=recipe.binarization,
            labels=None if labels is None else labels.names,
        )
        # Layers draw their initial weights from torch's global generator: give it this run's seed, then restore it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "init"))
            generator = checkpoint.build(blueprint)
    except InvalidDataset:
        raise
    except (InvalidCheckpoint, ValueError) as error:
        raise InvalidRecipe(f"recipe {recipe.name}: {error}") from error
    if generator.levels and recipe.importance_epochs:
        raise InvalidRecipe(
            f"recipe {recipe.name}: family {recipe.family!r} trains its ELBO alone: set importance_epochs=0"
        )
    try:
        train = torch.from_numpy(parts.train)
        if recipe.binarization == "stochastic" and train.dtype == torch.uint8:
            train = train / 255
        generator.initialize(train, None if labels is None else torch.from_numpy(labels.train))
    except ValueError as error:
        raise InvalidDataset(f"{dataset.name}: {error}") from error
    return generator, parts


def _check_family(generator: Generator, parts: Split) -> None:
    """What must hold at any weights is checked before an hour of training, too. Raises RefusedModel."""
    (labels,) = conditions(generator, parts.labels, "validation")
    label = None if labels is None else torch.from_numpy(labels)
    check_model(generator.eval(), torch.from_numpy(parts.validation), label)


def _labels(recipe: Recipe, dataset: Dataset, parts: Split) -> Labels | None:
    """The labels of a conditional family's data; None for all others, which do not look at them."""
    if not checkpoint.takes_labels(recipe.family, recipe.spec):
        return None
    if parts.labels is None:
        raise InvalidDataset(
            f"{dataset.name} has no labels, which family {recipe.family!r} is conditional on: "
            "an .npz needs an array y of one label a row, a folder of IDX files train-labels*"
        )
    if len(parts.labels.names) > _MAX_LABELS:
        raise InvalidDataset(
            f"{dataset.name} has {len(parts.labels.names):,} different labels, the limit is {_MAX_LABELS:,}"
        )
    return parts.labels


def _levels(recipe: Recipe, dataset: Dataset) -> int | None:
    """The recipe's, else the data's own, else their maximum plus one; 2 for bits and None for densities."""
    if recipe.likelihood == "bernoulli":
        return 2
    if (kind := LIKELIHOODS.get(recipe.likelihood)) is not None and kind.measure == "density":
        return None
    levels = recipe.levels or dataset.levels or max(2, int(dataset.x.max()) + 1)
    if levels > _MAX_LEVELS:
        raise InvalidRecipe(
            f"{dataset.name}: {levels:,} levels are more than {_MAX_LEVELS:,}: use a gaussian likelihood"
        )
    return levels


def cut(recipe: Recipe, dataset: Dataset, likelihood: Likelihood) -> Split:
    """The parts of the data by the recipe's protocol, in the dtype of x in answers."""
    if recipe.protocol == "hash":
        parts = split(dataset, recipe.binarization)
    else:
        parts = fashion_split(dataset, binary=recipe.protocol == "fashion-mnist-binary")
    dtype = {torch.uint8: np.uint8, torch.float32: np.float32, torch.float64: np.float64}[likelihood.dtype]
    train, validation, calibration, test = (
        np.ascontiguousarray(x, dtype) for x in (parts.train, parts.validation, parts.calibration, parts.test)
    )
    # Grey values that are still to be binarised keep their own dtype.
    train = parts.train if recipe.binarization == "stochastic" else train
    return Split(train, validation, calibration, test, parts.labels).shortened(recipe.held_out_rows)


def _device(name: str) -> torch.device:
    try:
        place = choose_device(name)
        _, local, size = launched()
        # Processes that train together have a GPU each.
        return choose_device(f"cuda:{local}") if size > 1 and place.type == "cuda" else place
    except ValueError as error:
        raise InvalidRecipe(str(error)) from error


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Train on that many threads, and leave the caller's setting as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _retire(store: ModelStore, name: str, keep: int | None, progress: Listener) -> None:
    if keep is None:
        return
    for version in store.versions(name)[:-keep]:
        # An alias holds it.
        with contextlib.suppress(Conflict):
            store.retire(name, version)
            progress.note(f"retired {name}@{version}")


def _report(manifest: Manifest, progress: Listener) -> None:
    progress.note(f"held-out, {manifest.metrics['n']:,} test rows (baseline: independent elements)")
    for title, nats, bits in headline(manifest.metrics):
        progress.note(f"  {title:<18}  {nats:>17} nats" + (f"  {bits} bits/dim" if bits else ""))


def _bound(manifest: Manifest) -> str:
    return f"held-out ELBO {manifest.metrics['elbo']:.2f} nats"


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a number without a name.
        return "elbod train"
