"""What callers ask of the engine and what they get back: frozen values, no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Binarize = Literal["threshold", "stochastic"]

# Draws of the pilot that decides how many a row needs for its target error.
PILOT_DRAWS = 64


class Verb(StrEnum):
    SAMPLE = "sample"
    ENCODE = "encode"
    ELBO = "elbo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One request against one model version; row i is example `first_index + i` under `seed`.

    With a `target_standard_error`, each row has the S that its pilot asks for, and `num_samples` is the most that it
    may get. `x` is (rows, *event_shape) in data units and within the support (or within [0, 1] with `binarize`); `z` is
    (rows, latent_dim) float32; `label` (rows,) int64, for conditional models. Where `marginal_labels` is C > 0 the
    score is that of log p(x), and every row is worked once for each of C labels. `num_samples` is S of /elbo, or the
    draws a row of /encode. Without both, rows of a conditional model have its null label.

    Of a model with levels, draws take `num_steps` passes (None: all T); z of requests and answers is that of `level`;
    scores are of `num_levels` sampled levels (None: of whole paths); `trajectory` are the levels of the grid,
    descending, at which E[x|z_level] is shown. `sampler`, `guidance`, `kl_per_level` and `bound_map` are as in the API.
    """

    verb: Verb
    rows: int
    seed: int
    first_index: int = 0
    x: Array | None = None
    z: Array | None = None
    label: NDArray[np.int64] | None = None
    marginal_labels: int = 0
    num_samples: int = 1
    num_importance_samples: int = 0
    target_standard_error: float | None = None
    temperature: float = 1.0
    output: Literal["sample", "mean"] = "sample"
    binarize: Binarize | None = None
    reconstruction_map: bool = False
    num_steps: int | None = None
    level: int = 0
    num_levels: int | None = None
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    guidance: float = 0.0
    kl_per_level: bool = False
    bound_map: bool = False
    trajectory: tuple[int, ...] = ()

    @property
    def draws(self) -> int:
        """Draws of z a row: those of the ELBO and of the importance-weighted bound are one stream."""
        return 1 if self.verb is Verb.SAMPLE else max(self.num_samples, self.num_importance_samples)

    @property
    def maps(self) -> tuple[str, ...]:
        """Columns with a number for every element."""
        return tuple(name for name in ("reconstruction_map", "bound_map") if getattr(self, name))

    @property
    def copies(self) -> int:
        """How often each row is worked: once for each label that is marginalised over."""
        return max(1, self.marginal_labels)

    @property
    def row_draws(self) -> int:
        """The job's size in the unit that the queue is bounded by: the most that it may take."""
        pilot = 0 if self.target_standard_error is None else PILOT_DRAWS
        return self.rows * self.copies * max(1, self.draws + pilot)


@dataclass(frozen=True, slots=True)
class Samples:
    """x (n, *event_shape) in the training dtype, or its mean in float32; z (n, latent_dim) float32.

    The `trajectory`, (n, k, *event_shape) float32, is E[x|z_level] of the levels that the job asked to be shown.
    """

    x: Array
    z: Array
    trajectory: Array | None = None


@dataclass(frozen=True, slots=True)
class Encodings:
    """Parameters of q(z|x), row-wise; draws z (n, S, latent_dim) or None; KL(q || p) in nats.

    Where KL has no closed form it is the mean over the draws, and None without draws; `log_q` (n, S) is log q(z|x) of
    these draws, None where nobody needs it. Where q has no closed form `parameters` is empty.
    """

    family: str
    parameters: Mapping[str, Array]
    z: Array | None
    kl: Floats | None
    kl_per_dimension: Floats | None
    log_q: Floats | None


@dataclass(frozen=True, slots=True)
class Scores:
    """The bound's parts by name, each (n,), scores in float64 nats; the `maps` are (n, *event_shape)."""

    columns: Mapping[str, Array]
    maps: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Result:
    """A job's answer with the seconds that it waited and computed."""

    value: Samples | Encodings | Scores
    queue_seconds: float
    compute_seconds: float


class Stage(StrEnum):
    """What a program works on: rows, or draws of rows."""

    ENCODE = "encode"
    DRAW = "draw"
