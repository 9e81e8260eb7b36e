"""A thin wrapper over obstore: what the store needs of an object store, durable, and with our errors.

The only condition ever relied on is put-if-absent (`create`), which local folders, memory and every S3 service share.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, final
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore

from elbod_store import s3
from elbod_store.errors import Corrupt, NotFound, Unavailable, Unsupported
from elbod_store.files import CHUNK
from elbod_store.reading import RangeReader

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters at least: C: is a drive

# obstore's threads live once per process, from its first request on, and do not survive a fork: the child would hang.
_first_pid: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, its size in bytes, and when it was last written."""

    key: str
    size: int
    modified: datetime


@final
class Objects:
    """Keys and bytes. Safe to use from several threads; refuses to work in a forked child."""

    def __init__(self, store: ObjectStore, url: str, root: Path | None = None) -> None:
        """`root` is the folder of a local store, which must be made durable by hand; None elsewhere."""
        self.url = url
        self._store = store
        self._root = root
        self._durable: set[Path] = set()

    @classmethod
    def open(cls, url: str | Path) -> "Objects":
        """`file:///path`, a bare path (its folder is created if missing), `s3://bucket/prefix`, or `memory://`.

        What an S3 service is and who asks it is said by AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
        AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or by AWS_SHARED_CREDENTIALS_FILE. No request is made here.
        Raises Unsupported for any other URL, Unavailable if the folder cannot be made or the credentials not be read.
        """
        if url == "memory://":
            return cls(MemoryStore(), "memory://")
        if isinstance(url, str) and url.startswith("s3:"):
            return cls(s3.connect(url), url)
        root = _folder(url)
        try:
            made = [folder for folder in (root, *root.parents) if not folder.exists()]
            root.mkdir(parents=True, exist_ok=True)
            for folder in made:
                _fsync(folder.parent)
            return cls(LocalStore(root), root.as_uri(), root)
        except (OSError, BaseError) as error:
            raise Unavailable(f"cannot open the store at {root}: {_first_line(error)}") from error

    def put(self, key: str, content: bytes | Iterator[bytes], *, durable: bool = True) -> None:
        """Write, or overwrite, all of `key` or nothing. An exception of the iterator aborts the write and passes."""
        with self._errors("write", key):
            obstore.put(self._store, key, content, chunk_size=CHUNK)
        if durable:
            self.sync(key)

    def create(self, key: str, content: bytes) -> bool:
        """Write `key` if there is none. False if there is one already, which *may be our own* after a retry."""
        try:
            with self._errors("write", key):
                obstore.put(self._store, key, content, mode="create")
        except AlreadyExistsError:
            return False
        self.sync(key)
        return True

    def get(self, key: str, *, limit: int | None = None) -> bytes:
        """All the bytes of a small object. Raises NotFound; Corrupt, before it reads them, if they exceed `limit`."""
        with self._errors("read", key):
            found = obstore.get(self._store, key)
            size = found.meta["size"]
            if limit is not None and size > limit:
                raise Corrupt(f"{key} in {self.url} has {size:,} bytes, and {limit:,} at most as elbod writes it")
            return bytes(found.bytes())

    def stream(self, key: str) -> Iterator[bytes]:
        """The bytes of an object, a few megabytes at a time. Raises NotFound at the first chunk."""
        with self._errors("read", key):
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`. Raises NotFound."""
        with self._errors("read", key):
            return bytes(obstore.get_range(self._store, key, start=start, end=end))

    def reader(self, key: str) -> io.BufferedReader:
        """The object as a file, of which only what is read is fetched. Raises NotFound."""
        return io.BufferedReader(RangeReader(self.head(key), lambda start, end: self.get_range(key, start, end)))

    def head(self, key: str) -> int:
        """The size in bytes. Raises NotFound."""
        with self._errors("read", key):
            return obstore.head(self._store, key)["size"]

    def exists(self, key: str) -> bool:
        try:
            self.head(key)
        except NotFound:
            return False
        return True

    def list_after(self, prefix: str, after: str | None = None) -> list[str]:
        """The keys under `prefix` that come after the key `after`, sorted here: a local folder lists unsorted."""
        with self._errors("list", prefix):
            return sorted(item["path"] for page in obstore.list(self._store, prefix, offset=after) for item in page)

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Every key under `prefix`, with its size and when it was last written."""
        with self._errors("list", prefix):
            for page in obstore.list(self._store, prefix):
                for item in page:
                    yield Entry(item["path"], item["size"], item["last_modified"])

    def modified(self, key: str) -> datetime:
        """When the key was last written. Raises NotFound."""
        with self._errors("read", key):
            return obstore.head(self._store, key)["last_modified"]

    def children(self, prefix: str) -> list[str]:
        """The next path segments under `prefix`, sorted. A local folder may name empty ones."""
        with self._errors("list", prefix):
            found = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
        return sorted(path.rpartition("/")[2] for path in found)

    def delete(self, key: str) -> None:
        """Remove `key`. Raises NotFound on stores that can tell."""
        with self._errors("delete", key):
            obstore.delete(self._store, key)

    def rename(self, key: str, to: str) -> None:
        """Move a whole object, over any other. Only for a local store, where this is one atomic and durable step."""
        with self._errors("write", to):
            obstore.rename(self._store, key, to)
        self.sync(to)

    @property
    def is_local(self) -> bool:
        """Whether this is a folder on this machine."""
        return self._root is not None

    def local_path(self, key: str) -> Path | None:
        """Where the bytes of `key` lie on this machine's disk; None if this is no local store."""
        return None if self._root is None else self._root / key

    def sync(self, key: str) -> None:
        """Make a written key survive power loss: obstore never calls fsync, so a local file needs it done here."""
        path = self.local_path(key)
        if path is None or self._root is None:
            return
        try:
            _fsync(path)
            _fsync(path.parent)
            for folder in path.parents:
                if folder == self._root or folder in self._durable:
                    break
                # Whoever made this folder may not have synced it yet, so its first user here does.
                _fsync(folder.parent)
                self._durable.add(folder)
        except OSError as error:
            raise Unavailable(f"cannot make {path} durable: {error}") from error

    @contextlib.contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        _refuse_after_fork()
        try:
            yield
        except AlreadyExistsError:
            raise
        except FileNotFoundError as error:
            if verb == "write":
                raise self._unavailable(verb, key, error) from error
            raise NotFound(f"there is no {key} in {self.url}") from error
        except (BaseError, OSError) as error:
            raise self._unavailable(verb, key, error) from error

    def _unavailable(self, verb: str, key: str, error: Exception) -> Unavailable:
        return Unavailable(f"cannot {verb} {key} in {self.url}: {s3.reason(error) or _first_line(error)}")


def _refuse_after_fork() -> None:
    global _first_pid
    if _first_pid is None:
        _first_pid = os.getpid()
    if _first_pid != os.getpid():
        raise Unsupported(
            f"the model store was used in process {_first_pid} and then forked into {os.getpid()}, where its threads "
            "do not exist: start workers with the 'spawn' method"
        )


def _folder(url: str | Path) -> Path:
    if isinstance(url, Path) or not _SCHEME.match(url):
        return Path(url).absolute()
    parts = urlsplit(url)
    if (
        parts.scheme == "file"
        and parts.netloc in ("", "localhost")
        and parts.path.startswith("/")
        and not parts.query + parts.fragment
    ):
        return Path(unquote(parts.path))
    raise Unsupported(
        f"{url!r} is no store that this elbod can open: use a path, file:///absolute/path, "
        "s3://bucket/prefix, or memory://"
    )


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    """obstore appends a page of debug output to its messages."""
    return str(error).partition("\n")[0]
