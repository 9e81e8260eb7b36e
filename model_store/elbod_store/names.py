"""The grammar of names, and the only place where a name becomes an object key.

Every key is built here, and every part of it is matched in full against ASCII patterns first, so no name can leave
the store's prefix (no dot, slash, NUL or newline ever passes) and no two names share a key.
"""

import re
from dataclasses import dataclass

from elbod_store.errors import InvalidName

LATEST = "latest"
MAX_NUMBER = 9_999_999_999  # ten digits in a key, so that the order of keys is the order of numbers

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,63}")
VERSION = re.compile(r"[1-9][0-9]{0,9}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """A parsed model reference: `name`, `name@alias` (`latest` among them) or `name@version`."""

    name: str
    alias: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        target = self.alias or self.version
        return self.name if target is None else f"{self.name}@{target}"


def parse_reference(text: str) -> Reference:
    """`digits`, `digits@production`, `digits@12` or `digits@latest`. Pure; raises InvalidName."""
    name, at, target = text.partition("@") if isinstance(text, str) else (text, "", "")
    check_name(name)
    if not at:
        return Reference(name)
    if VERSION.fullmatch(target):
        return Reference(name, version=int(target))
    if target == LATEST or ALIAS.fullmatch(target):
        return Reference(name, alias=target)
    raise InvalidName(
        f"{shown(text)} is no model reference: after '@' comes an alias, 'latest', or a version "
        "as a positive integer without leading zeros"
    )


def check_name(name: str) -> str:
    """The name itself, or InvalidName."""
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise InvalidName(
            f"{shown(name)} is no model name: use 1 to 64 of a-z, 0-9, '_' and '-', beginning with a letter or digit"
        )
    return name


def check_alias(alias: str) -> str:
    """The alias itself, or InvalidName. `latest` is computed, so nobody may set it."""
    if alias == LATEST:
        raise InvalidName("the alias 'latest' is reserved: it always means the newest version")
    if not (isinstance(alias, str) and ALIAS.fullmatch(alias)):
        raise InvalidName(f"{shown(alias)} is no alias: use 1 to 64 of a-z, 0-9, '_' and '-', beginning with a letter")
    return alias


def check_number(number: int) -> int:
    """A version, or the number of an alias entry: an integer from 1 to 9,999,999,999."""
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_NUMBER:
        raise InvalidName(f"{shown(number)} is no version: versions are integers from 1 to {MAX_NUMBER}")
    return number


def model_prefix(name: str) -> str:
    return f"models/{check_name(name)}"


def changed_key(name: str) -> str:
    """What every writer of the model overwrites, for those who watch it."""
    return f"{model_prefix(name)}/_changed"


def versions_prefix(name: str) -> str:
    return f"{model_prefix(name)}/versions"


def trash_prefix(name: str) -> str:
    return f"{model_prefix(name)}/trash"


def alias_prefix(name: str, alias: str) -> str:
    return f"{model_prefix(name)}/aliases/{check_alias(alias)}"


def check_run(run: str) -> str:
    """The run id itself, or InvalidName. The grammar is that of model names."""
    if not (isinstance(run, str) and NAME.fullmatch(run)):
        raise InvalidName(
            f"{shown(run)} is no run id: those are 1 to 64 of a-z, 0-9, '_' and '-', beginning with a letter or digit"
        )
    return run


def run_prefix(run: str) -> str:
    return f"runs/{check_run(run)}"


def numbered(prefix: str, number: int) -> str:
    """The key of entry `number` of a log: ten digits, because keys are compared as text."""
    return f"{prefix}/{check_number(number):010}.json"


def version_key(name: str, version: int) -> str:
    return numbered(versions_prefix(name), version)


def trash_key(name: str, version: int) -> str:
    return numbered(trash_prefix(name), version)


def blob_key(digest: str) -> str:
    if not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
        raise InvalidName(f"{shown(digest)} is no digest: a sha256 is 64 of 0-9 and a-f")
    return f"blobs/sha256/{digest[:2]}/{digest}"


def shown(value: object) -> str:
    """At most 80 characters of `repr(value)`, for an error message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
