"""What follows from a tile's outputs: draws are kept, complete chunks reduced, finished jobs answered."""

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from elbod.engine.backends.base import Array
from elbod.engine.jobs import Encodings, Result, Samples, Scores, Verb
from elbod.engine.programs import Drawn, End
from elbod.engine.progress import Chunk, Progress
from elbod.engine.reductions import Columns, finite_rows, needed_samples, reduce, reduced_together
from elbod.engine.slots import Slots
from elbod.engine.work import Share, Work
from elbod.errors import ElbodError, InvalidInput, ModelFailure, OutOfMemory
from elbod.generators.terms import leaves, mapped

logger = logging.getLogger(__name__)

# A job's answer, or why there is none.
Outcome = Result | ElbodError

# Of a GPU, and of the host.
NO_MEMORY = (torch.OutOfMemoryError, MemoryError)

_NO_ANSWER = "returned what makes no answer"


def quiet() -> AbstractContextManager[None]:
    """Numbers that are not finite are refused with their row, and are no warnings."""
    return np.errstate(all="ignore")


def keep(work: Work, outputs: Sequence[Array], slots: Slots) -> list[Progress]:
    """Keep what the tile gave for each job; the jobs whose chunk is complete."""
    complete, begin = [], 0
    for share in work.shares:
        chunk, end = share.chunk, begin + len(share.slots)
        chunk.running -= 1
        chunk.unsettled -= len(share.slots)
        if share.progress.chunk is not chunk:
            # It failed in a tile before.
            release(chunk, slots)
        else:
            if outputs:
                piece = tuple(values[begin:end] for values in outputs)
                keep_part = _keep_pass if End.WALK in work.program.ends else _keep_draws
                keep_part(share, piece, slots.types[work.program])
            if not chunk.unsettled:
                complete.append(share.progress)
        begin = end
    return complete


def _keep_pass(share: Share, piece: tuple[Array, ...], kind: Any) -> None:
    """Add up what a pass of draws contributes, and note whose latents are no numbers any more."""
    chunk, parts = share.chunk, iter(piece)
    passed: Drawn = mapped(lambda _: next(parts), kind)
    at = slice(share.start, share.start + len(share.slots))
    if passed.path is not None:
        if chunk.path is None:
            chunk.path = mapped(lambda _: np.zeros(chunk.total), passed.path)
        for total, values in zip(leaves(chunk.path), leaves(passed.path), strict=True):
            total[at] += values
    assert passed.undefined is not None
    for unit in np.flatnonzero(passed.undefined):
        chunk.lost.setdefault(share.start + int(unit), share.step.below)


