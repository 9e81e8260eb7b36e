"""What the verbs return: frozen values, numpy arrays inside.

Arrays are read-only views of the answer; `.copy()` gives one to write to. n is the number of rows. A value that is
undefined for one row is NaN there, a column that is undefined for all rows is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from elbod_client import _pictures, _safetensors
from elbod_client._receipts import Asked, Receipt, sums

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which model answered. `digest` decides its numbers; `str()` is `name@version`, a reference that never moves."""

    name: str
    version: int
    digest: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """What every answer says about its origin.

    Row i is example `first_index` + i of `seed`. The same model digest, seed and index give the same bytes again on a
    server of the same `fingerprint`, unless `reproducible` is False (the model failed its self-test at load).
    """

    model: ModelIdentity
    seed: int
    first_index: int
    fingerprint: str
    reproducible: bool
    _asked: Asked | None = None

    def __repr__(self) -> str:
        named = (field.name for field in fields(self) if not field.name.startswith("_"))
        return f"{type(self).__name__}({', '.join(f'{name}={_describe(getattr(self, name))}' for name in named)})"

    def receipt(self) -> Receipt:
        """What was asked, and the sha256 of what was sent and of what came back: `elboctl replay` asks again.

        The arrays that were sent are not copied: they must not have been changed since.
        """
        if self._asked is None:
            raise ValueError("this result was not made by a call, so there is nothing to ask again")
        return Receipt(
            verb=self._asked.verb,
            fields=dict(self._asked.fields),
            model=str(self.model),
            digest=self.model.digest,
            fingerprint=self.fingerprint,
            reproducible=self.reproducible,
            inputs=sums(self._asked.arrays),
            outputs=sums(self._arrays()),
            arrays=self._asked.arrays,
        )

    def _arrays(self) -> dict[str, Array]:
        """Every array of the answer by the name that it has there."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"<{value.dtype} {value.shape}>"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_describe(item)}" for key, item in value.items()) + "}"
    return str(value) if isinstance(value, ModelIdentity) else repr(value)


@dataclass(frozen=True, kw_only=True)
class Process:
    """How draws of a model with levels were made; z stands at `level`.

    scored: `elbo` with the same num_steps bounds log p(x) of the distribution that was drawn from.
    """

    sampler: str
    num_steps: int
    level: int
    guidance: float
    scored: bool


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """What a draw of a model with levels is: a whole path (kind "paths"), or num_levels sampled levels ("levels")."""

    kind: str
    num_levels: int | None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Samples(Result):
    """x ~ p(x|z), or E[x|z] for output "mean".

    x: (n, *event_shape), data units, in the dtype of the training data (float32 for "mean").
    z: (n, latent_dim), float32, the latents that x was decoded from; of models with levels those of process.level.
    process: how models with levels drew; None for others.
    trajectory: (n, k, *event_shape), float32, E[x|z] at the k trajectory_levels, descending; None unless included.
    """

    x: Array
    z: Array
    process: Process | None
    trajectory: Array | None
    trajectory_levels: tuple[int, ...] | None

    def _repr_png_(self) -> bytes | None:
        """The first rows as a grid, which notebooks show; None for rows that are no images."""
        return _pictures.grid(self.x[: _pictures.MAX_SHOWN]) if _pictures.are_images(self.x) else None

    def save(self, path: str | Path) -> None:
        """Write a grid of all rows to a .png, x to an .npy, x, z and the trajectory to an .npz or .safetensors.

        The grid's white is the largest value of x. Raises ValueError for other endings, and for a picture of what is
        none.
        """
        path = Path(path)
        if path.suffix == ".png":
            path.write_bytes(_pictures.grid(self.x))
        elif path.suffix == ".npy":
            np.save(path, self.x)
        elif path.suffix == ".npz":
            np.savez(path, **self._arrays())  # type: ignore[arg-type]
        elif path.suffix == ".safetensors":
            origin = {"model": str(self.model), "digest": self.model.digest, "seed": self.seed}
            path.write_bytes(_safetensors.write(origin, self._arrays()))
        else:
            raise ValueError(f"{path}: the ending must be .png, .npy, .npz or .safetensors")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Posterior(Result):
    """q(z|x) of each row.

    family: `normal` has parameters mean and stddev, `multivariate_normal` those (stddev being marginal) and one
    scale_tril for all rows; other families have their own.
    closed_form: False if no parameters describe q: ask for draws, which come with their log_q.
    parameters: the arrays of that family by name.
    z: (n, num_samples, latent_dim), float32, draws; None at num_samples 0.
    kl: (n,), KL(q(z|x) || p(z)), nats; where it has no closed form the mean of the draws, None without draws.
    kl_per_dimension: (n, latent_dim), nats; None where it does not separate.
    log_q: (n, num_samples), log q(z|x) of the draws, nats; None where KL is known in closed form.
    level, log_snr: of models with levels, where z and q stand, and its log signal-to-noise ratio; None for others.
    """

    family: str
    closed_form: bool
    parameters: Mapping[str, Array]
    z: Array | None
    kl: Array | None
    kl_per_dimension: Array | None
    log_q: Array | None
    level: int | None
    log_snr: float | None

    @property
    def mean(self) -> Array:
        """(n, latent_dim). Raises AttributeError if the family has none."""
        return self._parameter("mean")

    @property
    def stddev(self) -> Array:
        """(n, latent_dim), marginal. Raises AttributeError if the family has none."""
        return self._parameter("stddev")

    def _arrays(self) -> dict[str, Array]:
        return super()._arrays() | {f"posterior.{name}": values for name, values in self.parameters.items()}

    def _parameter(self, name: str) -> Array:
        try:
            return self.parameters[name]
        except KeyError:
            known = ", ".join(self.parameters) or "none"
            raise AttributeError(
                f"family {self.family!r} has no parameter {name}: its parameters are {known}"
            ) from None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The mean ELBO over the n rows of one answer, nats.

    standard_error is the rows' standard deviation / sqrt(n), None for one row; monte_carlo_standard_error is the part
    of it that comes from drawing z, sqrt(sum of squared standard errors) / n, None where those are undefined.
    """

    mean: float
    standard_error: float | None
    monte_carlo_standard_error: float | None
    n: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Scores(Result):
    """The evidence lower bound of each row; float64, nats and (n,) unless said otherwise.

    elbo: reconstruction - kl = log_joint + entropy, a lower bound of log p(x).
    standard_error: of elbo, from drawing z; None at num_samples 1.
    reconstruction, kl: E_q[log p(x|z)] and KL(q(z|x) || p(z)).
    log_joint, entropy: E_q[log p(x, z)] and H[q(z|x)], which may be negative.
    bits_per_dim: -elbo / (event_dims ln 2), bits; None for densities.
    iwae: the importance-weighted bound with num_importance_samples draws; None without.
    iwae_standard_error: NaN where pareto_k says that it would understate.
    effective_sample_size: of the importance weights, 1 ... num_importance_samples, a count.
    pareto_k: tail shape of the weights, no unit; undefined below 25 draws or for equal weights.
    gap, gap_standard_error: estimate of KL(q(z|x) || p(z|x)); gap_kind says "lower" (bound) or "exact".
    log_evidence: log p(x) of families that have it in closed form.
    reconstruction_map: (n, *event_shape), E_q[log p(x_i|z)] of every element, if included.
    bound_map: (n, *event_shape), each element's share of elbo, if included; of models with levels.
    kl_per_level: (n, num_steps + 1), the mean divergence of the pass that makes each level 0 ... T, if included.
    estimator, num_steps, passes: of models with levels, what a draw is, the steps of the model that was scored, and the
        network passes of a draw; None for others.
    quantile: of elbo among the model's reference_size calibration rows, with reference_num_samples draws, in (0, 1].
    typicality: conformal p-value of the same comparison, small is atypical; reference_reason says why both are None.
    target_met: bool, whether standard_error <= target_standard_error; then num_samples is (n,) int64, too.
    conditional_on: "label": the scores bound log p(x|y) of the given labels y, not comparable with log p(x). None: they
        bound log p(x).
    marginal: how a conditional model bounds log p(x): by the sum over "labels", or by its "null label", two different
        models. None for others.

    summary, likelihood, measure ("pmf" or "density"), units ("nats"), event_dims, kl_estimator, conditional_on,
    num_importance_samples, and num_samples without a target, hold for all rows.
    """

    elbo: Floats
    standard_error: Floats | None
    reconstruction: Floats
    kl: Floats
    log_joint: Floats
    entropy: Floats
    bits_per_dim: Floats | None
    iwae: Floats | None
    iwae_standard_error: Floats | None
    effective_sample_size: Floats | None
    pareto_k: Floats | None
    gap: Floats | None
    gap_standard_error: Floats | None
    log_evidence: Floats | None
    reconstruction_map: Floats | None
    bound_map: Floats | None
    kl_per_level: Floats | None
    summary: Summary
    likelihood: str
    measure: str
    units: str
    event_dims: int
    kl_estimator: str
    gap_kind: str | None
    conditional_on: str | None
    marginal: str | None
    num_samples: int | Array
    num_importance_samples: int
    estimator: Estimator | None
    num_steps: int | None
    passes: int | None
    target_met: Array | None
    quantile: Floats | None
    typicality: Floats | None
    reference_num_samples: int | None
    reference_size: int | None
    reference_reason: str | None

    def to_frame(self) -> Any:
        """A pandas DataFrame of all columns of one number a row, indexed by example; needs pandas."""
        try:
            import pandas
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install 'elbod-client[pandas]'") from None
        columns = {name: values for name, values in self._arrays().items() if values.ndim == 1}
        n = len(self.elbo)
        return pandas.DataFrame(columns, index=pandas.RangeIndex(self.first_index, self.first_index + n, name="index"))


class FingerprintWarning(UserWarning):
    """The parts of one answer come from servers of different fingerprints: their last bits may differ."""


@dataclass(frozen=True, kw_only=True)
class AliasMove:
    """The newest entry of an alias's log: `entry` counts them, `when` is ISO 8601."""

    name: str
    alias: str
    entry: int
    version: int
    who: str
    when: str
    why: str


@dataclass(frozen=True, kw_only=True)
class LoadedVersion:
    """A version that the server holds in memory."""

    version: int
    digest: str
    reproducible: bool
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A model of the server's store: its live versions, its aliases by name, and what is loaded."""

    name: str
    versions: tuple[int, ...]
    aliases: Mapping[str, int]
    loaded: tuple[LoadedVersion, ...]


Output = Literal["sample", "mean"]
Binarize = Literal["threshold", "stochastic"]
Sampler = Literal["ancestral", "ddim"]
Marginal = Literal["labels", "null label"]
Show = Literal["trajectory"]
Include = Literal["reconstruction_map", "bound_map", "kl_per_level"]
