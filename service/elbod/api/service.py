"""The running service behind the routes: settings, residents and engine of one process, and their life."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from elbod.api.blocks import INLINE_BYTES, Blocks
from elbod.api.budget import ByteBudget, Holding
from elbod.api.metrics import Metrics
from elbod.engine.admission import Limits
from elbod.engine.backends import open_backend
from elbod.engine.compute import Compute
from elbod.engine.jobs import Job, Result
from elbod.engine.loading import Resident
from elbod.engine.poller import Poller, delays
from elbod.engine.progress import Progress
from elbod.engine.residents import Residents
from elbod.engine.settling import Outcome
from elbod.engine.threads import Threads
from elbod.errors import BodyTooLarge, BodyTooSlow, DeadlineExceeded, Draining, InvalidInput, StartupError, shown
from elbod.requests.blocks import Pause, no_pause
from elbod.requests.checks import RequestLimits
from elbod.settings import Settings
from elbod_store import ModelStore, StoreError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A compute thread that has been on one tile for longer is stuck: tiles take milliseconds.
STUCK_AFTER = 60.0

_LOAD_PATIENCE = 10.0

# A store that has kept a look waiting for longer is a problem: answers take milliseconds.
_SILENT_AFTER = 5.0

# Seconds after which a caller who still waits is watched: most are answered before, and a watch costs as much as a row.
_WATCH_AFTER = 0.05

_DROPPED = "the server shut down before the answer was there: the work was dropped"

# Requests that ask the store at once: what is published, or where an alias goes.
_STORE_THREADS = 8


class Service:
    """One process's share of the work."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.limits = RequestLimits(settings.max_rows, settings.max_num_samples, settings.max_importance_samples)
        try:
            self.store = ModelStore.open(settings.store)
        except StoreError as error:
            raise StartupError(f"cannot open the model store {settings.store}: {error}") from error
        backend = open_backend(settings.device)
        self.residents = Residents(
            self.store, backend, default=settings.model, max_loaded_bytes=settings.max_loaded_bytes
        )
        self.engine = Compute(backend, Limits(settings.max_queue_rows, settings.max_queue_bytes))
        self._poller = Poller(self._look, delays(settings.poll_interval))
        self._store_threads = Threads(_STORE_THREADS, "elbod-store")
        self.draining = False
        self.metrics = Metrics(self.engine, self.residents, lambda: self.ready)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        # Done when the time of a drain is up.
        self._given_up: asyncio.Future[None] | None = None
        self._waiting: dict[Progress, asyncio.Future[Result]] = {}
        self._watchers: dict[Progress, asyncio.Task[None]] = {}
        self.budget = ByteBudget(settings.max_queue_bytes)
        self._blocks = Blocks()

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Engine and poller run inside; at the end what was admitted is finished."""
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._given_up = self._loop.create_future()
        flushing = asyncio.create_task(self.metrics.flush_regularly())
        self.engine.start(self._loop)
        self._poller.start()
        # The first look loads the default model: connections are answered once it is there, or its time is up.
        await run_in_threadpool(self._poller.looked.wait, _LOAD_PATIENCE)
        try:
            yield
        finally:
            self.draining = True
            await run_in_threadpool(self._poller.stop)
            if not await run_in_threadpool(self.engine.drain, self.settings.drain_timeout):
                logger.error("gave up on unfinished work after %s s", self.settings.drain_timeout)
            flushing.cancel()
            self.metrics.flush()

    def _look(self) -> None:
        """One look at the store; only the first waits for what it begins to load."""
        self.residents.poll(0 if self._poller.looked.is_set() else _LOAD_PATIENCE)

    @property
    def alive(self) -> bool:
        """Whether the threads that compute and poll live."""
        return self.engine.alive and self._poller.is_alive()

    @property
    def healthy(self) -> bool:
        """Whether those threads live, and the compute thread is not stuck."""
        return self.alive and self.engine.busy_seconds() < STUCK_AFTER

    @property
    def ready(self) -> bool:
        """Whether the default model is loaded, verified and warm, and the process takes work."""
        return self.residents.ready and not self.draining

    @property
    def problems(self) -> list[str]:
        """What is wrong with versions and the store now, in sentences."""
        waiting = self._poller.waiting_seconds
        silent = waiting > (_SILENT_AFTER if self._poller.looked.is_set() else _LOAD_PATIENCE)
        return self.residents.problems + [f"the model store has not answered for {waiting:.0f} s"] * silent

    async def resident(self, request: Request, reference: str | None) -> Resident:
        """The resident of a reference, loaded by other threads if it is not there yet.

        Raises as `Residents.acquire` and `attended`, and Draining.
        """
        found = self.residents.find(reference)
        if found is not None:
            return found
        if self.draining:
            raise Draining("the server is shutting down: try another one")
        return await self.attended(request, self._outcome(self.residents.ask(reference)))

    async def ask_store(self, request: Request, question: Callable[..., T], *arguments: Any) -> T:
        """The outcome of a call that asks the model store, on one of a few threads, as `attended`.

        A call that has begun runs to its end, even if its caller leaves.
        """
        asked = self._store_threads.submit(question, *arguments)
        try:
            return await self.attended(request, self._outcome(asked))
        finally:
            asked.cancel()

    async def _outcome(self, work: "Future[T]") -> T:
        """What other threads work on, which others may wait for as well. Raises Draining at the end of a drain."""
        assert self._given_up is not None
        outcome = asyncio.wrap_future(work)
        # Nobody may be left to hear of an error.
        outcome.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait((outcome, self._given_up), return_when=asyncio.FIRST_COMPLETED)
        if not outcome.done():
            raise Draining(_DROPPED)
        return outcome.result()

    def begin_drain(self) -> None:
        """Take nothing new; what is admitted has `drain_timeout` seconds. Called from a signal handler."""
        if not self.draining and self._loop is not None:
            self.draining = True
            self._loop.call_soon_threadsafe(self._loop.call_later, self.settings.drain_timeout, self._give_up)

    def _give_up(self) -> None:
        if self._given_up is not None and not self._given_up.done():
            self._given_up.set_result(None)
        for task in list(self._waiting):
            self._fail(task, Draining(_DROPPED))

    async def run(self, job: Job, resident: Resident, request: Request) -> Result:
        """The job's result. Raises QueueFull.

        Raises DeadlineExceeded, Draining, ClientDisconnect, too: then what has not run never will.
        """
        if self.draining:
            raise Draining("the server is shutting down: try another one")
        deadline, loop = self.deadline(request), asyncio.get_running_loop()
        if loop.time() > deadline:
            raise _too_late(self.timeout(request))
        answer: asyncio.Future[Result] = loop.create_future()
        task = self.engine.admit(job, resident, self._deliver)
        self._waiting[task] = answer
        if deadline - loop.time() <= _WATCH_AFTER:
            timer = loop.call_at(deadline, self._expire, task, request)
        else:
            timer = loop.call_later(_WATCH_AFTER, self._watch, task, request, deadline)
        try:
            # Until the answer has been sent: the engine counts it no longer than until it is computed.
            holding_of(request).reserve(task.size)
            result = await answer
            self.metrics.answered(job, resident.description, result)
            return result
        finally:
            timer.cancel()
            if self._waiting.pop(task, None) is not None:
                # Cancelled by the server's end.
                self.engine.cancel(task)
            if (watcher := self._watchers.pop(task, None)) is not None:
                watcher.cancel()

    async def attended(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """The result of work that may take long, for as long as the request's caller waits for it.

        Cancels it otherwise, and raises DeadlineExceeded or ClientDisconnect. The body must have been read.
        """
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(_disconnected(request))
        try:
            seconds = max(0.0, self.deadline(request) - asyncio.get_running_loop().time())
            done, _ = await asyncio.wait((working, leaving), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if working in done:
                return working.result()
            raise ClientDisconnect if leaving in done else _too_late(self.timeout(request))
        finally:
            working.cancel()
            leaving.cancel()

    async def in_blocks(self, request: Request, size: int, work: Callable[[Pause], T]) -> T:
        """The result of work on `size` bytes: here and at once if they are few, else on a thread and attended."""
        if size <= INLINE_BYTES:
            return work(no_pause)
        return await self.attended(request, self._blocks.run(work))

    def _deliver(self, finished: Sequence[tuple[Progress, Outcome]]) -> None:
        """Called once a tile, on the event loop or on the compute thread."""
        assert self._loop is not None
        if threading.get_ident() == self._loop_thread:
            self._settle(finished)
            return
        # The loop is closed if the process was told to end at once: nobody waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, finished)

    def _settle(self, finished: Sequence[tuple[Progress, Outcome]]) -> None:
        for task, outcome in finished:
            answer = self._waiting.pop(task, None)
            if answer is None or answer.done():
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

    def _fail(self, task: Progress, error: Exception) -> None:
        """Drop the task's work and tell its caller why."""
        answer = self._waiting.pop(task, None)
        if answer is not None and not answer.done():
            self.engine.cancel(task)
            answer.set_exception(error)

    def _expire(self, task: Progress, request: Request) -> None:
        self._fail(task, _too_late(self.timeout(request)))

    def _watch(self, task: Progress, request: Request, deadline: float) -> None:
        """Fail the task at its deadline, or when its caller leaves."""

        async def watch() -> None:
            try:
                async with asyncio.timeout_at(deadline):
                    await _disconnected(request)
            except TimeoutError:
                self._expire(task, request)
            else:
                self._fail(task, ClientDisconnect())

        if task in self._waiting:
            self._watchers[task] = asyncio.ensure_future(watch())

    async def read_body(self, request: Request, limit: int) -> bytearray:
        """The body, never more than `limit` bytes of it, nor more than the budget leaves.

        FastAPI's own limit answers in plain text. Raises BodyTooLarge, BodyTooSlow, QueueFull, ClientDisconnect, and
        what the connection refused the rest of the body for.
        """
        too_large = BodyTooLarge(f"the body is longer than {limit} bytes: split the request")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large
        seconds, body, holding, more = self.settings.request_timeout, bytearray(), holding_of(request), True
        try:
            async with asyncio.timeout(seconds):
                # Not by `request.stream()`: an asynchronous generator takes as long as the rest of this.
                while more:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    chunk, more = message.get("body", b""), message.get("more_body", False)
                    if len(body) + len(chunk) > limit:
                        raise too_large
                    holding.reserve(len(body) + len(chunk))
                    body += chunk
        except TimeoutError as error:
            raise BodyTooSlow(f"the body did not arrive within {seconds:g} s") from error
        if (refusal := request.scope["state"].get("refusal")) is not None:
            raise refusal
        return body

    def deadline(self, request: Request) -> float:
        """When the request's time is up, by the event loop's clock. The time runs from the first call."""
        state = request.scope["state"]
        if "deadline" not in state:
            state["deadline"] = asyncio.get_running_loop().time() + self.timeout(request)
        deadline: float = state["deadline"]
        return deadline

    def timeout(self, request: Request) -> float:
        """Seconds that this request may take: its `Request-Timeout`, at most the server's own limit."""
        limit = self.settings.request_timeout
        header = request.headers.get("request-timeout")
        if header is None:
            return limit
        try:
            seconds = float(header)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            raise InvalidInput.at("", f"Request-Timeout must be a positive number of seconds, not {shown(header)!r}")
        return min(seconds, limit)


def _too_late(timeout: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"no answer within {timeout:g} s: the work was dropped")


async def _disconnected(request: Request) -> None:
    """Returns when the caller has left; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def holding_of(request: Request) -> Holding:
    """What the request holds of its service's budget."""
    holding = request.scope["state"]["holding"]
    assert isinstance(holding, Holding)
    return holding


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service = request.scope["app"].state.service
    assert isinstance(service, Service)
    return service
