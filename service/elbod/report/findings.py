"""What the page shows, computed by the engine."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from elbod.engine.description import ModelDescription
from elbod.engine.jobs import Array, Floats
from elbod.engine.loading import Resident
from elbod.report.coverage import Coverage, coverage
from elbod.report.effort import Effort
from elbod.report.evaluator import Evaluator, Run
from elbod.report.levels import ByLevel, find_by_level, reconstruct_by_level
from elbod.requests.verbs import ElboRequest, EncodeRequest, SampleRequest

Labels = NDArray[np.int64]

RECONSTRUCTIONS = 12
DIMENSIONS = 8
STEPS = 11

_ENCODED_ROWS = 1_000
# Of the examples that the errors are tried on: far from those whose scores are shown.
_COVERED_INDEX = 2**40


@dataclass(frozen=True)
class Traversals:
    """`means` (dimensions, steps, *event_shape) is E[x|z] as one latent moves over `values` (dimensions, steps).

    `dimensions` are the most informative ones, by `order` in words. A discrete latent has one row of all its values.
    """

    dimensions: tuple[int, ...]
    values: Floats
    means: Array
    order: str


@dataclass(frozen=True)
class Findings:
    """Everything on the page; `missing` says, by what is not there, why.

    `reconstructions` have names; `by_level` is there for models whose draws take passes, which have no traversals.
    `evaluations` of the network were made for all of it.
    """

    resident: Resident
    origin: str
    x: Array
    seed: int
    effort: Effort
    evaluations: int
    scores: dict[str, Array]
    samples: Array
    sample_labels: Labels | None
    reconstructions: dict[str, Array] | None
    traversals: Traversals | None
    kl_per_dimension: Floats | None
    by_level: ByLevel | None
    coverage: Coverage | None
    missing: dict[str, str] = field(default_factory=dict)


def find(
    resident: Resident, x: Array, label: Labels | None, origin: str, run: Run, *, seed: int, effort: Effort
) -> Findings:
    """Score `x`, (n, *event_shape) in data units, and draw what the page shows. `label` are its classes, if known."""
    model, evaluate = resident.description, Evaluator(resident, run)
    missing: dict[str, str] = {}
    scoring = ElboRequest(
        seed=seed,
        num_samples=effort.num_samples,
        num_importance_samples=effort.num_importance_samples,
        include=[] if model.levels is None else ["kl_per_level"],
    )
    scores = evaluate(scoring, "scoring", x=x)
    sample_label = _labels_to_sample(model, effort.samples)
    drawn = effort.samples if sample_label is None else len(sample_label)
    samples = evaluate(SampleRequest(seed=seed, num_samples=drawn), "sampling", label=sample_label)["x"]
    by_level = None
    if model.levels is not None:
        by_level = find_by_level(
            model.levels,
            x,
            scores,
            evaluate,
            seed=seed,
            num_samples=effort.num_samples,
            shorter=effort.shorter,
            sample_label=sample_label,
        )
    reconstructions, traversals, kl_per_dimension = _decode(model, x, label, seed, evaluate, missing)
    covered = _cover(x, seed, evaluate, effort, missing)
    return Findings(
        resident,
        origin,
        x,
        seed,
        effort,
        evaluate.evaluations,
        scores,
        samples,
        sample_label,
        reconstructions,
        traversals,
        kl_per_dimension,
        by_level,
        covered,
        missing,
    )


def _decode(
    model: ModelDescription, x: Array, label: Labels | None, seed: int, evaluate: Evaluator, missing: dict[str, str]
) -> tuple[dict[str, Array] | None, Traversals | None, Floats | None]:
    """Reconstructions, traversals and the KL divergence by dimension of the rows; what is `missing` gets its reason."""
    if model.conditional and label is None and not model.has_null_label:
        encoded_alone = ("traversals", "kl_per_dimension") if model.levels is None else ()
        why = "the rows have no labels, which this model encodes with"
        missing |= dict.fromkeys(("reconstructions", *encoded_alone), why)
        return None, None, None
    given = label if model.conditional else None
    shown = x[:RECONSTRUCTIONS]
    shown_label = None if given is None else given[: len(shown)]
    if model.levels is not None:
        return reconstruct_by_level(model.levels, shown, shown_label, evaluate, seed), None, None
    modes = SampleRequest(seed=seed, temperature=0.0, output="mean")
    reconstructions = {"E[x|z]": evaluate(modes, "reconstructing", x=shown, label=shown_label)["x"]}
    encoded = _encode(x, given, seed, evaluate)
    if "kl_per_dimension" not in encoded:
        missing["kl_per_dimension"] = "the KL divergence of this family is no sum over dimensions"
    traversals = _traverse(model, encoded, given, seed, evaluate)
    return reconstructions, traversals, encoded.get("kl_per_dimension")


def _cover(x: Array, seed: int, evaluate: Evaluator, effort: Effort, missing: dict[str, str]) -> Coverage | None:
    """How often intervals hold what they are estimates of; why not, in `missing`."""
    if effort.tried_rows == 0:
        missing["coverage"] = "a path of this model takes too many passes to repeat it often"
        return None
    again = np.repeat(x[: effort.tried_rows], effort.repetitions, axis=0)
    repeating = ElboRequest(seed=seed, first_index=_COVERED_INDEX, num_samples=effort.tried_samples)
    repeated = evaluate(repeating, "repeating", x=again)
    estimates, errors = (repeated[name].reshape(-1, effort.repetitions) for name in ("elbo", "standard_error"))
    covered = coverage(estimates, errors, effort.tried_samples)
    if covered is None:
        missing["coverage"] = "nothing is drawn for these bounds: they are exact sums, and their errors are 0"
    return covered


def _labels_to_sample(model: ModelDescription, samples: int) -> Labels | None:
    """As many of each of the first eight classes."""
    if model.labels is None:
        return None
    classes = min(8, len(model.labels))
    return np.repeat(np.arange(classes), samples // classes)


def _encode(x: Array, label: Labels | None, seed: int, evaluate: Evaluator) -> dict[str, Array]:
    rows = x[:_ENCODED_ROWS]
    given = None if label is None else label[: len(rows)]
    return evaluate(EncodeRequest(seed=seed, num_samples=1), "encoding", x=rows, label=given)


def _traverse(
    model: ModelDescription, encoded: dict[str, Array], label: Labels | None, seed: int, evaluate: Evaluator
) -> Traversals:
    """From the first row's latent, along the most informative dimensions, through what q(z|x) covers."""
    drawn = encoded["z"][:, 0].astype(np.float64)
    dimensions: tuple[int, ...] = (0,)
    if model.latent_levels is not None:
        values = np.arange(model.latent_levels, dtype=np.float64)[None]
        order = "its values"
        latents = values.reshape(-1, 1)
    else:
        kl = encoded.get("kl_per_dimension")
        informative = drawn.var(axis=0) if kl is None else kl.mean(axis=0)
        order = "the spread of their draws over rows" if kl is None else "their KL divergence"
        dimensions = tuple(int(i) for i in np.argsort(-informative, kind="stable")[:DIMENSIONS])
        low, high = np.quantile(drawn[:, dimensions], (0.02, 0.98), axis=0)
        values = np.linspace(low, high, STEPS, axis=1)
        latents = np.tile(encoded.get("mean", drawn)[0].astype(np.float64), (len(dimensions), STEPS, 1))
        for row, dimension in enumerate(dimensions):
            latents[row, :, dimension] = values[row]
        latents = latents.reshape(-1, latents.shape[-1])
    given = None if label is None else np.repeat(label[:1], len(latents))
    means = evaluate(SampleRequest(seed=seed, output="mean"), "traversing", z=latents, label=given)["x"]
    return Traversals(dimensions, values, means.reshape(*values.shape, *means.shape[1:]), order)
