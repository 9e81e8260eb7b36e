"""What replicas of one service count, added up. Imports nothing heavy: it is an actor of its own."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

# A replica that has not told for so long holds nothing any more.
SILENCE = 15.0
# Beyond so many silent ones the oldest are added up for good.
_MOST_SILENT = 100

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Family:
    """A metric's samples: value by sample name and labels. `mode` says how gauges of several replicas become one."""

    kind: str
    text: str
    mode: str
    samples: Mapping[tuple[str, Labels], float]


Snapshot = dict[str, Family]


def merged(living: Mapping[str, Snapshot], gone: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of all: counters and histograms add up over all replicas, gauges over the living, by their mode.

    A gauge of mode `liveall` gets the replica as a label.
    """
    found: Snapshot = {}
    past = ({name: family for name, family in each.items() if family.kind != "gauge"} for each in gone)
    for replica, each in [*living.items(), *(("", snapshot) for snapshot in past)]:
        for name, family in each.items():
            samples = dict(found[name].samples) if name in found else {}
            for (sample, labels), value in family.samples.items():
                key = sample, tuple(sorted((*labels, ("pid", replica)))) if family.mode == "liveall" else labels
                before = samples.get(key)
                if before is None:
                    samples[key] = value
                else:
                    samples[key] = max(before, value) if family.mode == "livemax" else before + value
            found[name] = Family(family.kind, family.text, family.mode, samples)
    return found


@final
class Ledger:
    """What every replica told last. Lives in an actor of its own."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, Snapshot]] = {}
        self._past: Snapshot = {}

    def tell(self, replica: str, now: Snapshot) -> None:
        self._told[replica] = time.monotonic(), now

    def all(self) -> Snapshot:
        """Of all replicas together."""
        since = time.monotonic() - SILENCE
        silent = sorted((at, replica) for replica, (at, _) in self._told.items() if at < since)
        for _, replica in silent[:-_MOST_SILENT]:
            self._past = merged({}, [self._past, self._told.pop(replica)[1]])
        living = {replica: now for replica, (at, now) in self._told.items() if at >= since}
        return merged(living, [self._past, *(now for at, now in self._told.values() if at < since)])
