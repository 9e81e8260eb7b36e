"""Generator <-> (blueprint, safetensors bytes), and the registry of families.

A family is whatever an installed package declares under the entry point group `elbod.generators`:

    [project.entry-points."elbod.generators"]
    my_family = "my_package.my_family:MyFamily"

Nothing is ever unpickled: weights are safetensors, blueprints are JSON that is validated against the family's `Spec`.
"""

import math
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from elbod.generators.base import Blueprint, Generator
from elbod.generators.outline import Outline

ENTRY_POINT_GROUP = "elbod.generators"

# What the calibration scores of a version are called, followed by `_` and their draws a row: bounds on log p(x), and,
# of conditional models, on log p(x|y).
MARGINAL, GIVEN_LABEL = "elbo", "elbo_given_label"


class Described(Protocol):
    """What says of a model what decides its numbers, as the store's manifests do."""

    @property
    def family(self) -> str: ...
    @property
    def spec(self) -> Mapping[str, Any]: ...
    @property
    def likelihood(self) -> str: ...
    @property
    def event_shape(self) -> tuple[int, ...]: ...
    @property
    def levels(self) -> int | None: ...
    @property
    def binarization(self) -> str | None: ...
    @property
    def labels(self) -> tuple[str, ...] | None: ...


# No size in a spec is larger, and no model has more elements a row: what is beyond is a mistake, or an attack.
_MAX_SIZE, _MAX_EVENT = 2**20, 2**28
# Of the header of a safetensors file, in bytes: tensors by the ten thousand have names of a megabyte.
_MAX_HEADER = 16 * 1024**2


class InvalidCheckpoint(ValueError):
    """A blueprint or weights that do not describe a model; the message names the place."""


def families() -> list[str]:
    """Names of the registered families."""
    return sorted(entry_points(group=ENTRY_POINT_GROUP).names)


