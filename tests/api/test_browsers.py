"""What a page of another origin can make a browser do here: nothing, unless its origin is configured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from elbod_store import ModelStore
from tests.support import BITS, Server, publish

PAGE = "https://page.example"
SITES = ["cross-site", "same-site"]


def from_page(site: str, mode: str = "cors", dest: str = "empty", origin: str | None = PAGE) -> dict[str, str]:
    """The headers that a browser adds, which no page can change."""
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    return headers if origin is None else headers | {"Origin": origin}


@pytest.fixture
def start(served_store: ModelStore, start_server: Callable[..., Server]) -> Callable[..., Server]:
    def start(*flags: str, **variables: str) -> Server:
        return start_server(served_store.objects.url, "--model", "levels", *flags, **variables)

    return start


@pytest.mark.parametrize("site", SITES)
def test_pages_of_other_origins_make_the_server_compute_and_change_nothing(http: httpx.Client, site: str) -> None:
    refused = [
        http.post("/sample", json={}, headers=from_page(site)),
        http.put("/models/levels/aliases/a", json={"version": 1, "why": "x"}, headers=from_page(site)),
        http.delete("/models/levels/aliases/a", headers=from_page(site)),
        http.get("/sample", headers=from_page(site)),
        http.get("/sample?format=png", headers=from_page(site, "no-cors", "image", None)),
        http.get("/models/levels/versions/1/levels", headers=from_page(site, "no-cors", "image", None)),
        http.get("/sample?format=png", headers=from_page(site, "navigate", "iframe", None)),
    ]
    for response in refused:
        assert response.status_code == 403
        assert "cors_origins" in response.json()["detail"]
        assert response.headers["content-type"] == "application/problem+json"
    assert http.get("/models/levels", headers=from_page(site)).status_code == 200


@pytest.mark.parametrize("site", SITES)
def test_links_from_other_pages_open(http: httpx.Client, site: str) -> None:
    clicked = from_page(site, "navigate", "document", None)
    for path in ("/", "/docs", "/sample?format=png&seed=1", "/healthz"):
        assert http.get(path, headers=clicked).status_code == 200


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_the_servers_own_page_and_the_address_bar_may_ask(http: httpx.Client, site: str) -> None:
    assert http.post("/sample", json={}, headers=from_page(site, origin=None)).status_code == 200
    assert http.get("/sample", headers=from_page(site, origin=None)).status_code == 200


def test_configured_origins_may_ask_and_no_other(start: Callable[..., Server]) -> None:
    server = start(ELBOD_CORS_ORIGINS=PAGE)
    with httpx.Client(base_url=server.url) as http:
        assert http.post("/sample", json={}, headers=from_page("cross-site")).status_code == 200
        assert http.get("/sample", headers=from_page("cross-site")).status_code == 200
        other = http.post("/sample", json={}, headers=from_page("cross-site", origin="https://other.example"))
        assert other.status_code == 403
        assert http.post("/sample", json={}, headers=from_page("cross-site", origin=None)).status_code == 403
        preflight = from_page("cross-site") | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        assert http.options("/sample", headers=preflight).status_code == 200
    with httpx.Client(base_url=start(ELBOD_CORS_ORIGINS="*").url) as http:
        assert http.post("/sample", json={}, headers=from_page("cross-site")).status_code == 200
        assert http.get("/sample", headers=from_page("cross-site", "no-cors", "image", None)).status_code == 200


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("path", ["/sample", "/encode", "/elbo"])
def test_what_a_page_can_send_unasked_is_no_request(http: httpx.Client, path: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = http.post(path, content=b"{}", headers=headers)
    assert response.status_code == 415
    assert "application/json" in response.json()["detail"]


def test_changes_have_a_content_type_and_a_rollback_needs_no_body(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    store = ModelStore.open(tmp_path / "store")
    publish(store, "bits", BITS)
    with httpx.Client(base_url=start_server(store.objects.url, "--admin").url) as http:
        path = "/models/bits/aliases/production"
        body = b'{"version": 1, "why": "x"}'
        assert http.put(path, content=body).status_code == 415
        assert http.put(path, content=body, headers={"Content-Type": "text/plain"}).status_code == 415
        assert http.put(path, content=body, headers={"Content-Type": "application/json"}).status_code == 200
        assert http.delete(path, headers={"Content-Type": "text/plain"}).status_code == 415
        assert http.request("DELETE", path, content=b"{}").status_code == 415
        # There is no earlier version, which is found out only after the body.
        assert http.delete(path).status_code == 404


@pytest.mark.parametrize("path", ["/models/", "/sample/", "/healthz/"])
def test_no_answer_leads_to_the_host_that_the_request_names(http: httpx.Client, path: str) -> None:
    response: Any = http.get(path, headers={"Host": "evil.example"})
    assert response.status_code == 404
    assert "evil.example" not in response.text + str(response.headers)
