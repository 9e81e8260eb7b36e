"""A schema of Kubernetes, cut down to what the manifest uses and what the schema requires; all else is an error.

    python tests/deploy/schemas/reduce.py RayService ray.io_rayservices.yaml > tests/deploy/schemas/rayservice.json

The source is a custom resource's definition, or a JSON schema with its `_definitions.json` next to it.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

MANIFEST = Path(__file__).parents[3] / "deploy/ray/rayservice.yaml"

_KEPT = ("enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "required")
_INT_OR_STRING = {"type": ["integer", "string"]}


@functools.cache
def _manifest() -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(MANIFEST))


def documents(kind: str) -> list[Any]:
    """Those of the manifest that are of one kind."""
    return [document for document in _manifest() if document["kind"] == kind]


def reduce(schema: dict[str, Any], values: list[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """`schema` as far as `values` go. It is closed: properties that none of them has and none must have are unknown."""
    if "$ref" in schema:
        return reduce(definitions[schema["$ref"].rpartition("/")[2]], values, definitions)
    if schema.get("x-kubernetes-int-or-string") or "oneOf" in schema:
        return _INT_OR_STRING
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    # What is written as null is left out by mistake.
    kinds = [kind for kind in kinds if kind != "null"]
    reduced = {"type": kinds if len(kinds) > 1 else kinds[0]}
    reduced |= {name: schema[name] for name in _KEPT if name in schema}
    if "properties" in schema:
        used = {name for value in values for name in value} | set(schema.get("required", []))
        reduced["properties"] = {
            name: reduce(inner, [value[name] for value in values if name in value], definitions)
            for name, inner in schema["properties"].items()
            if name in used
        }
        reduced["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        entries = [entry for value in values for entry in value.values()]
        reduced["additionalProperties"] = reduce(schema["additionalProperties"], entries, definitions)
    if "items" in schema:
        reduced["items"] = reduce(schema["items"], [item for value in values for item in value], definitions)
    return reduced


def main(kind: str, source: Path) -> None:
    whole = YAML(typ="safe").load(source)
    definitions = source.with_name("_definitions.json")
    if whole.get("kind") == "CustomResourceDefinition":
        (version,) = [version for version in whole["spec"]["versions"] if version["storage"]]
        whole = version["schema"]["openAPIV3Schema"]
    found = json.loads(definitions.read_text())["$defs"] if definitions.exists() else {}
    json.dump(reduce(whole, documents(kind), found), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
