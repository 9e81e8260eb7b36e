"""Rows in flight: tables of fixed width, in which each row of each job has a slot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from elbod.engine.backends.base import Array, Backend, Table
from elbod.engine.programs import ENCODE, Program
from elbod.generators.noise import Keys
from elbod.generators.terms import mapped

SlotNumbers = NDArray[np.int64]

# Rows that the tables of an idle model have room for, and their bytes.
_IDLE_ROWS, _IDLE_BYTES = 256, 16 * 1024**2
# By how much of themselves tables grow at least.
_GROWTH = 4


class Slots:
    """The tables of one model. A row is copied to the device once, however many draws it has.

    Rows of jobs get slots when the jobs are worked, as many as the job's chunk has, so that nobody waits for slots.
    Tables grow by a quarter or by what a chunk needs, admission counts the rows, and idle tables are small again.
    """

    def __init__(
        self, backend: Backend, row_dtype: type[np.floating[Any]], slot_bytes: int, walk_bytes: int = 0
    ) -> None:
        self._backend, self._row_dtype = backend, row_dtype
        # Where draws are that take passes.
        self.walks = Slots(backend, row_dtype, walk_bytes) if walk_bytes else None
        self._slot_bytes = slot_bytes
        self._idle_rows = max(1, min(_IDLE_ROWS, _IDLE_BYTES // slot_bytes))
        # What each program's outputs are made of.
        self.types: dict[Program, Any] = {}
        self._empty()

    def _empty(self) -> None:
        self._capacity = self._idle_rows
        self._free = list(range(self._capacity))[::-1]
        self._tables: dict[str, Table] = {}
        self._row_terms: list[Array] = []
        self.seed, self.index = np.zeros(self._capacity, np.uint64), np.zeros(self._capacity, np.uint64)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables, once rows of every kind were in them."""
        return self._capacity * self._slot_bytes

    def acquire(self, count: int) -> SlotNumbers:
        """Slots for `count` rows. Raises what the device raises when it has no memory for larger tables."""
        if len(self._free) < count:
            self._grow(self._capacity + max(count - len(self._free), self._capacity // _GROWTH))
        taken = self._free[-count:]
        del self._free[-count:]
        taken.reverse()
        return np.array(taken)

    def release(self, slots: SlotNumbers) -> None:
        self._free += slots.tolist()[::-1]
        if len(self._free) == self._capacity > self._idle_rows:
            self._empty()

    def _grow(self, capacity: int) -> None:
        for table in self._tables.values():
            table.grow(capacity)
        self._row_terms = [np.resize(values, (capacity, *values.shape[1:])) for values in self._row_terms]
        self.seed, self.index = np.resize(self.seed, capacity), np.resize(self.index, capacity)
        self._free = list(range(self._capacity, capacity))[::-1] + self._free
        self._capacity = capacity

    def write_rows(self, slots: SlotNumbers | np.int64, x: Array) -> None:
        """Set x, in the dtype that holds every request's values."""
        self.write("x", slots, x, self._row_dtype)

    def write(self, name: str, slots: SlotNumbers | np.int64, values: Array, dtype: Any) -> None:
        """Set an input of rows."""
        if name not in self._tables:
            self._tables[name] = self._backend.table(self._capacity, values.shape[1:], np.dtype(dtype))
        self._tables[name].write(slots, values)

    def take(self, name: str, slots: SlotNumbers) -> Tensor:
        """An input of rows, on the device."""
        return self._tables[name].take(slots)

    def keys(self, slots: SlotNumbers, draws: Array) -> Keys:
        """Noise keys of draws of rows."""
        return Keys(self.seed[slots], self.index[slots], draws)

    def keep_parameters(self, slots: SlotNumbers, parameters: Mapping[str, Tensor]) -> None:
        """Keep the first parameters of q(z|x) of a tile for the draws of its rows."""
        for name, parameter in parameters.items():
            key = f"q.{name}"
            if key not in self._tables:
                dtype = np.dtype(str(parameter.dtype).removeprefix("torch."))
                self._tables[key] = self._backend.table(self._capacity, tuple(parameter.shape[1:]), dtype)
            self._tables[key].write(slots, parameter[: len(slots)])

    def keep_row_terms(self, slots: SlotNumbers, outputs: Sequence[Array]) -> None:
        """Keep the first `RowTerms` of a tile, as its arrays, for the end of their draws."""
        if not self._row_terms:
            self._row_terms = [np.empty((self._capacity, *values.shape[1:]), values.dtype) for values in outputs]
        for kept, output in zip(self._row_terms, outputs, strict=True):
            kept[slots] = output[: len(slots)]

    def parameters(self, names: Mapping[str, Any], slots: SlotNumbers) -> dict[str, Tensor]:
        """Parameters of q(z|x), on the device."""
        return {name: self._tables[f"q.{name}"].take(slots) for name in names}

    def read_parameters(self, names: Mapping[str, Any], slots: SlotNumbers) -> dict[str, Array]:
        """The same on the host."""
        return {name: self._tables[f"q.{name}"].read(slots) for name in names}

    def row_terms(self, slots: SlotNumbers) -> Any:
        """`RowTerms` of encoded rows, on the host."""
        tables = iter(self._row_terms)
        return mapped(lambda _: next(tables)[slots], self.types[ENCODE])
