"""What callers ask of each verb, and the job that it is for a loaded model."""

import secrets
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from elbod.engine.description import ModelDescription
from elbod.engine.jobs import Array, Binarize, Job, Verb
from elbod.errors import InvalidInput, Place
from elbod.generators.noise import MAX_INDEX, MAX_SEED
from elbod.requests.blocks import Pause, no_pause
from elbod.requests.checks import RequestLimits, check_count, check_labels, check_latents, check_rows, marginal_labels
from elbod.requests.levels import ONLY_WITH_LEVELS, Asked, at_levels
from elbod_store.names import ALIAS, NAME, VERSION

# A request's arrays by name; those that are not given are None or left out.
Arrays = Mapping[str, Array | None]

# No model reference is longer: two names of 64 characters.
_MAX_REFERENCE = 130
# The store refuses other names, with a better message than a pattern's.
_ModelReference = Annotated[
    str,
    WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}(@({ALIAS.pattern}|{VERSION.pattern}))?$"}),
]
_X = "(n, *event_shape) in data units"
_LEVEL: Any = Field(
    default=None,
    ge=0,
    description="of models with levels: where z stands, 0 ... T; by default where signal and noise are equal",
)
_LABEL = "class number of a conditional model: one for all rows, or (n,)"


class VerbRequest(BaseModel):
    """What all three verbs take; `arrays` says what else, arrays that no field here holds, and which are `required`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    arrays: ClassVar[Mapping[str, str]]
    required: ClassVar[tuple[str, ...]] = ("x",)

    model: _ModelReference | None = Field(
        default=None,
        max_length=_MAX_REFERENCE,
        description="model reference: name, name@alias or name@version",
        examples=["digits@production"],
    )
    seed: int | None = Field(
        default=None, ge=0, lt=MAX_SEED, description="drawn (< 2^53) and returned if absent", examples=[7]
    )
    first_index: int = Field(
        default=0, ge=0, lt=MAX_INDEX, description="rows are examples first_index ... first_index + n - 1 of the seed"
    )
    encoding: Literal["list", "base64"] = Field(default="list", description="how arrays are written in a JSON response")

    num_steps: int | None = Field(
        default=None, ge=1, description="passes of a draw, of models with levels: the same model is sampled and scored"
    )

    @abstractmethod
    def job(self, arrays: Arrays, model: ModelDescription, limits: RequestLimits, pause: Pause = no_pause) -> Job:
        """What it asks of the engine, every value checked. Raises InvalidInput."""

    def _job(self, verb: Verb, rows: int, **asked: Any) -> Job:
        if self.first_index + rows > MAX_INDEX:
            raise InvalidInput.at("/first_index", f"the last row's index must be below 2^56: {rows} rows do not fit")
        seed = secrets.randbelow(2**53) if self.seed is None else self.seed
        return Job(verb=verb, rows=rows, seed=seed, first_index=self.first_index, **asked)

    def _at_levels(self, job: Job, model: ModelDescription, limits: RequestLimits) -> Job:
        if model.levels is None and self.model_fields_set.isdisjoint(ONLY_WITH_LEVELS):
            return job
        names = ("num_steps", "num_levels", "level", "trajectory_steps", "guidance")
        asked = {name: getattr(self, name, None) for name in names}
        included: frozenset[str] = frozenset(getattr(self, "include", ()))
        given = frozenset(name for name in self.model_fields_set if getattr(self, name) is not None)
        return at_levels(job, Asked(given, included, **asked), model, limits)


class SampleRequest(VerbRequest):
    """x ~ p(x|z), with z from the prior, given, or from q(z|x) of a given x."""

    arrays = {"x": f"rows to vary, {_X}", "z": "(n, latent_dim)", "label": _LABEL}
    required = ()

    num_samples: int = Field(default=1, ge=1, description="n; not together with z or x", examples=[16])
    temperature: float = Field(
        default=1.0, ge=0, le=100, allow_inf_nan=False, description="scale of the randomness of z; 0 is the mean"
    )
    output: Literal["sample", "mean"] = Field(default="sample", description="x ~ p(x|z), or E[x|z]")
    level: int | None = _LEVEL
    sampler: Literal["ancestral", "ddim"] = Field(
        default="ancestral", description="of models with levels; what ddim draws has no bound"
    )
    include: list[Literal["trajectory"]] = Field(
        default_factory=list, max_length=8, description="trajectory: E[x|z] on the way down, of models with levels"
    )
    trajectory_steps: int | None = Field(default=None, ge=1, le=16, description="how many levels it shows; 8 if absent")
    guidance: float = Field(
        default=0.0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="of models with a null label: w > 0 draws further towards label; these draws have no bound",
    )

    def job(self, arrays: Arrays, model: ModelDescription, limits: RequestLimits, pause: Pause = no_pause) -> Job:
        x, z, label = (arrays.get(name) for name in ("x", "z", "label"))
        if x is not None:
            x = check_rows(model, x, binarize=None, max_rows=limits.max_rows, pause=pause)
        if z is not None:
            z = check_latents(model, z, max_rows=limits.max_rows)
        if x is not None and z is not None:
            raise InvalidInput.at("/z", "both z and x are given: z says what to decode, x what to vary")
        counted = "num_samples" in self.model_fields_set
        given = x if x is not None else z
        if given is not None and counted:
            why = "num_samples is for draws from the prior: z and x give one output a row"
            raise InvalidInput.at("/num_samples", why)
        if z is not None and self.temperature != 1:
            raise InvalidInput.at("/temperature", "temperature scales the draw of z: it means nothing with a given z")
        # What has one entry a row says how many rows there are.
        if given is None and label is not None and label.ndim and len(label) and not counted:
            given = label
        rows = self.num_samples if given is None else len(given)
        check_count("num_samples", rows, limits.max_rows)
        label = check_labels(model, label, rows, required=True)
        asked = {"temperature": self.temperature, "output": self.output, "sampler": self.sampler}
        job = self._job(Verb.SAMPLE, rows, x=x, z=z, label=label, **asked)
        return self._at_levels(job, model, limits)


class EncodeRequest(VerbRequest):
    """Parameters of q(z|x), optionally draws from it."""

    arrays = {"x": f"rows to encode, {_X}", "label": _LABEL}

    num_samples: int = Field(default=0, ge=0, description="draws of z a row")
    level: int | None = _LEVEL
    binarize: Binarize | None = Field(default=None, description="how x in [0, 1] becomes {0, 1}")

    def job(self, arrays: Arrays, model: ModelDescription, limits: RequestLimits, pause: Pause = no_pause) -> Job:
        x = check_rows(model, arrays.get("x"), binarize=self.binarize, max_rows=limits.max_rows, pause=pause)
        label = check_labels(model, arrays.get("label"), len(x), required=True)
        check_count("num_samples", self.num_samples, limits.max_num_samples)
        job = self._job(Verb.ENCODE, len(x), x=x, label=label, num_samples=self.num_samples, binarize=self.binarize)
        return self._at_levels(job, model, limits)


class ElboRequest(VerbRequest):
    """The evidence lower bound of each row."""

    arrays = {"x": f"rows to score, {_X}", "label": _LABEL}

    num_samples: int = Field(default=1, ge=1, description="S, draws of the ELBO a row", examples=[16])
    num_importance_samples: int = Field(
        default=0, ge=0, description="K, draws of the importance-weighted bound; 0 = none"
    )
    target_standard_error: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="nats; each row gets the S that a pilot of 64 draws asks for, instead of num_samples",
    )
    binarize: Binarize | None = Field(default=None, description="how x in [0, 1] becomes {0, 1}")
    num_levels: int | None = Field(
        default=None, ge=1, description="of models with levels: sampled levels a draw, in place of a whole path"
    )
    marginal: Literal["labels", "null label"] | None = Field(
        default=None,
        description="how rows without a label are scored: by the sum over all labels, or by the model's null label, "
        "the default where it has one",
    )
    include: list[Literal["reconstruction_map", "bound_map", "kl_per_level"]] = Field(
        default_factory=list,
        max_length=8,
        description="reconstruction_map: E_q[log p(x_i|z)] of every element, nats; of models with levels, bound_map: "
        "each element's share of elbo, and kl_per_level",
    )

    def job(self, arrays: Arrays, model: ModelDescription, limits: RequestLimits, pause: Pause = no_pause) -> Job:
        x = check_rows(model, arrays.get("x"), binarize=self.binarize, max_rows=limits.max_rows, pause=pause)
        label = check_labels(model, arrays.get("label"), len(x), required=False)
        target = self.target_standard_error
        if target is not None and "num_samples" in self.model_fields_set:
            raise InvalidInput.at("/num_samples", "num_samples is what target_standard_error decides: give one of them")
        check_count("num_samples", self.num_samples, limits.max_num_samples)
        check_count("num_importance_samples", self.num_importance_samples, limits.max_importance_samples)
        job = self._job(
            Verb.ELBO,
            len(x),
            x=x,
            label=label,
            marginal_labels=marginal_labels(self.marginal, label, model),
            num_samples=self.num_samples if target is None else limits.max_num_samples,
            target_standard_error=target,
            num_importance_samples=self.num_importance_samples,
            binarize=self.binarize,
            reconstruction_map="reconstruction_map" in self.include,
        )
        return self._at_levels(job, model, limits)


Validated = TypeVar("Validated", bound=BaseModel)


def validated(kind: type[Validated], fields: Mapping[str, Any]) -> Validated:
    """A request of that kind. Raises InvalidInput with a JSON pointer to each field that is wrong."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidInput(*(Place.named(e["loc"], e["msg"], "body") for e in wrong)) from error
