"""What a measurement found, as markdown: tables of figures, and ratios next to their targets."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """A figure that should be at least, or at most, a limit."""

    what: str
    found: float
    limit: float
    at_most: bool = False
    unit: str = "x"

    @property
    def met(self) -> bool:
        return self.found <= self.limit if self.at_most else self.found >= self.limit

    def line(self) -> str:
        sign = "<=" if self.at_most else ">="
        shown = (f"{number(value)} {self.unit}".strip() for value in (self.found, self.limit))
        return "| {} | {} | {} {} | {} |".format(
            self.what, next(shown), sign, next(shown), "met" if self.met else "**missed**"
        )


@dataclass
class Section:
    """One measurement: a table and the targets that it decides."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, found: float, limit: float, *, at_most: bool = False, unit: str = "x") -> None:
        """A target; one without a figure is left out, since nothing was measured."""
        if found == found:
            self.targets.append(Target(what, found, limit, at_most, unit))

    def lines(self) -> Iterator[str]:
        yield f"\n### {self.title}\n"
        yield from table(self.columns, self.rows)
        for note in self.notes:
            yield f"\n{note}"
        if self.targets:
            yield ""
            yield from table(("target", "found", "limit", ""), [])
            yield from (target.line() for target in self.targets)

    def plain(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self) | {"targets": [asdict(target) | {"met": target.met} for target in self.targets]}


def table(columns: Sequence[str], rows: list[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    yield from (f"| {' | '.join(row)} |" for row in rows)


def number(value: float) -> str:
    """Three digits or all before the point: more than a shared machine can tell."""
    if value != value:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def both(values: Sequence[float]) -> str:
    """The figures of every round."""
    return ", ".join(number(value) for value in values) or "-"


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
