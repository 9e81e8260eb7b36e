"""Work on many bytes, off the event loop: on few threads, in blocks, dropped once nobody waits for it."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from elbod.engine.threads import Threads
from elbod.requests.blocks import Pause

T = TypeVar("T")

# Work on fewer bytes is done at once: a thread costs more.
INLINE_BYTES = 64 * 1024
# Two, so that one large request does not hold up all others; more would only wait for each other.
_THREADS = 2
# Longer than a thread that wants the interpreter needs to wake up and take it.
_PAUSE = 1e-4


class Abandoned(Exception):
    """Nobody waits for this work any more."""


class Blocks:
    """The threads for long work. A cancelled call ends at its next block, or leaves the queue."""

    def __init__(self) -> None:
        self._threads = Threads(_THREADS, "elbod-blocks")

    async def run(self, work: Callable[[Pause], T]) -> T:
        """The result of `work`, which calls its argument between blocks; that raises Abandoned once nobody waits."""
        abandoned = threading.Event()

        def pause() -> None:
            if abandoned.is_set():
                raise Abandoned
            time.sleep(_PAUSE)

        try:
            return await asyncio.wrap_future(self._threads.submit(work, pause))
        finally:
            abandoned.set()
