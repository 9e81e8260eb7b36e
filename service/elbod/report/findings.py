"""What the page shows, computed by the engine: the bytes and numbers that the service would give."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from elbod.engine.description import ModelDescription
from elbod.engine.jobs import Array, Floats, Job
from elbod.engine.loading import Resident
from elbod.report.coverage import Coverage, coverage
from elbod.requests.checks import UNLIMITED
from elbod.requests.verbs import ElboRequest, EncodeRequest, SampleRequest, VerbRequest

Run = Callable[[Job, str], dict[str, Array]]
_Work = Callable[..., dict[str, Array]]
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
    model = resident.description
    missing: dict[str, str] = {}

    def work(request: VerbRequest, title: str, **arrays: Array | None) -> dict[str, Array]:
        return run(request.job(arrays, model, UNLIMITED), title)

    scoring = ElboRequest(seed=seed, num_samples=draws, num_importance_samples=importance)
    scores = work(scoring, "scoring", x=x)
    sample_labels = _labels_to_sample(model)
    drawn = SAMPLES if sample_labels is None else len(sample_labels)
    samples = work(SampleRequest(seed=seed, num_samples=drawn), "sampling", label=sample_labels)["x"]
    reconstructions = traversals = kl_per_dimension = None
    if model.conditional and label is None:
        why = "the rows have no labels, which this model encodes with"
        missing |= dict.fromkeys(("reconstructions", "traversals", "kl_per_dimension"), why)
    else:
        given = label if model.conditional else None
        encoded = _encode(x, given, seed, work)
        kl_per_dimension = encoded.get("kl_per_dimension")
        shown = x[:RECONSTRUCTIONS]
        modes = SampleRequest(seed=seed, temperature=0.0, output="mean")
        shown_labels = None if given is None else given[: len(shown)]
        reconstructions = work(modes, "reconstructing", x=shown, label=shown_labels)["x"]
        traversals = _traverse(model, encoded, given, seed, work)
        if kl_per_dimension is None:
            missing["kl_per_dimension"] = "the KL divergence of this family is no sum over dimensions"
    again = np.repeat(x[:_COVERED_ROWS], _REPETITIONS, axis=0)
    repeating = ElboRequest(seed=seed, first_index=_COVERED_INDEX, num_samples=_COVERED_DRAWS)
    repeated = work(repeating, "repeating", x=again)
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


def _labels_to_sample(model: ModelDescription) -> Labels | None:
    """As many of each of the first eight classes."""
    if model.labels is None:
        return None
    classes = min(8, len(model.labels))
    return np.repeat(np.arange(classes), SAMPLES // classes)


def _encode(x: Array, label: Labels | None, seed: int, work: _Work) -> dict[str, Array]:
    rows = x[:_ENCODED_ROWS]
    given = None if label is None else label[: len(rows)]
    return work(EncodeRequest(seed=seed, num_samples=1), "encoding", x=rows, label=given)


def _traverse(
    model: ModelDescription, encoded: dict[str, Array], label: Labels | None, seed: int, work: _Work
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
    means = work(SampleRequest(seed=seed, output="mean"), "traversing", z=latents, label=given)["x"]
    return Traversals(dimensions, values, means.reshape(*values.shape, *means.shape[1:]), order)
