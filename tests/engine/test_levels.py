"""Models whose draws take passes: the numbers of the oracles, in any company, and bounded by passes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from elbod.engine.backends.eager import EagerBackend
from elbod.engine.bulk import open_bulk
from elbod.engine.compute import Compute
from elbod.engine.description import Levels
from elbod.engine.jobs import Encodings, Job, Samples, Scores, Verb
from elbod.engine.loading import Resident, load
from elbod.engine.progress import CHUNK_BYTES, Progress
from elbod.errors import InvalidInput
from elbod.generators.base import Blueprint
from elbod.training.scoring import score
from elbod_store import ModelStore
from tests.engine.test_engine import foreign_tiles
from tests.oracles.chains import chain_model, constant
from tests.support import CHAIN_OF_LABELS, DIFFUSION, publish

ANY_TIME = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
LEVELS = 4
GAUSSIAN = Blueprint(
    family="diffusion", spec={"num_levels": 6, "width": 8, "blocks": 1}, likelihood="gaussian", event_shape=(3,)
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, backend: EagerBackend) -> dict[str, Resident]:
    store = ModelStore.open(tmp_path_factory.mktemp("levels"))
    publish(store, "digits", DIFFUSION)
    publish(store, "normals", GAUSSIAN)
    publish(store, "labelled", CHAIN_OF_LABELS)
    return {name: load(store, store.resolve(name), backend) for name in store.names()}


@pytest.fixture(scope="module")
def digits(models: dict[str, Resident]) -> Resident:
    return models["digits"]


@pytest.fixture(scope="module")
def exact(models: dict[str, Resident]) -> Resident:
    """A model of N(0, I) whose belief is N(0, 1): every path's weight is the evidence."""
    normal = chain_model(constant(torch.zeros(3, 2)), 3, 6, (-5, 5))
    return replace(models["normals"], generator=normal)


def rows(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 17, (count, 8, 8), dtype=np.uint8)


def scored(engine: Compute, model: Resident, job: Job) -> dict[str, Any]:
    value = engine.submit(job, model).result(60).value
    assert isinstance(value, Scores)
    return {**value.columns, **value.maps}


def sampled(engine: Compute, model: Resident, **asked: Any) -> Samples:
    value = engine.submit(Job(verb=Verb.SAMPLE, **asked), model).result(60).value
    assert isinstance(value, Samples)
    return value


def encoded(engine: Compute, model: Resident, **asked: Any) -> Encodings:
    value = engine.submit(Job(verb=Verb.ENCODE, **asked), model).result(60).value
    assert isinstance(value, Encodings)
    return value


def test_every_bound_of_independent_normals_is_the_evidence(engine: Compute, exact: Resident) -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    job = Job(
        verb=Verb.ELBO, rows=50, seed=3, x=x, num_samples=4, num_importance_samples=9, bound_map=True, kl_per_level=True
    )
    found = scored(engine, exact, job)
    by_element = Normal(0.0, 1.0).log_prob(torch.from_numpy(x)).numpy()
    for name in ("elbo", "iwae"):
        assert np.abs(found[name] - by_element.sum(1)).max() < 1e-11
    assert np.abs(found["log_joint"] + found["entropy"] - found["elbo"]).max() < 1e-9
    assert np.abs(found["bound_map"] - by_element).max() < 1e-11
    assert found["kl_per_level"].shape == (50, 7)
    assert (found["kl_per_level"] >= 0).all()


def test_scores_are_those_of_the_generator_computed_path_by_path(engine: Compute, digits: Resident) -> None:
    x = rows(5)
    found = scored(engine, digits, Job(verb=Verb.ELBO, rows=5, seed=7, first_index=2, x=x, num_samples=3))
    expected = score(digits.generator, torch.from_numpy(x), 7, 3, first_index=2).elbo
    for name in ("elbo", "standard_error", "reconstruction", "kl", "log_joint", "entropy"):
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=1e-5, atol=1e-4)


def test_the_shares_of_all_elements_add_up_to_the_bound(engine: Compute, digits: Resident) -> None:
    found = scored(engine, digits, Job(verb=Verb.ELBO, rows=5, seed=7, x=rows(5), num_samples=3, bound_map=True))
    np.testing.assert_allclose(found["bound_map"].sum((1, 2)), found["elbo"], rtol=1e-12)


