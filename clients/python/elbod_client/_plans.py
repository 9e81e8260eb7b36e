"""A verb over n rows as one or several requests, whose answers together are those of one. Nothing here sends them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from elbod_client import _safetensors
from elbod_client._calls import Call
from elbod_client._errors import BodyTooLarge, DeadlineExceeded, ElbodError, InvalidInput
from elbod_client._receipts import Asked
from elbod_client._results import Result

R = TypeVar("R", bound=Result)
Array = NDArray[Any]
Span = tuple[int, int]

# What one request is given to do, unless `chunk_rows` says otherwise: small enough to be answered in seconds, by slow
# models, too, and large enough that requests cost little next to rows.
CHUNK_ROWS: Final = 4096
CHUNK_BYTES: Final = 8 * 1024**2
CHUNK_DRAWS: Final = 16_384
# What a server asks for whose queue would never hold all of a request's work.
_WAY_OUT: Final = "split its rows"


@dataclass(frozen=True, kw_only=True)
class Plan(Generic[R]):
    """Row i of n is example `first_index` + i, so that rows can be asked for in any parts and order.

    fields: what is not an array, without model, first_index and the number of rows. A value of None is not sent.
    arrays: those with one entry a row, and arrays of no dimension, which hold for all.
    count: the field that says how many rows there are, where no array does.
    draws: of a row.  row_bytes: of a row's answer, as far as it is known.
    """

    path: str
    model: str | None
    first_index: int
    rows: int
    fields: Mapping[str, object]
    arrays: Mapping[str, Array]
    read: Callable[[httpx.Response], R]
    merge: Callable[[Sequence[R]], R]
    count: str | None = None
    draws: int = 1
    row_bytes: int = 0
    # Whether rows may be cut apart: not where the server is to say what is wrong with them.
    divisible: bool = True
    # Rows before these in what the caller gave.
    offset: int = 0

    def spans(self, chunk_rows: int | None) -> list[Span]:
        """First row and the one after the last of each request."""
        step = self._chunk_rows() if chunk_rows is None else chunk_rows
        if not self.divisible or self.rows <= step:
            return [(0, self.rows)]
        return [(start, min(start + step, self.rows)) for start in range(0, self.rows, step)]

    def _chunk_rows(self) -> int:
        given = sum(array.nbytes // max(1, len(array)) for array in self.arrays.values() if array.ndim)
        return max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(1, given + self.row_bytes), CHUNK_DRAWS // max(1, self.draws)))

    def call(self, span: Span, model: str | None) -> Call[R]:
        """The request for rows start ... stop - 1."""
        asked = self._asked(span, model)
        headers = {"Content-Type": _safetensors.MEDIA_TYPE, "Accept": _safetensors.MEDIA_TYPE}
        return Call("POST", self.path, self.read, headers, _safetensors.write(asked.fields, asked.arrays))

    def result(self, span: Span, parts: Sequence[R]) -> R:
        """The parts as one result that knows what it was asked by."""
        merged = self.merge(parts)
        return replace(merged, _asked=self._asked(span, str(merged.model)))

    def _asked(self, span: Span, model: str | None) -> Asked:
        start, stop = span
        fields = {**self.fields, "model": model, "first_index": self.first_index + start}
        if self.count is not None:
            fields[self.count] = stop - start
        whole = span == (0, self.rows)
        return Asked(
            verb=self.path.removeprefix("/"),
            # What is not given is not sent: an older server refuses fields that it does not know.
            fields={name: value for name, value in fields.items() if value is not None},
            arrays={name: a if whole or not a.ndim else a[start:stop] for name, a in self.arrays.items()},
        )


def too_much(plan: Plan[Any], span: Span, error: ElbodError) -> tuple[Span, Span] | None:
    """The halves of a span that an error calls too much for one request; None if it says something else.

    What did not end in time is cut only where the caller did not mean it to be one request.
    """
    start, stop = span
    parts = stop - start < plan.rows
    # Only the server knows how many passes a draw takes, and says so.
    too_large = isinstance(error, BodyTooLarge) or (isinstance(error, InvalidInput) and _WAY_OUT in str(error))
    if not plan.divisible or not (too_large or (parts and isinstance(error, DeadlineExceeded))):
        return None
    middle = (start + stop) // 2
    return None if middle == start else ((start, middle), (middle, stop))


def rows_of(arrays: Mapping[str, Array]) -> int | None:
    """How many rows the arrays have; None where none says it. Arrays that differ are for the server to refuse."""
    return next((len(array) for array in arrays.values() if array.ndim), None)


def equal_rows(arrays: Mapping[str, Array]) -> bool:
    """Whether all arrays of more than one number have one entry a row."""
    return len({len(array) for array in arrays.values() if array.ndim}) <= 1


def nbytes_of_map(x: Array) -> int:
    """Bytes of a float64 for each element of a row."""
    return 8 * int(np.prod(x.shape[1:])) if x.ndim else 0
