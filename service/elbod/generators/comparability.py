"""Whose scores may be compared: bounds on the same density of the same events."""

from elbod.generators.checkpoint import Described
from elbod.generators.likelihoods import make_likelihood

# What differs, ours, theirs.
Difference = tuple[str, object, object]


def difference(ours: Described, theirs: Described, *, given_labels: bool = False) -> Difference | None:
    """Why scores of two models bound different things and may not be compared; None if they may.

    Events, their levels, the measure, the support and the binarization must agree; of scores given labels, log p(x|y),
    the labels too. Without labels given every model bounds log p(x).
    """
    mine, other = (make_likelihood(model.likelihood, model.event_shape, model.levels) for model in (ours, theirs))
    compared: list[Difference] = [
        ("events of shape", ours.event_shape, theirs.event_shape),
        ("levels", mine.levels, other.levels),
        ("binarization", ours.binarization, theirs.binarization),
        ("the measure", mine.measure, other.measure),
    ]
    if mine.measure == other.measure == "density":
        # Of a pmf its levels say the support.
        compared.append(("the support", mine.support, other.support))
    if given_labels:
        compared.append(("labels", ours.labels, theirs.labels))
    return next((found for found in compared if found[1] != found[2]), None)
