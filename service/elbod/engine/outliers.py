"""How well a score tells rows from their altered copies."""

import math
from dataclasses import dataclass

import numpy as np

from elbod.generators.bounds import Floats


@dataclass(frozen=True)
class Auroc:
    """The area under the receiver operating characteristic with its standard error."""

    value: float
    standard_error: float


def paired_auroc(scores: Floats, altered: Floats) -> Auroc:
    """P(altered > score) + P(altered = score)/2 over all pairs of rows, from n scores and those of n altered copies.

    A score that tells nothing has 0.5, one that ranks the altered rows *below* their originals less. With a_i the share
    of originals that altered row i exceeds (ties half), and o_i that of altered rows which exceed original i, the area
    is mean a = mean o. A copy is not independent of its original, so the standard error is that of n clusters,
    sd(a_i + o_i)/sqrt(n) (Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53, 1997).
    """
    exceeded = _share_below(altered, scores)
    exceeding = 1 - _share_below(scores, altered)
    n = len(scores)
    error = float((exceeded + exceeding).std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Auroc(float(exceeded.mean()), error)


def _share_below(values: Floats, reference: Floats) -> Floats:
    """The share of the reference below each value, ties counted half."""
    ordered = np.sort(reference)
    below, up_to = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    share: Floats = (below + up_to) / (2 * len(ordered))
    return share
