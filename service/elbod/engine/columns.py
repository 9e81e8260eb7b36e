"""Every array of an answer, declared once: for the engine, the answers, the OpenAPI document and the documentation.

The engine reads which numbers may be undefined, so the table lies where the numbers are computed.
"""

from dataclasses import dataclass

_LATENT, _EVENT = "(n, latent_dim)", "(n, *event_shape)"
_INCLUDED = "unless included"


@dataclass(frozen=True)
class Column:
    """One array of an answer. Its first axis is the n rows of the request, each with S draws.

    `null` says when, and why, the whole array is null; None: never. Where single numbers may be `undefined` they are
    NaN, in JSON null, and an array of nothing else is null. `single` says when the field is one number for all rows.
    """

    name: str
    meaning: str
    unit: str = ""
    null: str | None = None
    shape: str = "(n,)"
    dtype: str = "float64"
    undefined: bool = False
    single: str | None = None

    @property
    def described(self) -> str:
        """Everything about it but its name."""
        said = ", ".join(filter(None, (self.meaning, self.unit, f"{self.dtype} {self.shape}")))
        said += "" if self.null is None else f"; null {self.null}"
        return said if self.single is None else f"{said}; one number {self.single}"


SAMPLE = (
    Column("x", 'x ~ p(x|z), or E[x|z] for output "mean"', "data units", None, _EVENT, "uint8, float32 or float64"),
    Column("z", "the latents that x was decoded from, of models with levels at `level`", "", None, _LATENT, "float32"),
    Column("trajectory", "E[x|z] at trajectory_levels", "data units", _INCLUDED, "(n, k, *event_shape)", "float32"),
)
# Of the object `posterior`.
POSTERIOR = (
    Column("mean", "mean of q(z|x)", "", "or absent, for families without", _LATENT, "float32 or float64"),
    Column("stddev", "marginal spread of q(z|x)", "", "or absent, for families without", _LATENT, "float32 or float64"),
)
ENCODE = (
    Column("z", "draws of q(z|x)", "", "at num_samples 0", "(n, S, latent_dim)", "float32"),
    Column("kl", "KL(q(z|x) || p(z))", "nats", "without draws or closed form"),
    Column("kl_per_dimension", "the summands of kl", "nats", "where it does not separate", _LATENT),
    Column("log_q", "log q(z|x) of the draws", "nats", "where KL is closed-form, or without draws", "(n, S)"),
)

_K = "without importance samples"
_TARGET = "without target_standard_error"
_RANKED = "where reference_reason says why"
ELBO = (
    Column("elbo", "reconstruction - kl = log_joint + entropy, a lower bound of log p(x)", "nats"),
    Column("standard_error", "Monte-Carlo error of elbo", "nats", "at num_samples 1", undefined=True),
    Column("reconstruction", "E_q[log p(x|z)]", "nats"),
    Column("kl", "KL(q(z|x) || p(z))", "nats"),
    Column("log_joint", "E_q[log p(x, z)]", "nats"),
    Column("entropy", "H[q(z|x)], may be negative", "nats"),
    Column("bits_per_dim", "-elbo / (D ln 2)", "bits", "for densities"),
    Column("iwae", "importance-weighted bound", "nats", _K),
    Column("iwae_standard_error", "error of iwae", "nats", f"{_K} or if pareto_k says it understates", undefined=True),
    Column("effective_sample_size", "of the importance weights, 1 ... K", "draws", _K),
    Column("pareto_k", "tail shape of the weights", "", f"{_K}, below 25, or for equal weights", undefined=True),
    Column("gap", "estimate of KL(q(z|x) || p(z|x)), see gap_kind", "nats", f"{_K} and log_evidence"),
    Column("gap_standard_error", "error of gap", "nats", "where gap is, and at one draw", undefined=True),
    Column("log_evidence", "exact log p(x)", "nats", "for families that do not have it"),
    Column("quantile", "of elbo among the model's calibration rows, in (0, 1]", "", _RANKED),
    Column("typicality", "conformal p-value of elbo: small is atypical", "", _RANKED),
    Column("target_met", "whether standard_error <= target_standard_error", "", _TARGET, dtype="bool"),
    Column("reconstruction_map", "E_q[log p(x_i|z)] of every element", "nats", _INCLUDED, _EVENT),
    Column("bound_map", "every element's share of elbo, which they add up to", "nats", _INCLUDED, _EVENT),
    Column(
        "kl_per_level",
        "E[KL] of the pass that makes each level, the last one KL(q(z_T|x) || p)",
        "nats",
        _INCLUDED,
        "(n, num_steps + 1)",
    ),
    Column("num_samples", "S", "draws", dtype="int64", single=_TARGET),
)

MAY_BE_UNDEFINED = frozenset(column.name for column in ELBO if column.undefined)
