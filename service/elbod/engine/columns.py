"""Every array of an answer, declared once: for the engine, the answers, the OpenAPI document and the documentation.

The engine reads which numbers may be undefined, so the table lies where the numbers are computed.
"""

from dataclasses import dataclass

_N, _LATENT, _EVENT = "(n,)", "(n, latent_dim)", "(n, *event_shape)"
_FLOATS = "float64"


@dataclass(frozen=True)
class Column:
    """One array of an answer; along its first axis are the n rows of the request, of which each has S draws.

    `posterior.mean` is the field `mean` of the object `posterior`. `null` says when, and why, the array is null; None:
    never. Where single numbers `may_be_undefined` they are NaN, in JSON null, and an array of nothing else is null.
    `single` says when the field is one number for all rows.
    """

    name: str
    meaning: str
    unit: str = ""
    shape: str = _N
    dtype: str = _FLOATS
    null: str | None = None
    may_be_undefined: bool = False
    single: str | None = None

    @property
    def field(self) -> str:
        """Its name in the object that holds it."""
        return self.name.rpartition(".")[2]

    @property
    def described(self) -> str:
        """Everything about it but its name."""
        parts = [self.meaning, self.unit, f"{self.dtype} {self.shape}"]
        exceptions = [] if self.null is None else [f"null {self.null}"]
        exceptions += [] if self.single is None else [f"one number {self.single}"]
        return "; ".join([", ".join(filter(None, parts)), *exceptions])


SAMPLE = (
    Column("x", 'x ~ p(x|z), or E[x|z] in float32 for output "mean"', "data units", _EVENT, "uint8 or float32"),
    Column("z", "the latents that x was decoded from", "", _LATENT, "float32"),
)

_PARAMETER = "or absent, for families that have none"
POSTERIOR = (
    Column("posterior.mean", "mean of q(z|x)", "", _LATENT, "float32 or float64", _PARAMETER),
    Column("posterior.stddev", "marginal standard deviation of q(z|x)", "", _LATENT, "float32 or float64", _PARAMETER),
)
ENCODE = (
    Column("z", "draws of q(z|x)", "", "(n, S, latent_dim)", "float32", "at num_samples 0"),
    Column("kl", "KL(q(z|x) || p(z))", "nats", null="without draws or closed form"),
    Column("kl_per_dimension", "the summands of kl", "nats", _LATENT, null="where it does not separate"),
    Column("log_q", "log q(z|x) of the draws", "nats", "(n, S)", null="where KL is closed-form, or without draws"),
)

_K = "without importance samples"
_RANKED = "where reference_reason says why"
ELBO = (
    Column("elbo", "the evidence lower bound, reconstruction - kl = log_joint + entropy", "nats"),
    Column("standard_error", "Monte-Carlo error of elbo", "nats", null="at num_samples 1", may_be_undefined=True),
    Column("reconstruction", "E_q[log p(x|z)]", "nats"),
    Column("kl", "KL(q(z|x) || p(z))", "nats"),
    Column("log_joint", "E_q[log p(x, z)]", "nats"),
    Column("entropy", "H[q(z|x)], may be negative", "nats"),
    Column("bits_per_dim", "-elbo / (D ln 2)", "bits", null="for densities"),
    Column("iwae", "the importance-weighted bound", "nats", null=_K),
    Column(
        "iwae_standard_error",
        "Monte-Carlo error of iwae",
        "nats",
        null=f"{_K}, at one, and where pareto_k says that it would understate",
        may_be_undefined=True,
    ),
    Column("effective_sample_size", "of the importance weights, 1 ... K", "draws", null=_K),
    Column(
        "pareto_k",
        "tail shape of the importance weights",
        null=f"{_K}, below 25 of them, and for equal weights",
        may_be_undefined=True,
    ),
    Column(
        "gap",
        "estimate of KL(q(z|x) || p(z|x)); see gap_kind",
        "nats",
        null=f"{_K} and without log_evidence",
    ),
    Column(
        "gap_standard_error",
        "Monte-Carlo error of gap",
        "nats",
        null="where gap is, and at one draw",
        may_be_undefined=True,
    ),
    Column("log_evidence", "exact log p(x)", "nats", null="for families that do not have it"),
    Column("quantile", "of elbo among the model's calibration rows, in (0, 1]", null=_RANKED),
    Column("typicality", "conformal p-value of elbo: small is atypical", null=_RANKED),
    Column(
        "target_met",
        "whether standard_error <= target_standard_error",
        dtype="bool",
        null="without target_standard_error",
    ),
    Column("reconstruction_map", "E_q[log p(x_i|z)] of every element", "nats", _EVENT, null="unless included"),
    Column("num_samples", "S", "draws", dtype="int64", single="without target_standard_error"),
)

MAY_BE_UNDEFINED = frozenset(column.name for column in ELBO if column.may_be_undefined)
