"""The pages that describe the API: whole on a machine without a network."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from elbod_store import ModelStore
from tests.support import Server, issue_key


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_loads_nothing_from_elsewhere(http: httpx.Client, page: str) -> None:
    html = http.get(page).raise_for_status().text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert loaded
    assert all(link.startswith("/") for link in loaded)
    for link in loaded:
        assert len(http.get(link).raise_for_status().content) > 1000
    assert "/openapi.json" in html


def test_pages_need_no_key_and_nothing_beside_them_is_open(
    served_store: ModelStore, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    issue_key(tmp_path / "keys.json", "infer")
    server = start_server(served_store.objects.url, "--model", "levels", "--keys-file", str(tmp_path / "keys.json"))
    with httpx.Client(base_url=server.url) as http:
        assert http.get("/docs-files/swagger-ui.css").status_code == 200
        style = re.findall(r'href="(/playground/[^"]+\.css)"', http.get("/").raise_for_status().text)[0]
        assert http.get(style).status_code == 200
        assert http.post(style).status_code == 401
        assert http.post("/docs-files/swagger-ui.css").status_code == 401
        assert http.get("/docs-files/../models").status_code == 401
        assert http.get("/docs-files/%2e%2e/core.py").status_code == 404


def test_behind_a_prefix_the_page_finds_its_files(
    served_store: ModelStore, start_server: Callable[..., Server]
) -> None:
    server = start_server(served_store.objects.url, "--model", "levels", "--root-path", "/elbod")
    html = httpx.get(f"{server.url}/docs").raise_for_status().text
    assert 'src="/elbod/docs-files/swagger-ui-bundle.js"' in html
    assert httpx.get(f"{server.url}/elbod/docs-files/swagger-ui-bundle.js").status_code == 200
    assert 'src="/elbod/playground/' in httpx.get(f"{server.url}/").raise_for_status().text
