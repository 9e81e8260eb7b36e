"""What the page shows, computed by the engine: the bytes and numbers that the service would give."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from elbod.engine.jobs import Array, Floats, Job, Verb, marginal_labels
from elbod.engine.loading import Resident
from elbod.report.coverage import Coverage, coverage

Run = Callable[[Job, str], dict[str, Array]]
Labels = NDArray[np.int64]

SAMPLES = 64
RECONSTRUCTIONS = 12
DIMENSIONS = 8
STEPS = 11

_ENCODED_ROWS = 1_000
_COVERED_ROWS, _REPETITIONS, _COVERED_DRAWS = 50, 100, 16
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
    """Everything on the page; `missing` says, by what is not there, why."""

    resident: Resident
    origin: str
    x: Array
    seed: int
    num_samples: int
    num_importance_samples: int
    scores: dict[str, Array]
    samples: Array
    sample_labels: Labels | None
    reconstructions: Array | None
    traversals: Traversals | None
    kl_per_dimension: Floats | None
    coverage: Coverage | None
    missing: dict[str, str] = field(default_factory=dict)


def find(
    resident: Resident, x: Array, label: Labels | None, origin: str, run: Run, *, seed: int, draws: int, importance: int
) -> Findings:
    """Score `x`, (n, *event_shape) in data units, and draw what the page shows. `label` are its classes, if known."""
    conditional = resident.generator.conditional
    missing: dict[str, str] = {}

    scoring = Job(
        verb=Verb.ELBO,
        rows=len(x),
        seed=seed,
        x=x,
        marginal_labels=marginal_labels(resident.generator, None),
        num_samples=draws,
        num_importance_samples=importance,
    )
    scores = run(scoring, "scoring")
    sample_labels = _labels_to_sample(resident)
    drawn = SAMPLES if sample_labels is None else len(sample_labels)
    samples = run(Job(verb=Verb.SAMPLE, rows=drawn, seed=seed, label=sample_labels), "sampling")["x"]
    reconstructions = traversals = kl_per_dimension = None
    if conditional and label is None:
        why = "the rows have no labels, which this model encodes with"
        missing |= dict.fromkeys(("reconstructions", "traversals", "kl_per_dimension"), why)
    else:
        given = label if conditional else None
        encoded = _encode(x, given, seed, run)
        kl_per_dimension = encoded.get("kl_per_dimension")
        shown = x[:RECONSTRUCTIONS]
        reconstructions = run(
            Job(
                verb=Verb.SAMPLE,
                rows=len(shown),
                seed=seed,
                x=shown,
                label=None if given is None else given[: len(shown)],
                temperature=0.0,
                output="mean",
            ),
            "reconstructing",
        )["x"]
        traversals = _traverse(resident, encoded, given, seed, run)
        if kl_per_dimension is None:
            missing["kl_per_dimension"] = "the KL divergence of this family is no sum over dimensions"
    again = np.repeat(x[:_COVERED_ROWS], _REPETITIONS, axis=0)
    repeated = run(
        replace(
            scoring,
            rows=len(again),
            first_index=_COVERED_INDEX,
            x=again,
            num_samples=_COVERED_DRAWS,
            num_importance_samples=0,
        ),
        "repeating",
    )
    estimates, errors = (repeated[name].reshape(-1, _REPETITIONS) for name in ("elbo", "standard_error"))
    covered = coverage(estimates, errors, _COVERED_DRAWS)
    if covered is None:
        missing["coverage"] = "nothing is drawn for these bounds: they are exact sums, and their errors are 0"
    return Findings(
        resident,
        origin,
        x,
        seed,
        draws,
        importance,
        scores,
        samples,
        sample_labels,
        reconstructions,
        traversals,
        kl_per_dimension,
        covered,
        missing,
    )


def _labels_to_sample(resident: Resident) -> Labels | None:
    """As many of each of the first eight classes."""
    names = resident.generator.blueprint.labels
    if names is None:
        return None
    classes = min(8, len(names))
    return np.repeat(np.arange(classes), SAMPLES // classes)


def _encode(x: Array, label: Labels | None, seed: int, run: Run) -> dict[str, Array]:
    rows = x[:_ENCODED_ROWS]
    given = None if label is None else label[: len(rows)]
    return run(Job(verb=Verb.ENCODE, rows=len(rows), seed=seed, x=rows, label=given, num_samples=1), "encoding")


def _traverse(resident: Resident, encoded: dict[str, Array], label: Labels | None, seed: int, run: Run) -> Traversals:
    """From the first row's latent, along the most informative dimensions, through what q(z|x) covers."""
    drawn = encoded["z"][:, 0].astype(np.float64)
    dimensions: tuple[int, ...] = (0,)
    if resident.posterior_family == "categorical":
        values = np.arange(encoded["log_probs"].shape[1], dtype=np.float64)[None]
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
    job = Job(verb=Verb.SAMPLE, rows=len(latents), seed=seed, z=latents.astype(np.float32), label=given, output="mean")
    means = run(job, "traversing")["x"]
    return Traversals(dimensions, values, means.reshape(*values.shape, *means.shape[1:]), order)
