"""Sections, tables and rows of the page."""

import html
from collections.abc import Iterable, Sequence


def section(title: str, shown: str, *words: str) -> str:
    """A heading, what is shown below it, and paragraphs about it."""
    name = title.lower().replace(" ", "-").strip("?")
    figure = f"<figure>{shown}</figure>" if shown else ""
    paragraphs = "".join(f"<p>{text(each)}</p>" for each in words if each)
    return f'<section id="{name}"><h2>{title}</h2>\n{figure}\n{paragraphs}</section>'


def named_rows(rows: Iterable[tuple[str, str]]) -> str:
    """Pictures below each other, each after its name."""
    return '<div class="rows">' + "".join(f"<span>{text(name)}</span>{shown}" for name, shown in rows) + "</div>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows below a head; the first cell of each names it."""
    titles = "".join(f"<th scope=col>{text(title)}" for title in head)
    cells = "".join(
        f"<tr><th scope=row>{text(name)}" + "".join(f"<td>{text(value)}" for value in values) + "</tr>"
        for name, *values in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{cells}</tbody></table>"


def pair(figure: str, *others: str) -> str:
    """A figure, and next to it what else there is to say."""
    return f'<div class="pair">{figure}<div>{"".join(others)}</div></div>'


def number(value: float | None, digits: int) -> str:
    """In that many decimals; nothing for None."""
    return "" if value is None else f"{value:.{digits}f}"


def text(value: object) -> str:
    """Escaped."""
    return html.escape(str(value))
