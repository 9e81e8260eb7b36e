"""The playground's files: their addresses, what caches may do with them, and what the page may load."""

import re

import httpx


def test_the_page_is_confined_and_asked_for_again_while_its_files_are_kept(http: httpx.Client) -> None:
    page = http.get("/").raise_for_status()
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert page.headers["cache-control"] == "no-cache"
    assert http.get("/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page.text)
    files = re.findall(r'(?:src|href)="(/playground/[^"]+)"', page.text)
    assert len(files) > 20
    for file in files:
        answer = http.get(file).raise_for_status()
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert http.get(files[0].replace("/playground/", "/playground/0")).status_code == 404
    assert http.get(re.sub(r"[^/]+$", "index.html", files[0])).status_code == 404
