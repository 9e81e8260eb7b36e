"""How the OpenAPI document describes bodies: the arrays of requests, and responses.

A contract test holds real responses against these models.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from typing_extensions import TypeAliasType

from elbod.api import wire
from elbod.engine import columns
from elbod.engine.columns import Column
from elbod.requests.verbs import VerbRequest

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
_ARRAY: list[dict[str, Any]] = [{"$ref": f"#/components/schemas/{name}"} for name in REQUEST_ARRAYS]
_CLASS: dict[str, Any] = {"type": "integer", "minimum": 0}
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


def with_arrays(request: type[VerbRequest]) -> dict[str, Any]:
    """The JSON schema of a request body, its array fields included."""
    schema = request.model_json_schema()
    for name, description in request.arrays.items():
        # One class may be that of all rows.
        kinds = [*([_CLASS] if name == "label" else []), *_ARRAY, *([] if name in request.required else [_NULL])]
        schema["properties"][name] = {"anyOf": kinds, "description": description}
    return schema | ({"required": list(request.required)} if request.required else {})


def _fields(table: Sequence[Column], *, required: bool = True) -> dict[str, Any]:
    """The fields of a response model that are arrays."""
    found: dict[str, Any] = {}
    for column in table:
        array: Any = ArrayField if column.null is None else NullableArray
        field = Field(... if required else None, description=column.described)
        found[column.name] = (array if column.single is None else int | array, field)
    return found


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


class Process(BaseModel):
    """How the draws of a model with levels were made."""

    sampler: Literal["ancestral", "ddim"]
    num_steps: int
    level: int = Field(description="that of z")
    guidance: float
    scored: bool = Field(description="/elbo with the same num_steps bounds log p(x) of what was drawn")


class _Sampled(_Response):
    process: Process | None = Field(description="null for models without levels")
    trajectory_levels: list[int] | None = Field(description="of trajectory, descending; null unless included")


SampleResponse = create_model("SampleResponse", __base__=_Sampled, **_fields(columns.SAMPLE))


class _Posterior(BaseModel):
    model_config = ConfigDict(extra="allow", json_schema_extra={"description": "q(z|x): parameters of its family"})

    family: str
    closed_form: bool = Field(description="false: ask for draws, which come with their log_q")


PosteriorParameters = create_model(
    "PosteriorParameters", __base__=_Posterior, **_fields(columns.POSTERIOR, required=False)
)


class _Encoded(_Response):
    level: int | None = Field(description="of z and posterior; null for models without levels")
    log_snr: float | None = Field(description="log signal-to-noise ratio of the level")


EncodeResponse = create_model(
    "EncodeResponse", __base__=_Encoded, posterior=(PosteriorParameters, ...), **_fields(columns.ENCODE)
)


class Summary(BaseModel):
    """Over the rows of this response."""

    mean: float
    standard_error: float | None = Field(description="sd over rows / sqrt(n); null for one row")
    monte_carlo_standard_error: float | None = Field(description="sqrt(sum of squared standard errors) / n")
    n: int


class Estimator(BaseModel):
    """What a draw of a model with levels is: a whole path, or `num_levels` sampled levels."""

    kind: Literal["paths", "levels"]
    num_levels: int | None


class _Scored(_Response):
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
    marginal: Literal["labels", "null label"] | None = Field(
        description="of a conditional model without label: how log p(x) is scored; two models, never compared"
    )
    num_importance_samples: int
    estimator: Estimator | None = Field(description="null for models without levels, as the next two")
    num_steps: int | None = Field(description="of the model that was scored: other steps are another model")
    passes: int | None = Field(description="evaluations of the network a draw")
    reference_num_samples: int | None = Field(description="draws a row that quantile and typicality compare")
    reference_size: int | None = Field(description="number of calibration rows")
    reference_reason: str | None = Field(description="why quantile and typicality are null")


ElboResponse = create_model("ElboResponse", __base__=_Scored, **_fields(columns.ELBO))


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


class LevelsResponse(BaseModel):
    """Where the draws of a model with levels stop; levels are null for models without."""

    model: ModelIdentity
    levels: list[int] | None = Field(description="0 (least noise) ... T (noise), those of num_steps passes")
    log_snr: list[float] | None = Field(description="log signal-to-noise ratio of each of them, descending")
    default_level: int | None = Field(description="the level of z unless a request names another")
    null_label: bool = Field(description="a conditional model draws and scores rows without a label, and has guidance")


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
    busy_seconds: float = Field(description="how long the engine has been on one tile")


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