def family(name: str) -> type[Generator]:
    """The registered family of that name."""
    try:
        kind = entry_points(group=ENTRY_POINT_GROUP)[name].load()
    except KeyError:
        known = ", ".join(families()) or "none"
        raise InvalidCheckpoint(
            f"no family {name!r} is registered under {ENTRY_POINT_GROUP}: known are {known}"
        ) from None
    except (ImportError, AttributeError) as error:
        raise InvalidCheckpoint(f"the entry point {ENTRY_POINT_GROUP}:{name} cannot be loaded: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Generator)):
        raise InvalidCheckpoint(f"the entry point {ENTRY_POINT_GROUP}:{name} is not a Generator: {kind!r}")
    return kind


def blueprint_of(described: Described) -> Blueprint:
    """The part of a manifest that decides the model's numbers."""
    return Blueprint(
        family=described.family,
        spec=described.spec,
        likelihood=described.likelihood,
        event_shape=described.event_shape,
        levels=described.levels,
        binarization=described.binarization,
        labels=described.labels,
    )


def build(blueprint: Blueprint) -> Generator:
    """A generator with untrained weights. Raises InvalidCheckpoint."""
    kind, spec = _validated_spec(blueprint.family, blueprint.spec)
    shape = blueprint.event_shape
    if not shape or any(size < 1 for size in shape) or math.prod(shape) > _MAX_EVENT:
        raise InvalidCheckpoint(
            f"event_shape must be positive sizes, at least one, of at most {_MAX_EVENT} elements, not {shape}"
        )
    _check_labels(blueprint, wanted=kind.takes_labels(spec))
    try:
        return kind.build(blueprint, spec)
    except (ValueError, TypeError, RuntimeError, MemoryError) as error:
        # What a family's constructor and torch say of sizes that no model can have.
        raise InvalidCheckpoint(f"family {blueprint.family!r} cannot be built: {error}") from error


def outline(blueprint: Blueprint) -> Generator:
    """A generator whose large tensors have shapes and dtypes but no memory: what `build` would allocate.

    Raises InvalidCheckpoint, also for a family whose constructor reads the values of a large tensor (see `Outline`).
    """
    try:
        with Outline():
            return build(blueprint)
    except InvalidCheckpoint as error:
        if isinstance(error.__cause__, NotImplementedError) or "meta" in str(error.__cause__):
            reads = "its constructor reads the values of a large tensor, which belongs in `prepare`"
            raise InvalidCheckpoint(f"family {blueprint.family!r} cannot be outlined: {reads}: {error}") from error
        raise


def takes_labels(family_name: str, spec: Mapping[str, Any]) -> bool:
    """Whether models of that family and spec are conditional on a label. Raises InvalidCheckpoint."""
    kind, validated = _validated_spec(family_name, spec)
    return kind.takes_labels(validated)


def _check_labels(blueprint: Blueprint, *, wanted: bool) -> None:
    labels = blueprint.labels
    if not wanted and labels is not None:
        raise InvalidCheckpoint(f"family {blueprint.family!r} is not conditional: it takes no labels")
    if wanted and (labels is None or len(labels) < 2 or len(set(labels)) < len(labels)):
        raise InvalidCheckpoint(f"family {blueprint.family!r} needs at least two labels, all different, not {labels}")


def canonical_spec(blueprint: Blueprint) -> dict[str, Any]:
    """`blueprint.spec` with every default written out, so that a later default changes no published model."""
    kind, spec = _validated_spec(blueprint.family, blueprint.spec)
    plain: dict[str, Any] = TypeAdapter(kind.Spec).dump_python(spec, mode="json")
    return plain


def _validated_spec(name: str, given: Mapping[str, Any]) -> tuple[type[Generator], Any]:
    kind = family(name)
    adapter: TypeAdapter[Any] = TypeAdapter(kind.Spec)
    try:
        # JSON has no tuples, so the spec is read as JSON is: a list is a tuple, and nothing else is converted.
        spec = adapter.validate_json(TypeAdapter(dict[str, Any]).dump_json(dict(given)), strict=True)
    except ValidationError as error:
        places = "; ".join(f"spec.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InvalidCheckpoint(f"spec of family {name!r} is invalid: {places}") from error
    except ValueError as error:
        raise InvalidCheckpoint(f"spec of family {name!r} is invalid: {error}") from error
    plain = adapter.dump_python(spec)
    if (size := _largest(plain)) > _MAX_SIZE:
        raise InvalidCheckpoint(f"spec of family {name!r} has the size {size}: the limit is {_MAX_SIZE}")
    unknown = sorted(set(given) - set(plain))
    if unknown:
        raise InvalidCheckpoint(f"spec of family {name!r} has unknown keys: {', '.join(unknown)}")
    return kind, spec


def _largest(value: object) -> int:
    """The largest whole number in a spec, as Python data."""
    if isinstance(value, dict):
        return max(map(_largest, value.values()), default=0)
    if isinstance(value, (list, tuple)):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, int) else 0


def save(generator: Generator) -> bytes:
    """The weights as safetensors bytes; the same weights give the same bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()}
    return save_safetensors(tensors)


def load(blueprint: Blueprint, weights: bytes) -> Generator:
    """The trained generator, on the CPU, in `eval` mode, with gradients off; every tensor must fit and be finite.

    Nothing is allocated for a model that the weights do not fit.
    """
    tensors = _tensors(weights)
    check_fit(blueprint, tensors)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InvalidCheckpoint(f"weights.{name} has a value that is not finite")
    generator = build(blueprint)
    try:
        generator.load_state_dict(tensors)
    except ValueError as error:
        # What a family says of values that are none of a model's.
        raise InvalidCheckpoint(f"weights of family {blueprint.family!r} cannot be used: {error}") from error
    return generator.eval().requires_grad_(False)


def _tensors(weights: bytes) -> dict[str, Tensor]:
    if int.from_bytes(weights[:8], "little") > _MAX_HEADER:
        raise InvalidCheckpoint(f"weights are not a safetensors file: its header has more than {_MAX_HEADER} bytes")
    try:
        return load_safetensors(weights)
    except SafetensorError as error:
        raise InvalidCheckpoint(f"weights are not a safetensors file: {error}") from error
    except KeyError as error:
        raise InvalidCheckpoint(f"weights have a tensor of dtype {error}, which torch lacks") from error


def check_fit(blueprint: Blueprint, tensors: Mapping[str, Tensor]) -> None:
    """Names, shapes and dtypes are those of the model that the blueprint describes. Raises InvalidCheckpoint."""
    expected = outline(blueprint).state_dict()
    if tensors.keys() != expected.keys():
        wrong = sorted(tensors.keys() ^ expected.keys())
        shown = ", ".join(wrong[:10]) + (f" and {len(wrong) - 10} more" if len(wrong) > 10 else "")
        raise InvalidCheckpoint(
            f"weights do not match family {blueprint.family!r}: tensors missing or unknown: {shown}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise InvalidCheckpoint(
                f"weights.{name} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"the spec asks for {expected[name].dtype} {tuple(expected[name].shape)}"
            )
