"""A Prometheus histogram that takes whole arrays."""

import numpy as np
import prometheus_client
from numpy.typing import NDArray

_STEPS = 8


def decades(least: float, most: float) -> tuple[float, ...]:
    """Upper bounds from `least` to `most`, each a third above the one before: eight a decade."""
    count = round(np.log10(most / least) * _STEPS)
    return tuple(float(f"{least * 10 ** (step / _STEPS):.3g}") for step in range(count + 1))


class Histogram(prometheus_client.Histogram):
    """As prometheus_client's, with a cost that depends on the buckets and not on the values."""

    def observe_many(self, values: NDArray[np.float64]) -> None:
        """What `observe` of every value would do; a NaN is in no bucket, and left out of the sum."""
        values = values[~np.isnan(values)]
        # A value belongs to the first bucket whose bound is not below it.
        counts = np.bincount(np.searchsorted(self._upper_bounds, values, side="left"), minlength=len(self._buckets))
        self._sum.inc(float(values.sum()))
        for bucket in np.flatnonzero(counts):
            self._buckets[bucket].inc(int(counts[bucket]))
