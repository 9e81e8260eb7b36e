"""Tables of the reference: settings, errors, metrics, recipes, families, columns of answers."""

import asyncio
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client.parser import text_string_to_metric_families

from elbod.api.app import create_app
from elbod.engine.columns import ELBO, ENCODE, POSTERIOR, SAMPLE
from elbod.errors import STATUS
from elbod.generators.checkpoint import families as family_names
from elbod.generators.checkpoint import family
from elbod.settings import Settings, load_settings
from elbod.training.recipes import RECIPES


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown; a bar within a cell is escaped."""
    lines = [" | ".join(headings), "|".join("---" for _ in headings)]
    lines += [" | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def settings() -> str:
    rows = [
        (f"`{name}`", f"`ELBOD_{name.upper()}`", f"`{_default(field.default)}`", field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return table(("key in `elbod.toml`", "variable", "default", ""), rows)


def errors() -> str:
    rows = [(str(status), kind.__name__, _first_line(kind)) for kind, status in STATUS.items()]
    return table(("status", "kind", "when"), rows)


def families() -> str:
    rows = [(f"`{name}`", _first_line(sys.modules[family(name).__module__])) for name in family_names()]
    return table(("family", ""), rows)


def columns() -> str:
    """Every array of an answer."""
    tables = {"`/sample`": SAMPLE, "`posterior` of `/encode`": POSTERIOR, "`/encode`": ENCODE, "`/elbo`": ELBO}
    rows = [(f"`{column.name}`", verb, column.described) for verb, found in tables.items() for column in found]
    return table(("array", "answer of", ""), rows)


def metrics() -> str:
    """As a server that nobody has asked yet shows them."""
    text, _ = asyncio.run(create_app(load_settings(store="memory://")).state.service.metrics.text(""))
    shown = text_string_to_metric_families(text.decode())
    rows = [(f"`{_exposed(m.name, m.type)}`", m.type, m.documentation) for m in shown if m.name.startswith("elbod_")]
    return table(("metric", "type", ""), [row for row in rows if "_created" not in row[0]])


def _exposed(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name


def recipes() -> str:
    rows = [
        (f"`{name}`", recipe.family, recipe.likelihood, str(recipe.epochs), _settings(recipe.spec))
        for name, recipe in RECIPES.items()
    ]
    return table(("recipe", "family", "likelihood", "epochs at most", "settings of the family"), rows)


def _settings(spec: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in sorted(spec.items()))


def _default(value: object) -> str:
    if isinstance(value, int) and value >= 2**20 and value % 2**20 == 0:
        return f"{value // 2**20} MiB" if value < 2**30 else f"{value // 2**30} GiB"
    return str(value)


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n\n")[0]
