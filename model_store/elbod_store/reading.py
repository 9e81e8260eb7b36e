"""An object as a file that is read in places: every read is one request for these bytes alone."""

import io
from collections.abc import Callable
from typing import final


@final
class RangeReader(io.RawIOBase):
    """A seekable file of `size` bytes, of which `fetch(start, end)` gets a piece."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        self._size, self._fetch, self._at = size, fetch, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"there is nothing {-(start + offset)} bytes before the beginning")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        piece = self._fetch(self._at, end)
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
