"""Models: versions, aliases and who moves them, cards, and a worker that publishes meanwhile."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from elbod_store import ModelStore
from tests.playground.support import await_samples
from tests.support import LEVELS, Server, draft, issue_key

MARKUP = "# <b>bold</b>\n\n<img src=x onerror=\"document.title='broken'\"> and <script>document.title='broken'</script>"


@pytest.fixture(scope="module")
def changing(digits_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ModelStore]]:
    """A server that moves aliases, and its store, which the tests of this file change one after the other."""
    folder = tmp_path_factory.mktemp("changing")
    shutil.copytree(digits_store.objects.url.removeprefix("file://"), folder / "store")
    store = ModelStore.open(folder / "store")
    store.publish(replace(draft("marked", LEVELS), card=MARKUP))
    server = Server(folder / "store", folder / "log", "--admin", "--model", "digits")
    yield server.url, store
    assert server.stop() == 0


def promote(page: Page, version: int, why: str) -> None:
    """Fill in the dialog that is open, and send it."""
    page.get_by_role("dialog").get_by_label("Version").select_option(str(version))
    page.get_by_role("dialog").get_by_label("Why").fill(why)
    page.get_by_role("button", name="Promote", exact=True).click()


def test_an_alias_is_moved_and_rolled_back_and_its_history_says_so(
    visit: Callable[..., Page], changing: tuple[str, ModelStore]
) -> None:
    url, store = changing
    page = visit(url, "models")
    for version in (1, 2):
        page.get_by_role("button", name="Promote a version…").click()
        promote(page, version, f"trying {version}")
        expect(page.locator("#panel-models .notice")).to_have_text(f"digits@production names version {version} now.")
    expect(page.locator("#version")).to_contain_text("production (2)")
    page.get_by_role("button", name="Roll back…").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.locator("#panel-models .notice")).to_have_text("digits@production names version 1 now.")
    history = page.get_by_role("region", name="History of the aliases").locator("tbody tr")
    expect(history).to_have_count(3)
    expect(history.first).to_contain_text("rolled back")
    assert store.aliases("digits") == {"production": 1}


def test_of_two_tabs_that_promote_at_once_the_second_is_told(
    visit: Callable[..., Page], changing: tuple[str, ModelStore]
) -> None:
    url, store = changing
    store.promote("digits", "production", 1, who="ada", why="first")
    pages = [visit(url, "models"), visit(url, "models")]
    for page in pages:
        page.get_by_role("button", name="Move…").click()
    promote(pages[0], 2, "better")
    expect(pages[0].locator("#panel-models .notice")).to_contain_text("version 2 now")
    promote(pages[1], 3, "better still")
    problem = pages[1].get_by_role("dialog").get_by_role("alert")
    expect(problem).to_contain_text("Somebody else was faster, and nothing was changed")
    expect(problem).to_contain_text("names version 2")
    assert store.aliases("digits") == {"production": 2}


def test_markup_in_a_card_is_text(visit: Callable[..., Page], changing: tuple[str, ModelStore]) -> None:
    page = visit(changing[0], "models?model=marked")
    expect(page.locator(".prose h4")).to_have_text("<b>bold</b>")
    expect(page.locator(".prose")).to_contain_text("<script>document.title='broken'</script>")
    assert page.locator(".prose :is(b, img, script)").count() == 0
    assert "broken" not in page.title()


def test_versions_that_are_published_meanwhile_appear_and_can_be_scrubbed(
    visit: Callable[..., Page], changing: tuple[str, ModelStore]
) -> None:
    url, store = changing
    page = visit(url, "models")
    grid = page.get_by_role("group", name="Samples of this version")
    expect(grid).to_have_attribute("data-version", "3")
    # What a worker does next: another version of the same model.
    store.publish(replace(draft("digits", LEVELS), metrics=store.manifest("digits", 3).metrics))
    expect(grid).to_have_attribute("data-version", "4")
    page.get_by_role("slider", name="Version").fill("1")
    expect(grid).to_have_attribute("data-version", "1")
    expect(page.get_by_label("Follow the newest version")).not_to_be_checked()
    expect(page.get_by_role("img", name="Held-out ELBO by version")).to_be_visible()


def test_a_key_is_asked_for_used_and_kept_nowhere_behind_a_proxy_too(
    visit: Callable[..., Page], digits_store: ModelStore, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    _, key = issue_key(tmp_path / "keys.json", "admin")
    _, reader = issue_key(tmp_path / "keys.json", "infer", name="bob")
    keys = ("--keys-file", str(tmp_path / "keys.json"))
    server = start_server(digits_store.objects.url, "--admin", "--root-path", "/elbod", *keys)
    page = visit(f"{server.url}/elbod")
    expect(page.get_by_text("This server asks for a key")).to_be_visible()
    assert page.get_by_role("link", name="API").get_attribute("href") == "/elbod/docs"

    page.get_by_role("button", name="Key", exact=True).click()
    page.get_by_role("dialog").get_by_label("Key").fill(reader)
    page.get_by_role("button", name="Use key").click()
    await_samples(page)
    page.get_by_role("tab", name="Models").click()
    page.get_by_role("button", name="Promote a version…").click()
    page.get_by_role("dialog").get_by_label("Alias", exact=True).fill("canary")
    promote(page, 2, "with a key")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("lacks the scope 'admin'")
    page.get_by_role("dialog").get_by_label("Key of scope").fill(key)
    page.get_by_role("button", name="Promote", exact=True).click()
    expect(page.locator("#panel-models .notice")).to_contain_text("digits@canary names version 2 now")
    page.get_by_role("tab", name="Service").click()
    expect(page.locator(".facts")).to_contain_text("1 of 1")
    kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
    assert key not in kept
    assert reader not in kept
    page.reload()
    expect(page.get_by_text("This server asks for a key")).to_be_visible()
