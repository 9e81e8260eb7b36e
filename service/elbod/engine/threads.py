"""A few threads for calls that may hang, such as those to a store: the end of the process waits for none of them."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """Runs calls in the order in which they came, `count` at once.

    Unlike the threads of `concurrent.futures` and of anyio these are daemons, and one whose caller has given up keeps
    its place until it returns: a store that does not answer cannot fill the process with threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def submit(self, call: Callable[..., T], *arguments: Any) -> "Future[T]":
        """The outcome of the call. A future that is cancelled before its turn is passed over."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call(*arguments))
            except BaseException as error:
                # A family's code may raise anything, SystemExit too: the caller that waits must hear of it.
                future.set_exception(error)

        self._waiting.put(run)
        return future

    def _work(self) -> None:
        while True:
            self._waiting.get()()
