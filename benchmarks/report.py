"""What a measurement found, as markdown: tables of figures, and ratios next to their targets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """A figure of every round, whose median should be at least, or at most, a limit; None: there is no target."""

    what: str
    rounds: Sequence[float]
    limit: float | None
    at_most: bool = False
    unit: str = "x"
    # Why there are no rounds.
    missing: str = ""

    @property
    def found(self) -> float:
        return median(self.rounds) if self.rounds else float("nan")

    @property
    def met(self) -> bool | None:
        if self.limit is None or not self.rounds:
            return None
        return self.found <= self.limit if self.at_most else self.found >= self.limit

    def row(self) -> Sequence[str]:
        limit = (
            "" if self.limit is None else f"{'<=' if self.at_most else '>='} {number(self.limit)} {self.unit}".strip()
        )
        verdict = {True: "met", False: "**missed**", None: ""}[self.met]
        found = self.missing or f"{number(self.found)} {self.unit}".strip()
        return self.what, found, spread(self.rounds), limit, verdict


@dataclass
class Section:
    """One measurement: a table and the targets that it decides."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self, what: str, found: float | Sequence[float], limit: float | None, *, at_most: bool = False, unit: str = "x"
    ) -> None:
        """A target; one without figures is left out, since nothing was measured."""
        rounds = [found] if isinstance(found, int | float) else found
        if rounds and all(value == value for value in rounds):
            self.targets.append(Target(what, rounds, limit, at_most, unit))

    def lines(self) -> Iterator[str]:
        yield f"\n### {self.title}\n"
        yield from table(self.columns, self.rows)
        for note in self.notes:
            yield f"\n{note}"

    def plain(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self) | {"targets": [asdict(target) | {"met": target.met} for target in self.targets]}


def target_table(sections: Sequence[Section]) -> Iterator[str]:
    """One row a target: the median of its rounds, the least and the most of them, met or missed."""
    rows = [target.row() for section in sections for target in section.targets]
    return table(("target", "median", "min ... max", "limit", ""), rows)


def interleave(rounds: int, ways: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """What each way gave in every round, in the order A B C A B C: drift of the machine falls on all alike."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def ratios(of: Sequence[float], to: Sequence[float], times: float = 1) -> list[float]:
    """One ratio a round, without rounds in which the other did nothing."""
    return [times * a / b for a, b in zip(of, to, strict=False) if b]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    yield from (f"| {' | '.join(row)} |" for row in rows)


def number(value: float) -> str:
    """Three digits or all before the point: more than a shared machine can tell."""
    if value != value:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    return f"{number(min(values))} ... {number(max(values))}" if len(values) > 1 else ""


def shown(values: Sequence[float]) -> str:
    """The median of the rounds and, in brackets, the least and the most of them."""
    if not values:
        return "-"
    return number(median(values)) + (f" ({spread(values)})" if len(values) > 1 else "")
