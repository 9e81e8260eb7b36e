"""The metrics of all replicas together, whichever of them is asked.

A replica tells a ledger, one actor of the cluster, what it counts; a scrape adds up what the ledger knows. What a
replica did still counts after its end, what it held does not. On one machine workers use files for this.
"""

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator
from typing import Any, final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from elbod.api.metrics import FLUSH_EVERY, Metrics
from elbod.scale.ledger import Family, Ledger, Snapshot

logger = logging.getLogger(__name__)

_NAME = "elbod-metrics"


def snapshot(metrics: Metrics) -> Snapshot:
    """What one replica counts now."""
    return {
        family.name: Family(
            family.type,
            family.documentation,
            metrics.modes.get(family.name, "sum"),
            {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for sample in family.samples
                if not sample.name.endswith("_created")
            },
        )
        for family in metrics.registry.collect()
    }


@final
class Reporter(threading.Thread):
    """Tells the ledger once a second what this replica counts, and makes a scrape ask it."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(name="elbod-metrics", daemon=True)
        self._metrics = metrics
        self._replica = uuid.uuid4().hex[:12]
        self._stopping = threading.Event()
        self._ledger: Any = None
        metrics.gather = self._gather

    def run(self) -> None:
        while not self._stopping.wait(FLUSH_EVERY):
            self._tell()
        self._tell()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def _tell(self) -> None:
        import ray

        # Without it the replica serves as before, and is missing in the sum until it is back.
        try:
            self._ledger = self._ledger or _ledger()
            ray.get(self._ledger.tell.remote(self._replica, snapshot(self._metrics)), timeout=10)
        except Exception:
            self._ledger = None
            logger.exception("the ledger of metrics does not answer")

    def _gather(self) -> CollectorRegistry:
        import ray

        self._tell()
        registry = CollectorRegistry()
        registry.register(_Told(ray.get(_ledger().all.remote(), timeout=10)))
        return registry


def forget() -> None:
    """End the ledger, when nobody serves any more."""
    import ray

    with contextlib.suppress(ValueError):  # there was none
        ray.kill(ray.get_actor(_NAME, namespace=_NAME))


def _ledger() -> Any:
    import ray

    # It outlives the replica that happened to ask first.
    options = {"name": _NAME, "namespace": _NAME, "get_if_exists": True, "lifetime": "detached"}
    return ray.remote(Ledger).options(**options, num_cpus=0, max_restarts=-1).remote()


@final
class _Told:
    """A snapshot for the exposition."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for name, family in self._snapshot.items():
            metric = Metric(name, family.text, family.kind)
            for (sample, labels), value in family.samples.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric
