"""What was done since the process began: plain numbers that only grow, for whoever reports them."""

from collections import Counter
from dataclasses import dataclass, field

from elbod.engine.jobs import Stage


@dataclass(slots=True)
class WorkCounters:
    """Of an engine, by stage: tiles, the units in them, and the places that they had."""

    tiles: Counter[Stage] = field(default_factory=Counter)
    units: Counter[Stage] = field(default_factory=Counter)
    places: Counter[Stage] = field(default_factory=Counter)
    cancelled_rows: int = 0

    def ran(self, stage: Stage, units: int, places: int) -> None:
        self.tiles[stage] += 1
        self.units[stage] += units
        self.places[stage] += places

    def __add__(self, other: "WorkCounters") -> "WorkCounters":
        return WorkCounters(
            self.tiles + other.tiles,
            self.units + other.units,
            self.places + other.places,
            self.cancelled_rows + other.cancelled_rows,
        )


@dataclass(slots=True)
class LoadCounters:
    """Of the residents."""

    loads: int = 0
    load_failures: int = 0
    swaps: int = 0
    evictions: int = 0
