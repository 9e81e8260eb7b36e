"""The gate in front of an alias: no version passes that is worse on the same rows than the best one that ever passed.

Compared with whatever the alias names now, a long row of small losses would pass one by one. So the best version has an
alias of its own, `<alias>-best`, which also keeps it from being retired.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elbod.generators import checkpoint
from elbod.generators.bounds import Floats
from elbod.generators.comparability import difference
from elbod.training.errors import NotPromoted
from elbod.training.publish import TEST_SEED
from elbod.training.scoring import score
from elbod_store import Manifest, ModelStore, Retired, StoreError, UnknownAlias
from elbod_store.names import check_alias

# A version may seem worse by so many standard errors of the paired difference.
TOLERANCE = 2.0


@dataclass(frozen=True)
class Verdict:
    """mean(new - best) of the held-out ELBO of the same rows with its standard error, nats."""

    best: Manifest
    difference: float
    standard_error: float

    @property
    def passed(self) -> bool:
        return self.difference >= -TOLERANCE * self.standard_error

    def __str__(self) -> str:
        return f"{self.difference:+.3f} ± {self.standard_error:.3f} nats against {self.best.name}@{self.best.version}"


def best_alias(alias: str) -> str:
    """The alias of the best version that ever was `alias`. Raises InvalidName."""
    return check_alias(f"{alias}-best")


def promote_if_not_worse(
    store: ModelStore, new: Manifest, alias: str, test: Tensor, samples: int, *, who: str, why: str
) -> Verdict | None:
    """Point `alias` at a new version if it passes; None if there is none to compare it with.

    `test` are rows (n, *event_shape), on the device to score on, that trained neither version; `samples` draws a row.
    Raises NotPromoted, Conflict if the alias was moved meanwhile, and the store's other errors.
    """
    best = best_alias(alias)
    seen = _entries(store, new.name, alias)
    verdict = _judge(store, new, alias, test, samples)
    if verdict is not None and not verdict.passed:
        raise NotPromoted(
            f"{new.name}@{new.version} is published, but not {alias}: its held-out ELBO is worse, {verdict}, "
            f"the best that was ever {alias}"
        )
    store.promote(new.name, alias, new.version, expected=seen, who=who, why=f"{why}, {verdict}" if verdict else why)
    if verdict is None or verdict.difference > 0:
        store.promote(new.name, best, new.version, who=who, why=f"the best that was ever {alias}")
    return verdict


def _entries(store: ModelStore, name: str, alias: str) -> int:
    try:
        return store.history(name, alias)[-1].number
    except UnknownAlias:
        return 0


def _judge(store: ModelStore, new: Manifest, alias: str, test: Tensor, samples: int) -> Verdict | None:
    rivals = [manifest for manifest in _rivals(store, new.name, alias) if manifest.version != new.version]
    for rival in rivals:
        _check_comparable(new, rival, alias)
    if not rivals:
        return None
    ours = _bounds(store, new, test, samples)
    theirs = [(rival, _bounds(store, rival, test, samples)) for rival in rivals]
    best, bounds = max(theirs, key=lambda found: found[1].mean())
    difference = ours - bounds
    n = len(difference)
    error = float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Verdict(best, float(difference.mean()), error)


def _rivals(store: ModelStore, name: str, alias: str) -> list[Manifest]:
    """The best version; before the first gate all that ever were `alias` and still exist."""
    try:
        return [store.resolve(f"{name}@{best_alias(alias)}")]
    except (UnknownAlias, Retired):
        pass
    try:
        versions = {entry.version for entry in store.history(name, alias) if entry.version is not None}
    except UnknownAlias:
        return []
    found = []
    for version in sorted(versions):
        try:
            found.append(store.manifest(name, version))
        except Retired:
            continue
    return found


def _check_comparable(new: Manifest, rival: Manifest, alias: str) -> None:
    """Raises NotPromoted where bounds of the two are of different things."""
    if (found := difference(new, rival)) is not None:
        what, ours, theirs = found
        raise NotPromoted(
            f"{new.name}@{new.version} is published, but not {alias}: it has {what} {ours}, "
            f"{rival.name}@{rival.version} {theirs}: promote it by hand, or give it another name"
        )


def _bounds(store: ModelStore, manifest: Manifest, test: Tensor, samples: int) -> Floats:
    """The held-out ELBO of each row, with the noise that every version has. Raises NotPromoted."""
    try:
        generator = checkpoint.load(checkpoint.blueprint_of(manifest), store.read(manifest.weights))
    except (checkpoint.InvalidCheckpoint, StoreError) as error:
        raise NotPromoted(f"{manifest.name}@{manifest.version} cannot be scored: {error}") from error
    generator = generator.to(test.device)
    generator.prepare()
    with torch.inference_mode():
        return score(generator, test, TEST_SEED, samples).elbo.elbo
