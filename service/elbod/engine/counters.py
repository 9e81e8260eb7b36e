"""What was done since the process began: plain numbers that only grow, for whoever reports them."""

from collections import Counter
from dataclasses import dataclass, field

from elbod.engine.jobs import Stage, Tile


@dataclass(slots=True)
class WorkCounters:
    """Of an engine, by stage: tiles, the units in them, and the places that they had."""

    tiles: Counter[Stage] = field(default_factory=Counter)
    units: Counter[Stage] = field(default_factory=Counter)
    places: Counter[Stage] = field(default_factory=Counter)
    cancelled_rows: int = 0

    def ran(self, tile: Tile) -> None:
        self.tiles[tile.stage] += 1
        self.units[tile.stage] += sum(part.count for part in tile.parts)
        self.places[tile.stage] += tile.size


@dataclass(slots=True)
class LoadCounters:
    """Of the residents."""

    loads: int = 0
    load_failures: int = 0
    swaps: int = 0
    evictions: int = 0
