"""What may enter: bounds of what is admitted and not yet answered, decided before any work."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from elbod.engine.jobs import Verb
from elbod.engine.progress import Progress
from elbod.errors import Draining, InvalidInput, QueueFull

# Fields that decide how many passes of the network draws of a model with levels take; those of /encode take none.
_PASSES = {Verb.SAMPLE: "num_steps", Verb.ELBO: "num_steps or num_levels"}


@dataclass(frozen=True)
class Limits:
    """The most that all admitted jobs may take together: network passes and bytes."""

    max_queue_rows: int = 1_048_576
    max_queue_bytes: int = 512 * 1024**2


class Admission:
    """Counts what was admitted. Shared by all engines of a process, called from any thread."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._changed = threading.Condition()
        self._jobs = self._passes = self._bytes = 0
        self._passes_per_second: float | None = None
        self._draining = False

    @property
    def queued(self) -> tuple[int, int]:
        """Passes and bytes that are admitted and not answered."""
        return self._passes, self._bytes

    def admit(self, progress: Progress) -> None:
        """Count a job. Raises InvalidInput (larger than the whole queue), QueueFull, Draining."""
        passes, size = progress.passes, progress.size
        self._refuse_oversized(progress)
        with self._changed:
            if self._draining:
                raise Draining("the server is shutting down: try another one")
            full = self._passes + passes > self.limits.max_queue_rows
            if full or self._bytes + size > self.limits.max_queue_bytes:
                raise QueueFull(
                    f"the queue is full: {self._passes} row-draws and {self._bytes} bytes are waiting",
                    retry_after=self._passes / (self._passes_per_second or self._passes),
                )
            self._jobs += 1
            self._passes += passes
            self._bytes += size

    def leave(self, progress: Progress) -> bool:
        """Count a job no longer that was answered or cancelled; False if that was done before."""
        with self._changed:
            if progress.closed:
                return False
            progress.closed = True
            self._jobs -= 1
            self._passes -= progress.passes
            self._bytes -= progress.size
            if not self._jobs and self._draining:
                self._changed.notify_all()
            return True

    def drain(self, timeout: float | None) -> bool:
        """Refuse new jobs and wait for the admitted ones; False if some were left when the time was up."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._jobs, timeout)

    def note_speed(self, passes_per_second: float) -> None:
        """What a tile did: `Retry-After` is told by an average over some twenty of them."""
        before = self._passes_per_second
        self._passes_per_second = passes_per_second if before is None else 0.95 * before + 0.05 * passes_per_second

    def _refuse_oversized(self, progress: Progress) -> None:
        job = progress.job
        decides = _PASSES.get(job.verb) if progress.resident.levels else None
        if decides and job.marginal_labels:
            # The sum over labels is of whole paths.
            decides = "num_steps"
        for what, amount, limit in (
            ("network passes" if decides else "row-draws", progress.passes, self.limits.max_queue_rows),
            ("bytes", progress.size, self.limits.max_queue_bytes),
        ):
            if amount > limit:
                way_out = ", or ".join(_ways_out(progress, decides))
                raise InvalidInput.at("", f"the request takes {amount} {what}, the limit is {limit}: {way_out}")


def _ways_out(progress: Progress, decides: str | None) -> Iterator[str]:
    """What makes a job smaller; `decides` names the fields that decide its passes."""
    job = progress.job
    if job.rows > 1:
        yield "split its rows"
    elif job.target_standard_error is None:
        yield "ask for fewer draws"
    if job.target_standard_error is not None:
        most = job.row_draws // (job.rows * job.copies)
        yield f"give num_samples in place of target_standard_error, which may take {most} draws a row"
    if decides:
        yield f"give a smaller {decides}: a draw takes {progress.passes // job.row_draws} passes"
    if job.marginal_labels:
        if progress.resident.description.has_null_label:
            yield "leave marginal out"
        yield f"give labels: the sum scores each row under all {job.marginal_labels}"