def _keep_draws(share: Share, piece: tuple[Array, ...], kind: Any) -> None:
    chunk = share.chunk
    if chunk.map is not None and not chunk.pilot:
        # Added up draw by draw, since a map a draw would not fit into memory. It is the last output of its program.
        *terms, elements = piece
        items, draws = chunk.units(share.start, len(share.slots))
        samples, copies = chunk.samples, share.progress.job.copies
        counted = draws < (samples if isinstance(samples, int) else samples[items // copies])
        np.add.at(chunk.map, items[counted], elements[counted])
        piece, kind = tuple(terms), Drawn(terms=kind.terms, reconstruction=kind.reconstruction)
    chunk.pieces.append(piece)
    chunk.pieces_type = kind


def settle(complete: Sequence[Progress], slots: Slots) -> list[tuple[Progress, Outcome | None]]:
    """Each job whose chunk is complete with its outcome, None if it has more draws or rows to run."""
    outcomes, drawn = list[tuple[Progress, Outcome | None]](), list[Progress]()
    for progress in complete:
        if _chunk(progress).pilot:
            outcomes.append((progress, _end_pilot(progress, slots)))
        else:
            drawn.append(progress)
    for group in reduced_together(drawn):
        outcomes += _reduce(group, slots)
    return outcomes


def _end_pilot(progress: Progress, slots: Slots) -> Outcome | None:
    job, chunk = progress.job, _chunk(progress)
    try:
        chunk.samples = samples = needed_samples(progress, slots)
        draws = np.repeat(np.maximum(samples, job.num_importance_samples), job.copies)
        chunk.begin_draws(draws, progress.way, slots, pilot=False)
    except BaseException as error:
        return failure(progress, _NO_ANSWER, error)
    return None


def _reduce(group: Sequence[Progress], slots: Slots) -> list[tuple[Progress, Outcome | None]]:
    """Reduce chunks together, and each alone if that fails."""
    try:
        columns = reduce(group, slots)
        finite = all(finite_rows(name, values).all() for name, values in columns.items())
    except BaseException as error:  # label_log_prob is the model's, and so are the arrays
        if len(group) == 1:
            return [(group[0], failure(group[0], _NO_ANSWER, error))]
        return [outcome for progress in group for outcome in _reduce([progress], slots)]
    outcomes, begin = list[tuple[Progress, Outcome | None]](), 0
    for progress in group:
        end = begin + _chunk(progress).rows
        own = columns if len(group) == 1 else {name: values[begin:end] for name, values in columns.items()}
        begin = end
        try:
            if not finite:
                _check_finite(progress, own)
            outcomes.append((progress, _end_chunk(progress, own)))
        except BaseException as error:
            outcomes.append((progress, failure(progress, _NO_ANSWER, error)))
    return outcomes


def _end_chunk(progress: Progress, columns: Columns) -> Result | None:
    """Keep the columns of a chunk; the job's answer if it was the last one."""
    chunk, job = _chunk(progress), progress.job
    if chunk.rows == job.rows:
        progress.results = columns
        return _result(progress)
    at = slice(chunk.first, chunk.first + chunk.rows)
    for name, values in columns.items():
        if name not in progress.results:
            progress.results[name] = np.empty((job.rows, *values.shape[1:]), values.dtype)
        progress.results[name][at] = values
    return _result(progress) if at.stop == job.rows else None


def release(chunk: Chunk, slots: Slots) -> None:
    """Give slots back once, after the last tile that they are in."""
    if not chunk.running:
        chunk.end_walks(slots)
        slots.release(chunk.slots)
        chunk.slots = chunk.slots[:0]


def _chunk(progress: Progress) -> Chunk:
    assert progress.chunk is not None
    return progress.chunk


def _check_finite(progress: Progress, columns: Columns) -> None:
    """Raises InvalidInput or ModelFailure for the first row without finite numbers."""
    wrong = {name: ~finite_rows(name, values) for name, values in columns.items()}
    rows = {name: int(np.argmax(at)) for name, at in wrong.items() if at.any()}
    if rows:
        name = min(rows, key=lambda name: rows[name])
        raise _not_finite(progress, "x" if name == "undefined" else name, rows[name])


def _not_finite(progress: Progress, what: str, row: int) -> InvalidInput | ModelFailure:
    """A row that the caller gave is the caller's to mend; one of the prior is the model's, unless it was heated."""
    job, chunk = progress.job, _chunk(progress)
    lost = [level for unit, level in chunk.lost.items() if chunk.units(unit, 1)[0][0] // job.copies == row]
    row += chunk.first
    message = f"model '{progress.resident}' returned a value of {what} that is not finite for {progress.place(row)}"
    message += f" at level {max(lost)}" if lost else ""
    if (given := progress.given) is not None:
        way_out = f"{given}[{row}] lies beyond what the model can compute: check its units, or leave it out"
        return InvalidInput.at(f"/{given}/{row}", f"{message}: {way_out}")
    if job.temperature > 1:
        return InvalidInput.at("/temperature", f"{message} at temperature {job.temperature:g}: lower it")
    return ModelFailure(message)


def _result(progress: Progress) -> Result:
    """The finished job's answer."""
    kept, now, job = progress.results, time.monotonic(), progress.job
    value: Samples | Encodings | Scores
    if job.verb is Verb.SAMPLE:
        value = Samples(x=kept["x"], z=kept["z"])
    elif job.verb is Verb.ENCODE:
        prefix = "posterior."
        value = Encodings(
            family=progress.resident.description.posterior_family,
            parameters={n.removeprefix(prefix): v for n, v in kept.items() if n.startswith(prefix)},
            z=kept.get("z"),
            kl=kept.get("kl"),
            kl_per_dimension=kept.get("kl_per_dimension"),
            log_q=kept.get("log_q"),
        )
    else:
        value = Scores({n: v for n, v in kept.items() if n != "reconstruction_map"}, kept.get("reconstruction_map"))
    started = now if progress.started is None else progress.started
    return Result(value, started - progress.admitted, now - started)


def failure(progress: Progress, what: str, error: BaseException) -> ElbodError:
    """What a job's caller hears: an error that was meant for it, or only what its model did."""
    if isinstance(error, ElbodError):
        return error
    if isinstance(error, NO_MEMORY):
        return OutOfMemory(f"model '{progress.resident}' needs more memory than the device has left: try again later")
    logger.error("model %s %s", progress.resident, what, exc_info=error)
    found = ModelFailure(f"model '{progress.resident}' {what}")
    found.__cause__ = error
    return found
