"""Request and response documents. Requests are validated with these models once their arrays are taken out by `wire`;
responses are documented by them, and a contract test holds real responses against them.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeAliasType

from elbod.api import wire
from elbod.api.parameters import ModelReference
from elbod.generators.noise import MAX_INDEX, MAX_SEED

# The arrays of a request, which no model here has: `wire` takes them out first.
REQUEST_ARRAYS: dict[str, Any] = {
    "Numbers": {
        "type": "array",
        "items": {"anyOf": [{"type": "number"}, {"$ref": "#/components/schemas/Numbers"}]},
        "minItems": 1,
        "description": "nested lists of numbers, rectangular",
    },
    "PackedNumbers": {
        "type": "object",
        "properties": {
            "dtype": {"enum": list(wire.DTYPES)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "data": {"type": "string", "description": "base64, little-endian, row-major"},
        },
        "required": ["dtype", "shape", "data"],
        "additionalProperties": False,
    },
}
_ARRAY = [{"$ref": f"#/components/schemas/{name}"} for name in REQUEST_ARRAYS]
_NULL = {"type": "null"}

Values = TypeAliasType("Values", "list[Values | float | bool | None]")


class PackedArray(BaseModel):
    """The bytes of an array."""

    model_config = ConfigDict(extra="forbid")

    dtype: Literal["uint8", "int64", "float32", "float64", "bool"]
    shape: list[int]
    data: str = Field(description="base64, little-endian, row-major")


ArrayField = Values | PackedArray
NullableArray = Values | PackedArray | None

# No model reference is longer: two names of 64 characters.
MAX_REFERENCE = 130


class Request(BaseModel):
    """What all three verbs take."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: ModelReference | None = Field(
        None,
        max_length=MAX_REFERENCE,
        description="model reference: name, name@alias or name@version",
        examples=["digits@production"],
    )
    seed: int | None = Field(None, ge=0, lt=MAX_SEED, description="drawn (< 2^53) and returned if absent", examples=[7])
    first_index: int = Field(
        0, ge=0, lt=MAX_INDEX, description="rows are examples first_index ... first_index + n - 1 of the seed"
    )
    encoding: Literal["list", "base64"] = Field("list", description="how arrays are written in a JSON response")


class SampleRequest(Request):
    """x ~ p(x|z), with z from the prior, given, or from q(z|x) of a given x."""

    num_samples: int = Field(1, ge=1, description="n; not together with z or x", examples=[16])
    temperature: float = Field(
        1.0, ge=0, le=100, allow_inf_nan=False, description="scale of the randomness of z; 0 is the mean"
    )
    output: Literal["sample", "mean"] = Field("sample", description="x ~ p(x|z), or E[x|z]")


class EncodeRequest(Request):
    """Parameters of q(z|x), optionally draws from it."""

    num_samples: int = Field(0, ge=0, description="draws of z a row")
    binarize: Literal["threshold", "stochastic"] | None = Field(None, description="how x in [0, 1] becomes {0, 1}")


class ElboRequest(Request):
    """The evidence lower bound of each row."""

    num_samples: int = Field(1, ge=1, description="S, draws of the ELBO a row", examples=[16])
    num_importance_samples: int = Field(0, ge=0, description="K, draws of the importance-weighted bound; 0 = none")
    target_standard_error: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="nats; each row gets the S that a pilot of 64 draws asks for, instead of num_samples",
    )
    binarize: Literal["threshold", "stochastic"] | None = Field(None, description="how x in [0, 1] becomes {0, 1}")
    include: list[Literal["reconstruction_map"]] = Field(
        default_factory=list, max_length=8, description="reconstruction_map: E_q[log p(x_i|z)] of every element, nats"
    )


def with_arrays(request: type[Request], required: Sequence[str], **arrays: str) -> dict[str, Any]:
    """The JSON schema of a request body, its array fields included."""
    schema = request.model_json_schema()
    for name, description in arrays.items():
        kinds = _ARRAY if name in required else [*_ARRAY, _NULL]
        schema["properties"][name] = {"anyOf": kinds, "description": description}
    schema["properties"]["label"] = {
        "anyOf": [{"type": "integer", "minimum": 0}, *_ARRAY, _NULL],
        "description": "class number of a conditional model: one for all rows, or (n,)",
    }
    return schema | ({"required": list(required)} if required else {})


class ModelIdentity(BaseModel):
    """Which model answered; `digest` decides its numbers."""

    name: str
    version: int
    digest: str


class _Response(BaseModel):
    model: ModelIdentity
    seed: int
    first_index: int
    fingerprint: str = Field(description="equal bytes are promised among equal fingerprints")
    reproducible: bool = Field(description="false: this model failed the self-test at load")


class SampleResponse(_Response):
    x: ArrayField = Field(description="(n, *event_shape), data units")
    z: ArrayField = Field(description="(n, latent_dim)")


class PosteriorParameters(BaseModel):
    """Parameters of q(z|x): of `normal` mean and stddev; other families have their own, or none without closed form."""

    model_config = ConfigDict(extra="allow")

    family: str
    closed_form: bool = Field(description="false: ask for draws, which come with their log_q")
    mean: NullableArray = Field(None, description="(n, latent_dim)")
    stddev: NullableArray = Field(None, description="(n, latent_dim), marginal")


