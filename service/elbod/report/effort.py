"""How much a page computes: a model whose draws take passes of the network gets a bounded number of them."""

from dataclasses import dataclass

ROWS = 1_000

# Passes that go into scores, into trying the errors, and into samples: about a minute of two cores for the digits.
_SCORED_PASSES, _TRIED_PASSES, _SAMPLED_PASSES = 2**17, 2**15, 2**14
_SAMPLES, _FEWEST_SAMPLES = 64, 8
# Models of fewer steps that a model with levels is compared with.
_STEPS = (8, 16, 32)


@dataclass(frozen=True)
class Effort:
    """`rows` of `available` ones are scored by S = `num_samples` and K = `num_importance_samples` draws each.

    The errors are tried on the first `tried_rows`, each estimated `repetitions` times from `tried_samples` draws.
    `shorter` are the num_steps that the rows are scored in besides all T, by S draws too. `samples` are drawn.
    """

    available: int
    rows: int
    num_samples: int
    num_importance_samples: int
    tried_rows: int
    repetitions: int
    tried_samples: int
    samples: int
    shorter: tuple[int, ...] = ()


def effort(
    levels: int,
    available: int,
    *,
    rows: int | None = None,
    num_samples: int | None = None,
    num_importance_samples: int | None = None,
) -> Effort:
    """What is worth its time for a model of that many levels, 0 where draws take one pass; given counts stay.

    With levels a draw takes T + 1 passes, so fewer draws and, where these are still too many, fewer rows are scored.
    """
    if levels == 0:
        scored = min(available, rows or ROWS)
        return Effort(
            available, scored, num_samples or 16, num_importance_samples or 64, min(scored, 50), 100, 16, _SAMPLES
        )
    paths, weighted, repetitions = num_samples or 4, num_importance_samples or 8, 20
    passes = levels + 1
    shorter = tuple(steps for steps in _STEPS if steps < levels)
    row_passes = max(paths, weighted) * passes + paths * sum(steps + 1 for steps in shorter)
    scored = min(available, rows or max(2, min(ROWS, _SCORED_PASSES // row_passes)))
    return Effort(
        available=available,
        rows=scored,
        num_samples=paths,
        num_importance_samples=weighted,
        tried_rows=min(scored, 50, _TRIED_PASSES // (4 * repetitions * passes)),
        repetitions=repetitions,
        tried_samples=4,
        samples=max(_FEWEST_SAMPLES, min(_SAMPLES, _SAMPLED_PASSES // passes)),
        shorter=shorter,
    )
