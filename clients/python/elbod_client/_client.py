"""The blocking client: sends calls, several at a time, sleeps between retries, and decides nothing else."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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


class Client:
    """A connection to an elbod server; safe to share between threads.

        with Client("http://127.0.0.1:8000", model="digits") as client:
            samples = client.sample(64, seed=7)
            scores = client.elbo(samples.x, num_samples=16, num_importance_samples=64)

    base_url: the server; default `ELBOD_URL`, else http://127.0.0.1:8000. A path in it is kept.
    model: reference of calls that name none: `name`, `name@alias` or `name@version`; None is the server's default.
    api_key: default `ELBOD_API_KEY`.
    timeout: seconds that one attempt may take, None for no limit. The server hears it and drops the work then.
    max_retries: further attempts after 429, 503 and connections that fail or break, with growing pauses or as the
        server's `Retry-After` asks; the default bridges 5.6 s at least. Not after `timeout`. Each is logged at INFO
        on the logger `elbod_client`.
    chunk_rows: rows of one request; by default some thousand, fewer of large rows and of many draws or steps. What is
        longer is sent as several requests, `concurrency` of them at a time, and comes back as one result with the same
        bytes. The first one resolves the model, and all others name the version that it found.
    http_client: an httpx.Client to send with (proxies, certificates, transports); it stays yours to close.

    Rows may be arrays, nested lists, tensors of torch, images of Pillow, or lists of those. Calls raise ElbodError (see
    its module for the tree), and TypeError or ValueError for what cannot be sent. What a call of several requests
    raises names rows as they are in the whole.
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
        http_client: httpx.Client | None = None,
    ) -> None:
        self._options = Options.resolve(base_url, model, api_key, timeout, max_retries, chunk_rows, concurrency)
        self._owns_http = http_client is None
        self._http = httpx.Client() if http_client is None else http_client

    def with_options(
        self,
        *,
        model: str | Unchanged | None = UNCHANGED,
        timeout: float | Unchanged | None = UNCHANGED,
        max_retries: int | Unchanged = UNCHANGED,
        chunk_rows: int | Unchanged | None = UNCHANGED,
        concurrency: int | Unchanged = UNCHANGED,
    ) -> Self:
        """A client of the same connections with other settings; closing it closes nothing."""
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

    def sample(
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
        """Draw x ~ p(x|z) with z from the prior, from given latents `z`, or from q(z|x) of given rows `x`.

        num_samples: n, by default one a label, or 1; not with `z` or `x`, which give one output a row.
        seed, first_index: the rows are examples first_index ... first_index + n - 1 of the seed, so ten calls of ten
            give the same as one of a hundred. A missing seed is drawn; the result has it.
        z: (n, latent_dim).  x: (n, *event_shape), data units.
        label: the class to draw from, which a conditional model needs unless it has a null label: one number for all
            rows, or n of them.
        temperature: scale of the randomness of z; 0 is its mean. Not with `z`.
        output: "sample", or "mean" for E[x|z]. Reconstruction is `x`, temperature=0, output="mean".
        num_steps: of models with levels 0 ... T, passes of a draw; T unless given. `elbo` with the same number scores
            the model that was sampled.
        level: of models with levels, where z stands, which must be one of the levels that the draws pass. By default
            the one where signal and noise are equal. With `x`, 0 reconstructs, T draws afresh, those between vary it.
        sampler: of models with levels, "ancestral" (default), or "ddim", whose draws have no bound.
        guidance: of models with a null label, w > 0 draws further towards `label`; these draws have no bound.
        include: "trajectory" adds E[x|z] at `trajectory_steps` levels (8 unless given) on the way down.
        progress: a bar over the rows; needs tqdm.
        """
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
        return self._run(plan, "sample", progress)

    def encode(
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
        """Parameters of q(z|x) of each row, and `num_samples` draws from it; given `label`, of q(z|x,y).

        x: (n, *event_shape), data units; with `binarize` in [0, 1]: "threshold" is x > 0.5, "stochastic" a Bernoulli
            draw of each value.
        label: the class of each row, which a conditional model needs: one number for all rows, or n of them.
        seed, first_index: as in `sample`; the draws are the ones that `elbo` uses.
        num_steps, level: as in `sample`, which continues these draws if it is given them as `z`.
        progress: as in `sample`.
        """
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
        return self._run(plan, "encode", progress)

    def elbo(
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
        """The evidence lower bound of each row, E_q[log p(x|z)] - KL(q(z|x) || p(z)), in nats.

        x, binarize: as in `encode`.
        label: as in `encode`, and then the bound is one of log p(x|y). A conditional model without it bounds log p(x).
        marginal: how it does: "labels" sums over them all; "null label" is the default of models that have one.
        num_samples: draws of z a row for the bound; 1 unless given.
        num_importance_samples: draws a row for the tighter importance-weighted bound; 0 for none.
        target_standard_error: nats; instead of num_samples, each row gets the draws that a pilot of 64 asks for.
        seed, first_index, progress: as in `sample`.
        num_steps: of models with levels 0 ... T, passes of a path; T unless given. Another number is another model.
        num_levels: of models with levels, each draw visits so many sampled levels in place of a whole path: cheaper,
            and less precise. Without num_steps, importance samples and `include`.
        include: "reconstruction_map" adds E_q[log p(x_i|z)] of every element; of models with levels, "bound_map" each
            element's share of elbo, and "kl_per_level" the divergence of each pass.
        """
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
        return self._run(plan, "elbo", progress)

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
    ) -> Iterator[Samples]:
        """As `sample` from the prior, as one result a request, in order: memory holds a few of them.

        Requests ahead of what was taken are under way, `concurrency` of them.
        """
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
        parts = ((plan, span) for span in plan.spans(self._options.chunk_rows))
        return self._stream(parts, "sample", progress, plan.rows)

    def stream_encode(
        self,
        batches: Iterable[Rows],
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
    ) -> Iterator[Posterior]:
        """As `encode` of all rows of the batches, one after another: one result a batch, in order.

        Batches are taken as they are needed, so that memory holds `concurrency` of them and their results.
        """
        common = {"label": label, "num_samples": num_samples, "binarize": binarize}
        common |= {"num_steps": num_steps, "level": level}
        drawn, chosen = _verbs.drawn(seed), self._model(model)

        def plan(rows: Rows, first: int) -> Plan[Posterior]:
            return _verbs.encode(rows, seed=drawn, first_index=first, model=chosen, **common)  # type: ignore[arg-type]

        return self._stream(_parts(batches, first_index, plan), "encode", progress)

    def stream_elbo(
        self,
        batches: Iterable[Rows],
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
    ) -> Iterator[Scores]:
        """As `elbo` of all rows of the batches, one after another: one result a batch, as in `stream_encode`."""
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

    def models(self) -> tuple[PublishedModel, ...]:
        """Every model of the server's store."""
        return self._send(_calls.MODELS)

    def version(self) -> str:
        """The server's version."""
        return self._send(_calls.VERSION)

    def promote(
        self, name: str, alias: str, version: SupportsIndex, *, expected: int | None = None, why: str
    ) -> AliasMove:
        """Point an alias at a version; the services of the store follow within seconds.

        expected: the version that the alias names now; Conflict if it is another one.  why: goes into the alias's log.
        Needs a server with --admin, and a key of scope admin if it has keys. Never sent twice.
        """
        return self._send(_calls.promote(name, alias, _verbs.integer("version", version), expected, why))

    def rollback(self, name: str, alias: str, *, expected: int | None = None, why: str) -> AliasMove:
        """Point an alias back at the version that it named before. The rest is as in `promote`."""
        return self._send(_calls.rollback(name, alias, expected, why))

    def wait_until_ready(self, timeout: float = 60) -> None:
        """Return once the server's default model is loaded; a refused connection is a server that starts.

        Raises NotReady after `timeout` seconds, with what /readyz last said.
        """
        wait = Wait(self._options.shown_url, timeout, time.monotonic())
        while True:
            look_timeout = httpx.Timeout(wait.look_timeout(time.monotonic()))
            try:
                return self._attempt(_calls.READINESS, look_timeout)
            except ElbodError as error:
                pause = wait.pause(time.monotonic(), error)
            time.sleep(pause)

    def close(self) -> None:
        """Close the connections, unless they are those of a given `http_client`."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._options.shown_url!r}, model={self._options.model!r})"

    def _model(self, model: str | None) -> str | None:
        return self._options.model if model is None else model

    def _run(self, plan: Plan[R], title: str, progress: bool) -> R:
        """The result of all rows."""
        spans = plan.spans(self._options.chunk_rows)
        if len(spans) == 1 and not progress:
            return plan.result(spans[0], self._span(plan, spans[0], plan.model, threading.Event()))
        parts = self._stream(((plan, span) for span in spans), title, progress, plan.rows)
        return plan.result((0, plan.rows), list(parts))

    def _stream(
        self, parts: Iterable[tuple[Plan[R], Span]], title: str, progress: bool, total: int | None = None
    ) -> Iterator[R]:
        """One result a part, in order; the first resolves the model for the others."""
        remaining, stop, model = iter(parts), threading.Event(), None
        with _progress.bar(progress, title, total) as bar, _pool(self._options.concurrency, stop) as pool:
            waiting: deque[tuple[int, Future[R]]] = deque()
            while True:
                # Until the first has answered nothing else is sent.
                while len(waiting) < (1 if model is None else self._options.concurrency):
                    try:
                        plan, span = next(remaining)
                    except StopIteration:
                        break
                    waiting.append((span[1] - span[0], pool.submit(self._part, plan, span, model, stop)))
                if not waiting:
                    return
                rows, future = waiting.popleft()
                result = future.result()
                model = str(result.model)
                bar.update(rows)
                yield result

    def _part(self, plan: Plan[R], span: Span, model: str | None, stop: threading.Event) -> R:
        """A batch may be more than one request; what follows its first names that one's version."""
        results: list[R] = []
        for part in plan.spans(self._options.chunk_rows) if span == (0, plan.rows) else [span]:
            results += self._span(plan, part, model or plan.model, stop)
            model = str(results[0].model)
        return plan.result(span, results)

    def _span(self, plan: Plan[R], span: Span, model: str | None, stop: threading.Event) -> list[R]:
        """Results of some rows, in halves where they are too much for one request."""
        try:
            return [self._send(plan.call(span, model), stop)]
        except ElbodError as error:
            parts = too_much(plan, span, error)
            if parts is None:
                raise _places.moved(error, plan.offset + span[0]) from error.__cause__
        left, right = (self._span(plan, part, model, stop) for part in parts)
        return left + right

    def _send(self, call: Call[T], stop: threading.Event | None = None) -> T:
        """The call's result, after as many attempts as it takes and the options allow, unless told to stop."""
        retry, limit = 0, self._options.max_retries if call.repeatable else 0
        wait = (stop or threading.Event()).wait
        while True:
            retry += 1
            try:
                return self._attempt(call, self._options.transport_timeout())
            except ElbodError as error:
                delay = delay_before_retry(error, retry, limit, random.random())
                if delay is None:
                    raise
                logger.info("%s %s: retry %d of %d in %.2f s: %s", call.method, call.path, retry, limit, delay, error)
                if wait(delay):
                    raise

    def _attempt(self, call: Call[T], timeout: httpx.Timeout) -> T:
        request = self._http.build_request(
            call.method,
            self._options.base_url + call.path,
            content=call.content,
            headers={**self._options.headers(), **call.headers},
            timeout=timeout,
        )
        try:
            response = self._http.send(request, stream=True)
        except httpx.RequestError as error:
            raise _answers.no_answer(request, self._options.shown_url, error) from error
        try:
            response.read()
        except httpx.RequestError as error:
            raise _answers.cut_short(response, error) from error
        finally:
            response.close()
        return _answers.read(call.read, response)


@contextmanager
def _pool(threads: int, stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Threads that are left without work, and without further attempts, as soon as anything goes wrong."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="elbod-client")
    try:
        yield pool
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _parts(
    batches: Iterable[Rows], first_index: SupportsIndex, plan: Callable[[Rows, int], Plan[R]]
) -> Iterator[tuple[Plan[R], Span]]:
    """Each batch as a plan of its own, whose rows go on where the last one's ended."""
    start = _verbs.integer("first_index", first_index)
    offset = 0
    for batch in batches:
        made = replace(plan(batch, start + offset), offset=offset)
        yield made, (0, made.rows)
        offset += made.rows
