"""The client for asyncio: what `_client` does with threads, with tasks."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self, SupportsIndex, TypeVar

import httpx

from elbod_client import _answers, _calls, _places, _progress, _verbs
from elbod_client._arrays import Rows
from elbod_client._calls import Call
from elbod_client._errors import ElbodError
from elbod_client._options import UNCHANGED, Options, Unchanged
from elbod_client._plans import Plan, Span, too_much
from elbod_client._readiness import Wait
from elbod_client._results import (
    AliasMove,
    Binarize,
    Include,
    Marginal,
    Output,
    Posterior,
    PublishedModel,
    Result,
    Sampler,
    Samples,
    Scores,
    Show,
)
from elbod_client._retries import delay_before_retry

T = TypeVar("T")
R = TypeVar("R", bound=Result)

logger = logging.getLogger("elbod_client")

Batches = Iterable[Rows] | AsyncIterable[Rows]


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods, results and errors.

        async with AsyncClient("http://127.0.0.1:8000", model="digits") as client:
            samples = await client.sample(64, seed=7)
            async for scores in client.stream_elbo(batches):
                ...

    http_client is an httpx.AsyncClient. A call that is cancelled cancels its requests, and the server drops their work.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float | None = 30,
        max_retries: int = 4,
        chunk_rows: int | None = None,
        concurrency: int = 4,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self._options = Options.resolve(base_url, model, api_key, timeout, max_retries, chunk_rows, concurrency)
        self._owns_http = http_client is None
        self._http = httpx.AsyncClient() if http_client is None else http_client

    def with_options(
        self,
        *,
        model: str | Unchanged | None = UNCHANGED,
        timeout: float | Unchanged | None = UNCHANGED,
        max_retries: int | Unchanged = UNCHANGED,
        chunk_rows: int | Unchanged | None = UNCHANGED,
        concurrency: int | Unchanged = UNCHANGED,
    ) -> Self:
        """As `Client.with_options`."""
        changes = {
            "model": model,
            "timeout": timeout,
            "max_retries": max_retries,
            "chunk_rows": chunk_rows,
            "concurrency": concurrency,
        }
        other = type(self).__new__(type(self))
        other._options = self._options.changed(changes)
        other._http, other._owns_http = self._http, False
        return other

    async def sample(
        self,
        num_samples: SupportsIndex | None = None,
        *,
        seed: SupportsIndex | None = None,
        first_index: SupportsIndex = 0,
        z: Rows | None = None,
        x: Rows | None = None,
        label: Rows | None = None,
        temperature: float = 1.0,
        output: Output = "sample",
        num_steps: SupportsIndex | None = None,
        level: SupportsIndex | None = None,
        sampler: Sampler | None = None,
        guidance: float | None = None,
        include: Sequence[Show] = (),
        trajectory_steps: SupportsIndex | None = None,
        model: str | None = None,
        progress: bool = False,
    ) -> Samples:
        """As `Client.sample`."""
        plan = _verbs.sample(
            num_samples=num_samples,
            seed=seed,
            first_index=first_index,
            z=z,
            x=x,
            label=label,
            temperature=temperature,
            output=output,
            num_steps=num_steps,
            level=level,
            sampler=sampler,
            guidance=guidance,
            include=include,
            trajectory_steps=trajectory_steps,
            model=self._model(model),
        )
        return await self._run(plan, "sample", progress)

    async def encode(
        self,
        x: Rows,
        *,
        label: Rows | None = None,
        num_samples: SupportsIndex = 0,
        seed: SupportsIndex | None = None,
        first_index: SupportsIndex = 0,
        binarize: Binarize | None = None,
        num_steps: SupportsIndex | None = None,
        level: SupportsIndex | None = None,
        model: str | None = None,
        progress: bool = False,
    ) -> Posterior:
        """As `Client.encode`."""
        plan = _verbs.encode(
            x,
            label=label,
            num_samples=num_samples,
            seed=seed,
            first_index=first_index,
            binarize=binarize,
            num_steps=num_steps,
            level=level,
            model=self._model(model),
        )
        return await self._run(plan, "encode", progress)

    async def elbo(
        self,
        x: Rows,
        *,
        label: Rows | None = None,
        num_samples: SupportsIndex | None = None,
        num_importance_samples: SupportsIndex = 0,
        target_standard_error: float | None = None,
        seed: SupportsIndex | None = None,
        first_index: SupportsIndex = 0,
        binarize: Binarize | None = None,
        num_steps: SupportsIndex | None = None,
        num_levels: SupportsIndex | None = None,
        marginal: Marginal | None = None,
        include: Sequence[Include] = (),
        model: str | None = None,
        progress: bool = False,
    ) -> Scores:
        """As `Client.elbo`."""
        plan = _verbs.elbo(
            x,
            label=label,
            num_samples=num_samples,
            num_importance_samples=num_importance_samples,
            target_standard_error=target_standard_error,
            seed=seed,
            first_index=first_index,
            binarize=binarize,
            num_steps=num_steps,
            num_levels=num_levels,
            marginal=marginal,
            include=include,
            model=self._model(model),
        )
        return await self._run(plan, "elbo", progress)

    def stream_sample(
        self,
        num_samples: SupportsIndex,
        *,
        seed: SupportsIndex | None = None,
        first_index: SupportsIndex = 0,
        label: int | None = None,
        temperature: float = 1.0,
        output: Output = "sample",
        num_steps: SupportsIndex | None = None,
        level: SupportsIndex | None = None,
        sampler: Sampler | None = None,
        guidance: float | None = None,
        include: Sequence[Show] = (),
        trajectory_steps: SupportsIndex | None = None,
        model: str | None = None,
        progress: bool = False,
    ) -> AsyncIterator[Samples]:
        """As `Client.stream_sample`."""
        plan = _verbs.sample(
            num_samples=num_samples,
            seed=seed,
            first_index=first_index,
            z=None,
            x=None,
            label=label,
            temperature=temperature,
            output=output,
            num_steps=num_steps,
            level=level,
            sampler=sampler,
            guidance=guidance,
            include=include,
            trajectory_steps=trajectory_steps,
            model=self._model(model),
        )
        return self._stream(_each(plan, self._options.chunk_rows), "sample", progress, plan.rows)

    def stream_encode(
        self,
        batches: Batches,
        *,
        label: int | None = None,
        num_samples: SupportsIndex = 0,
        seed: SupportsIndex | None = None,
        first_index: SupportsIndex = 0,
        binarize: Binarize | None = None,
        num_steps: SupportsIndex | None = None,
        level: SupportsIndex | None = None,
        model: str | None = None,
        progress: bool = False,
    ) -> AsyncIterator[Posterior]:
        """As `Client.stream_encode`; the batches may come asynchronously."""
        common = {"label": label, "num_samples": num_samples, "binarize": binarize}
        common |= {"num_steps": num_steps, "level": level}
        drawn, chosen = _verbs.drawn(seed), self._model(model)

        def plan(rows: Rows, first: int) -> Plan[Posterior]:
            return _verbs.encode(rows, seed=drawn, first_index=first, model=chosen, **common)  # type: ignore[arg-type]

        return self._stream(_parts(batches, first_index, plan), "encode", progress)

    def stream_elbo(
        self,
        batches: Batches,
        *,
        label: int | None = None,
        num_samples: SupportsIndex | None = None,
        num_importance_samples: SupportsIndex = 0,
        target_standard_error: float | None = None,
        seed: SupportsIndex | None = None,
        first_index: SupportsIndex = 0,
        binarize: Binarize | None = None,
        num_steps: SupportsIndex | None = None,
        num_levels: SupportsIndex | None = None,
        marginal: Marginal | None = None,
        include: Sequence[Include] = (),
        model: str | None = None,
        progress: bool = False,
    ) -> AsyncIterator[Scores]:
        """As `Client.stream_elbo`; the batches may come asynchronously."""
        drawn, chosen = _verbs.drawn(seed), self._model(model)

        def plan(rows: Rows, first: int) -> Plan[Scores]:
            return _verbs.elbo(
                rows,
                label=label,
                num_samples=num_samples,
                num_importance_samples=num_importance_samples,
                target_standard_error=target_standard_error,
                seed=drawn,
                first_index=first,
                binarize=binarize,
                num_steps=num_steps,
                num_levels=num_levels,
                marginal=marginal,
                include=include,
                model=chosen,
            )

        return self._stream(_parts(batches, first_index, plan), "elbo", progress)

    async def models(self) -> tuple[PublishedModel, ...]:
        """As `Client.models`."""
        return await self._send(_calls.MODELS)

    async def version(self) -> str:
        """As `Client.version`."""
        return await self._send(_calls.VERSION)

    async def promote(
        self, name: str, alias: str, version: SupportsIndex, *, expected: int | None = None, why: str
    ) -> AliasMove:
        """As `Client.promote`."""
        return await self._send(_calls.promote(name, alias, _verbs.integer("version", version), expected, why))

    async def rollback(self, name: str, alias: str, *, expected: int | None = None, why: str) -> AliasMove:
        """As `Client.rollback`."""
        return await self._send(_calls.rollback(name, alias, expected, why))

    async def wait_until_ready(self, timeout: float = 60) -> None:
        """As `Client.wait_until_ready`."""
        wait = Wait(self._options.shown_url, timeout, time.monotonic())
        while True:
            look_timeout = httpx.Timeout(wait.look_timeout(time.monotonic()))
            try:
                return await self._attempt(_calls.READINESS, look_timeout)
            except ElbodError as error:
                pause = wait.pause(time.monotonic(), error)
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """As `Client.close`."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._options.shown_url!r}, model={self._options.model!r})"

    def _model(self, model: str | None) -> str | None:
        return self._options.model if model is None else model

    async def _run(self, plan: Plan[R], title: str, progress: bool) -> R:
        """The result of all rows."""
        spans = plan.spans(self._options.chunk_rows)
        if len(spans) == 1 and not progress:
            return plan.result(spans[0], await self._span(plan, spans[0], plan.model))
        parts = self._stream(_each(plan, self._options.chunk_rows), title, progress, plan.rows)
        return plan.result((0, plan.rows), [part async for part in parts])

    async def _stream(
        self, parts: AsyncIterator[tuple[Plan[R], Span]], title: str, progress: bool, total: int | None = None
    ) -> AsyncIterator[R]:
        """One result a part, in order; the first resolves the model for the others."""
        model = None
        with _progress.bar(progress, title, total) as bar:
            waiting: deque[tuple[int, asyncio.Task[R]]] = deque()
            async with _cancelled_at_the_end(waiting):
                while True:
                    # Until the first has answered nothing else is sent.
                    while len(waiting) < (1 if model is None else self._options.concurrency):
                        try:
                            plan, span = await anext(parts)
                        except StopAsyncIteration:
                            break
                        waiting.append((span[1] - span[0], asyncio.create_task(self._part(plan, span, model))))
                    if not waiting:
                        return
                    rows, task = waiting[0]
                    result = await task
                    waiting.popleft()
                    model = str(result.model)
                    bar.update(rows)
                    yield result

    async def _part(self, plan: Plan[R], span: Span, model: str | None) -> R:
        """A batch may be more than one request; what follows its first names that one's version."""
        results: list[R] = []
        for part in plan.spans(self._options.chunk_rows) if span == (0, plan.rows) else [span]:
            results += await self._span(plan, part, model or plan.model)
            model = str(results[0].model)
        return plan.result(span, results)

    async def _span(self, plan: Plan[R], span: Span, model: str | None) -> list[R]:
        """Results of some rows, in halves where they are too much for one request."""
        try:
            return [await self._send(plan.call(span, model))]
        except ElbodError as error:
            parts = too_much(plan, span, error)
            if parts is None:
                raise _places.moved(error, plan.offset + span[0]) from error.__cause__
        left, right = [await self._span(plan, part, model) for part in parts]
        return left + right

    async def _send(self, call: Call[T]) -> T:
        """The call's result, after as many attempts as it takes and the options allow."""
        retry, limit = 0, self._options.max_retries if call.repeatable else 0
        while True:
            retry += 1
            try:
                return await self._attempt(call, self._options.transport_timeout())
            except ElbodError as error:
                delay = delay_before_retry(error, retry, limit, random.random())
                if delay is None:
                    raise
                logger.info("%s %s: retry %d of %d in %.2f s: %s", call.method, call.path, retry, limit, delay, error)
            await asyncio.sleep(delay)

    async def _attempt(self, call: Call[T], timeout: httpx.Timeout) -> T:
        request = self._http.build_request(
            call.method,
            self._options.base_url + call.path,
            content=call.content,
            headers={**self._options.headers(), **call.headers},
            timeout=timeout,
        )
        try:
            response = await self._http.send(request, stream=True)
        except httpx.RequestError as error:
            raise _answers.no_answer(request, self._options.shown_url, error) from error
        try:
            await response.aread()
        except httpx.RequestError as error:
            raise _answers.cut_short(response, error) from error
        finally:
            await response.aclose()
        return _answers.read(call.read, response)


@asynccontextmanager
async def _cancelled_at_the_end(waiting: deque[tuple[int, "asyncio.Task[R]"]]) -> AsyncIterator[None]:
    """Whatever goes wrong, no task goes on without its caller."""
    try:
        yield
    finally:
        for _, task in waiting:
            task.cancel()
        await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)


async def _each(plan: Plan[R], chunk_rows: int | None) -> AsyncIterator[tuple[Plan[R], Span]]:
    for span in plan.spans(chunk_rows):
        yield plan, span


async def _parts(
    batches: Batches, first_index: SupportsIndex, plan: Callable[[Rows, int], Plan[R]]
) -> AsyncIterator[tuple[Plan[R], Span]]:
    """Each batch as a plan of its own, whose rows go on where the last one's ended."""
    start = _verbs.integer("first_index", first_index)
    offset = 0
    async for batch in _taken(batches):
        made = replace(plan(batch, start + offset), offset=offset)
        yield made, (0, made.rows)
        offset += made.rows


async def _taken(batches: Batches) -> AsyncIterator[Rows]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
    else:
        for batch in batches:
            yield batch
