"""MkDocs hooks: `<!-- generated: NAME -->` becomes tables from the code, TeX becomes MathML, which needs no script."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from docsite import commands, formulas, http, tables

GENERATED: dict[str, Callable[[], str]] = {
    "columns": tables.columns,
    "elbod": commands.elbod,
    "elboctl": commands.elboctl,
    "errors": tables.errors,
    "families": tables.families,
    "http": http.reference,
    "metrics": tables.metrics,
    "recipes": tables.recipes,
    "settings": tables.settings,
}

_MARK = re.compile(r"<!-- generated: ([a-z]+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """An unknown mark is a KeyError, which ends the build."""
    return _MARK.sub(lambda mark: GENERATED[mark[1]](), markdown)


def on_page_content(html: str, **_: Any) -> str:
    return formulas.to_mathml(html)
