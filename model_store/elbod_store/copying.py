"""A file copied and hashed at once, each by a thread of its own."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Final

from elbod_store.errors import Unavailable
from elbod_store.files import draft_chunks

_CHUNK: Final = 1024 * 1024  # stays in a processor's cache on its way


def copy_and_hash(source: Path | BufferedReader, target: Path) -> tuple[str, int]:
    """Copy to the new file `target`; the sha256 and the size of what was written, whatever became of `source`.

    The copy is hashed as it grows, out of the page cache, so this takes as long as the slower of copying and hashing.
    Raises InvalidDraft if `source` cannot be read, Unavailable if `target` cannot be written. Makes nothing durable.
    """
    written: SimpleQueue[int] = SimpleQueue()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as writer, target.open("rb") as reader, ThreadPoolExecutor(1) as thread:
            digest = thread.submit(_follow, reader, written)
            try:
                for chunk in draft_chunks(source, _CHUNK):
                    writer.write(chunk)
                    writer.flush()
                    written.put(len(chunk))
            finally:
                written.put(0)
            return digest.result(), reader.tell()
    except OSError as error:
        raise Unavailable(f"cannot write {target}: {error.strerror or error}") from error


def _follow(reader: BinaryIO, written: "SimpleQueue[int]") -> str:
    """The sha256 of what is written; `written` says how much more there is, and at last 0."""
    hasher = hashlib.sha256()
    while count := written.get():
        hasher.update(reader.read(count))
    return hasher.hexdigest()
