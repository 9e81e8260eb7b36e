"""Least connections: which of the workers that share a socket accepts the next connection.

Callers keep a connection for many requests, so the worker that accepts it answers them for long: an uneven split
queues one worker while another idles. A worker that has more connections than others has two remedies. It leaves new
connections to them, and it asks the callers of its surplus to reconnect, by `Connection: close` on an answer.
"""

import ctypes
import multiprocessing
from collections import deque

# The load of a worker that accepts nothing: more than any other.
_ABSENT = 2**64 - 1
_OPEN_BITS = 32
# A worker with so few connections in use accepts more, whatever others have: else probes of health, each on a new
# connection, would always reach an idle worker and never see a busy one.
_FEW = 1
# Reviews that must agree before callers are asked to reconnect: of few requests, one moment shows little.
_REVIEWS = 3


class Loads:
    """The load of each worker, in memory that all workers share.

    A load is the pair (connections in use, open connections), in this order, as one number. A worker writes its own
    load only, so there is no lock.
    """

    def __init__(self, workers: int) -> None:
        self._entries = multiprocessing.get_context("spawn").RawArray(ctypes.c_uint64, [_ABSENT] * workers)

    def read(self) -> list[int]:
        return list(self._entries)

    def write(self, worker: int, in_use: int, opened: int) -> None:
        self._entries[worker] = in_use << _OPEN_BITS | opened

    def clear(self, worker: int) -> None:
        """The worker accepts no connections: it drains, or is dead."""
        self._entries[worker] = _ABSENT


class Balance:
    """The connections of one worker next to those of the others.

    A connection is in use until its first request and while requests follow: see `Connection.check`.
    """

    def __init__(self, loads: Loads, worker: int) -> None:
        self._loads, self._worker = loads, worker
        self._in_use = self._opened = 0
        self._present = False
        # Workers that do not take the connections left to them, with their load at that time.
        self._stuck: dict[int, int] = {}
        self._surpluses: deque[int] = deque(maxlen=_REVIEWS)
        self._moving = 0

    def join(self) -> None:
        """Accept connections from now on."""
        self._present = True
        self._write()

    def leave(self) -> None:
        """Leave connections to the others as long as there are any. A signal handler may call it."""
        self._present = False
        self._loads.clear(self._worker)

    def open(self) -> None:
        """A connection was accepted."""
        self._opened += 1
        self.use(1)

    def close(self, *, in_use: bool) -> None:
        """A connection was closed."""
        self._opened -= 1
        self.use(-in_use)

    def use(self, change: int) -> None:
        """So many more connections are in use."""
        self._in_use += change
        self._write()

    def _write(self) -> None:
        if self._present:
            self._loads.write(self._worker, self._in_use, self._opened)

    def lighter(self) -> dict[int, int]:
        """Workers with less load than this one, and their loads; none as long as this one has few connections."""
        loads = self._loads.read()
        own = loads[self._worker]
        if own >> _OPEN_BITS <= _FEW:
            return {}
        return {worker: load for worker, load in enumerate(loads) if load < own and self._stuck.get(worker) != load}

    def skip(self, lighter: dict[int, int]) -> None:
        """Do not count on those of these workers whose load is still the same, until it changes."""
        self._stuck |= {worker: load for worker, load in self.lighter().items() if lighter.get(worker) == load}

    def review(self) -> None:
        """Compare with the mean of the workers, to be called about once a second."""
        used = [load >> _OPEN_BITS for load in self._loads.read() if load != _ABSENT]
        mean = -(-sum(used) // len(used)) if used else self._in_use
        self._surpluses.append(self._in_use - mean)
        self._moving = 0
        if len(self._surpluses) == _REVIEWS and (surplus := min(self._surpluses)) > 0:
            self._moving = surplus
            self._surpluses.clear()

    def moves_one(self) -> bool:
        """Whether the caller that asks now should reconnect, so that a worker with less load accepts it."""
        moves = self._moving > 0
        self._moving -= moves
        return moves