def test_sampled_levels_estimate_the_bound_of_whole_paths(engine: Compute, digits: Resident) -> None:
    """The same expectation for every row and every number of strata, within four standard errors."""
    job = Job(verb=Verb.ELBO, rows=4, seed=1, x=rows(4), num_samples=400)
    paths = scored(engine, digits, job)
    for strata in (1, 3):
        levels = scored(engine, digits, replace(job, num_levels=strata))
        error = np.hypot(paths["standard_error"], levels["standard_error"])
        assert (np.abs(paths["elbo"] - levels["elbo"]) < 4 * error).all()
        np.testing.assert_allclose(levels["entropy"], paths["entropy"], rtol=1e-12)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    verb, count = draw(st.sampled_from(list(Verb))), draw(st.integers(1, 40))
    steps = draw(st.sampled_from([None, 1, 2, LEVELS]))
    level = draw(st.sampled_from([0, LEVELS]))
    seed = draw(st.integers(0, 2**63 - 1))
    job = Job(verb=verb, rows=count, seed=seed, x=rows(count, draw(st.integers(0, 3))), num_steps=steps, level=level)
    if verb is Verb.SAMPLE:
        return replace(
            job,
            x=job.x if draw(st.booleans()) else None,
            output=draw(st.sampled_from(["sample", "mean"])),
            sampler=draw(st.sampled_from(["ancestral", "ddim"])),
            trajectory=draw(st.sampled_from([(), (LEVELS,)])),
        )
    if verb is Verb.ENCODE:
        return replace(job, num_samples=draw(st.integers(0, 3)))
    if draw(st.booleans()):
        return replace(job, num_steps=None, num_levels=draw(st.integers(1, 5)), num_samples=draw(st.integers(1, 5)))
    return replace(
        job,
        num_samples=draw(st.integers(1, 8)),
        num_importance_samples=draw(st.sampled_from([0, 9])),
        kl_per_level=draw(st.booleans()),
        bound_map=draw(st.booleans()),
    )


def contents(engine: Compute, model: Resident, job: Job) -> dict[str, bytes]:
    return answer(engine.submit(job, model).result(60).value)


def answer(value: Any) -> dict[str, bytes]:
    found = dict[str, Any]()
    for name in type(value).__dataclass_fields__:
        inner = getattr(value, name)
        found |= inner if isinstance(inner, dict) else {name: inner}
    return {name: np.asarray(values).tobytes() for name, values in found.items()}


@ANY_TIME
@given(company=st.lists(jobs(), min_size=2, max_size=6))
def test_bytes_are_the_same_alone_and_in_any_company(engine: Compute, digits: Resident, company: list[Job]) -> None:
    check_company(engine, digits, company)


@st.composite
def labelled_jobs(draw: st.DrawFn) -> Job:
    """Given labels, guided by them, summed over them, or of the null label."""
    job = draw(jobs())
    if draw(st.booleans()):
        label = np.arange(job.rows) % 3
        guidance = draw(st.sampled_from([0.0, 0.5, 2.0])) if job.verb is Verb.SAMPLE else 0.0
        return replace(job, label=label, guidance=guidance)
    summed = job.verb is Verb.ELBO and job.num_levels is None and not (job.kl_per_level or job.bound_map)
    return replace(job, marginal_labels=draw(st.sampled_from([0, 3])) if summed else 0)


@ANY_TIME
@given(company=st.lists(labelled_jobs(), min_size=2, max_size=6))
def test_labels_and_guidance_of_others_change_no_byte(
    engine: Compute, models: dict[str, Resident], company: list[Job]
) -> None:
    check_company(engine, models["labelled"], company)


def check_company(engine: Compute, model: Resident, company: list[Job]) -> None:
    together = [engine.submit(job, model) for job in company]
    for job, future in zip(company, together, strict=True):
        assert answer(future.result(60).value) == contents(engine, model, job)


