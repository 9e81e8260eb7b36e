"""The model store of elbod: immutable versions, aliases with a history, any object store, no server.

    store = ModelStore.open("file:///srv/models")
    manifest = store.publish(Draft(name="digits", ...))
    store.promote("digits", "production", manifest.version, who="ada", why="better elbo")
    path = store.fetch(store.resolve("digits").weights)

Imports neither torch nor the service.
"""

from elbod_store.draft import Draft
from elbod_store.errors import (
    Conflict,
    Corrupt,
    InvalidDraft,
    InvalidName,
    NotFound,
    Retired,
    StoreError,
    Unavailable,
    UnknownAlias,
    UnknownModel,
    UnknownRun,
    UnknownVersion,
    Unsupported,
)
from elbod_store.gc import Garbage
from elbod_store.manifest import AliasEntry, Blob, Manifest, RunEntry, model_digest
from elbod_store.names import Reference, parse_reference
from elbod_store.registry import ModelStore
from elbod_store.runs import RunDraft
from elbod_store.verify import Finding
from elbod_store.watch import Watch

__all__ = [
    "AliasEntry",
    "Blob",
    "Conflict",
    "Corrupt",
    "Draft",
    "Finding",
    "Garbage",
    "InvalidDraft",
    "InvalidName",
    "Manifest",
    "ModelStore",
    "NotFound",
    "Reference",
    "Retired",
    "RunDraft",
    "RunEntry",
    "StoreError",
    "Unavailable",
    "UnknownAlias",
    "UnknownModel",
    "UnknownRun",
    "UnknownVersion",
    "Unsupported",
    "Watch",
    "model_digest",
    "parse_reference",
]
