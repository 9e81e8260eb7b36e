"""What is stored about a version, an alias and a run, and how bytes are believed.

Bytes read from the store are believed only if they are exactly the canonical JSON of a known schema, whose checksum
and digest are right and whose names are those of the key they were read from. A flipped byte, a file cut short or two
files swapped all fail one of these.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from elbod_store.canonical import JSON, canonical, sha256
from elbod_store.errors import Corrupt, InvalidDraft, Unsupported
from elbod_store.names import alias_prefix, numbered, run_prefix, shown, version_key

SCHEMA = 1

MAX_RECORD: Final = 2 * 1024 * 1024
"""Bytes of a manifest or a log entry, at most: what is larger is neither written nor read into memory."""

MAX_CARD: Final = 256 * 1024
"""Characters of a card, at most."""

_Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Text = Annotated[str, Meta(min_length=1)]
_Number = Annotated[int, Meta(ge=1)]
_Count = Annotated[int, Meta(ge=0)]
_Instant = Annotated[datetime, Meta(tz=True)]


class Blob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content-addressed bytes: `digest` is their sha256 (64 hex digits), `size` their number."""

    digest: _Sha256
    size: _Count


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One published version, immutable. No field has a default: a missing key refuses the version.

    `digest` is the model digest (see `model_digest`); `checksum` the sha256 of the canonical manifest without it.
    """

    schema: _Number
    publish_id: _Text
    name: _Text
    version: _Number
    created: _Instant
    family: _Text
    spec: dict[str, JSON]
    likelihood: _Text
    event_shape: tuple[_Number, ...]
    levels: _Number | None
    binarization: str | None
    labels: tuple[str, ...] | None
    weights: Blob
    digest: _Sha256
    reference: Blob | None
    calibration: Blob | None
    metrics: dict[str, JSON]
    training: dict[str, JSON]
    card: Annotated[str, Meta(max_length=MAX_CARD)]
    parent: str | None
    checksum: _Sha256

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Everything that this version needs, weights first."""
        return tuple(blob for blob in (self.weights, self.reference, self.calibration) if blob is not None)


class AliasEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of an alias's log. `version` None means that the alias was removed.

    `expected` is the number of the entry that the writer saw (0: none), so this one's number is `expected` + 1.
    """

    schema: _Number
    name: _Text
    alias: _Text
    version: _Number | None
    expected: _Count
    publish_id: _Text
    who: str
    when: _Instant
    why: str
    checksum: _Sha256

    @property
    def number(self) -> int:
        return self.expected + 1


class RunEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a training run's log; the newest is the run as it is now.

    `blobs` are its training state, none before the first was saved and after the run has finished: exactly those of
    the newest entry are kept. `worker` is the random id of the process that wrote the entry, `data` the digest of the
    training data, `training` what the run belongs to (recipe, seed, command), `published` its versions so far.
    """

    schema: _Number
    run: _Text
    number: _Number
    publish_id: _Text
    worker: _Text
    who: str
    when: _Instant
    finished: bool
    data: _Sha256
    training: dict[str, JSON]
    epoch: _Count
    step: _Count
    published: tuple[_Number, ...]
    blobs: tuple[Blob, ...]
    checksum: _Sha256


def model_digest(
    *,
    family: str,
    spec: JSON,
    likelihood: str,
    event_shape: Sequence[int],
    levels: int | None,
    binarization: str | None,
    labels: Sequence[str] | None,
    weights: str,
    schema: int = SCHEMA,
) -> str:
    """sha256 of the canonical JSON of what decides a model's numbers, and of nothing else.

    `weights` is the digest of the weights blob; its key in the hashed object is "weights.digest".
    """
    return sha256(
        canonical(
            {
                "schema": schema,
                "family": family,
                "spec": spec,
                "likelihood": likelihood,
                "event_shape": event_shape,
                "levels": levels,
                "binarization": binarization,
                "labels": labels,
                "weights.digest": weights,
            }
        )
    )


def checksum(fields: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of `fields` without their `checksum`."""
    return sha256(canonical({key: value for key, value in fields.items() if key != "checksum"}))


def seal(fields: dict[str, Any]) -> bytes:
    """The bytes to store: canonical JSON of `fields` with their checksum. Raises InvalidDraft if they are too many."""
    sealed = canonical({**fields, "checksum": checksum(fields)})
    if len(sealed) > MAX_RECORD:
        raise InvalidDraft(f"a record would have {len(sealed):,} bytes: shorten its texts to {MAX_RECORD:,} in all")
    return sealed


def decode_manifest(raw: bytes, name: str, version: int) -> Manifest:
    """The manifest that `raw` is, if it is the one of (name, version). Raises Corrupt, or Unsupported if newer."""
    key = version_key(name, version)
    manifest = parse_manifest(raw, key)
    if (manifest.name, manifest.version) != (name, version):
        found = shown(f"{manifest.name}@{manifest.version}")
        raise Corrupt(f"{key} holds the manifest of {found}: the file was moved or swapped")
    return manifest


def parse_manifest(raw: bytes, place: str) -> Manifest:
    """The manifest that `raw` is, of whatever version; `place` is where it was read. Raises like `decode_manifest`."""
    manifest = _believe(raw, Manifest, place)
    digest = model_digest(
        family=manifest.family,
        spec=manifest.spec,
        likelihood=manifest.likelihood,
        event_shape=manifest.event_shape,
        levels=manifest.levels,
        binarization=manifest.binarization,
        labels=manifest.labels,
        weights=manifest.weights.digest,
        schema=manifest.schema,
    )
    if manifest.digest != digest:
        raise Corrupt(f"{place} claims the model digest {manifest.digest}, but its contents have {digest}")
    return manifest


def decode_entry(raw: bytes, name: str, alias: str, number: int) -> AliasEntry:
    """The alias entry that `raw` is, if it is number `number` of (name, alias). Raises like `decode_manifest`."""
    key = numbered(alias_prefix(name, alias), number)
    entry = _believe(raw, AliasEntry, key)
    if (entry.name, entry.alias, entry.number) != (name, alias, number):
        found = shown(f"{entry.name}@{entry.alias}")
        raise Corrupt(f"{key} holds entry {entry.number} of {found}: the file was moved or swapped")
    return entry


def decode_run(raw: bytes, run: str, number: int) -> RunEntry:
    """The run entry that `raw` is, if it is number `number` of `run`. Raises like `decode_manifest`."""
    key = numbered(run_prefix(run), number)
    entry = _believe(raw, RunEntry, key)
    if (entry.run, entry.number) != (run, number):
        raise Corrupt(f"{key} holds entry {entry.number} of the run {shown(entry.run)}: the file was moved or swapped")
    return entry


_Record = TypeVar("_Record", Manifest, AliasEntry, RunEntry)


def _believe(raw: bytes, record: type[_Record], key: str) -> _Record:
    try:
        fields = msgspec.json.decode(raw)
        schema = fields.get("schema") if isinstance(fields, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            # Said before anything else: a newer schema may well have other keys and another checksum.
            raise Unsupported(f"{key} has schema {shown(schema)}, this elbod reads up to {SCHEMA}: upgrade to use it")
        value = msgspec.json.decode(raw, type=record)
        if value.schema != SCHEMA:
            raise Corrupt(f"{key} has schema {shown(value.schema)}, which never existed")
        if canonical(fields) != raw or checksum(fields) != value.checksum:
            raise Corrupt(f"{key} does not match its own checksum: it was altered after it was written")
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Corrupt(f"{key} is malformed: {error}") from error
    return value
