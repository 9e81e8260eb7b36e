"""Many callers at once: same bytes, bounded queue, one caller's trouble is not another's."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elbod.engine.admission import Limits
from elbod.engine.backends.eager import EagerBackend
from elbod.engine.compute import Compute
from elbod.engine.jobs import Encodings, Job, Result, Samples, Scores, Verb
from elbod.engine.loading import Resident
from elbod.engine.progress import Progress
from elbod.engine.settling import Outcome
from elbod.errors import Draining, InvalidInput, ModelFailure, QueueFull
from elbod.generators.base import Generator
from elbod.generators.likelihoods import Observation
from elbod.generators.noise import Keys, Stream, normals

ANY_TIME = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def arrays(result: Result) -> dict[str, Any]:
    value = result.value
    if isinstance(value, Samples):
        return {"x": value.x, "z": value.z}
    if isinstance(value, Encodings):
        return {**value.parameters, "z": value.z, "kl": value.kl, "log_q": value.log_q}
    assert isinstance(value, Scores)
    return dict(value.columns)


def same_bytes(a: dict[str, Any], b: dict[str, Any]) -> bool:
    # In the same order, too: answers are written in it.
    return list(a) == list(b) and all(np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in a)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    verb = draw(st.sampled_from(list(Verb)))
    rows = draw(st.integers(1, 70))
    x = np.random.default_rng(draw(st.integers(0, 5))).integers(0, 17, (rows, 8, 8), dtype=np.uint8)
    seed, first = draw(st.integers(0, 2**63 - 1)), draw(st.integers(0, 2**56 - 100))
    job = Job(verb=verb, rows=rows, seed=seed, first_index=first, x=x)
    if verb is Verb.SAMPLE:
        return replace(
            job,
            x=x if draw(st.booleans()) else None,
            temperature=draw(st.sampled_from([0.0, 0.7, 1.0])),
            output=draw(st.sampled_from(["sample", "mean"])),
        )
    if verb is Verb.ENCODE:
        return replace(job, num_samples=draw(st.integers(0, 5)))
    return replace(job, num_samples=draw(st.integers(1, 40)), num_importance_samples=draw(st.sampled_from([0, 1, 30])))


def fitted(job: Job, resident: Resident) -> Job:
    """The job with what a conditional model needs: labels, or for every other score a marginal over them."""
    if not resident.generator.conditional:
        return job
    if job.verb is Verb.ELBO and job.seed % 2:
        return replace(job, marginal_labels=3)
    return replace(job, label=(job.first_index + np.arange(job.rows)) % 3)


@pytest.mark.parametrize(
    "name", ["levels", "convolutional", "vamp", "flow_prior", "flow_posterior", "mixture", "ladder", "labels"]
)
@ANY_TIME
@given(company=st.lists(jobs(), min_size=2, max_size=8))
def test_bytes_are_the_same_alone_and_in_any_company(
    engine: Compute, residents: dict[str, Resident], company: list[Job], name: str
) -> None:
    levels = residents[name]
    company = [fitted(job, levels) for job in company]
    together = [engine.submit(job, levels) for job in company]
    for job, future in zip(company, together, strict=True):
        alone = arrays(engine.submit(job, levels).result(60))
        assert same_bytes(arrays(future.result(60)), alone)


@pytest.mark.parametrize("name", ["levels", "vamp", "flow_posterior", "mixture", "ladder", "labels"])
def test_small_jobs_that_are_reduced_together_have_the_bytes_and_the_order_of_one_alone(
    backend: EagerBackend, residents: dict[str, Resident], name: str
) -> None:
    x = np.random.default_rng(0).integers(0, 17, (1, 8, 8), dtype=np.uint8)
    kinds = [
        Job(verb=Verb.ELBO, rows=1, seed=0, x=x, num_samples=2),
        Job(verb=Verb.ELBO, rows=1, seed=0, x=x, num_importance_samples=5),
        Job(verb=Verb.ENCODE, rows=1, seed=0, x=x, num_samples=1),
        Job(verb=Verb.SAMPLE, rows=1, seed=0),
    ]
    company = [fitted(replace(kind, seed=seed), residents[name]) for kind in kinds for seed in range(8)]
    engine = Compute(backend, Limits())
    waiting = [engine.submit(job, residents[name]) for job in company]
    engine.start()
    together = [arrays(future.result(60)) for future in waiting]
    for job, answer in zip(company, together, strict=True):
        assert same_bytes(answer, arrays(engine.submit(job, residents[name]).result(60)))
    assert engine.drain(60)


@ANY_TIME
@given(company=st.lists(st.tuples(jobs(), st.booleans()), min_size=2, max_size=8))
def test_a_cancel_changes_no_neighbours_bytes(
    engine: Compute, residents: dict[str, Resident], company: list[tuple[Job, bool]]
) -> None:
    levels = residents["levels"]
    futures = [engine.submit(job, levels) for job, _ in company]
    for future, (_, leaves) in zip(futures, company, strict=True):
        if leaves:
            future.cancel()
    for future, (job, _) in zip(futures, company, strict=True):
        if not future.cancelled():
            assert same_bytes(arrays(future.result(60)), arrays(engine.submit(job, levels).result(60)))


class CountingBackend(EagerBackend):
    """Counts the tiles that were begun."""

    begun = 0

    def encode(self, *arguments: Any) -> Any:
        self.begun += 1
        return super().encode(*arguments)

    def draw(self, *arguments: Any) -> Any:
        self.begun += 1
        return super().draw(*arguments)


def foreign_tiles(small: Job, model: Resident, large: Job, other: Resident) -> list[int]:
    """How many tiles ran for others before each of twenty small jobs of one tile, one after the other, was answered."""
    backend = CountingBackend()
    engine = Compute(backend, Limits())
    begun, waited, enough = [0], [], threading.Event()

    def answered(_: Sequence[tuple[Progress, Outcome]]) -> None:
        waited.append(backend.begun - begun[0] - 1)
        begun[0] = backend.begun
        if len(waited) == 20:
            enough.set()
        else:
            engine.admit(small, model, answered)

    running = engine.submit(large, other)
    engine.admit(small, model, answered)
    engine.start()
    assert enough.wait(60)
    assert not running.done()
    running.cancel()
    assert engine.drain(60)
    assert engine.queued == (0, 0)
    return waited


@pytest.mark.parametrize("large", [{"rows": 60_000}, {"rows": 40, "num_samples": 1, "num_importance_samples": 16_384}])
def test_a_small_job_waits_for_two_tiles_of_a_large_one_at_most(
    residents: dict[str, Resident], large: dict[str, int]
) -> None:
    x = np.zeros((large["rows"], 8, 8), np.uint8)
    job, levels = Job(verb=Verb.ELBO, seed=0, x=x, **large), residents["levels"]
    small = replace(job, rows=1, x=x[:1], num_importance_samples=0)
    assert max(foreign_tiles(small, levels, job, levels)) <= 2


@pytest.mark.parametrize("name", ["levels", "flow_posterior", "ladder", "labels"])
@ANY_TIME
@given(job=jobs(), cut=st.integers(1, 69))
def test_a_call_equals_two_calls_that_split_its_rows(
    engine: Compute, residents: dict[str, Resident], job: Job, cut: int, name: str
) -> None:
    cut = min(cut, job.rows - 1)
    if cut == 0:
        return
    job = fitted(job, residents[name])
    parts = [
        replace(
            job,
            rows=b - a,
            first_index=job.first_index + a,
            x=None if job.x is None else job.x[a:b],
            label=None if job.label is None else job.label[a:b],
        )
        for a, b in ((0, cut), (cut, job.rows))
    ]
    whole = arrays(engine.submit(job, residents[name]).result(60))
    split = [arrays(engine.submit(part, residents[name]).result(60)) for part in parts]
    joined = {name: None if whole[name] is None else np.concatenate([part[name] for part in split]) for name in whole}
    assert same_bytes(joined, whole)


def test_a_hundred_samples_equal_ten_calls_of_ten(engine: Compute, residents: dict[str, Resident]) -> None:
    for name in ("levels", "bits", "linear"):
        whole = arrays(engine.submit(Job(verb=Verb.SAMPLE, rows=100, seed=7), residents[name]).result(60))
        tens = [Job(verb=Verb.SAMPLE, rows=10, seed=7, first_index=10 * i) for i in range(10)]
        parts = [arrays(future.result(60)) for future in [engine.submit(job, residents[name]) for job in tens]]
        assert same_bytes({k: np.concatenate([part[k] for part in parts]) for k in whole}, whole)


def test_the_draws_of_a_row_are_one_stream(engine: Compute, residents: dict[str, Resident]) -> None:
    """/encode returns the very draws that /elbo averages, and the first of them is the one that /sample decodes."""
    x = np.random.default_rng(0).integers(0, 17, (3, 8, 8), dtype=np.uint8)
    levels = residents["levels"]
    encoded = engine.submit(Job(verb=Verb.ENCODE, rows=3, seed=5, x=x, num_samples=4), levels).result(60).value
    sampled = engine.submit(Job(verb=Verb.SAMPLE, rows=3, seed=5, x=x), levels).result(60).value
    assert isinstance(encoded, Encodings)
    assert isinstance(sampled, Samples)
    assert encoded.z is not None
    assert encoded.z[:, 0].tobytes() == sampled.z.tobytes()
    noise = normals(Keys.of(5, np.repeat([0, 1, 2], 4), np.tile(np.arange(4), 3)), Stream.POSTERIOR, 5)
    expected = encoded.parameters["mean"][:, None] + encoded.parameters["stddev"][:, None] * noise.reshape(3, 4, 5)
    np.testing.assert_allclose(encoded.z, expected, rtol=1e-6, atol=1e-6)


def test_the_engine_reports_the_bound_of_the_generator(engine: Compute, residents: dict[str, Resident]) -> None:
    """L = mean of log p(x|z) over the row's own draws - KL, computed here from the generator directly in float64."""
    x = np.random.default_rng(1).integers(0, 17, (4, 8, 8), dtype=np.uint8)
    resident = residents["levels"]
    job = Job(verb=Verb.ELBO, rows=4, seed=11, first_index=20, x=x, num_samples=9, num_importance_samples=6)
    columns = arrays(engine.submit(job, resident).result(60))
    q = resident.generator.encode(torch.from_numpy(x))
    for row in range(4):
        noise = normals(Keys.of(11, [20 + row] * 9, range(9)), Stream.POSTERIOR, 5)
        z = (q.parameters["mean"][row] + q.parameters["stddev"][row] * torch.from_numpy(noise).float()).float()
        r = resident.generator.decode(z).double().log_prob(torch.from_numpy(x[row])).sum((1, 2))
        mean, stddev = q.parameters["mean"][row].double(), q.parameters["stddev"][row].double()
        kl = 0.5 * (mean**2 + stddev**2 - 1 - 2 * stddev.log()).sum()
        assert columns["elbo"][row] == pytest.approx(float(r.mean() - kl), rel=1e-6)
        assert columns["standard_error"][row] == pytest.approx(float(r.std() / 3), rel=1e-4)
        log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z.double()).sum(1)
        log_q = torch.distributions.Normal(mean, stddev).log_prob(z.double()).sum(1)
        iwae = torch.logsumexp((r + log_p - log_q)[:6], 0) - np.log(6)
        assert columns["iwae"][row] == pytest.approx(float(iwae), rel=1e-6)
    np.testing.assert_allclose(columns["elbo"], columns["log_joint"] + columns["entropy"], rtol=1e-9)


