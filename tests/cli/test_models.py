"""`elbod models`: the installed command on a real store."""

import json
from pathlib import Path

import pytest

from elbod_store import ModelStore
from elbod_store.names import blob_key
from tests.support import LEVELS, publish


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore.open(tmp_path / "elbod-store")
    for seed in range(3):
        publish(store, "levels", LEVELS, seed)
    return store


def test_aliases_are_moved_shown_and_rolled_back(run_here, store: ModelStore) -> None:
    for version in ("1", "3"):
        done = run_here("models", "promote", f"levels@{version}", "--why", f"try {version}")
        assert done.stdout == f"levels@production is now version {version}\n"
    assert run_here("models", "list").stdout.split() == [
        "model",
        "versions",
        "aliases",
        "levels",
        "1-3",
        "production",
        "->",
        "3",
    ]
    assert run_here("models", "rollback", "levels").stdout == "levels@production is now version 1\n"
    found = json.loads(run_here("models", "history", "levels", "--json").stdout)
    assert [(entry["version"], entry["why"]) for entry in found["history"]] == [
        (1, "try 1"),
        (3, "try 3"),
        (1, "by hand"),
    ]
    lines = run_here("models", "history", "levels").stdout.splitlines()
    assert len(lines) == 4
    assert lines[2].split()[:2] == ["2", "3"]
    assert json.loads(run_here("models", "list", "--json").stdout)["models"] == [
        {"name": "levels", "versions": [1, 2, 3], "aliases": {"production": 1}}
    ]


def test_a_manifest_is_shown(run_here, store: ModelStore) -> None:
    assert run_here("models", "show", "levels@2").stdout.startswith("levels@2, ")
    assert (
        json.loads(run_here("models", "show", "levels@2", "--json").stdout)["digest"]
        == store.manifest("levels", 2).digest
    )


def test_retired_blobs_are_listed_then_deleted(run_here, store: ModelStore) -> None:
    weights = store.manifest("levels", 1).weights
    assert run_here("models", "retire", "levels@1").stdout == "retired levels@1\n"
    assert "nothing to delete" in run_here("models", "gc").stdout
    listed = run_here("models", "gc", "--grace", "0").stdout
    assert blob_key(weights.digest) in listed
    assert "1 blobs" in listed
    assert "delete them with --yes" in listed
    assert store.read(weights)
    found = json.loads(run_here("models", "gc", "--grace", "0", "--yes", "--json").stdout)
    assert found["deleted"] == [blob_key(weights.digest)]
    assert "0 blobs" in run_here("models", "gc", "--grace", "0").stdout


def test_verification_says_what_is_wrong_and_exits_1(run_here, store: ModelStore) -> None:
    done = run_here("models", "verify")
    assert done.returncode == 0
    assert "all is well" in done.stdout
    path = store.objects.local_path(blob_key(store.manifest("levels", 2).weights.digest))
    assert path is not None
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = run_here("models", "verify")
    assert done.returncode == 1
    assert "levels@2: " in done.stdout
    assert "1 wrong" in done.stdout
    assert json.loads(run_here("models", "verify", "--json").stdout)["problems"][0]["place"] == "levels@2"


def test_a_version_is_exported_and_imported(run_here, store: ModelStore, tmp_path: Path) -> None:
    assert run_here("models", "export", "levels@2", "out").returncode == 0
    done = run_here("models", "import", "out", "--name", "copy", "--json")
    assert json.loads(done.stdout)["digest"] == store.manifest("levels", 2).digest
    assert ModelStore.open(tmp_path / "elbod-store").resolve("copy").version == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "level"), "did you mean 'levels'"),
        (("promote", "levels@9"), "no version 9"),
        (("promote", "levels@1", "--alias", "latest"), "reserved"),
        (("rollback", "levels"), "no alias 'production'"),
        (("import", "nowhere"), "is no exported version"),
        (("list", "--store", "http://x"), "no store that this elbod can open"),
    ],
)
def test_what_cannot_be_done_is_one_line(run_here, store: ModelStore, arguments, message) -> None:
    done = run_here("models", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("elbod: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_version_that_an_alias_names_is_not_retired(run_here, store: ModelStore) -> None:
    run_here("models", "promote", "levels@2")
    done = run_here("models", "retire", "levels@2")
    assert done.returncode == 1
    assert "promote another first" in done.stderr
