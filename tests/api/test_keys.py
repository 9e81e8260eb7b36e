"""Who may ask: keys and scopes on real servers, and the file that they are in."""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elbod import errors
from elbod.api import keys
from elbod.api.keys import KeyRing
from elbod.api.security import AllowedHosts, needed_scopes
from elbod_client import Client, Forbidden, Unauthorized
from elbod_store import ModelStore
from tests.api.test_refusals import check
from tests.support import Server, bearer, issue_key, wait_for

X = [[[0] * 8] * 8]
WRONG = "elbod_000000000000_" + "A" * 43


def revoke(path: Path, identity: str) -> None:
    keys.change(path, lambda present: [key for key in present if key.id != identity])


class Guarded:
    """A server with a key of each kind."""

    def __init__(self, server: Server, path: Path, infer: str, admin: str) -> None:
        self.server, self.path, self.infer, self.admin = server, path, infer, admin
        self.url = server.url


@pytest.fixture(scope="module")
def guarded(served_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    path = folder / "keys.json"
    _, infer = issue_key(path, "infer")
    _, admin = issue_key(path, "admin")
    flags = ("--model", "levels", "--keys-file", str(path))
    server = Server(served_store.objects.url, folder / "log", *flags)
    yield Guarded(server, path, infer, admin)
    assert server.stop() == 0


OPEN = ["/healthz", "/readyz", "/version", "/docs", "/openapi.json"]
CLOSED = [
    ("POST", "/sample"),
    ("POST", "/encode"),
    ("POST", "/elbo"),
    ("GET", "/sample"),
    ("GET", "/models"),
    ("GET", "/models/levels"),
    ("GET", "/models/levels/versions/1"),
    ("GET", "/metrics"),
    ("GET", "/healthz/"),
    ("GET", "//healthz"),
    ("GET", "/no/such/route"),
    ("PUT", "/models/levels/aliases/production"),
    ("DELETE", "/models/levels/aliases/production"),
]


@pytest.mark.parametrize("path", OPEN)
def test_what_a_balancer_and_a_page_need_asks_for_no_key(guarded: Guarded, path: str) -> None:
    assert httpx.get(guarded.url + path).status_code == 200


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_everything_else_is_401_without_a_key_of_the_server(guarded: Guarded, method: str, path: str) -> None:
    for headers in ({}, bearer(WRONG), bearer(guarded.infer + "x"), {"Authorization": "Basic YTpi"}):
        response = httpx.request(method, guarded.url + path, headers=headers)
        check(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"


def test_the_problem_says_what_to_send_and_repeats_nothing(guarded: Guarded) -> None:
    check(httpx.post(f"{guarded.url}/elbo"), 401, "Authorization: Bearer <key>")
    for wrong in (WRONG, guarded.infer[:-1], guarded.infer + "A", guarded.infer.replace("_", "-"), "é"):
        response = httpx.post(f"{guarded.url}/elbo", headers={"Authorization": f"Bearer {wrong}".encode()})
        check(response, 401, "revoked")
        assert wrong not in response.text


def test_two_keys_in_one_request_are_none(guarded: Guarded) -> None:
    headers = [("Authorization", f"Bearer {guarded.infer}"), ("Authorization", f"Bearer {guarded.admin}")]
    assert httpx.post(f"{guarded.url}/sample", json={}, headers=headers).status_code == 401


def test_a_key_opens_what_its_scopes_say(guarded: Guarded) -> None:
    infer, admin = bearer(guarded.infer), bearer(guarded.admin)
    assert httpx.post(f"{guarded.url}/elbo", json={"x": X}, headers=infer).status_code == 200
    assert httpx.get(f"{guarded.url}/models/levels", headers={"authorization": f"bEARER {guarded.infer}"}).is_success
    check(httpx.post(f"{guarded.url}/elbo", json={"x": X}, headers=admin), 403, "'infer'")
    check(httpx.put(f"{guarded.url}/models/levels/aliases/a", json={}, headers=infer), 403, "'admin'")
    for key in (infer, admin):
        assert httpx.get(f"{guarded.url}/metrics", headers=key).status_code not in (401, 403)


def test_the_client_sends_its_key(guarded: Guarded) -> None:
    with Client(guarded.url, api_key=guarded.infer) as client:
        assert client.sample(2, seed=1).x.shape == (2, 8, 8)
    with Client(guarded.url, api_key=WRONG) as client, pytest.raises(Unauthorized):
        client.sample(2)
    with Client(guarded.url, api_key=guarded.admin) as client, pytest.raises(Forbidden):
        client.sample(2)


def test_the_client_takes_its_key_from_the_environment(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELBOD_API_KEY", guarded.infer)
    with Client(guarded.url) as client:
        assert client.sample(1).x.shape == (1, 8, 8)


@pytest.mark.parametrize("key", [None, WRONG])
def test_a_caller_without_a_key_is_refused_before_the_body_is_sent(guarded: Guarded, key: str | None) -> None:
    host, port = guarded.url.removeprefix("http://").split(":")
    authorization = "" if key is None else f"Authorization: Bearer {key}\r\n"
    head = (
        f"POST /elbo HTTP/1.1\r\nHost: x\r\n{authorization}Content-Type: application/json\r\nContent-Length: 100000\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        # Asked for the body, the server would say 100 first; waiting for it, nothing.
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_an_added_key_opens_and_a_revoked_one_closes_without_a_restart(guarded: Guarded) -> None:
    identity, key = issue_key(guarded.path, "infer", name="eve")

    def status() -> int:
        return httpx.get(f"{guarded.url}/models", headers=bearer(key)).status_code

    wait_for(lambda: status() == 200)
    revoke(guarded.path, identity)
    wait_for(lambda: status() == 401)


def test_a_broken_file_changes_nothing_and_the_log_says_why(guarded: Guarded) -> None:
    whole = guarded.path.read_bytes()
    try:
        guarded.path.write_bytes(whole[:-20])

        def noticed() -> bool:
            assert httpx.get(f"{guarded.url}/models", headers=bearer(guarded.infer)).status_code == 200
            return "is malformed" in guarded.server.log.read_text()

        wait_for(noticed)
    finally:
        guarded.path.write_bytes(whole)


def test_neither_keys_nor_inputs_are_in_the_log_and_ids_are(
    served_store: ModelStore, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    identity, key = issue_key(tmp_path / "keys.json", "infer")
    server = start_server(served_store.objects.url, "--model", "linear", "--keys-file", str(tmp_path / "keys.json"))
    value = 0.8414709848
    bodies: list[Any] = [{"x": [[value] * 6]}, {"x": [[value] * 5]}, {"x": value}, {"colour": str(value)}]
    for body in bodies:
        httpx.post(f"{server.url}/elbo?key={key}", json=body, headers=bearer(key))
    httpx.post(
        f"{server.url}/elbo", content=b'{"x": 0.8414709848', headers={"Content-Type": "application/json"} | bearer(key)
    )
    httpx.post(f"{server.url}/elbo", json=bodies[0], headers=bearer(key + "x"))
    assert server.stop() == 0
    log = server.log.read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    asked = [line for line in lines if line["logger"] == "elbod.access"]
    assert [line["status"] for line in asked] == [200, 422, 422, 422, 400, 401]
    assert [line.get("key_id") for line in asked] == [identity] * 5 + [None]
    # A time of day or a duration may have the same first digits.
    said = [{name: text for name, text in line.items() if name not in {"time", "seconds"}} for line in lines]
    assert "0.84" not in json.dumps(said)
    assert key.removeprefix(f"elbod_{identity}_") not in log
    assert keys.read(tmp_path / "keys.json").keys[0].sha256 not in log


def test_a_host_that_is_not_listed_is_400_and_a_listed_one_served(
    served_store: ModelStore, start_server: Callable[..., Server]
) -> None:
    server = start_server(served_store.objects.url, ELBOD_ALLOWED_HOSTS="elbod.example, *.inside.example,::1")
    for host in ("elbod.example", "ELBOD.example:8000", "a.inside.example", "a.b.inside.example:1", "[::1]:8000"):
        assert httpx.get(f"{server.url}/version", headers={"Host": host}).status_code == 200, host
    for host in (
        "127.0.0.1",
        "evil.example",
        "inside.example",
        "xinside.example",
        "elbod.example.evil.example",
        "[::1",
    ):
        check(httpx.get(f"{server.url}/version", headers={"Host": host}), 400, "allowed_hosts")


def test_a_listed_origin_may_ask_from_a_browser_and_read_why_it_was_refused(
    served_store: ModelStore, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    _, key = issue_key(tmp_path / "keys.json", "infer")
    origin, other = "https://page.example", "https://evil.example"
    server = start_server(
        served_store.objects.url, "--keys-file", str(tmp_path / "keys.json"), ELBOD_CORS_ORIGINS=origin
    )
    url = f"{server.url}/sample"
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    preflight = httpx.options(url, headers={"Origin": origin} | ask)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "access-control-allow-origin" not in httpx.options(url, headers={"Origin": other} | ask).headers
    refused = httpx.post(url, json={}, headers={"Origin": origin})
    check(refused, 401)
    assert refused.headers["access-control-allow-origin"] == origin
    answer = httpx.post(url, json={"model": "levels"}, headers={"Origin": origin} | bearer(key))
    assert answer.status_code == 200
    exposed = answer.headers["access-control-expose-headers"]
    assert {"X-Request-Id", "Server-Timing", "ETag", "Retry-After"} <= set(exposed.split(", "))


def test_without_settings_there_are_no_such_headers(http: httpx.Client) -> None:
    response = http.get("/version", headers={"Origin": "https://page.example", "Host": "evil.example"})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_document_asks_for_a_key_where_the_server_does(guarded: Guarded) -> None:
    document = httpx.get(f"{guarded.url}/openapi.json").json()
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert ("security" in operation) == bool(needed_scopes(method.upper(), path)), path


# The file


def test_a_written_file_is_its_owners_alone_and_keeps_what_its_owner_gave(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    issue_key(path, "infer")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    issue_key(path, "infer")
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(child.name for child in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "keys.json"
    issue_key(tmp_path / "real/keys.json", "infer")
    link.symlink_to(tmp_path / "real/keys.json")
    issue_key(link, "infer")
    assert link.is_symlink()
    assert len(keys.read(tmp_path / "real/keys.json").keys) == 2


KEY = {"id": "0" * 12, "name": "ada", "scopes": ["infer"], "created": "2026-01-01T00:00:00Z", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "malformed"),
        ("[]", "malformed"),
        ("{}", "format"),
        ({"format": 2, "keys": []}, "format"),
        ({"format": 1, "keys": [], "colour": 1}, "colour"),
        ({"format": 1, "keys": [KEY, KEY]}, "same id"),
        ({"format": 1, "keys": [KEY | {"scopes": ["root"]}]}, "keys.0.scopes.0"),
        ({"format": 1, "keys": [KEY | {"scopes": []}]}, "keys.0.scopes"),
        ({"format": 1, "keys": [KEY | {"scopes": ["infer", "infer"]}]}, "listed once"),
        ({"format": 1, "keys": [KEY | {"sha256": "secret"}]}, "keys.0.sha256"),
        ({"format": 1, "keys": [KEY | {"id": "ada"}]}, "keys.0.id"),
        ({"format": 1, "keys": [KEY | {"id": "0" * 12 + "\n"}]}, "keys.0.id"),
        ({"format": 1, "keys": [KEY | {"created": "2026-01-01T00:00:00"}]}, "keys.0.created"),
        ({"format": 1, "keys": [KEY | {"name": "\x1b[31m"}]}, "printable"),
    ],
)
def test_a_malformed_file_is_one_line_that_says_where(tmp_path: Path, text: Any, words: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    path.chmod(0o600)
    with pytest.raises(errors.StartupError, match=words) as raised:
        keys.read(path)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o666])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    issue_key(tmp_path / "keys.json", "infer")
    (tmp_path / "keys.json").chmod(mode)
    with pytest.raises(errors.StartupError, match="open to others"):
        keys.read(tmp_path / "keys.json")


def test_permissions_that_go_bad_while_the_server_runs_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    _, first = issue_key(path, "infer")
    ring = KeyRing(path, now=0)
    _, second = issue_key(path, "infer")
    path.chmod(0o666)
    assert ring.find(first.encode(), now=2)
    with pytest.raises(errors.Unauthorized):
        ring.find(second.encode(), now=4)
    path.chmod(0o600)
    assert ring.find(second.encode(), now=6)


def test_a_file_that_vanishes_keeps_its_keys_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    _, key = issue_key(path, "infer")
    ring = KeyRing(path, now=0)
    path.rename(tmp_path / "away")
    assert ring.find(key.encode(), now=2)
    issue_key(path, "infer")
    with pytest.raises(errors.Unauthorized):
        ring.find(key.encode(), now=4)


def test_the_file_is_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    identity, key = issue_key(path, "infer")
    ring = KeyRing(path, now=100.0)
    revoke(path, identity)
    assert ring.find(key.encode(), now=100.9)
    with pytest.raises(errors.Unauthorized):
        ring.find(key.encode(), now=101.0)


names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=100)
scopes = st.lists(st.sampled_from(keys.SCOPES), min_size=1, max_size=2, unique=True)


@settings(max_examples=30)
@given(issued=st.lists(st.tuples(names, scopes), max_size=8), data=st.data())
def test_a_ring_finds_the_keys_that_were_added_and_not_revoked_and_no_others(
    issued: list[tuple[str, list[keys.Scope]]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    keys.change(path, lambda present: present)
    made = []
    for name, held in issued:
        key, text = keys.generate(name, held)
        keys.change(path, lambda present, key=key: [*present, key])
        made.append((key, text))
    gone = data.draw(st.sets(st.sampled_from([key.id for key, _ in made]))) if made else set()
    for identity in gone:
        revoke(path, identity)
    assert keys.read(path).keys == tuple(key for key, _ in made if key.id not in gone)
    ring = KeyRing(path, now=0)
    for key, text in made:
        if key.id in gone:
            with pytest.raises(errors.Unauthorized):
                ring.find(text.encode(), now=0)
        else:
            assert ring.find(text.encode(), now=0) == key
        assert text not in path.read_text()
        assert text.split("_", 2)[2] not in path.read_text()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[KeyRing, bytes]:
    path = tmp_path_factory.mktemp("one") / "keys.json"
    _, text = issue_key(path, "infer")
    return KeyRing(path, now=0), text.encode()


@given(data=st.data())
def test_no_altered_key_is_a_key(one: tuple[KeyRing, bytes], data: st.DataObject) -> None:
    ring, key = one
    place = data.draw(st.integers(0, len(key)))
    start, end = data.draw(st.sampled_from([(place, place), (place, place + 1), (place, len(key))]))
    altered = key[:start] + data.draw(st.binary(max_size=3)) + key[end:]
    with contextlib.nullcontext() if altered == key else pytest.raises(errors.Unauthorized):
        assert ring.find(altered, now=0)


@given(token=st.binary(max_size=100))
def test_noise_is_no_key(one: tuple[KeyRing, bytes], token: bytes) -> None:
    with pytest.raises(errors.Unauthorized):
        one[0].find(token, now=0)


@given(method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]), path=st.text())
def test_a_path_that_nobody_listed_needs_a_key(method: str, path: str) -> None:
    assert needed_scopes(method, "/models" + path)
    assert needed_scopes(method, "/" + path + "/healthz")


@given(host=st.from_regex(r"[a-z0-9.:\[\]*-]{0,20}(inside\.example|evil\.example|:80)?", fullmatch=True))
def test_only_listed_hosts_pass(host: str) -> None:
    """What passes is a listed name, or ends like a listed ending, whatever stands around it."""
    import asyncio

    passed: list[bool] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        passed.append(True)

    async def send(message: Any) -> None:
        passed.append(False)

    scope = {"type": "http", "headers": [(b"host", host.encode())], "path": "/", "method": "GET"}
    guard = AllowedHosts(inner, ("elbod.example", "*.inside.example"))
    asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
    name = host.removesuffix(":80") if not host.startswith("[") else host[1:].partition("]")[0]
    listed = name == "elbod.example" or name.partition(":")[0].endswith(".inside.example")
    assert not (passed[0] and not listed)