def test_an_enumerated_latent_has_the_exact_bound_without_error(
    engine: Compute, residents: dict[str, Resident]
) -> None:
    x = np.random.default_rng(1).integers(0, 17, (4, 8, 8), dtype=np.uint8)
    job = Job(verb=Verb.ELBO, rows=4, seed=11, x=x, num_importance_samples=30)
    columns = arrays(engine.submit(job, residents["mixture"]).result(60))
    np.testing.assert_allclose(columns["elbo"], columns["log_evidence"], rtol=1e-9)
    np.testing.assert_allclose(columns["iwae"], columns["log_evidence"], rtol=1e-6)
    assert (columns["standard_error"] == 0).all()
    np.testing.assert_allclose(columns["gap"], 0, atol=1e-6)
    target = replace(job, num_samples=1024, target_standard_error=0.1)
    assert arrays(engine.submit(target, residents["mixture"]).result(60))["target_met"].all()


def test_a_prior_without_a_closed_form_has_sampled_terms_of_the_same_draws(
    engine: Compute, residents: dict[str, Resident]
) -> None:
    """At S = K the mean log weight is the ELBO itself, so gap = iwae - elbo."""
    x = np.random.default_rng(1).integers(0, 17, (4, 8, 8), dtype=np.uint8)
    job = Job(verb=Verb.ELBO, rows=4, seed=11, x=x, num_samples=30, num_importance_samples=30)
    columns = arrays(engine.submit(job, residents["vamp"]).result(60))
    np.testing.assert_allclose(columns["gap"], columns["iwae"] - columns["elbo"], rtol=1e-9)
    np.testing.assert_allclose(columns["elbo"], columns["reconstruction"] - columns["kl"], rtol=1e-12)
    np.testing.assert_allclose(columns["elbo"], columns["log_joint"] + columns["entropy"], rtol=1e-12)
    encode = Job(verb=Verb.ENCODE, rows=4, seed=11, x=x, num_samples=30)
    encoded = engine.submit(encode, residents["vamp"]).result(60).value
    assert isinstance(encoded, Encodings)
    assert encoded.kl is not None
    np.testing.assert_allclose(encoded.kl, columns["kl"], rtol=1e-12)
    bare = engine.submit(replace(encode, num_samples=0), residents["vamp"]).result(60).value
    assert isinstance(bare, Encodings)
    assert bare.kl is None
    assert bare.kl_per_dimension is None


