"""What follows from a tile's outputs: draws are kept, complete chunks reduced, finished jobs answered."""

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from elbod.engine.backends.base import Array
from elbod.engine.jobs import Encodings, Result, Samples, Scores, Verb
from elbod.engine.passes import Keep
from elbod.engine.programs import Drawn
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
                _keep(share, tuple(values[begin:end] for values in outputs), slots.types[work.program])
            if not chunk.unsettled:
                complete.append(share.progress)
        begin = end
    return complete


def _keep(share: Share, piece: tuple[Array, ...], kind: Any) -> None:
    """Keep what a pass gave for some of a chunk's draws: the arrays of a `Drawn` of that kind."""
    chunk, step = share.chunk, share.step
    if step.keep is Keep.DRAWS and not chunk.maps:
        chunk.pieces.append(piece)
        chunk.pieces_type = kind
        return
    arrays, at = iter(piece), slice(share.start, share.start + len(share.slots))
    drawn: Any = mapped(lambda _: next(arrays), kind)
    if step.keep is Keep.DRAWS:
        _keep_draws(share, drawn)
    elif step.keep is Keep.LATENTS:
        chunk.latents = _filled(chunk.latents, chunk.total, at, drawn.z)
    elif step.keep is Keep.SHOWN:
        chunk.shown[step.number] = _filled(chunk.shown[step.number], chunk.total, at, drawn.mean)
    else:
        _keep_terms(share, drawn, at)


def _filled(kept: Any, total: int, at: slice, values: Any) -> Array:
    """The array of all draws of a chunk with those of some of them."""
    filled: Array = np.empty((total, *values.shape[1:]), values.dtype) if kept is None else kept
    filled[at] = values
    return filled


def _keep_terms(share: Share, drawn: Any, at: slice) -> None:
    """Add up what passes contribute, and note whose latents are no numbers any more."""
    chunk, step, levels = share.chunk, share.step, share.progress.resident.description.levels
    if drawn.path is not None:
        if chunk.path is None:
            chunk.path = mapped(lambda _: np.zeros(chunk.total), drawn.path)
        for total, values in zip(leaves(chunk.path), leaves(drawn.path), strict=True):
            total[at] += values
        if share.progress.job.kl_per_level and not chunk.pilot:
            if chunk.profile is None:
                chunk.profile = np.empty((chunk.total, len(chunk.passes) - 1))
            chunk.profile[at, chunk.passes.index(step)] = drawn.path.conditional.kl
    if step.keep is Keep.VISIT:
        assert levels is not None
        assert chunk.visits is not None
        # n_i/(B w_i) KL_i of a level that is visited n_i times, in as many parts.
        weights = levels.weights[chunk.visits[at, step.number] - 1]
        chunk.path.conditional.kl[at] += drawn.level_kl / (chunk.visits.shape[1] * weights)
    _add_to_map(share, "bound_map", drawn.elements)
    for unit in np.flatnonzero(drawn.undefined):
        chunk.lost.setdefault(share.start + int(unit), int(share.made()[unit]))


def _keep_draws(share: Share, drawn: Drawn) -> None:
    """Draws with a number for every element, which are added up: a map a draw would not fit into memory."""
    chunk = share.chunk
    for name in chunk.maps:
        _add_to_map(share, name, drawn.elements)
    drawn = replace(drawn, elements=None)
    chunk.pieces.append(tuple(leaves(drawn)))
    chunk.pieces_type = drawn


def _add_to_map(share: Share, name: str, elements: Any) -> None:
    chunk = share.chunk
    if elements is None or name not in chunk.maps or chunk.pilot:
        return
    items, draws = chunk.units(share.start, len(share.slots))
    samples, copies = chunk.samples, share.progress.job.copies
    counted = draws < (samples if isinstance(samples, int) else samples[items // copies])
    total = chunk.maps[name]
    np.add.at(total, items[counted], elements[counted].reshape(-1, *total.shape[1:]))


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
        chunk.visits = progress.visits(chunk)
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
        value = Samples(x=kept["x"], z=kept["z"], trajectory=kept.get("trajectory"))
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
        maps = {name: kept[name] for name in job.maps}
        value = Scores({name: values for name, values in kept.items() if name not in maps}, maps)
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
