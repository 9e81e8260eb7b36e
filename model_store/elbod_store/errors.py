"""What can go wrong in a model store, as one tree.

StoreError
├── InvalidName       a name, alias, version, digest or reference that could not be a key; raised before any IO
├── InvalidDraft      a draft that must not be published: not safetensors, NaN in its JSON, an impossible shape
├── NotFound          nothing there; `.suggestions` holds close names
│   ├── UnknownModel
│   ├── UnknownVersion
│   ├── UnknownAlias
│   └── UnknownRun
├── Retired           the version exists, but was retired
├── Conflict          somebody else moved the alias or drives the run, or an alias still points at the version
├── Corrupt           the bytes do not match their digest or checksum; the message names the key
├── Unavailable       unreachable, unwritable or full: the same call may work later
└── Unsupported       the store lacks a capability, or holds a schema that is newer than this package
"""

from collections.abc import Sequence


class StoreError(Exception):
    """The base of every error that this package raises."""


class InvalidName(StoreError, ValueError):
    """A name, alias, version, digest or reference outside the grammar. No request was made."""


class InvalidDraft(StoreError, ValueError):
    """A draft that must not be published. Nothing was written."""


class NotFound(StoreError):
    """Nothing is stored under that name. `suggestions` are close names that exist, best first."""

    def __init__(self, message: str, suggestions: Sequence[str] = ()) -> None:
        self.suggestions = tuple(suggestions)
        if self.suggestions:
            message = f"{message}; did you mean {' or '.join(map(repr, self.suggestions))}?"
        super().__init__(message)


class UnknownModel(NotFound):
    """No version of a model of that name was ever published here."""


class UnknownVersion(NotFound):
    """The model exists, that version does not."""


class UnknownAlias(NotFound):
    """The model exists, that alias is not set."""


class UnknownRun(NotFound):
    """No training run of that id ever began here."""


class Retired(StoreError):
    """The version was retired: it is neither served nor promoted any more."""


class Conflict(StoreError):
    """Another writer was faster. Look at what is there now, then decide again."""


class Corrupt(StoreError):
    """Stored bytes do not match their digest or checksum. They are never returned and never cached."""


class Unavailable(StoreError):
    """The store cannot be reached, read or written now: network, permissions, a full disk."""


class Unsupported(StoreError):
    """The store lacks what publishing needs, or its contents are newer than this package."""
