"""One version as a folder in the layout of the Hugging Face Hub, and back.

`model.safetensors`, `config.json` (the manifest, a line for each of its keys) and `README.md` (its card), with
`reference.safetensors` and `calibration.safetensors` where the version has them. An import believes the manifest by its
checksum, and every other file by what the manifest says of it, so a folder that anybody prepared can publish nothing
but what it holds.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import msgspec

from elbod_store import blobs
from elbod_store.canonical import canonical
from elbod_store.draft import DESCRIPTION, Draft
from elbod_store.errors import Corrupt, InvalidDraft, Unavailable
from elbod_store.files import chunks, open_regular
from elbod_store.manifest import MAX_RECORD, Blob, Manifest, decode_manifest, parse_manifest
from elbod_store.names import shown, version_key
from elbod_store.objects import Objects

FORMAT: Final = 2

_CONFIG, _CARD = "config.json", "README.md"
_FILES: Final = {
    "weights": "model.safetensors",
    "reference": "reference.safetensors",
    "calibration": "calibration.safetensors",
}
_FRONT: Final = "---\nlibrary_name: elbod\n---\n\n"
_MAX_CONFIG: Final = 2 * MAX_RECORD  # room for another program's spaces


def export(objects: Objects, manifest: Manifest, folder: Path) -> None:
    """Write the version into a folder, which must be empty or not exist; on failure nothing stays in it.

    Raises Unavailable, Corrupt.
    """
    raw = objects.get(version_key(manifest.name, manifest.version), limit=MAX_RECORD)
    decode_manifest(raw, manifest.name, manifest.version)
    with _new_files(folder) as write:
        for label, blob in _blobs(manifest).items():
            write(_FILES[label], blobs.verified(objects, blob))
        write(_CARD, [_card(manifest)])
        # Last: a folder with it is whole.
        write(_CONFIG, [_config(raw)])


@dataclass(frozen=True)
class Exported:
    """A folder that `export` wrote, open: its manifest and, by their labels, its blobs and the files that hold them."""

    manifest: Manifest
    blobs: Mapping[str, Blob]
    files: Mapping[str, BufferedReader]

    def draft(self, name: str | None) -> Draft:
        """What the folder would be published as, under its own name or another."""
        fields: dict[str, Any] = {key: getattr(self.manifest, key) for key in DESCRIPTION}
        return Draft(
            name=self.manifest.name if name is None else name,
            weights=self.files["weights"],
            reference=self.files.get("reference"),
            calibration=self.files.get("calibration"),
            **fields,
        )

    def verify(self) -> None:
        """Hash every file. Raises InvalidDraft unless all are those of the manifest."""
        for label, file in self.files.items():
            blobs.check_content(file, self.blobs[label])


@contextmanager
def opened(folder: Path) -> Iterator[Exported]:
    """The folder with its files open, whose sizes are right. Raises InvalidDraft.

    All of it is read from these descriptors, so what becomes of the names meanwhile does not matter.
    """
    with contextlib.ExitStack() as files:
        try:
            descriptor = files.enter_context(_directory(folder))
            manifest = _manifest(_read(descriptor, folder / _CONFIG, _MAX_CONFIG), folder / _CONFIG)
            card = _card(manifest)
            if _read(descriptor, folder / _CARD, len(card)) != card:
                raise InvalidDraft(f"{folder / _CARD} is not the card in {_CONFIG}: it was altered since its export")
            named, found = _blobs(manifest), {}
            for label, blob in named.items():
                file = files.enter_context(open_regular(folder / _FILES[label], folder=descriptor))
                if (size := os.fstat(file.fileno()).st_size) != blob.size:
                    raise InvalidDraft(f"{folder / _FILES[label]} has {size:,} instead of {blob.size:,} bytes")
                found[label] = file
        except OSError as error:
            where = error.filename or folder
            raise InvalidDraft(f"{folder} is no exported version: {where}: {error.strerror}") from error
        yield Exported(manifest, named, found)


def _blobs(manifest: Manifest) -> dict[str, Blob]:
    found = {label: getattr(manifest, label) for label in _FILES}
    return {label: blob for label, blob in found.items() if blob is not None}


def _card(manifest: Manifest) -> bytes:
    return (_FRONT + manifest.card).encode()


def _config(raw: bytes) -> bytes:
    fields = {"elbod": FORMAT, **msgspec.json.decode(raw)}
    lines = (f"{json.dumps(key)}: {canonical(value).decode()}" for key, value in fields.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _manifest(raw: bytes, place: Path) -> Manifest:
    try:
        fields = msgspec.json.decode(raw)
        found = fields.pop("elbod", None) if isinstance(fields, dict) else None
        if found != FORMAT:
            raise InvalidDraft(
                f"{place} is of another format than {FORMAT} ({shown(found)}): export the version again with this elbod"
            )
        manifest = parse_manifest(canonical(fields), str(place))
        version_key(manifest.name, manifest.version)  # raises InvalidName
        return manifest
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidDraft(f"{place} is no JSON: {error}") from error
    except (ValueError, Corrupt) as error:
        raise InvalidDraft(f"{place.parent} is no exported version: {error}") from error


def _read(descriptor: int, path: Path, limit: int) -> bytes:
    """All of a file. Raises OSError; InvalidDraft if it has more bytes than `limit`."""
    with open_regular(path, folder=descriptor) as file:
        if (size := os.fstat(file.fileno()).st_size) > limit:
            raise InvalidDraft(f"{path} has {size:,} bytes, and {limit:,} at most as elbod exports it")
        return b"".join(chunks(file))


@contextmanager
def _new_files(folder: Path) -> Iterator[Callable[[str, Iterable[bytes]], None]]:
    """What writes a file into a folder that is empty or does not exist. If the block fails, its files are removed.

    What another process puts there meanwhile is neither overwritten nor followed. Raises Unavailable.
    """
    written: list[str] = []

    def write(name: str, content: Iterable[bytes]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o666, dir_fd=descriptor), "wb") as file:
            written.append(name)
            file.writelines(content)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            raise Unavailable(f"{folder} is a symbolic link: give a new folder")
        with _directory(folder, os.O_NOFOLLOW) as descriptor:
            with os.scandir(descriptor) as found:
                if any(found):
                    raise Unavailable(f"{folder} is not empty: give a new folder")
            try:
                yield write
            except BaseException:
                for name in written:
                    os.unlink(name, dir_fd=descriptor)
                raise
    except OSError as error:
        raise Unavailable(f"cannot write {folder}: {error.strerror or error}") from error


@contextmanager
def _directory(folder: Path, flags: int = 0) -> Iterator[int]:
    """Its descriptor. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
