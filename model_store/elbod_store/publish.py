"""The publish protocol: blobs first, then the one manifest whose creation is the publication.

A crash at any point leaves only blobs that nobody names; a version, once visible, is complete.
"""

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from elbod_store import blobs, log
from elbod_store import draft as drafts
from elbod_store.canonical import plain
from elbod_store.draft import Draft
from elbod_store.errors import InvalidDraft, Unavailable
from elbod_store.files import Content
from elbod_store.manifest import SCHEMA, Blob, Manifest, decode_manifest, model_digest, seal
from elbod_store.names import version_key, versions_prefix
from elbod_store.objects import Objects

STEPS: Final = ("start", "weights", "reference", "calibration", "check", "number", "manifest", "confirm", "hint")
"""What `on_step` is told after each step, in this order; a blob that the draft lacks has none. From `manifest` on the
version is visible."""


def publish(
    objects: Objects,
    draft: Draft,
    on_step: Callable[[str], None],
    claim: Callable[[int], None],
    expected: Mapping[str, Blob] = MappingProxyType({}),
) -> Manifest:
    """Publish `draft` as the next version of its model. See `ModelStore.publish`.

    `expected` is what the caller hashed. Raises InvalidDraft if a content is something else now.
    """
    optional = {"weights": draft.weights, "reference": draft.reference, "calibration": draft.calibration}
    contents: dict[str, Content] = {label: content for label, content in optional.items() if content is not None}
    stamps = {label: blobs.stamp(content) for label, content in contents.items()}
    drafts.check(draft)
    described: dict[str, Blob] = {}
    on_step("start")
    for label, content in contents.items():
        described[label] = blobs.put(objects, content, stamps[label])
        if described[label] != expected.get(label, described[label]):
            raise InvalidDraft(f"{label} changed while it was being published: publish it again")
        on_step(label)
    for blob in described.values():
        if not blobs.present(objects, blob):
            raise Unavailable(f"blob {blob.digest} vanished from {objects.url} right after it was written")
    on_step("check")
    fields = _fields(draft, described)
    prefix = versions_prefix(draft.name)
    version = log.newest(objects, prefix) + 1
    claim(version)
    on_step("number")
    while True:
        body = seal({**fields, "version": version})
        manifest = decode_manifest(body, draft.name, version)  # what readers would refuse is never written
        if log.append(objects, version_key(draft.name, version), body):
            break
        version += 1
        claim(version)
    on_step("manifest")
    for label, content in contents.items():
        # A blob that was already there, old and unnamed, may have been collected since we put it.
        if not blobs.present(objects, described[label]):
            blobs.put(objects, content, stamps[label])
    on_step("confirm")
    log.write_hint(objects, prefix, version)
    log.announce(objects, draft.name)
    on_step("hint")
    return manifest


def _identity(draft: Draft) -> dict[str, Any]:
    """What decides the model's numbers, but for the weights."""
    return {
        "family": draft.family,
        "spec": plain(draft.spec),
        "likelihood": draft.likelihood,
        "event_shape": list(draft.event_shape),
        "levels": draft.levels,
        "binarization": draft.binarization,
        "labels": None if draft.labels is None else list(draft.labels),
    }


def _fields(draft: Draft, described: dict[str, Blob]) -> dict[str, Any]:
    """All of the manifest but its version and checksum."""
    identity = _identity(draft)
    named = {
        label: {"digest": described[label].digest, "size": described[label].size} if label in described else None
        for label in ("weights", "reference", "calibration")
    }
    return {
        "schema": SCHEMA,
        "publish_id": uuid.uuid4().hex,
        "name": draft.name,
        "created": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        **identity,
        **named,
        "digest": model_digest(**identity, weights=described["weights"].digest),
        "metrics": plain(draft.metrics),
        "training": plain(draft.training),
        "card": draft.card,
        "parent": draft.parent,
    }