def test_scores_of_labels_are_those_of_the_generator(engine: Compute, models: dict[str, Resident]) -> None:
    """Of a label, of the null label, and of the sum over labels, which is another number than the null label gives."""
    model, x = models["labelled"], rows(5)
    job = Job(verb=Verb.ELBO, rows=5, seed=3, x=x, num_samples=4, num_importance_samples=30)
    null = scored(engine, model, job)
    expected = score(model.generator, torch.from_numpy(x), 3, 4, 30)
    given = [scored(engine, model, replace(job, label=np.full(5, y))) for y in range(3)]
    one = score(model.generator, torch.from_numpy(x), 3, 4, 30, label=torch.full((5,), 1))
    for found, of_generator in ((null, expected), (given[1], one)):
        assert of_generator.importance is not None
        np.testing.assert_allclose(found["elbo"], of_generator.elbo.elbo, rtol=1e-6)
        np.testing.assert_allclose(found["iwae"], of_generator.importance.iwae, rtol=1e-6)
    summed = scored(engine, model, replace(job, marginal_labels=3))
    log_prob = model.generator.label_log_prob()
    assert log_prob is not None
    by_label = np.stack([columns["elbo"] for columns in given]) + log_prob.numpy()[:, None]
    np.testing.assert_allclose(summed["elbo"], np.logaddexp.reduce(by_label), rtol=1e-12)
    assert not np.isclose(summed["elbo"], null["elbo"], rtol=1e-6).any()
    np.testing.assert_allclose(summed["elbo"], summed["log_joint"] + summed["entropy"], rtol=1e-12)
    # H[q] of the chain is known, and H of the label is at most log 3.
    assert model.description.levels is not None
    of_label = summed["entropy"] - model.description.levels.entropy
    assert ((of_label >= -1e-9) & (of_label <= np.log(3) + 1e-9)).all()


def test_guided_draws_run_the_network_twice_a_pass(models: dict[str, Resident]) -> None:
    job = Job(verb=Verb.SAMPLE, rows=3, seed=0, label=np.zeros(3, np.int64))
    plain = Progress(job, models["labelled"], lambda *_: None).passes
    guided = Progress(replace(job, guidance=1.0), models["labelled"], lambda *_: None).passes
    assert (plain, guided) == (3 * (LEVELS + 1), 3 * (2 * LEVELS + 1))


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
@pytest.mark.parametrize("level", [0, 2, LEVELS])
def test_a_sample_from_its_own_latents_is_the_same_sample(
    engine: Compute, digits: Resident, level: int, sampler: str
) -> None:
    asked: dict[str, Any] = {"rows": 9, "seed": 5, "level": level, "sampler": sampler}
    drawn = sampled(engine, digits, **asked)
    again = sampled(engine, digits, **asked, z=drawn.z)
    assert again.x.tobytes() == drawn.x.tobytes()
    assert again.z.tobytes() == drawn.z.tobytes()


@pytest.mark.parametrize("level", [0, 1, LEVELS])
def test_latents_of_rows_are_those_of_the_paths_that_a_score_draws(
    engine: Compute, digits: Resident, level: int
) -> None:
    """So that encoding and sampling from it is what sampling from the rows is."""
    x = rows(6)
    code = encoded(engine, digits, rows=6, seed=5, x=x, level=level, num_samples=1)
    varied = sampled(engine, digits, rows=6, seed=5, x=x, level=level)
    assert code.z is not None
    assert varied.z.tobytes() == code.z[:, 0].tobytes()
    assert sampled(engine, digits, rows=6, seed=5, z=varied.z, level=level).x.tobytes() == varied.x.tobytes()
    deviation = (code.z[:, 0] - code.parameters["mean"]) / code.parameters["stddev"]
    assert np.abs(deviation).max() < 7
    assert (code.kl is None) == (level < LEVELS)


def test_a_trajectory_ends_with_what_the_mean_is(engine: Compute, digits: Resident) -> None:
    """E[x|z_0] of a path is the mean of what is drawn at its end."""
    drawn = sampled(engine, digits, rows=3, seed=5, trajectory=(LEVELS, 2, 0))
    assert drawn.trajectory is not None
    assert drawn.trajectory.shape == (3, 3, 8, 8)
    mean = sampled(engine, digits, rows=3, seed=5, output="mean", level=0)
    assert drawn.trajectory[:, 2].tobytes() == mean.x.tobytes()


