"""Aliases moved over HTTP: who may, what is logged, and who loses a race."""

import concurrent.futures
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from elbod.api import schemas
from elbod.api.admin import AliasMove
from elbod_store import ModelStore
from tests.api.test_refusals import check
from tests.support import LEVELS, Server, bearer, issue_key, publish, wait_for

ALIAS = "/models/levels/aliases/production"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore.open(tmp_path / "store")
    for seed in range(3):
        publish(store, "levels", LEVELS, seed)
    return store


@pytest.fixture
def moving(store: ModelStore, start_server: Callable[..., Server]) -> Server:
    return start_server(store.objects.url, "--admin")


def put(server: Server, path: str = ALIAS, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return httpx.put(server.url + path, json={"why": "better"} | body, headers=headers)


def delete(server: Server, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return httpx.request("DELETE", server.url + ALIAS, json=body, headers=headers)


def test_an_alias_is_promoted_and_rolled_back_and_the_service_follows(moving: Server, store: ModelStore) -> None:
    first = put(moving, version=1, expected=None, why="first")
    assert first.status_code == 200
    move = AliasMove.model_validate(first.json())
    assert (move.name, move.alias, move.version, move.entry) == ("levels", "production", 1, 1)
    assert (move.who, move.why) == ("anonymous", "first")
    assert put(moving, version=3, expected=1).json()["entry"] == 2

    def serving() -> int:
        version: int = httpx.post(f"{moving.url}/sample", json={}).json()["model"]["version"]
        return version

    wait_for(lambda: serving() == 3)
    back = delete(moving, expected=3, why="worse")
    assert back.status_code == 200
    assert (back.json()["version"], back.json()["why"]) == (1, "worse")
    wait_for(lambda: serving() == 1)
    history = httpx.get(f"{moving.url}/models/levels").json()["history"]["production"]
    assert [(entry["version"], entry["why"]) for entry in history] == [(1, "first"), (3, "better"), (1, "worse")]
    assert history[-1] == {key: back.json()[key] for key in history[-1]}


def test_a_rollback_needs_no_body(moving: Server, store: ModelStore) -> None:
    for version in (1, 2):
        assert put(moving, version=version).status_code == 200
    assert httpx.delete(moving.url + ALIAS).json()["version"] == 1
    assert store.history("levels", "production")[-1].why == "rolled back"


def test_a_lost_race_is_409_and_says_where_the_alias_is_now(moving: Server, store: ModelStore) -> None:
    check(put(moving, version=1, expected=2), 409, "levels@production is not set")
    assert put(moving, version=2, expected=None).status_code == 200
    for expected in (None, 1, 3):
        check(put(moving, version=1, expected=expected), 409, "names version 2", "anonymous", "better")
        check(delete(moving, expected=expected), 409, "names version 2")
    store.unalias("levels", "production", who="eve", why="over")
    check(put(moving, version=1, expected=2), 409, "is not set", "eve")
    assert put(moving, version=1, expected=None).status_code == 200
    assert store.aliases("levels") == {"production": 1}


def test_of_many_promotions_that_expect_the_same_one_wins(moving: Server, store: ModelStore) -> None:
    for round_ in range(3):
        expected = store.aliases("levels").get("production")
        target = [version for version in (1, 2, 3) if version != expected]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda i: put(moving, version=target[i % 2], expected=expected), range(8)))  # noqa: B023
        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
        assert len(store.history("levels", "production")) == round_ + 1


def test_a_rollback_that_is_sent_twice_happens_once(moving: Server, store: ModelStore) -> None:
    for version in (1, 2):
        put(moving, version=version)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: delete(moving, expected=2), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert store.aliases("levels") == {"production": 1}


