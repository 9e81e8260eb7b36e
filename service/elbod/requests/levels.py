"""What may be asked of the levels of a model whose draws take passes, and of no other model."""

from dataclasses import dataclass, replace
from typing import Any

from elbod.engine.description import Levels, ModelDescription
from elbod.engine.jobs import Job
from elbod.errors import InvalidInput
from elbod.generators.chain import grid
from elbod.requests.checks import RequestLimits, check_count

# Fields that mean something for models with levels alone.
FIELDS = frozenset({"num_steps", "num_levels", "level", "sampler", "guidance", "trajectory_steps"})
INCLUDES = frozenset({"kl_per_level", "bound_map", "trajectory"})
ONLY_WITH_LEVELS = FIELDS | {"include"}


# Levels of a trajectory unless asked otherwise.
_SHOWN = 8


@dataclass(frozen=True)
class Asked:
    """The fields of a request, those of other verbs at their defaults, and which of all were given."""

    given: frozenset[str]
    include: frozenset[str]
    num_steps: int | None = None
    num_levels: int | None = None
    level: int | None = None
    trajectory_steps: int | None = None
    guidance: float | None = None


def at_levels(job: Job, asked: Asked, model: ModelDescription, limits: RequestLimits) -> Job:
    """The job with its passes decided, checked. Raises InvalidInput."""
    if model.levels is None:
        for name in sorted(asked.given & FIELDS):
            raise _without_levels(name, model)
        for name in sorted(asked.include & INCLUDES):
            why = f"model {model.name!r} has one level of latents: it has no {name}"
            raise InvalidInput.at("/include", why)
        return job
    if job.temperature != 1:
        why = f"the draws of model {model.name!r} take passes, which have no temperature: leave it out"
        raise InvalidInput.at("/temperature", why)
    downward = passed(model, asked.num_steps)[::-1]
    _check_sampled_levels(job, asked, model.levels.count)
    _check_guidance(job, asked, model)
    if job.marginal_labels and (per_label := sorted(asked.include & INCLUDES)):
        raise InvalidInput.at("/include", f"{per_label[0]} is of one label, or of the null label: leave marginal out")
    level, passes = _level(asked, model.levels, downward), asked.num_levels or len(downward)
    check_count("num_importance_samples", job.num_importance_samples, limits.max_importance_samples // passes)
    return replace(
        job,
        # All steps are those of a request that does not say how many: one job, one ETag.
        num_steps=None if asked.num_steps == model.levels.count else asked.num_steps,
        num_levels=asked.num_levels,
        level=level,
        guidance=asked.guidance or 0.0,
        trajectory=_shown(asked, _passed_levels(job, level, downward)),
        kl_per_level="kl_per_level" in asked.include,
        bound_map="bound_map" in asked.include,
    )


def passed(model: ModelDescription, num_steps: int | None) -> tuple[int, ...]:
    """The levels at which draws of `num_steps` passes stop, ascending; of models without levels none.

    Raises InvalidInput.
    """
    if model.levels is None:
        if num_steps is not None:
            raise _without_levels("num_steps", model)
        return ()
    levels = model.levels.count
    if num_steps is not None and num_steps > levels:
        raise InvalidInput.at("/num_steps", f"num_steps is {num_steps}, model {model.name!r} has {levels} levels")
    return grid(levels, num_steps or levels)


def default_level(known: Levels, stops: tuple[int, ...]) -> int:
    """The level of z unless asked otherwise: the one of `stops` that is nearest to the model's default."""
    return min(stops, key=lambda level: (abs(level - known.default), level))


def _without_levels(name: str, model: ModelDescription) -> InvalidInput:
    return InvalidInput.at(f"/{name}", f"model {model.name!r} has one level of latents: it takes no {name}")


def evaluations(levels: int, num_steps: int | None, num_levels: int | None) -> int:
    """Evaluations of the network that a draw takes: one for each pass or sampled level, and one that observes z_0."""
    return 1 + (num_levels or num_steps or levels)


def _level(asked: Asked, known: Levels, downward: tuple[int, ...]) -> int:
    """The level of z: the one that is asked for, or the default."""
    if asked.level is None:
        return default_level(known, downward)
    if asked.level not in downward:
        stops = ", ".join(map(str, downward[::-1][:40]))
        raise InvalidInput.at("/level", f"level is {asked.level}; draws in {len(downward) - 1} steps stop at {stops}")
    return asked.level


def _check_sampled_levels(job: Job, asked: Asked, levels: int) -> None:
    if asked.num_levels is None:
        return
    if asked.num_levels > levels:
        raise InvalidInput.at("/num_levels", f"num_levels is {asked.num_levels}, the model has {levels} levels")
    whole: dict[str, Any] = {
        "num_steps": asked.num_steps is not None,
        "num_importance_samples": job.num_importance_samples > 0,
        "marginal": job.marginal_labels > 0,
        "include": bool(asked.include),
    }
    whys = {
        "num_steps": "num_levels samples among all levels: leave num_steps out",
        "num_importance_samples": "importance weights need whole paths: leave num_levels out",
        "marginal": "the marginal over labels needs whole paths: leave num_levels out",
        "include": "maps and profiles need whole paths: leave num_levels out",
    }
    for name, wrong in whole.items():
        if wrong:
            raise InvalidInput.at(f"/{name}", whys[name])


def _check_guidance(job: Job, asked: Asked, model: ModelDescription) -> None:
    if "guidance" not in asked.given:
        return
    if not model.has_null_label:
        raise InvalidInput.at("/guidance", f"model {model.name!r} has no null label to guide away from")
    if asked.guidance and job.label is None:
        raise InvalidInput.at("/guidance", "guidance draws towards a label: give label, or leave guidance out")


def _passed_levels(job: Job, level: int, downward: tuple[int, ...]) -> tuple[int, ...]:
    """Where draws of a sample stop: a given z begins at its level, and a mean ends there."""
    first = level if job.z is not None else downward[0]
    last = level if job.output == "mean" else 0
    return tuple(stop for stop in downward if last <= stop <= first)


def _shown(asked: Asked, downward: tuple[int, ...]) -> tuple[int, ...]:
    """The levels of a trajectory, spread over those that draws pass, the last one among them."""
    if "trajectory" not in asked.include:
        if "trajectory_steps" in asked.given:
            raise InvalidInput.at("/trajectory_steps", 'trajectory_steps counts what include: ["trajectory"] shows')
        return ()
    shown = min(asked.trajectory_steps or _SHOWN, len(downward))
    places = [round(i * (len(downward) - 1) / max(1, shown - 1)) for i in range(shown)]
    return tuple(downward[place] for place in places) if shown > 1 else downward[-1:]