def test_work_is_counted_in_evaluations_of_the_network(digits: Resident) -> None:
    def passes(**asked: Any) -> int:
        return Progress(Job(rows=3, seed=0, **asked), digits, lambda _: None).passes

    x = rows(3)
    assert passes(verb=Verb.ELBO, x=x, num_samples=2) == 3 * 2 * (LEVELS + 1)
    assert passes(verb=Verb.ELBO, x=x, num_samples=2, num_steps=2) == 3 * 2 * 3
    assert passes(verb=Verb.ELBO, x=x, num_levels=2) == 3 * 3
    assert passes(verb=Verb.SAMPLE) == 3 * (LEVELS + 1)
    assert passes(verb=Verb.SAMPLE, x=x, level=1) == 3 * 2
    assert passes(verb=Verb.ENCODE, x=x, num_samples=1, level=2) == 3


def test_a_row_that_stops_being_a_number_is_named_with_its_level(engine: Compute, exact: Resident) -> None:
    x = np.zeros((4, 3))
    x[2, 1] = np.inf
    with pytest.raises(InvalidInput, match=r"x\[2\] at level 6"):
        engine.submit(Job(verb=Verb.ELBO, rows=4, seed=0, x=x), exact).result(60)


def test_a_small_job_of_another_model_waits_for_two_tiles_of_a_chain_at_most(
    models: dict[str, Resident], residents: dict[str, Resident]
) -> None:
    small, large = (Job(verb=Verb.ELBO, rows=count, seed=0, x=rows(count)) for count in (1, 5_000))
    assert max(foreign_tiles(small, residents["levels"], large, models["digits"])) <= 2


def test_a_damaged_schedule_is_refused_at_load(tmp_path: Path, backend: EagerBackend) -> None:
    store = ModelStore.open(tmp_path)
    manifest = publish(store, "digits", DIFFUSION)
    loaded = load(store, manifest, backend)
    assert loaded.description.levels is not None
    assert loaded.description.levels.count == LEVELS
    assert loaded.description.levels.default == 2


def test_a_large_set_is_cut_by_its_passes(backend: EagerBackend, digits: Resident) -> None:
    """Into jobs that any queue admits, with the bytes of each row alone."""
    job = Job(verb=Verb.ELBO, rows=1_000, seed=2, x=rows(1_000), num_samples=60)
    heard: list[int] = []
    with open_bulk(backend, 1) as bulk:
        found = bulk.run(job, digits, heard.append)
        last = bulk.run(replace(job, rows=1, x=job.x[-1:], first_index=999), digits, heard.append)
    assert max(heard) * 60 * (LEVELS + 1) <= 65_536
    assert found["elbo"][-1:].tobytes() == last["elbo"].tobytes()


@pytest.mark.parametrize("asked", [{"verb": Verb.ENCODE}, {"verb": Verb.ENCODE, "num_samples": 2, "level": LEVELS}])
def test_what_a_job_answers_is_counted_before_it_is_admitted(
    engine: Compute, digits: Resident, asked: dict[str, Any]
) -> None:
    job = Job(rows=5_000, seed=0, x=rows(5_000), **asked)
    found = answer(engine.submit(job, digits).result(60).value)
    assert job.x is not None
    assert Progress(job, digits, lambda _: None).size >= job.x.nbytes + sum(map(len, found.values()))


def test_the_levels_that_draws_visit_are_counted_and_held_for_few_rows_at_a_time(digits: Resident) -> None:
    """Of a long chain they are far more than its draws."""
    description = replace(digits.description, levels=Levels(np.zeros(4097), np.full(4096, 1 / 4096), 0.0))
    long = replace(digits, description=description)
    job = Job(verb=Verb.ELBO, rows=2_000, seed=0, x=rows(2_000), num_levels=4096)
    progress = Progress(job, long, lambda _: None)
    assert progress.units * 8 * 4096 <= CHUNK_BYTES
    assert progress.size >= progress.units * 8 * 4096
