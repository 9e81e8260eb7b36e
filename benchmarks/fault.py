"""One fault of the table: what was seen and counted."""

from dataclasses import dataclass

import numpy as np

from crowd import Crowd

MODEL = "levels"
ROWS = np.random.default_rng(0).integers(0, 17, (20, 8, 8), dtype=np.uint8)


class NotHere(Exception):
    """A fault that this machine cannot have, and why."""


@dataclass(frozen=True)
class Fault:
    """`seen` is what a caller, or the operator, notices; the rest is counted of the crowd."""

    seen: str
    crowd: Crowd | None = None
    # When it began, by the monotonic clock.
    since: float = 0.0

    def cells(self) -> list[str]:
        """Of the table, after the name."""
        if self.crowd is None:
            return [self.seen, *["-"] * 6]
        calls, lost = self.crowd.calls, self.crowd.lost
        by_kind = ", ".join(f"{count} {kind}" for kind, count in lost.items())
        wrong = f" (**{self.crowd.wrong} of wrong bytes**)" if self.crowd.wrong else ""
        return [
            self.seen,
            f"{len(calls):,}",
            f"{len(calls) - lost.total():,}{wrong}",
            f"{self.crowd.retries.total():,}",
            f"**{by_kind}**" if lost else "0",
            f"{self.crowd.disturbed_until(self.since):.1f}",
            f"{self.crowd.longest():.2f}",
        ]