def test_a_hierarchy_has_terms_given_its_drawn_groups(engine: Compute, residents: dict[str, Resident]) -> None:
    """Both forms agree, the bound differs from the mean log weight by noise alone, and draws come with log q."""
    resident = residents["ladder"]
    x = np.random.default_rng(1).integers(0, 17, (4, 8, 8), dtype=np.uint8)
    job = Job(verb=Verb.ELBO, rows=4, seed=11, x=x, num_samples=400, num_importance_samples=400)
    columns = arrays(engine.submit(job, resident).result(60))
    np.testing.assert_allclose(columns["elbo"], columns["log_joint"] + columns["entropy"], rtol=1e-12)
    mean_log_weight = columns["iwae"] - columns["gap"]
    assert (mean_log_weight != columns["elbo"]).all()
    assert (abs(mean_log_weight - columns["elbo"]) < 5 * columns["gap_standard_error"] + 1).all()
    answer = engine.submit(Job(verb=Verb.ENCODE, rows=4, seed=11, x=x, num_samples=400), resident).result(60).value
    assert isinstance(answer, Encodings)
    assert answer.kl is not None
    np.testing.assert_allclose(answer.kl, columns["kl"], rtol=1e-9)
    assert answer.parameters == {}
    assert answer.log_q is not None
    assert answer.log_q.shape == (4, 400)


