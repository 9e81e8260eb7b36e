"""The keys file: who holds a key and what it opens. The keys themselves are nowhere, only their hashes.

A key is `elbod_<id>_<secret>`. The id names it in lists, logs and `elbod keys revoke`; the secret is 32 random bytes.
"""

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from elbod.errors import StartupError, Unauthorized

logger = logging.getLogger(__name__)

Scope = Literal["infer", "admin"]
SCOPES: tuple[Scope, ...] = ("infer", "admin")

_PREFIX = b"elbod"
_SECONDS_BETWEEN_LOOKS = 1.0


def _printable(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("a name is printable text without blanks at its ends")
    return name


def _distinct(scopes: tuple[Scope, ...]) -> tuple[Scope, ...]:
    if len(set(scopes)) != len(scopes):
        raise ValueError("a scope is listed once")
    return scopes


class Key(BaseModel):
    """One key. `sha256` is of its secret."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: str = Field(pattern=r"\A[0-9a-f]{12}\z")
    name: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1), AfterValidator(_distinct)]
    created: AwareDatetime
    sha256: str = Field(pattern=r"\A[0-9a-f]{64}\z", repr=False)


def _distinct_ids(keys: tuple[Key, ...]) -> tuple[Key, ...]:
    if len({key.id for key in keys}) != len(keys):
        raise ValueError("two keys have the same id")
    return keys


class Keys(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    format: Literal[1]
    keys: Annotated[tuple[Key, ...], AfterValidator(_distinct_ids)] = ()


def generate(name: str, scopes: Sequence[Scope]) -> tuple[Key, str]:
    """A new key, and the text to hand to its holder, which cannot be had again. Raises StartupError for a bad name."""
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    try:
        key = Key(
            id=identity,
            name=name,
            scopes=tuple(dict.fromkeys(scopes)),
            created=datetime.now(UTC).replace(microsecond=0),
            sha256=_digest(secret.encode()),
        )
    except ValidationError as error:
        raise StartupError(f"no key is made: {_first(error)}") from error
    return key, f"{_PREFIX.decode()}_{identity}_{secret}"


def _digest(secret: bytes) -> str:
    # Slow, salted hashes protect what people choose. Nobody guesses 32 random bytes, so a fast one gives nothing away,
    # and a request does not wait for it.
    return hashlib.sha256(secret).hexdigest()


def read(path: Path) -> Keys:
    """The keys of the file. Raises StartupError, one line: missing, unreadable, malformed, or open to others."""
    return _read(path)[0]


# What changes when a file is written, replaced, or given other permissions.
_Stamp = tuple[int, ...]


def _stamp(status: os.stat_result) -> _Stamp:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read(path: Path) -> tuple[Keys, _Stamp]:
    try:
        with path.open("rb") as file:
            status, raw = os.fstat(file.fileno()), file.read()
    except OSError as error:
        raise StartupError(f"cannot read the keys file {path}: {error.strerror}") from error
    if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise StartupError(f"the keys file {path} is open to others (mode {stat.S_IMODE(status.st_mode):o}): chmod 600")
    try:
        return Keys.model_validate_json(raw), _stamp(status)
    except ValidationError as error:
        raise StartupError(f"the keys file {path} is malformed: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """What is wrong, without the values: a hash does not belong in a log."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    what = first["msg"].removeprefix("Value error, ")
    return f"{place}: {what}" if place else what


def change(path: Path, edit: Callable[[tuple[Key, ...]], Sequence[Key]]) -> None:
    """Replace the file's keys by `edit` of them; a missing file is made. All of it or nothing; one process at a time.

    Raises StartupError as `read`, and if the file cannot be written.
    """
    try:
        path = path.resolve()
        with _locked(path):
            before = path.stat() if path.exists() else None
            keys = Keys(format=1, keys=tuple(edit(() if before is None else read(path).keys)))
            _write(path, keys.model_dump_json(indent=2).encode() + b"\n", before)
    except OSError as error:
        raise StartupError(f"cannot write the keys file {path}: {error.strerror}") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # A file of its own, since the keys file is replaced: whoever waited would hold the lock of the old one.
    import fcntl  # not on Windows, where a server can do without it

    handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, raw: bytes, before: os.stat_result | None) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            if before is not None:
                # root may add a key to the file of the account that the server runs under.
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(handle, before.st_uid, before.st_gid)
                os.fchmod(handle, stat.S_IMODE(before.st_mode))
            file.write(raw)
            file.flush()
            os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class KeyRing:
    """The keys of a file as they are now, for one event loop.

    A changed file is noticed within a second of use. One that cannot be read changes nothing, and the log says why.
    """

    def __init__(self, path: Path, now: float) -> None:
        """Raises StartupError."""
        self._path = path
        keys, self._seen = _read(path)
        self._keys = _by_id(keys)
        self._next_look = now + _SECONDS_BETWEEN_LOOKS

    def find(self, token: bytes, now: float) -> Key:
        """The key that `token` is. Raises Unauthorized."""
        if now >= self._next_look:
            self._next_look = now + _SECONDS_BETWEEN_LOOKS
            self._look()
        prefix, _, rest = token.partition(b"_")
        identity, _, secret = rest.partition(b"_")
        key = self._keys.get(identity) if prefix == _PREFIX else None
        if key is None or not hmac.compare_digest(_digest(secret), key.sha256):
            raise Unauthorized("the key is not one of this server's: it is mistyped, or was revoked")
        return key

    def _look(self) -> None:
        try:
            stamp: _Stamp = _stamp(self._path.stat())
        except OSError:
            stamp = ()
        if stamp == self._seen:
            return
        try:
            keys, self._seen = _read(self._path)
        except StartupError as error:
            self._seen = stamp
            logger.error("keeping the keys read before: %s", error)
            return
        self._keys = _by_id(keys)
        logger.info("read %d keys", len(keys.keys))


def _by_id(keys: Keys) -> dict[bytes, Key]:
    return {key.id.encode(): key for key in keys.keys}
