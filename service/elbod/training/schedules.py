"""What changes along a training run, as pure functions of the step t = 0, 1, ..."""

import math


def learning_rate(step: int, total: int, warmup: int) -> float:
    """The factor in (0, 1] of the base rate: (t + 1)/warmup at first, then a cosine from 1 down to nearly 0."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def beta(step: int, warmup: int) -> float:
    """The weight in (0, 1] of the KL term in the training objective, and in it alone: min(1, (t + 1)/warmup)."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def ema_decay(step: int, limit: float) -> float:
    """min(limit, (1 + t)/(10 + t)): early averages forget the initial weights fast."""
    return min(limit, (1 + step) / (10 + step))


def is_importance_weighted(done: float, total: float, last: float) -> bool:
    """Whether the step (or epoch) after `done` ones belongs to the `last` of `total`, which have that objective."""
    return done >= total - last
