"""scripts/compose-secrets: every secret of the composition, each known to the two sides that need it."""

import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elbod.api.keys import KeyRing
from elbod_store.credentials import credentials_from_file
from tests.deploy.composition import DOCUMENT, ROOT


def make(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/compose-secrets", folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    made = make(tmp_path / "secrets")
    assert made.returncode == 0, made.stderr
    return tmp_path / "secrets"


def test_every_secret_of_the_composition_is_made(secrets: Path) -> None:
    wanted = {Path(secret["file"]).name for secret in DOCUMENT["secrets"].values()}
    # And the key of whoever asks the service, whom the composition does not know.
    assert {path.name for path in secrets.iterdir()} == wanted | {"api-key"}


def test_strangers_cannot_open_the_folder(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700


def test_the_service_knows_the_keys_that_are_handed_out(secrets: Path) -> None:
    ring = KeyRing(secrets / "keys.json", time.monotonic())
    for file, name in (("api-key", "me"), ("metrics-key", "prometheus")):
        key = ring.find((secrets / file).read_bytes(), time.monotonic())
        assert (key.name, key.scopes) == (name, ("infer",))


def test_the_store_knows_whose_credentials_are_handed_out(secrets: Path) -> None:
    identities = json.loads((secrets / "store-identities.json").read_text())["identities"]
    assert len(identities) == 3
    for identity in identities:
        path = secrets / f"store-{identity['name']}"
        (known,) = identity["credentials"]
        assert credentials_from_file({"AWS_SHARED_CREDENTIALS_FILE": str(path)}) == {
            "access_key_id": known["accessKey"],
            "secret_access_key": known["secretKey"],
        }


def test_the_user_of_elbods_containers_owns_what_only_they_read(secrets: Path) -> None:
    who = (secrets.parent / ".env").read_text().strip().removeprefix("RUN_AS=")
    private = [path for path in secrets.iterdir() if stat.S_IMODE(path.stat().st_mode) == 0o600]
    assert {path.name for path in private} == {"keys.json", "store-admin", "store-writer", "store-reader"}
    for path in private:
        assert who == f"{path.stat().st_uid}:{path.stat().st_gid}"
    assert not who.startswith("0:")


def test_what_exists_is_left_as_it_is(secrets: Path) -> None:
    before = {path: path.read_bytes() for path in secrets.iterdir()}
    (secrets / "grafana-password").unlink()
    assert make(secrets).returncode == 0
    after = {path: path.read_bytes() for path in secrets.iterdir()}
    assert {path for path in before if before[path] != after[path]} == {secrets / "grafana-password"}


def test_half_of_a_pair_is_refused(secrets: Path) -> None:
    (secrets / "store-writer").unlink()
    made = make(secrets)
    assert made.returncode == 1
    assert "lacks store-writer" in made.stderr
