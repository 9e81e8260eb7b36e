"""The page as a whole: what it weighs, what it may do, who can use it, and what it does without its server."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Page, expect

from elbod_store import ModelStore
from tests.playground.support import SCREENS, await_samples, serious_violations
from tests.support import Server

READY = {
    "sample?seed=7&pick=12": ".picked .bars svg",
    "explore": ".between canvas[aria-label]",
    "score?from=held-out&example=1": ".verdict .lead",
    "models": "[data-version]",
    "service": ".facts dd",
}
SHOTS = Path(os.environ.get("ELBOD_PLAYGROUND_SHOTS", "playground-shots"))


def test_it_is_light(visit: Callable[..., Page], digits: str) -> None:
    page = visit(digits)
    await_samples(page)
    sizes = page.evaluate(
        "[...performance.getEntriesByType('navigation'),"
        " ...performance.getEntriesByType('resource').filter(entry => entry.name.includes('/playground/'))]"
        ".map(entry => entry.decodedBodySize)"
    )
    assert len(sizes) > 20
    assert sum(sizes) <= 300_000


@pytest.mark.parametrize("screen", SCREENS)
def test_each_area_is_accessible_and_fits_the_screen(visit: Callable[..., Page], digits: str, screen: str) -> None:
    SHOTS.mkdir(exist_ok=True)
    page = visit(digits, **SCREENS[screen])
    for fragment, ready in READY.items():
        area = fragment.partition("?")[0]
        page.evaluate("fragment => { location.hash = fragment; }", fragment)
        page.locator(ready).first.wait_for()
        assert serious_violations(page) == [], area
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), area
        page.screenshot(path=SHOTS / f"{area}-{screen}.png", full_page=True)


def test_motion_is_for_those_who_want_it(visit: Callable[..., Page], digits: str) -> None:
    for wish, moves in (("reduce", False), ("no-preference", True)):
        page = visit(digits, reduced_motion=wish)
        await_samples(page)
        times = page.evaluate(
            "[...document.querySelectorAll('*')].map(e => getComputedStyle(e))"
            ".flatMap(s => [...s.transitionDuration.split(', '), ...s.animationDuration.split(', ')])"
        )
        assert any(time != "0s" for time in times) == moves


def test_a_server_that_was_killed_is_missed_and_found_again(
    visit: Callable[..., Page], digits_store: ModelStore, start_server: Callable[..., Server]
) -> None:
    server = start_server(digits_store.objects.url)
    page = visit(server.url)
    await_samples(page)
    server.stop(signal.SIGKILL)
    page.get_by_role("button", name="Another seed").click()
    line = page.locator("#connection")
    expect(line).to_contain_text("The server does not answer")
    seed = page.locator("#seed").input_value()
    # The dead supervisor's worker may hold the port for a moment.
    again = start_server(digits_store.objects.url, "--port", str(urlsplit(server.url).port))
    assert again.url == server.url
    expect(line).to_be_hidden()
    expect(page.locator("#panel-sample .stage > .caption")).to_contain_text(f"seed {seed}")


def test_an_empty_store_is_said_to_be_empty_until_something_is_published(
    visit: Callable[..., Page], tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    page = visit(start_server(tmp_path / "store").url)
    expect(page.locator("#connection")).to_contain_text("holds no model yet")


def test_the_plots_show_the_requests_that_were_made(visit: Callable[..., Page], digits: str) -> None:
    page = visit(digits, "service")
    requests = page.locator(".card").filter(has=page.get_by_role("heading", name="Requests"))
    expect(requests.locator(".now")).to_contain_text("a second")
    for _ in range(20):
        httpx.post(f"{digits}/sample", json={"num_samples": 8}).raise_for_status()
    latency = page.locator(".card").filter(has=page.get_by_role("heading", name="Latency"))
    expect(latency.locator(".now")).to_contain_text("ms")
    fill = page.locator(".card").filter(has=page.get_by_role("heading", name="Tile fill"))
    expect(fill.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile(r"Tile fill over the last minutes; now (\d+ %|idle)")
    )
    assert page.locator(".line").count() > 6