def test_what_is_not_there_is_404(moving: Server, store: ModelStore) -> None:
    check(put(moving, "/models/nobody/aliases/production", version=1), 404, "nobody")
    check(put(moving, version=9), 404, "9")
    check(delete(moving), 404, "no alias 'production'")
    put(moving, version=1)
    check(delete(moving), 404, "no earlier version")
    store.retire("levels", 2)
    check(put(moving, version=2), 404, "retired")
    assert store.aliases("levels") == {"production": 1}


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        (ALIAS, {}, "/version"),
        (ALIAS, {"version": 0}, "/version"),
        (ALIAS, {"version": "1"}, "/version"),
        (ALIAS, {"version": True}, "/version"),
        (ALIAS, {"version": 1, "expected": 0}, "/expected"),
        (ALIAS, {"version": 1, "why": ""}, "/why"),
        (ALIAS, {"version": 1, "why": None}, "/why"),
        (ALIAS, {"version": 1, "who": "root"}, "/who"),
        ("/models/levels/aliases/latest", {"version": 1}, ""),
        ("/models/levels/aliases/Production", {"version": 1}, ""),
        ("/models/Levels/aliases/production", {"version": 1}, ""),
        (ALIAS, {"version": 10**12}, "/version"),
        (ALIAS, {"version": 1, "expected": 10**12}, "/expected"),
    ],
)
def test_a_body_or_a_name_that_cannot_be_is_422_and_named(
    shared: Server, path: str, body: dict[str, Any], pointer: str
) -> None:
    problem = check(put(shared, path, **body), 422)
    assert [place["pointer"] for place in problem["errors"]] == [pointer]


@pytest.fixture(scope="module")
def shared(served_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One server for what is refused, which changes nothing."""
    server = Server(served_store.objects.url, tmp_path_factory.mktemp("admin") / "log", "--admin")
    yield server
    assert server.stop() == 0


def test_a_body_that_is_no_promotion_is_refused(shared: Server) -> None:
    url = shared.url + ALIAS
    json_type = {"Content-Type": "application/json"}
    check(httpx.put(url, content=b"{", headers=json_type), 400, "not JSON")
    check(httpx.put(url, content=b"[]", headers=json_type), 400, "JSON object")
    check(httpx.put(url, content=b"version=1", headers={"Content-Type": "text/plain"}), 415, "application/json")
    check(httpx.put(url, content=b" " * 100_000, headers=json_type), 413)


def test_a_server_that_was_not_told_moves_nothing(http: httpx.Client) -> None:
    for method in ("PUT", "DELETE"):
        check(http.request(method, ALIAS, json={"version": 1, "why": "mine"}), 403, "--admin")


def test_a_page_that_renames_itself_to_this_machine_moves_nothing(shared: Server) -> None:
    refused = put(shared, version=1, headers={"Host": "evil.example"})
    check(refused, 403, "this machine only")


def test_with_keys_only_the_admins_may_and_the_log_has_the_key_id(
    store: ModelStore, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    _, infer = issue_key(path, "infer")
    admin_id, admin = issue_key(path, "admin")
    server = start_server(store.objects.url, "--admin", "--keys-file", str(path))
    check(put(server, version=1), 401)
    check(put(server, version=1, headers=bearer(infer)), 403, "admin")
    assert store.aliases("levels") == {}
    moved = put(server, version=1, headers=bearer(admin) | {"Host": "elbod.example"})
    assert moved.status_code == 200
    assert moved.json()["who"] == admin_id
    entry = store.history("levels", "production")[-1]
    assert (entry.who, entry.why) == (admin_id, "better")
    assert admin not in server.log.read_text()


def test_the_document_describes_both_with_examples(shared: Server) -> None:
    operations = httpx.get(f"{shared.url}/openapi.json").json()["paths"]["/models/{name}/aliases/{alias}"]
    for method in ("put", "delete"):
        schema = operations[method]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["properties"]["expected"]["examples"]
        assert schema["properties"]["why"]["examples"]
        assert set(operations[method]["responses"]) >= {"200", "401", "403", "404", "409", "422"}
    assert schemas.Problem.model_validate(put(shared, version=0).json()).status == 422
