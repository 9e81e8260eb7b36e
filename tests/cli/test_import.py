"""`elbod models import` of hostile folders: the original comes back, or one line on stderr says why not."""

import hashlib
import json
import os
import shutil
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elbod_store import Manifest, ModelStore
from elbod_store.testing import a_draft, safetensors_bytes
from tests.support import call_elbod

FILES = ("config.json", "README.md", "model.safetensors", "reference.safetensors", "calibration.safetensors")
SAID = ("family", "spec", "likelihood", "event_shape", "levels", "labels", "metrics", "training", "card", "digest")
HELD = ("weights", "reference", "calibration")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    store = ModelStore.open(tmp_path_factory.mktemp("import") / "elbod-store")
    store.publish(a_draft(labels=["cat", "dog"], levels=17))
    return store


@pytest.fixture(scope="module")
def original(store: ModelStore) -> Manifest:
    return store.manifest("digits", 1)


@pytest.fixture(scope="module")
def exported(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `export` wrote; no test changes it."""
    folder = tmp_path_factory.mktemp("exported") / "digits"
    store.export("digits@1", folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(exported, tmp_path / "folder"))


def import_folder(store: ModelStore, folder: Path) -> CompletedProcess[str]:
    arguments = ("models", "import", str(folder), "--name", "copy", "--store", store.objects.url)
    return call_elbod(arguments, folder.parent, {})


def assert_refused(store: ModelStore, folder: Path, *words: str) -> None:
    before = store.objects.list_after("")
    done = import_folder(store, folder)
    assert done.returncode == 1
    assert done.stderr.startswith("elbod: ")
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 1000
    for word in words:
        assert word in done.stderr
    # Not even a blob.
    assert store.objects.list_after("") == before


def assert_same_or_refused(store: ModelStore, folder: Path, original: Manifest) -> None:
    before = store.objects.list_after("models")
    done = import_folder(store, folder)
    if done.returncode == 0:
        found = store.resolve("copy@latest")
        assert all(getattr(found, key) == getattr(original, key) for key in SAID + HELD)
        assert all(store.read(blob) for blob in found.blobs)
        return
    assert done.returncode == 1
    assert done.stderr.startswith("elbod: ")
    assert done.stderr.count("\n") == 1
    assert store.objects.list_after("models") == before


def link(path: Path) -> None:
    outside = path.rename(path.parent.parent / f"outside-{path.name}")
    path.symlink_to(outside)


def bind_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        # The path of a socket is short.
        listener.bind(os.path.relpath(path))


def make_device(path: Path) -> None:
    path.unlink()
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("cannot make a device")


def replace_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


HARM: dict[str, Callable[[Path], object]] = {
    "a symbolic link": link,
    "a dangling link": replace_by(lambda path: path.symlink_to("nowhere")),
    "a link to itself": replace_by(lambda path: path.symlink_to(path.name)),
    "a FIFO": replace_by(os.mkfifo),
    "a folder": replace_by(Path.mkdir),
    "a socket": bind_socket,
    "a device": make_device,
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "another file": lambda path: path.write_bytes(safetensors_bytes(200, size=200)),
    "not UTF-8": lambda path: path.write_bytes(b"\xff" + path.read_bytes()[1:]),
    "a terabyte": lambda path: os.truncate(path, 2**40),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", HARM)
def test_a_file_that_is_not_what_was_exported_is_refused_before_anything_is_written(
    store: ModelStore, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, harm: str
) -> None:
    monkeypatch.chdir(folder)
    HARM[harm](folder / name)
    assert_refused(store, folder)


def test_what_is_wrong_with_a_link_or_a_fifo_is_said(store: ModelStore, folder: Path) -> None:
    link(folder / "README.md")
    assert_refused(store, folder, "README.md", "symbolic link")
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")
    assert_refused(store, folder, "README.md", "no regular file")


def test_a_folder_that_is_none_is_refused(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    for name in ("file", "fifo", "nowhere"):
        assert_refused(store, tmp_path / name, "is no exported version")


def test_an_unchanged_folder_comes_in_as_the_original(store: ModelStore, folder: Path, original: Manifest) -> None:
    (folder / ".gitattributes").write_text("another program's")
    os.mkfifo(folder / "another.fifo")
    assert import_folder(store, folder).returncode == 0
    assert_same_or_refused(store, folder, original)


def sealed(fields: dict[str, Any]) -> bytes:
    """A config whose checksum is right, whatever it says."""
    fields = {key: value for key, value in fields.items() if key not in ("elbod", "checksum")}
    said = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return json.dumps({"elbod": 2, **fields, "checksum": hashlib.sha256(said).hexdigest()}).encode()


def held(config: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {**config["weights"], **changes}


CONFIGS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a name that leaves the store": lambda c: {"name": "../../x"},
    "no name": lambda c: {"name": ""},
    "a version of zero": lambda c: {"version": 0},
    "a version beyond all": lambda c: {"version": 2**64},
    "a negative size": lambda c: {"weights": held(c, size=-1)},
    "a size beyond all": lambda c: {"weights": held(c, size=2**63)},
    "a digest that is a path": lambda c: {"weights": held(c, digest="../../../../etc/passwd")},
    "the digest of another file": lambda c: {"weights": held(c, digest="0" * 64)},
    "another blob in place of the reference": lambda c: {"reference": held(c)},
    "a shape that is a number": lambda c: {"event_shape": 5},
    "a shape of text": lambda c: {"event_shape": ["8", "8"]},
    "a negative shape": lambda c: {"event_shape": [-8, 8]},
    "a spec that is a list": lambda c: {"spec": []},
    "labels that are one text": lambda c: {"labels": "cat"},
    "a card that is a number": lambda c: {"card": 1},
    "a card beyond all": lambda c: {"card": "x" * 300_000},
    "a key too many": lambda c: {"code": "os.system"},
    "a newer schema": lambda c: {"schema": 2},
    "deep nesting": lambda c: {"spec": json.loads('{"a":' * 300 + "1" + "}" * 300)},
    "a long key with many values": lambda c: {"spec": {"k" * 500_000: [0] * 500_000}},
    "too much": lambda c: {"metrics": {"m": [0] * 1_500_000}},
    "the model digest of another": lambda c: {"digest": "0" * 64},
    "other levels under the same digest": lambda c: {"levels": 3},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_says_what_cannot_be_is_refused_although_its_checksum_is_right(
    store: ModelStore, folder: Path, case: str
) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_bytes(sealed({**config, **CONFIGS[case](config)}))
    assert_refused(store, folder)


RAW = (
    b"[" * 100_000,
    b"[" * 900 + b"]" * 900,
    b'{"a":' * 100_000,
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"1" * 5_000,
    b"-" + b"9" * 400_000,
    b'"\\ud800"',
    b'"\\u0000"',
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b"",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'".."',
    b"18446744073709551616",
    b"1.5",
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.integers(0, 21), raw=st.sampled_from(RAW), twice=st.booleans())
def test_odd_json_in_any_place_is_refused_in_one_line_or_changes_nothing(
    store: ModelStore, folder: Path, exported: Path, original: Manifest, line: int, raw: bytes, twice: bool
) -> None:
    lines = (exported / "config.json").read_bytes().removesuffix(b"\n}\n").removeprefix(b"{\n").split(b",\n")
    key = lines[line].split(b": ")[0]
    lines.insert(line, key + b": " + raw) if twice else lines.__setitem__(line, key + b": " + raw)
    (folder / "config.json").write_bytes(b"{\n" + b",\n".join(lines) + b"\n}\n")
    assert_same_or_refused(store, folder, original)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(FILES),
    where=st.floats(0, 1, exclude_max=True),
    length=st.integers(0, 40),
    put=st.binary(max_size=40),
)
def test_bytes_changed_anywhere_are_refused_in_one_line_or_change_nothing(
    store: ModelStore,
    folder: Path,
    exported: Path,
    original: Manifest,
    name: str,
    where: float,
    length: int,
    put: bytes,
) -> None:
    content = (exported / name).read_bytes()
    start = int(where * len(content))
    (folder / name).write_bytes(content[:start] + put + content[start + length :])
    assert_same_or_refused(store, folder, original)
    shutil.copy(exported / name, folder / name)


def test_files_that_are_swapped_while_they_are_read_publish_nothing_but_the_original(
    store: ModelStore, folder: Path, exported: Path, original: Manifest
) -> None:
    done = threading.Event()
    secret = folder.parent / "secret"
    secret.write_bytes(b"secret" * 100)

    def swap() -> None:
        while not done.is_set():
            for name in FILES:
                path, other = folder / name, folder / f"{name}.new"
                other.symlink_to(secret)
                other.replace(path)
                shutil.copy(exported / name, other)
                other.replace(path)
                with path.open("ab") as file:
                    file.write(b"grows")
                shutil.copy(exported / name, other)
                other.replace(path)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(50):
            assert_same_or_refused(store, folder, original)
    finally:
        done.set()
        swapper.join()
