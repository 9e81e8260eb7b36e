"""Content-addressed bytes: written under their own sha256, believed only after hashing them again."""

import contextlib
import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final

from elbod_store.copying import copy_and_hash
from elbod_store.errors import Corrupt, InvalidDraft, NotFound, Unavailable
from elbod_store.files import Content, chunks, draft_chunks, path_of, unreadable
from elbod_store.manifest import Blob
from elbod_store.names import blob_key
from elbod_store.objects import Objects

Stamp = tuple[int, ...]
"""What a file was when it was looked at: where it lies, its size and its times; nothing for bytes."""

# Below the blobs, so that what a crash leaves here is garbage like any unnamed blob.
_STAGED: Final = "blobs/sha256/staged"


def describe(content: Content) -> Blob:
    """The digest and size of bytes or of a file. Raises InvalidDraft if the file cannot be read."""
    return _hashed(draft_chunks(content))


def stamp(content: Content) -> Stamp:
    """Raises InvalidDraft if the file cannot be looked at."""
    if not isinstance(content, Path | BufferedReader):
        return ()
    try:
        found = content.stat() if isinstance(content, Path) else os.fstat(content.fileno())
    except OSError as error:
        raise InvalidDraft(unreadable(content, error)) from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def put(objects: Objects, content: Content, unless_changed: Stamp = ()) -> Blob:
    """Store `content` under its digest. Idempotent; heals a damaged copy.

    Raises InvalidDraft if a file cannot be read, or changed since its stamp: nothing is stored under a wrong digest.
    """
    if not isinstance(content, bytes) and objects.is_local:
        return _put_in_one_pass(objects, content, unless_changed)
    blob = describe(content)
    _refuse_if_changed(content, unless_changed)
    objects.put(blob_key(blob.digest), content if isinstance(content, bytes) else _content_of(content, blob))
    return blob


def _put_in_one_pass(objects: Objects, file: Path | BufferedReader, unless_changed: Stamp) -> Blob:
    """Hashed while it is copied, then renamed to its digest: half the time of reading a file twice."""
    staged = f"{_STAGED}/{uuid.uuid4().hex}"
    target = objects.local_path(staged)
    assert target is not None
    try:
        digest, size = copy_and_hash(file, target)
        _refuse_if_changed(file, unless_changed)
        objects.sync(staged)
        objects.rename(staged, blob_key(digest))
        return Blob(digest=digest, size=size)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _refuse_if_changed(content: Content, since: Stamp) -> None:
    if since and stamp(content) != since:
        raise InvalidDraft(f"{path_of(content)} changed while it was being published: publish it again")


def check_content(content: Content, blob: Blob) -> None:
    """Raises InvalidDraft unless the content is exactly the blob's."""
    for _ in _content_of(content, blob):
        pass


def present(objects: Objects, blob: Blob) -> bool:
    """Whether the blob is there in its full size, without reading it."""
    try:
        return objects.head(blob_key(blob.digest)) == blob.size
    except NotFound:
        return False


def read(objects: Objects, blob: Blob) -> bytes:
    """All the bytes, verified. Raises Corrupt."""
    return b"".join(verified(objects, blob))


def verified(objects: Objects, blob: Blob) -> Iterator[bytes]:
    """The bytes in chunks, which are the blob's only if no Corrupt comes in place of the end."""
    return _verified(_from_store(objects, blob), blob, _place(objects, blob))


def check(objects: Objects, blob: Blob) -> None:
    """Read and hash all of it. Raises Corrupt."""
    for _ in verified(objects, blob):
        pass


def fetch(objects: Objects, blob: Blob, cache: Path) -> Path:
    """A local file that holds the verified bytes. Raises Corrupt.

    Every call hashes the whole file, a cached one too: 1.3 GB/s is cheap next to loading weights, and a disk that
    flips a bit must not change a model's numbers. A local store's own file is verified in place, without a copy. A
    cached copy that fails is fetched again; a download that fails is never cached.
    """
    key = blob_key(blob.digest)
    local = objects.local_path(key)
    if local is not None:
        for _ in _verified(_from_store(objects, blob), blob, str(local)):
            pass
        return local
    cached = cache / blob.digest
    try:
        if cached.is_file() and _hashed(chunks(cached)) == blob:
            return cached
        cache.mkdir(parents=True, exist_ok=True)
        with _new_file(cached) as partial:
            for chunk in verified(objects, blob):
                partial.write(chunk)
        return cached
    except OSError as error:
        raise Unavailable(f"cannot write the cache in {cache}: {error}") from error


def _verified(chunks: Iterator[bytes], blob: Blob, place: str) -> Iterator[bytes]:
    """The same chunks; Corrupt instead of an end, if they are not exactly `blob`."""
    hasher, size = hashlib.sha256(), 0
    for chunk in chunks:
        hasher.update(chunk)
        size += len(chunk)
        if size > blob.size:
            break
        yield chunk
    if size != blob.size:
        raise Corrupt(f"{place} has {'more' if size > blob.size else size} instead of {blob.size} bytes")
    if hasher.hexdigest() != blob.digest:
        raise Corrupt(f"{place} has the sha256 {hasher.hexdigest()}: its bytes were altered")


def _from_store(objects: Objects, blob: Blob) -> Iterator[bytes]:
    local = objects.local_path(blob_key(blob.digest))
    try:
        # Five times as fast as a local folder's stream.
        yield from objects.stream(blob_key(blob.digest)) if local is None else chunks(local)
    except (FileNotFoundError, NotFound) as error:
        raise Corrupt(f"{_place(objects, blob)} is missing: put it back from a backup, or publish again") from error
    except OSError as error:
        raise Unavailable(f"cannot read {local}: {error.strerror or error}") from error


def _place(objects: Objects, blob: Blob) -> str:
    return f"{blob_key(blob.digest)} in {objects.url}"


def _hashed(chunks: Iterator[bytes]) -> Blob:
    hasher, size = hashlib.sha256(), 0
    for chunk in chunks:
        hasher.update(chunk)
        size += len(chunk)
    return Blob(digest=hasher.hexdigest(), size=size)


def _content_of(content: Content, blob: Blob) -> Iterator[bytes]:
    """The content in chunks, which is the blob's unless InvalidDraft comes in place of the end."""
    try:
        yield from _verified(draft_chunks(content), blob, path_of(content))
    except Corrupt as error:
        raise InvalidDraft(str(error)) from error


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Becomes `path`, atomically, if the block succeeds; else leaves no trace."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