def test_the_importance_weights_of_an_exact_posterior_are_the_evidence(
    engine: Compute, residents: dict[str, Resident]
) -> None:
    x = np.random.default_rng(2).normal(size=(5, 6))
    job = Job(verb=Verb.ELBO, rows=5, seed=1, x=x, num_samples=400, num_importance_samples=30)
    columns = arrays(engine.submit(job, residents["linear"]).result(60))
    # z is float32, and the identity holds for every z.
    np.testing.assert_allclose(columns["iwae"], columns["log_evidence"], rtol=1e-9)
    np.testing.assert_allclose(columns["gap"], columns["log_evidence"] - columns["elbo"])
    assert (np.abs(columns["gap"]) < 5 * columns["standard_error"]).all()


def test_stochastic_binarization_is_keyed_by_the_row_and_not_by_the_request(
    engine: Compute, residents: dict[str, Resident]
) -> None:
    x = np.random.default_rng(3).random((6, 3, 4))
    job = Job(verb=Verb.ELBO, rows=6, seed=4, x=x, binarize="stochastic")
    few = arrays(engine.submit(job, residents["bits"]).result(60))
    more = arrays(engine.submit(replace(job, num_importance_samples=7), residents["bits"]).result(60))
    tail = arrays(engine.submit(replace(job, rows=2, first_index=4, x=x[4:]), residents["bits"]).result(60))
    assert few["elbo"].tobytes() == more["elbo"].tobytes()
    assert few["elbo"][4:].tobytes() == tail["elbo"].tobytes()
    bits = (np.asarray(x) > 0.5).astype(np.uint8)
    threshold = arrays(engine.submit(replace(job, binarize="threshold"), residents["bits"]).result(60))
    plain = arrays(engine.submit(replace(job, binarize=None, x=bits), residents["bits"]).result(60))
    assert threshold["elbo"].tobytes() == plain["elbo"].tobytes()


