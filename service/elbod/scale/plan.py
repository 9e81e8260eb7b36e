"""What a job over many rows is, and where it is cut: whoever works a part, and whenever, gets the same bytes."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from elbod.engine.description import ModelDescription
from elbod.engine.jobs import Array, Binarize, Job, Verb
from elbod.errors import StartupError
from elbod.generators.checkpoint import InvalidCheckpoint, blueprint_of, outline
from elbod.requests.checks import UNLIMITED
from elbod.requests.levels import evaluations
from elbod.requests.verbs import ElboRequest, EncodeRequest, SampleRequest, VerbRequest, validated
from elbod_store import Manifest
from elbod_store.canonical import canonical

# A part is lost with the process that works it: seconds to a minute of a core's work, and little memory.
_PASSES = 4 * 1024**2
_ROWS = 16_384
_BYTES = 64 * 1024**2

_SCHEMA = 1
_REQUESTS: dict[Verb, type[VerbRequest]] = {
    Verb.SAMPLE: SampleRequest,
    Verb.ENCODE: EncodeRequest,
    Verb.ELBO: ElboRequest,
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One verb over `rows` rows; row i of the whole is example `first_index + i` under `seed`.

    `data` identifies the rows (None: /sample has none); bytes are equal under the same `fingerprint`. The other
    fields are those of a request, with one `label` for all rows of /sample.
    """

    verb: Verb
    model: str
    digest: str
    fingerprint: str
    rows: int
    part_rows: int
    data: Mapping[str, Any] | None = None
    seed: int = 0
    first_index: int = 0
    num_samples: int = 1
    num_importance_samples: int = 0
    binarize: Binarize | None = None
    given_labels: bool = False
    label: int | None = None
    temperature: float = 1.0
    output: Literal["sample", "mean"] = "sample"
    num_steps: int | None = None
    num_levels: int | None = None
    level: int | None = None
    sampler: Literal["ancestral", "ddim"] | None = None
    guidance: float | None = None
    marginal: Literal["labels", "null label"] | None = None
    include: tuple[str, ...] = ()
    trajectory_steps: int | None = None

    @property
    def parts(self) -> int:
        return -(-self.rows // self.part_rows)

    def span(self, part: int) -> tuple[int, int]:
        """The first row of a part and the one after its last."""
        return part * self.part_rows, min((part + 1) * self.part_rows, self.rows)

    def job(self, start: int, rows: int, model: ModelDescription, x: Array | None, label: Array | None) -> Job:
        """The job of `rows` rows from `start` on; `label` where it is given. Raises InvalidInput."""
        kind, index = _REQUESTS[self.verb], self.first_index + start
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        asked = {name for name in fields.keys() & kind.model_fields.keys() if fields[name] is not None}
        fields = {name: fields[name] for name in asked} | {"first_index": index}
        if "include" in asked:
            fields["include"] = list(self.include)
        if self.verb is Verb.SAMPLE:
            fields["num_samples"] = rows
            label = None if self.label is None else np.asarray(self.label)
        return validated(kind, fields).job({"x": x, "label": label}, model, UNLIMITED)

    def to_json(self) -> bytes:
        return canonical({"schema": _SCHEMA} | json.loads(json.dumps(dataclasses.asdict(self))))

    @classmethod
    def of_json(cls, raw: bytes) -> Self:
        """Raises ValueError, TypeError or KeyError for anything else than a plan of this schema."""
        fields = json.loads(raw)
        if fields.pop("schema") != _SCHEMA:
            raise ValueError("a plan of another elbod")
        return cls(**fields | {"verb": Verb(fields["verb"]), "include": tuple(fields.get("include", ()))})

    def difference(self, other: "Plan") -> str:
        """In words, the first field in which they differ."""
        names = (field.name for field in dataclasses.fields(self))
        name = next(name for name in names if getattr(self, name) != getattr(other, name))
        return f"its {name} is {_brief(getattr(other, name))}, asked for is {_brief(getattr(self, name))}"


def rows_of_a_part(manifest: Manifest, verb: Verb, fields: Mapping[str, Any]) -> int:
    """How many rows one part should have, by the network passes that a row takes with these fields of a plan.

    Raises StartupError where the model's family is unknown.
    """
    draws: int = max(fields.get(name, 1) for name in ("num_samples", "num_importance_samples"))
    try:
        generator = outline(blueprint_of(manifest))
    except InvalidCheckpoint as error:
        raise StartupError(f"{manifest.name}@{manifest.version} cannot be cut into parts: {error}") from error
    summed = fields.get("marginal") == "labels" or generator.null_label is None
    marginal = verb is Verb.ELBO and summed and not fields.get("given_labels")
    copies = len(manifest.labels or ()) if marginal and generator.conditional else 2 if fields.get("guidance") else 1
    asked = (fields.get("num_steps"), fields.get("num_levels"))
    passes = max(1, draws) * copies * evaluations(generator.levels, *asked)
    shown = max(1, len(fields.get("include", ()))) * (fields.get("trajectory_steps") or 1)
    row_bytes = 8 * int(np.prod(manifest.event_shape)) * shown
    return max(1, min(_ROWS, _PASSES // passes, _BYTES // row_bytes))


def _brief(value: Any) -> str:
    return str(value) if not isinstance(value, Mapping) else json.dumps(value)
