"""Typical calls. Nobody runs this: strict type checkers read it, and must infer just these types."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import httpx
import numpy as np
from numpy.typing import NDArray

from elbod_client import (
    AliasMove,
    AsyncClient,
    Client,
    ElbodError,
    Estimator,
    ModelIdentity,
    Posterior,
    Process,
    PublishedModel,
    QueueFull,
    Receipt,
    Samples,
    Scores,
    Summary,
)


def use(x: NDArray[np.uint8]) -> float | None:
    with Client("http://127.0.0.1:8000", model="digits", timeout=None, http_client=httpx.Client()) as client:
        client.wait_until_ready(timeout=5)
        samples = assert_type(client.sample(64, seed=7), Samples)
        client.sample(z=samples.z[:2], output="mean")
        client.sample(label=[0, 1, 2], temperature=0.5)
        drawn = client.sample(
            num_steps=8, level=np.int64(4), sampler="ddim", include=["trajectory"], trajectory_steps=3
        )
        assert_type(drawn.process, Process | None)
        assert_type(drawn.trajectory_levels, tuple[int, ...] | None)
        posterior = assert_type(client.encode(x, num_samples=np.int64(3)), Posterior)
        scores = assert_type(client.elbo(x, num_importance_samples=64, include=["reconstruction_map"]), Scores)
        levels = client.elbo(x, num_steps=8, include=["bound_map", "kl_per_level"])
        assert_type(levels.estimator, Estimator | None)
        assert_type(client.elbo(x, num_levels=4).passes, int | None)
        assert_type(client.encode(x, level=4, num_steps=8).log_snr, float | None)
        client.with_options(model="digits@3", timeout=2.5).elbo([[[0, 1], [2, 3]]])
        assert_type(client.models(), tuple[PublishedModel, ...])
        assert_type(client.promote("digits", "production", 3, expected=2, why="better"), AliasMove)
        assert_type(scores.model, ModelIdentity)
        assert_type(scores.summary, Summary)
        assert_type(scores.receipt(), Receipt)
        if posterior.z is not None:
            assert_type(posterior.z.ndim, int)
        return scores.summary.standard_error


def stream(client: Client, batches: Iterator[NDArray[np.float32]]) -> Iterator[float]:
    for part in client.stream_elbo(batches, seed=7):
        yield assert_type(part, Scores).summary.mean
    assert_type(client.stream_sample(10_000), Iterator[Samples])


async def await_(client: AsyncClient, x: NDArray[np.uint8]) -> AsyncIterator[Scores]:
    assert_type(await client.sample(3), Samples)
    try:
        assert_type(await client.elbo(x, target_standard_error=0.1), Scores)
    except QueueFull as error:
        assert_type(error.retry_after, float | None)
    except ElbodError as error:
        assert_type(error.status_code, int | None)
        assert_type(error.request_id, str | None)
    async for part in client.stream_elbo([x, x]):
        yield part


def mistakes(client: Client, x: NDArray[np.uint8]) -> None:
    """Each of these must be an error: a checker that finds none here calls the comment superfluous."""
    client.elbo(x, 16)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.elbo(x, num_samples=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.sample(output="median")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.sample(sampler="heun")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.sample(include=["bound_map"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    client.elbo(x, include="reconstruction_map")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.elbo(x).summary = client.elbo(x).summary  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
