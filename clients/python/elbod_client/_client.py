"""The blocking client: sends calls, sleeps between retries, and decides nothing else."""

import logging
import random
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, SupportsIndex, TypeVar

import httpx
from numpy.typing import ArrayLike

from elbod_client import _answers, _calls
from elbod_client._calls import Call
from elbod_client._errors import ElbodError
from elbod_client._options import Options
from elbod_client._readiness import Wait
from elbod_client._results import Binarize, Include, Output, Posterior, PublishedModel, Samples, Scores
from elbod_client._retries import delay_before_retry

T = TypeVar("T")

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
    max_retries: further attempts after 429, 503 and connections that fail, with growing pauses or as the server's
        `Retry-After` asks. Each is logged at INFO on the logger `elbod_client`.
    http_client: an httpx.Client to send with (proxies, certificates, transports); it stays yours to close.

    Calls raise ElbodError (see its module for the tree), and TypeError or ValueError for what cannot be sent.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float | None = 30,
        max_retries: int = 4,
        http_client: httpx.Client | None = None,
    ) -> None:
        self._options = Options.resolve(base_url, model, api_key, timeout, max_retries)
        self._owns_http = http_client is None
        self._http = httpx.Client() if http_client is None else http_client

    def sample(
        self,
        num_samples: SupportsIndex | None = None,
        *,
        seed: SupportsIndex | None = None,
        first_index: SupportsIndex = 0,
        z: ArrayLike | None = None,
        x: ArrayLike | None = None,
        label: ArrayLike | None = None,
        temperature: float = 1.0,
        output: Output = "sample",
        model: str | None = None,
    ) -> Samples:
        """Draw x ~ p(x|z) with z from the prior, from given latents `z`, or from q(z|x) of given rows `x`.

        num_samples: n, by default one a label, or 1; not with `z` or `x`, which give one output a row.
        seed, first_index: the rows are examples first_index ... first_index + n - 1 of the seed, so ten calls of ten
            give the same as one of a hundred. A missing seed is drawn; the result has it.
        z: (n, latent_dim).  x: (n, *event_shape), data units.
        label: the class to draw from, which a conditional model needs: one number for all rows, or n of them.
        temperature: scale of the randomness of z; 0 is its mean. Not with `z`.
        output: "sample", or "mean" for E[x|z]. Reconstruction is `x`, temperature=0, output="mean".
        """
        call = _calls.sample(
            num_samples=num_samples,
            seed=seed,
            first_index=first_index,
            z=z,
            x=x,
            label=label,
            temperature=temperature,
            output=output,
            model=self._model(model),
        )
        return self._send(call)

    def encode(
        self,
        x: ArrayLike,
        *,
        label: ArrayLike | None = None,
        num_samples: SupportsIndex = 0,
        seed: SupportsIndex | None = None,
        first_index: SupportsIndex = 0,
        binarize: Binarize | None = None,
        model: str | None = None,
    ) -> Posterior:
        """Parameters of q(z|x) of each row, and `num_samples` draws from it; given `label`, of q(z|x,y).

        x: (n, *event_shape), data units; with `binarize` in [0, 1]: "threshold" is x > 0.5, "stochastic" a Bernoulli
            draw of each value.
        label: the class of each row, which a conditional model needs: one number for all rows, or n of them.
        seed, first_index: as in `sample`; the draws are the ones that `elbo` uses.
        """
        call = _calls.encode(
            x,
            label=label,
            num_samples=num_samples,
            seed=seed,
            first_index=first_index,
            binarize=binarize,
            model=self._model(model),
        )
        return self._send(call)

    def elbo(
        self,
        x: ArrayLike,
        *,
        label: ArrayLike | None = None,
        num_samples: SupportsIndex | None = None,
        num_importance_samples: SupportsIndex = 0,
        target_standard_error: float | None = None,
        seed: SupportsIndex | None = None,
        first_index: SupportsIndex = 0,
        binarize: Binarize | None = None,
        include: Sequence[Include] = (),
        model: str | None = None,
    ) -> Scores:
        """The evidence lower bound of each row, E_q[log p(x|z)] - KL(q(z|x) || p(z)), in nats.

        x, binarize: as in `encode`.
        label: as in `encode`, and then the bound is one of log p(x|y). A conditional model without it bounds log p(x),
            the marginal over its labels.
        num_samples: draws of z a row for the bound; 1 unless given.
        num_importance_samples: draws a row for the tighter importance-weighted bound; 0 for none.
        target_standard_error: nats; instead of num_samples, each row gets the draws that a pilot of 64 asks for.
        seed, first_index: as in `sample`.
        include: "reconstruction_map" adds E_q[log p(x_i|z)] of every element.
        """
        call = _calls.elbo(
            x,
            label=label,
            num_samples=num_samples,
            num_importance_samples=num_importance_samples,
            target_standard_error=target_standard_error,
            seed=seed,
            first_index=first_index,
            binarize=binarize,
            include=include,
            model=self._model(model),
        )
        return self._send(call)

    def models(self) -> tuple[PublishedModel, ...]:
        """Every model of the server's store."""
        return self._send(_calls.MODELS)

    def version(self) -> str:
        """The server's version."""
        return self._send(_calls.VERSION)

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

    def _send(self, call: Call[T]) -> T:
        """The call's result, after as many attempts as it takes and the options allow."""
        retry, limit = 0, self._options.max_retries
        while True:
            retry += 1
            try:
                return self._attempt(call, self._options.transport_timeout())
            except ElbodError as error:
                delay = delay_before_retry(error, retry, limit, random.random())
                if delay is None:
                    raise
                logger.info("%s %s: retry %d of %d in %.2f s: %s", call.method, call.path, retry, limit, delay, error)
            time.sleep(delay)

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
