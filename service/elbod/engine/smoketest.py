"""Every verb once through the engine before a version serves: one that cannot answer fails its load, and no request."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from elbod.engine.admission import Admission, Limits
from elbod.engine.backends.base import Backend
from elbod.engine.engine import Engine
from elbod.engine.jobs import Job, Samples, Verb
from elbod.engine.loading import Resident, load
from elbod.engine.programs import row_dtype
from elbod.engine.progress import Progress
from elbod.engine.selftest import SEED
from elbod.engine.settling import Outcome, quiet
from elbod.errors import ElbodError, ModelFailure
from elbod.generators.base import mistaken_kl_estimator
from elbod.generators.pareto import MIN_DRAWS
from elbod_store import Manifest, ModelStore

# What callers may queue is no bound for a test.
_UNBOUNDED = Limits(2**62, 2**62)


def load_tested(store: ModelStore, manifest: Manifest, backend: Backend) -> Resident:
    """The version, ready to serve and seen to answer every verb. Raises elbod_store errors or ModelFailure."""
    resident = load(store, manifest, backend)
    engine = Engine(backend, Admission(_UNBOUNDED))
    try:
        _check_verbs(engine, resident, backend)
    except ElbodError as error:
        raise ModelFailure(f"{resident} failed the self-test: {error}") from error
    return resident


def _check_verbs(engine: Engine, resident: Resident, backend: Backend) -> None:
    """Of a row that the model itself draws, so that it lies in its support."""
    label = np.zeros(1, np.int64)
    sample = Job(verb=Verb.SAMPLE, rows=1, seed=SEED, label=label if resident.generator.conditional else None)
    (drawn,) = _answers(engine, resident, [sample])
    assert isinstance(drawn, Samples)
    _check_kl_estimator(resident, drawn, label, backend)
    _answers(engine, resident, _jobs(resident, sample, drawn))


def _answers(engine: Engine, resident: Resident, jobs: Iterable[Job]) -> list[object]:
    """What the engine answers to all jobs at once. Raises the first error."""
    answers: list[object] = []

    def settle(finished: Sequence[tuple[Progress, Outcome]]) -> None:
        for _, outcome in finished:
            if isinstance(outcome, ElbodError):
                raise outcome
            answers.append(outcome.value)

    for job in jobs:
        progress = Progress(job, resident, settle)
        engine.admission.admit(progress)
        engine.add(progress)
    with quiet():
        while engine.step():
            pass
    return answers


@torch.inference_mode()
def _check_kl_estimator(resident: Resident, drawn: Samples, label: NDArray[np.int64], backend: Backend) -> None:
    generator = resident.generator
    x = torch.from_numpy(drawn.x.astype(row_dtype(generator))).to(backend.device)
    q = generator.encode(x, torch.from_numpy(label).to(backend.device) if generator.conditional else None)
    path = generator.latent_terms(q, torch.from_numpy(drawn.z).to(backend.device))
    if (mistake := mistaken_kl_estimator(generator, q, path)) is not None:
        raise ModelFailure(mistake)


def _jobs(resident: Resident, sample: Job, drawn: Samples) -> Iterator[Job]:
    """All that may be asked, each way through the reductions once."""
    given = replace(sample, x=drawn.x)
    yield replace(sample, output="mean")
    yield replace(sample, z=drawn.z)
    yield given
    yield replace(given, verb=Verb.ENCODE, num_samples=0)
    yield replace(given, verb=Verb.ENCODE, num_samples=2)
    score = replace(given, verb=Verb.ELBO)
    yield replace(score, num_samples=2, num_importance_samples=MIN_DRAWS + 1, reconstruction_map=True)
    yield replace(score, num_samples=2, target_standard_error=1.0)
    if (labels := resident.description.labels) is not None:
        marginal = replace(score, label=None, marginal_labels=len(labels))
        yield replace(marginal, num_importance_samples=2, reconstruction_map=True)
    if resident.description.has_null_label:
        yield replace(score, label=None)
        yield replace(sample, guidance=1.0)
        yield replace(sample, guidance=1.0, sampler="ddim")
    if resident.generator.likelihood.name == "bernoulli":
        grey = 0.25 + 0.5 * drawn.x
        yield replace(score, x=grey, binarize="stochastic")
        yield replace(given, x=grey, verb=Verb.ENCODE, binarize="threshold")
