"""Regular files, and nothing else: a path that somebody else prepared never blocks a reader or feeds it for ever."""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from elbod_store.errors import InvalidDraft

CHUNK: Final = 8 * 1024 * 1024

Content = bytes | Path | io.BufferedReader
"""What is published: bytes, a file by its path, or an open file, which is read from its start."""


@contextmanager
def opened(content: Path | io.BufferedReader) -> Iterator[io.BufferedReader]:
    """The file, at its start. Raises OSError, also for anything but a regular file."""
    if isinstance(content, Path):
        with open_regular(content) as file:
            yield file
    else:
        content.seek(0)
        yield content


def open_regular(path: Path, *, folder: int | None = None) -> io.BufferedReader:
    """Open a regular file. Given the descriptor of its `folder`, it is looked up there and must be no symbolic link.

    Raises OSError. A FIFO, a device or a socket is refused without waiting for it.
    """

    def look_up(name: str, flags: int) -> int:
        if folder is None:
            return os.open(path, flags | os.O_NONBLOCK)
        return os.open(path.name, flags | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=folder)

    try:
        file = io.FileIO(path, "r", opener=look_up)
    except OSError as error:
        if error.errno == errno.ELOOP and folder is not None:
            raise OSError(errno.ELOOP, "is a symbolic link: copy the file itself", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return io.BufferedReader(file)


def chunks(content: Content, count: int = CHUNK) -> Iterator[bytes]:
    """The bytes, up to `count` at a time; a file ends where it ended when it was opened. Raises OSError."""
    if isinstance(content, bytes):
        yield content
        return
    with opened(content) as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (chunk := file.read(min(count, left))):
            left -= len(chunk)
            yield chunk


def draft_chunks(content: Content, count: int = CHUNK) -> Iterator[bytes]:
    """As `chunks`; what cannot be read is the draft's fault, not the store's. Raises InvalidDraft."""
    try:
        yield from chunks(content, count)
    except OSError as error:
        raise InvalidDraft(unreadable(content, error)) from error


def unreadable(content: Content, error: OSError) -> str:
    """The error message, with the file's path."""
    return f"cannot read {path_of(content)}: {error.strerror or error}"


def path_of(content: Content) -> str:
    """The path of a file."""
    return str(content) if isinstance(content, Path) else getattr(content, "name", "bytes")
