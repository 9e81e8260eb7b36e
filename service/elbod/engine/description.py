"""What anybody outside of the engine needs to know of a loaded version: numbers and names, no tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from elbod.engine.jobs import PILOT_DRAWS, Array, Floats, Job
from elbod.generators.base import KlEstimator
from elbod.generators.likelihoods import Likelihood


@dataclass(frozen=True)
class Calibration:
    """Ascending bounds of `num_samples` draws of rows that the model has never seen, float64."""

    num_samples: int
    scores: Floats


def largest_up_to(stored: Mapping[int, Calibration], num_samples: int) -> Calibration | None:
    """The calibration scores of the largest stored S' <= S, None if there are none; `stored` is keyed by S'."""
    return stored.get(max((s for s in stored if s <= num_samples), default=0))


@dataclass(frozen=True, eq=False)
class Levels:
    """What is known of the levels 0 ... T of a model whose draws take passes.

    log_snr (T + 1,): log signal-to-noise ratio of each. weights (T,): by which levels 1 ... T are sampled.
    entropy: H[q(z_0 ... z_T|x)] of the encoder, the same for every x.
    """

    log_snr: Floats
    weights: Floats
    entropy: float

    @property
    def count(self) -> int:
        """T, the most passes of a draw."""
        return len(self.weights)

    @cached_property
    def default(self) -> int:
        """The level whose signal is as strong as its noise, or nearly: where z is shown unless asked otherwise."""
        return int(np.argmin(np.abs(self.log_snr)))


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelDescription:
    """A loaded version, described; `str()` is `name@version`.

    `labels` names the classes of a conditional model; one with a null label has a model of rows without label, too.
    `levels` is None where draws take one pass. `latent_levels` is K where z is an integer 0 ... K-1. What begins with
    `posterior_` describes q(z|x) beyond its row-wise parameters. `calibration`, of scores of log p(x), and
    `given_label`, of a conditional model's scores of log p(x|y), have one entry for each S that was scored. Equal bytes
    are promised among equal fingerprints, if the model is `reproducible`.
    """

    name: str
    version: int
    digest: str
    family: str
    likelihood: Likelihood
    latent_dim: int
    latent_levels: int | None
    labels: tuple[str, ...] | None
    has_null_label: bool
    binarization: str | None
    kl_estimator: KlEstimator
    levels: Levels | None
    posterior_family: str
    posterior_closed_form: bool
    posterior_shared: Mapping[str, Array]
    calibration: Mapping[int, Calibration]
    given_label: Mapping[int, Calibration]
    reproducible: bool
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.likelihood.event_shape

    @property
    def conditional(self) -> bool:
        """Whether p(x|z, y) and q(z|x, y) take a label."""
        return self.labels is not None

    @cached_property
    def identity(self) -> dict[str, str | int]:
        """Name, version and digest, as answers give them."""
        return {"name": self.name, "version": self.version, "digest": self.digest}

    def calibration_for(self, job: Job) -> Calibration | None:
        """The calibration scores that a job's bounds are compared with: of the largest stored S' <= S.

        None if there are none, if the job's rows become binary in another way than the model's did, if its draws take
        other passes, or if it sums over labels in place of the null label.
        """
        if self.has_null_label and job.marginal_labels:
            return None
        if job.binarize not in (None, self.binarization):
            return None
        if self.levels is not None and (job.num_levels or job.num_steps not in (None, self.levels.count)):
            return None
        # With a target every row has at least the pilot's number of draws; all rows are compared alike.
        samples = job.num_samples if job.target_standard_error is None else min(PILOT_DRAWS, job.num_samples)
        return largest_up_to(self.calibration if job.label is None else self.given_label, samples)
