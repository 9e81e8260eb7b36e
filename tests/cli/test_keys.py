"""`elbod keys`: made once, listed without secrets, revoked by id; and the doors that `elbod serve` refuses to open."""

import json
import subprocess

import pytest

from tests.support import ELBOD, HANG


def ids(run_here):
    return [
        key["id"] for key in json.loads(run_here("keys", "list", "--keys-file", "keys.json", "--json").stdout)["keys"]
    ]


def test_a_key_is_shown_once_listed_without_its_secret_and_revoked_by_its_id(run_here, tmp_path):
    done = run_here("keys", "add", "--keys-file", "keys.json", "--name", "ada", "--scope", "admin", "--scope", "infer")
    assert done.returncode == 0, done.stderr
    key = done.stdout.rstrip("\n")
    prefix, identity, secret = key.split("_", 2)
    assert prefix == "elbod"
    assert len(secret) == 43
    assert secret not in done.stderr
    assert secret not in (tmp_path / "keys.json").read_text()
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600

    run_here("keys", "add", "--name", "eve", ELBOD_KEYS_FILE="keys.json")
    listed = run_here("keys", "list", "--keys-file", "keys.json")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ids(run_here)
    assert "infer,admin" in listed.stdout.splitlines()[0]
    table = json.loads(run_here("keys", "list", "--keys-file", "keys.json", "--json").stdout)["keys"]
    assert [(entry["name"], entry["scopes"]) for entry in table] == [("ada", ["infer", "admin"]), ("eve", ["infer"])]
    assert {*table[0]} == {"id", "name", "scopes", "created"}

    gone = run_here("keys", "revoke", identity, "--keys-file", "keys.json")
    assert gone.stdout == f"revoked {identity}\n"
    assert identity not in ids(run_here)
    assert len(ids(run_here)) == 1


def test_keys_that_are_added_at_once_are_all_there(run_here, tmp_path):
    add = [ELBOD, "keys", "add", "--keys-file", "keys.json", "--name", "ada"]
    adding = [subprocess.Popen(add, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) for _ in range(6)]
    made = {process.communicate(timeout=HANG)[0].decode().split("_")[1] for process in adding}
    assert len(made) == 6
    assert set(ids(run_here)) == made


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "--name", "ada"], "--keys-file"),
        (["list"], "--keys-file"),
        (["list", "--keys-file", "none.json"], "cannot read the keys file none.json"),
        (["revoke", "elbod_0_secret", "--keys-file", "none.json"], "no keys file none.json"),
        (["revoke", "elbod_0_secret", "--keys-file", "good.json"], "no key of good.json has that id"),
        (["add", "--name", " ", "--keys-file", "good.json"], "name"),
        (["add", "--name", "ada", "--keys-file", "broken.json"], "broken.json is malformed"),
        (["add", "--name", "ada", "--keys-file", "open.json"], "open.json is open to others (mode 644): chmod 600"),
        (["add", "--name", "ada", "--keys-file", "no/such/folder.json"], "cannot write the keys file"),
        (["add", "--name", "ada", "--keys-file", "."], "keys file"),
    ],
)
def test_a_failure_is_one_clear_line(run_here, tmp_path, arguments, words):
    for name, text, mode in (
        ("good.json", '{"format": 1, "keys": []}', 0o600),
        ("broken.json", "{", 0o600),
        ("open.json", '{"format": 1, "keys": []}', 0o644),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)

    done = run_here("keys", *arguments)

    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr
    assert "secret" not in done.stderr
    assert (tmp_path / "broken.json").read_text() == "{"


def test_a_scope_that_does_not_exist_is_a_usage_error(run_here):
    done = run_here("keys", "add", "--name", "ada", "--scope", "root", "--keys-file", "keys.json")

    assert done.returncode == 2
    assert "infer or admin" in done.stderr


@pytest.mark.parametrize("command", ["add", "list", "revoke"])
def test_the_help_has_an_example(run_here, command):
    assert f"Example: elbod keys {command}" in run_here("keys", command, "--help").stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "0.0.0.0"], "--keys-file"),
        (["--host", "0.0.0.0", "--insecure", "--admin"], "refusing --admin on 0.0.0.0 without keys"),
        (["--keys-file", "none.json"], "cannot read the keys file none.json"),
        (["--keys-file", "none.json", "--host", "0.0.0.0", "--insecure"], "cannot read the keys file none.json"),
        (["--keys-file", "open.json"], "open to others"),
    ],
)
def test_a_door_that_nobody_guards_stays_shut(run_here, tmp_path, flags, words):
    (tmp_path / "open.json").write_text('{"format": 1, "keys": []}')
    (tmp_path / "open.json").chmod(0o644)

    done = run_here("serve", "--port", "0", *flags)

    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ELBOD_ALLOWED_HOSTS", "https://a.example", "is no host"),
        ("ELBOD_ALLOWED_HOSTS", "a.example:80", "is no host"),
        ("ELBOD_ALLOWED_HOSTS", "*", "is no host"),
        ("ELBOD_CORS_ORIGINS", "a.example", "is no origin"),
        ("ELBOD_CORS_ORIGINS", "https://a.example/", "is no origin"),
    ],
)
def test_a_host_or_an_origin_that_no_request_can_have_is_one_clear_line(run_here, variable, value, words):
    done = run_here("serve", "--port", "0", **{variable: value})

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr
