"""The HTTP reference, from the document that a server shows at /openapi.json."""

from collections.abc import Iterator
from typing import Any

from docsite.tables import table
from elbod.api.app import create_app
from elbod.settings import load_settings

_Node = dict[str, Any]

# Rows of any shape, as nested lists or packed.
_ARRAYS = ("Numbers", "PackedNumbers", "Values", "PackedArray")
_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def reference() -> str:
    document = create_app(load_settings(store="memory://")).openapi()
    lines: list[str] = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lines += _operation(document, f"{method.upper()} {path}", operation)
    return "\n".join(lines)


def _operation(document: _Node, name: str, operation: _Node) -> Iterator[str]:
    yield f"## `{name}`\n"
    yield str(operation.get("description") or operation["summary"]) + "\n"
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [
            _row(p["name"], {"description": p.get("description", "")} | p["schema"], p["required"]) for p in parameters
        ]
        yield "**Parameters**\n\n" + _table("name", rows)
    body = _json(operation.get("requestBody", {}))
    if body:
        yield "**Body**\n\n" + _fields(document, body)
    for status, response in operation["responses"].items():
        schema = _json(response)
        if status == "200" and schema:
            yield "**Answer**\n\n" + _fields(document, schema)
    refused = sorted(status for status in operation["responses"] if status >= "4")
    if refused:
        yield f"[Refusals](errors.md): {', '.join(refused)}.\n"


def _json(content: _Node) -> _Node:
    schema: _Node = content.get("content", {}).get("application/json", {}).get("schema", {})
    return schema


def _fields(document: _Node, schema: _Node) -> str:
    """A table of the object's fields, and after it one of each object within it."""
    resolved = _resolve(document, schema)
    required = resolved.get("required", [])
    fields = resolved.get("properties", {})
    rows = [_row(name, field, name in required) for name, field in fields.items()]
    text = _table("field", rows) if rows else "Any JSON object.\n"
    for name, field in fields.items():
        if "$ref" in field and _type(field) == "object":
            text += f"\n`{name}` is\n\n" + _fields(document, field)
    return text


def _table(kind: str, rows: list[tuple[str, str, str, str]]) -> str:
    """Without the defaults where nothing has one."""
    if any(default for _, _, default, _ in rows):
        return table((kind, "type", "default", ""), rows)
    return table((kind, "type", ""), [(name, type_, meaning) for name, type_, _, meaning in rows])


def _resolve(document: _Node, schema: _Node) -> _Node:
    if "$ref" not in schema:
        return schema
    found: _Node = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _row(name: str, schema: _Node, required: bool) -> tuple[str, str, str, str]:
    default = "" if required or schema.get("default") is None else f"`{schema['default']}`"
    return f"`{name}`", _type(schema), default, schema.get("description", "")


def _type(schema: _Node) -> str:
    if "$ref" in schema:
        return "array" if schema["$ref"].rpartition("/")[2] in _ARRAYS else "object"
    if "anyOf" in schema:
        kinds = list(dict.fromkeys(_type(kind) for kind in schema["anyOf"]))
        return " or ".join(kind for kind in kinds if kind) or "any"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    kind = str(schema.get("type", "any"))
    limits = [f"{sign} {_number(schema[key])}" for key, sign in _LIMITS.items() if key in schema]
    return " ".join([kind, " and ".join(limits)]).strip()


def _number(value: float) -> str:
    whole = int(value)
    if whole >= 2**20 and whole & (whole - 1) == 0:
        return f"2^{whole.bit_length() - 1}"
    return str(whole if whole == value else value)
