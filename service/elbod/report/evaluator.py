"""Requests answered by the engine: the bytes and numbers that the service would give."""

from collections.abc import Callable
from dataclasses import dataclass

from elbod.engine.jobs import Array, Job
from elbod.engine.loading import Resident
from elbod.engine.passes import evaluations, passes
from elbod.requests.checks import UNLIMITED
from elbod.requests.verbs import VerbRequest

Run = Callable[[Job, str], dict[str, Array]]


@dataclass
class Evaluator:
    """Answers requests, and counts the evaluations of the network that they took."""

    resident: Resident
    run: Run
    evaluations: int = 0

    def job(self, request: VerbRequest, **arrays: Array | None) -> Job:
        """What the request asks of the engine."""
        return request.job(arrays, self.resident.description, UNLIMITED)

    def __call__(self, request: VerbRequest, title: str, **arrays: Array | None) -> dict[str, Array]:
        """The columns of its answer."""
        job = self.job(request, **arrays)
        self.evaluations += job.row_draws * evaluations(passes(job, self.resident.levels))
        return self.run(job, title)