def test_temperature_zero_is_the_mean_of_z(engine: Compute, residents: dict[str, Resident]) -> None:
    x = np.random.default_rng(0).integers(0, 17, (3, 8, 8), dtype=np.uint8)
    job = Job(verb=Verb.SAMPLE, rows=3, seed=5, x=x, temperature=0.0, output="mean")
    reconstruction = engine.submit(job, residents["levels"]).result(60).value
    encode = Job(verb=Verb.ENCODE, rows=3, seed=5, x=x, num_samples=0)
    encoded = engine.submit(encode, residents["levels"]).result(60).value
    assert isinstance(reconstruction, Samples)
    assert isinstance(encoded, Encodings)
    assert reconstruction.z.tobytes() == encoded.parameters["mean"].tobytes()
    assert reconstruction.x.dtype == np.float32


class Gate:
    """A generator whose decoder waits for permission, so that a queue can be looked at."""

    def __init__(self, resident: Resident) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        generator = _Gated(resident.generator, self)
        self.resident = replace(resident, generator=generator)


class _Gated(Generator):
    def __init__(self, inner: Generator, gate: Gate) -> None:
        super().__init__(inner.blueprint, inner.latent_dim)
        self.inner, self.gate = inner, gate
        self.prior, self.encode, self.posterior = inner.prior, inner.encode, inner.posterior  # type: ignore[method-assign]

    @classmethod
    def build(cls, blueprint: Any, spec: Any) -> Any: ...

    def initialize(self, x: torch.Tensor, label: torch.Tensor | None = None) -> None: ...

    def encode(self, x: torch.Tensor, label: torch.Tensor | None = None) -> Any: ...

    def posterior(self, parameters: Any) -> Any: ...

    def prior(self) -> Any: ...

    def decode(self, z: torch.Tensor, label: torch.Tensor | None = None) -> Observation:
        self.gate.entered.set()
        assert self.gate.open.wait(30)
        return self.inner.decode(z)