class EncodeResponse(_Response):
    posterior: PosteriorParameters
    z: NullableArray = Field(description="(n, S, latent_dim); null at num_samples 0")
    kl: NullableArray = Field(description="KL(q(z|x) || p(z)), nats, (n,); null without draws or closed form")
    kl_per_dimension: NullableArray = Field(description="(n, latent_dim); null where it does not separate")
    log_q: NullableArray = Field(description="log q(z|x) of the draws, nats, (n, S); null where KL is closed-form")


class Summary(BaseModel):
    """Over the rows of this response."""

    mean: float
    standard_error: float | None = Field(description="sd over rows / sqrt(n); null for one row")
    monte_carlo_standard_error: float | None = Field(description="sqrt(sum of squared standard errors) / n")
    n: int


class ElboResponse(_Response):
    elbo: ArrayField = Field(description="reconstruction - kl = log_joint + entropy, nats, (n,)")
    standard_error: NullableArray = Field(description="Monte-Carlo error of elbo; null at num_samples 1")
    reconstruction: ArrayField = Field(description="E_q[log p(x|z)]")
    kl: ArrayField = Field(description="KL(q(z|x) || p(z))")
    log_joint: ArrayField = Field(description="E_q[log p(x, z)]")
    entropy: ArrayField = Field(description="H[q(z|x)], may be negative")
    bits_per_dim: NullableArray = Field(description="-elbo / (D ln 2); null for densities")
    iwae: NullableArray = Field(description="importance-weighted bound; null without importance samples")
    iwae_standard_error: NullableArray = Field(description="null where pareto_k says that it would understate")
    effective_sample_size: NullableArray
    pareto_k: NullableArray = Field(description="tail shape of the weights; null below 25 draws or for equal weights")
    gap: NullableArray = Field(description="estimate of KL(q(z|x) || p(z|x)); see gap_kind")
    gap_standard_error: NullableArray
    log_evidence: NullableArray = Field(description="exact log p(x), for families that have it")
    reconstruction_map: NullableArray = Field(description="(n, *event_shape), if included")
    summary: Summary
    likelihood: str
    measure: Literal["pmf", "density"]
    units: Literal["nats"]
    event_dims: int
    kl_estimator: Literal["closed_form", "monte_carlo", "conditional"]
    gap_kind: Literal["lower", "exact"] | None
    conditional_on: Literal["label"] | None = Field(
        description="label: the score bounds log p(x|y) and may not be compared with log p(x)"
    )
    num_samples: int | ArrayField = Field(description="S; per row (n,) with target_standard_error")
    target_met: NullableArray = Field(description="whether standard_error <= target_standard_error, (n,)")
    num_importance_samples: int
    quantile: NullableArray = Field(description="of elbo among the model's calibration rows, in (0, 1], (n,)")
    typicality: NullableArray = Field(description="conformal p-value: small is atypical, (n,)")
    reference_num_samples: int | None = Field(description="draws a row that quantile and typicality compare")
    reference_size: int | None = Field(description="number of calibration rows")
    reference_reason: str | None = Field(description="why quantile and typicality are null")


class CalibrationResponse(BaseModel):
    """Scores of rows that neither trained the model nor stopped its training."""

    model: ModelIdentity
    units: Literal["nats"]
    conditional_on: Literal["label"] | None = Field(description="label: scores of log p(x|y)")
    binarization: str | None = Field(description="how the rows became bits, if they did")
    num_samples: int = Field(description="draws a row of the scores")
    scores: ArrayField = Field(description="elbo of each row, ascending, nats, (reference_size,)")


class ReferenceResponse(BaseModel):
    """Held-out rows: `x`, a conditional model's `label`, and each score of theirs by the name that `/elbo` gives it."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, NullableArray]

    model: ModelIdentity


class LoadedModel(BaseModel):
    """A version in memory."""

    version: int
    digest: str
    reproducible: bool
    fingerprint: str


class Model(BaseModel):
    """A model of the store and what is loaded of it."""

    name: str
    versions: list[int] = Field(description="those that are not retired, ascending")
    aliases: dict[str, int] = Field(description="the version of each alias")
    loaded: list[LoadedModel]


class Models(BaseModel):
    models: list[Model]


class AliasEntry(BaseModel):
    """One entry of an alias's log."""

    entry: int = Field(description="its number in the log, from 1", examples=[3])
    version: int | None = Field(description="what the alias names from then on", examples=[12])
    who: str = Field(
        description="the id of the key, or `anonymous` on a server without keys", examples=["5f0c2a9be1d7"]
    )
    when: str = Field(examples=["2026-01-31T12:00:00+00:00"])
    why: str = Field(examples=["better held-out ELBO"])


class ModelWithHistory(Model):
    """A model, and every move of its aliases."""

    history: dict[str, list[AliasEntry]] = Field(description="the log of each alias, oldest first")


class Health(BaseModel):
    """Whether the worker lives."""

    status: str = Field(description="ok, or what is wrong")
    busy_seconds: float = Field(description="how long the compute thread has been on one batch")


class Readiness(BaseModel):
    """Whether the worker takes requests."""

    ready: bool
    draining: bool
    model: str | None = Field(description="the default model's reference")
    loaded: list[str] = Field([], description="versions in memory; where there are keys, for callers with one")
    problems: list[str]


class Place(BaseModel):
    """One thing wrong with a request."""

    pointer: str = Field(description="JSON pointer (RFC 6901) into the body, or the name of a parameter")
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[Place] = Field([], description="of a refused value: its places")
