"""What a publisher hands in, and what is refused before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Final

from elbod_store.canonical import JSON, canonical, plain
from elbod_store.errors import InvalidDraft, InvalidName
from elbod_store.files import Content
from elbod_store.manifest import MAX_CARD, MAX_RECORD
from elbod_store.names import check_name, parse_reference
from elbod_store.safetensors import check_file

DESCRIPTION: Final = (
    "family",
    "spec",
    "likelihood",
    "event_shape",
    "levels",
    "binarization",
    "labels",
    "metrics",
    "training",
    "card",
)
"""The fields that a manifest holds as they are."""
_REST: Final = 4096  # more than all other fields of a manifest take


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A version to be. `weights` is a safetensors file (bytes, a path or an open file); the rest is plain data.

    `event_shape` is the shape of one row, `levels` the number of integer levels of a discrete likelihood,
    `binarization` how data became {0, 1}, `labels` the class names of a conditional model, `reference` held-out rows
    with their outputs, `calibration` sorted scores, `card` markdown, `parent` a `name@version`.
    """

    name: str
    family: str
    spec: Mapping[str, JSON]
    likelihood: str
    event_shape: Sequence[int]
    weights: Content
    levels: int | None = None
    binarization: str | None = None
    labels: Sequence[str] | None = None
    reference: bytes | BufferedReader | None = None
    calibration: bytes | BufferedReader | None = None
    metrics: Mapping[str, JSON] = field(default_factory=dict)
    training: Mapping[str, JSON] = field(default_factory=dict)
    card: str = ""
    parent: str | None = None


def check(draft: Draft) -> None:
    """Raises InvalidName or InvalidDraft, saying which field and why. Of the weights only the header is read."""
    check_name(draft.name)
    for label in ("family", "likelihood"):
        if not getattr(draft, label):
            raise InvalidDraft(f"{label} is empty")
    for label, value in (("spec", draft.spec), ("metrics", draft.metrics), ("training", draft.training)):
        if not isinstance(value, Mapping):
            raise InvalidDraft(f"{label} is a {type(value).__name__}: it must be a mapping")
        plain(value, label)
    for label, text in (
        ("family", draft.family),
        ("likelihood", draft.likelihood),
        ("binarization", draft.binarization),
        ("card", draft.card),
    ):
        if not isinstance(text, str) and not (label == "binarization" and text is None):
            raise InvalidDraft(f"{label} is a {type(text).__name__}: it must be text")
        plain(text, label)
    for axis, length in enumerate(draft.event_shape):
        _positive(length, f"event_shape[{axis}]")
    if draft.levels is not None:
        _positive(draft.levels, "levels")
    if draft.labels is not None:
        if isinstance(draft.labels, str) or not all(isinstance(text, str) for text in draft.labels):
            raise InvalidDraft("labels must be a sequence of text, one per class")
        plain(draft.labels, "labels")
    if draft.parent is not None:
        _check_parent(draft.parent)
    for label, content in (("reference", draft.reference), ("calibration", draft.calibration)):
        if content is not None and not isinstance(content, bytes | BufferedReader):
            raise InvalidDraft(f"{label} is a {type(content).__name__}: it must be bytes, or None")
    _check_size(draft)
    check_file(draft.weights)


def _check_size(draft: Draft) -> None:
    if len(draft.card) > MAX_CARD:
        raise InvalidDraft(f"card has {len(draft.card):,} characters: shorten it to {MAX_CARD:,} at most")
    sizes = {label: len(canonical(getattr(draft, label))) for label in DESCRIPTION}
    if (total := sum(sizes.values())) > MAX_RECORD - _REST:
        largest = max(sizes, key=sizes.__getitem__)
        raise InvalidDraft(
            f"the manifest would have {total + _REST:,} bytes, {MAX_RECORD:,} at most: shorten {largest}, "
            f"which takes {sizes[largest]:,}"
        )


def _positive(value: object, label: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidDraft(f"{label} is {value!r}: it must be a positive integer")


def _check_parent(parent: str) -> None:
    try:
        version = parse_reference(parent).version
    except InvalidName as error:
        raise InvalidDraft(f"parent: {error}") from error
    if version is None:
        raise InvalidDraft(f"parent {parent!r} names no version: aliases move, so write name@version")