def test_a_full_queue_refuses_with_the_time_to_wait(backend: EagerBackend, residents: dict[str, Resident]) -> None:
    engine = Compute(backend, Limits(max_queue_rows=10))
    engine.start()
    gate = Gate(residents["levels"])
    first = engine.submit(Job(verb=Verb.SAMPLE, rows=8, seed=0), gate.resident)
    with pytest.raises(QueueFull, match="8 row-draws") as refused:
        engine.submit(Job(verb=Verb.SAMPLE, rows=3, seed=0), gate.resident)
    assert refused.value.retry_after > 0
    gate.open.set()
    first.result(30)
    engine.submit(Job(verb=Verb.SAMPLE, rows=3, seed=0), gate.resident).result(30)
    one = Job(verb=Verb.ENCODE, rows=1, seed=0, x=np.zeros((1, 8, 8), np.uint8), num_samples=11)
    with pytest.raises(InvalidInput, match="11 row-draws, the limit is 10: ask for fewer draws"):
        engine.submit(one, gate.resident)
    with pytest.raises(InvalidInput, match="11 row-draws, the limit is 10: split"):
        engine.submit(Job(verb=Verb.SAMPLE, rows=11, seed=0), gate.resident)
    assert engine.drain(30)


def test_cancelled_work_frees_its_place_and_harms_no_neighbour(
    backend: EagerBackend, residents: dict[str, Resident]
) -> None:
    engine = Compute(backend, Limits(max_queue_rows=100))
    engine.start()
    gate = Gate(residents["levels"])
    running = engine.submit(Job(verb=Verb.SAMPLE, rows=8, seed=0), gate.resident)
    assert gate.entered.wait(30)
    doomed = engine.submit(Job(verb=Verb.SAMPLE, rows=80, seed=1), gate.resident)
    neighbour = engine.submit(Job(verb=Verb.SAMPLE, rows=5, seed=2), gate.resident)
    assert doomed.cancel()
    late = engine.submit(Job(verb=Verb.SAMPLE, rows=80, seed=3), gate.resident)
    gate.open.set()
    for future in (running, neighbour, late):
        future.result(30)
    alone = engine.submit(Job(verb=Verb.SAMPLE, rows=5, seed=2), residents["levels"]).result(30)
    assert same_bytes(arrays(neighbour.result()), arrays(alone))
    assert engine.drain(30)


def test_draining_finishes_what_was_admitted_and_refuses_the_rest(
    backend: EagerBackend, residents: dict[str, Resident]
) -> None:
    engine = Compute(backend, Limits())
    engine.start()
    gate = Gate(residents["levels"])
    admitted = engine.submit(Job(verb=Verb.SAMPLE, rows=100, seed=0), gate.resident)
    assert not engine.drain(0.0)
    with pytest.raises(Draining):
        engine.submit(Job(verb=Verb.SAMPLE, rows=1, seed=0), gate.resident)
    gate.open.set()
    assert engine.drain(30)
    assert arrays(admitted.result(0))["x"].shape == (100, 8, 8)


class _Fragile(_Gated):
    """Raises if a tile holds a latent above 2; returns NaN for latents below -2."""

    def decode(self, z: torch.Tensor, label: torch.Tensor | None = None) -> Observation:
        if (z > 2).any():
            raise RuntimeError("cannot decode this")
        return self.inner.decode(torch.where(z < -2, torch.nan, z))


def test_a_model_that_raises_or_returns_nan_fails_that_job_only(
    engine: Compute, residents: dict[str, Resident], caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(residents["levels"])
    blocked = engine.submit(Job(verb=Verb.SAMPLE, rows=1, seed=0), gate.resident)
    assert gate.entered.wait(30)
    fragile = replace(residents["levels"], generator=_Fragile(residents["levels"].generator, gate))

    def decode(value: float, rows: int = 3) -> Job:
        z = np.zeros((rows, 5), np.float32)
        z[-1, 0] = value
        return Job(verb=Verb.SAMPLE, rows=rows, seed=1, z=z, output="mean")

    good, raising, undefined = (engine.submit(decode(value), fragile) for value in (0.0, 3.0, -3.0))
    gate.open.set()
    blocked.result(30)
    assert np.isfinite(arrays(good.result(30))["x"]).all()
    with pytest.raises(ModelFailure, match=r"levels@1' failed on z\[2\]"):
        raising.result(30)
    with pytest.raises(InvalidInput, match=r"not finite for z\[2\]"):
        undefined.result(30)
    assert "cannot decode this" in caplog.text
    assert engine.alive
