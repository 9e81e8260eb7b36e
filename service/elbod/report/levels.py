"""What the page shows of a model whose draws take passes: its bound by level and number of steps, and draws on the way.

The bound of fewer steps is that of another model, made of the same weights.
"""

from dataclasses import dataclass

from elbod.engine.description import Levels
from elbod.engine.jobs import Array, Floats
from elbod.report.evaluator import Evaluator
from elbod.requests.verbs import ElboRequest, SampleRequest

TRAJECTORIES, TRAJECTORY_LEVELS = 8, 12


@dataclass(frozen=True)
class ByLevel:
    """`kl` (n, T + 1) is that of the pass that makes each level, the last one KL(q(z_T|x) || p(z_T)).

    `elbo` has the bound of each row, (n,), by num_steps, ascending up to T. `trajectories` (k, levels, *event_shape)
    are E[x|z_level] of samples at the levels `shown`, descending.
    """

    levels: Levels
    kl: Floats
    elbo: dict[int, Floats]
    trajectories: Array
    shown: tuple[int, ...]


def find_by_level(
    levels: Levels,
    x: Array,
    scores: dict[str, Array],
    evaluate: Evaluator,
    *,
    seed: int,
    num_samples: int,
    shorter: tuple[int, ...],
    sample_label: Array | None,
) -> ByLevel:
    """Of the rows x with their `scores` in all T steps, and of samples of the classes `sample_label`, if there are any.

    The trajectories are those of the samples with the same seed and index.
    """
    elbo = {}
    for steps in shorter:
        scoring = ElboRequest(seed=seed, num_samples=num_samples, num_steps=steps)
        elbo[steps] = evaluate(scoring, f"scoring in {steps} steps", x=x)["elbo"]
    count = TRAJECTORIES if sample_label is None else len(sample_label)
    sampling = SampleRequest(
        seed=seed, num_samples=count, include=["trajectory"], trajectory_steps=min(TRAJECTORY_LEVELS, levels.count + 1)
    )
    trajectories = evaluate(sampling, "sampling with trajectories", label=sample_label)["trajectory"]
    # Samples are sorted by class: some of each.
    apart = max(1, count // TRAJECTORIES)
    return ByLevel(
        levels,
        scores["kl_per_level"],
        elbo | {levels.count: scores["elbo"]},
        trajectories[::apart][:TRAJECTORIES],
        evaluate.job(sampling, label=sample_label).trajectory,
    )


def reconstruct_by_level(
    levels: Levels, x: Array, label: Array | None, evaluate: Evaluator, seed: int
) -> dict[str, Array]:
    """E[x|z_level] of one draw z_level ~ q(z_level|x), from the least noise on, by what it is."""
    found = {}
    for level in sorted({round(quarter * levels.count / 4) for quarter in range(4)}):
        request = SampleRequest(seed=seed, level=level, output="mean")
        found[f"E[x|z], level {level}"] = evaluate(request, f"reconstructing from level {level}", x=x, label=label)["x"]
    return found
