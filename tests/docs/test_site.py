"""The site is built without a warning, fetches nothing from elsewhere, and says everything that it should."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from elbod.api import schemas
from elbod.settings import Settings
from tests.docs.pages import DOCS
from tests.support import HANG

ROOT = DOCS.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stderr
    return folder


class Fetched(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"script", "img", "iframe", "source"} and given.get("src"):
            self.addresses.append(given["src"] or "")
        if tag == "link" and given.get("rel") in {"stylesheet", "preload", "preconnect", "icon"}:
            self.addresses.append(given["href"] or "")


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        fetched = Fetched()
        fetched.feed(page.read_text())
        assert len(fetched.addresses) > 2
        assert [address for address in fetched.addresses if re.match(r"(https?:)?//", address)] == []
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?https?:", style.read_text()), style


def test_every_formula_is_drawn_by_the_browser_itself(site: Path) -> None:
    page = (site / "mathematics.html").read_text()
    assert page.count("<math ") > 60
    assert "arithmatex" not in page
    assert "merror" not in page


def test_every_field_of_a_response_is_explained_by_the_mathematics(site: Path) -> None:
    named = set(re.findall(r"<code>(\w+)</code>", (site / "mathematics.html").read_text()))
    for response in (schemas.SampleResponse, schemas.EncodeResponse, schemas.ElboResponse):
        assert set(response.model_fields) <= named


def test_the_reference_is_that_of_the_code(site: Path) -> None:
    reference = site / "reference"
    settings = (reference / "settings.html").read_text()
    assert all(f"<code>ELBOD_{name.upper()}</code>" in settings for name in Settings.model_fields)
    http, commands = (reference / "http.html").read_text(), (reference / "commands.html").read_text()
    assert all(f"<code>{path}</code>" in http for path in ("POST /elbo", "GET /metrics"))
    assert all(f"<code>{command}</code>" in commands for command in ("elbod models gc", "elboctl replay"))
    client = (reference / "client.html").read_text()
    assert all(name in client for name in ("wait_until_ready", "QueueFull", "stream_elbo", "effective_sample_size"))
    assert "generated:" not in settings + http + commands
