"""One version as a folder in the layout of the Hugging Face Hub, and back.

`model.safetensors`, `config.json` (everything else that the manifest says) and `README.md` (its card), with
`reference.safetensors` and `calibration.safetensors` where the version has them.
"""

import json
from pathlib import Path
from typing import Any, Final

import msgspec

from elbod_store import blobs
from elbod_store.draft import Draft
from elbod_store.errors import InvalidDraft, Unavailable
from elbod_store.manifest import Manifest
from elbod_store.objects import Objects

FORMAT: Final = 1

_WEIGHTS, _CONFIG, _CARD = "model.safetensors", "config.json", "README.md"
_OPTIONAL: Final = ("reference", "calibration")
_FRONT: Final = "---\nlibrary_name: elbod\n---\n\n"
_PLAIN: Final = (
    "family",
    "spec",
    "likelihood",
    "event_shape",
    "levels",
    "binarization",
    "labels",
    "metrics",
    "training",
)


def export(objects: Objects, manifest: Manifest, folder: Path) -> None:
    """Write the version into a folder, which must be empty or not exist. Raises Unavailable, Corrupt."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise Unavailable(f"{folder} is not empty: give a new folder")
        named = {_WEIGHTS: manifest.weights} | {f"{name}.safetensors": getattr(manifest, name) for name in _OPTIONAL}
        for name, blob in named.items():
            if blob is not None:
                with (folder / name).open("wb") as file:
                    for chunk in blobs.verified(objects, blob):
                        file.write(chunk)
        plain = {name: msgspec.to_builtins(getattr(manifest, name)) for name in _PLAIN}
        described = {"elbod": FORMAT, "name": manifest.name, "digest": manifest.digest, **plain}
        (folder / _CARD).write_text(_FRONT + manifest.card)
        # Last: a folder with it is whole.
        (folder / _CONFIG).write_text(json.dumps(described, indent=1) + "\n")
    except OSError as error:
        raise Unavailable(f"cannot write {folder}: {error.strerror or error}") from error


def draft_of(folder: Path, name: str | None) -> tuple[Draft, str]:
    """What such a folder would be published as, and the digest that its config claims. Raises InvalidDraft."""
    try:
        config = json.loads((folder / _CONFIG).read_text())
        card = (folder / _CARD).read_text() if (folder / _CARD).exists() else ""
        optional: dict[str, Any] = {
            which: path.read_bytes() for which in _OPTIONAL if (path := folder / f"{which}.safetensors").exists()
        }
    except (OSError, ValueError) as error:
        raise InvalidDraft(f"{folder} is no exported version: {error}") from error
    if not isinstance(config, dict) or config.get("elbod") != FORMAT:
        raise InvalidDraft(f"{folder / _CONFIG} is of another format than {FORMAT}: it is no exported version of elbod")
    if missing := [key for key in ("name", "digest", *_PLAIN) if key not in config]:
        raise InvalidDraft(f"{folder / _CONFIG} lacks {', '.join(missing)}")
    fields: dict[str, Any] = {key: config[key] for key in _PLAIN}
    draft = Draft(
        name=name or config["name"],
        weights=folder / _WEIGHTS,
        card=card.removeprefix(_FRONT),
        **fields,
        **optional,
    )
    return draft, str(config["digest"])
