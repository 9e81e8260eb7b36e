"""Sample: seeds, links, latents, files."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import httpx
from playwright.sync_api import Page, expect

from tests.playground.support import await_samples, pixels

FIRST = "#panel-sample .grid canvas"


def test_the_dice_draw_other_pictures_and_a_link_draws_them_again(visit: Callable[..., Page], digits: str) -> None:
    page = visit(digits)
    await_samples(page)
    before = pixels(page, FIRST)
    page.get_by_role("button", name="Another seed").click()
    page.wait_for_function(
        "before => document.querySelector('#panel-sample .grid canvas').toDataURL() !== before", arg=before
    )
    page.get_by_role("button", name="Sample 5", exact=True).click()
    link = page.get_by_label("Link to these pictures").input_value()
    assert "model=digits%403" in link
    assert "seed=" in link
    again = visit(digits, link.partition("#")[2])
    expect(again.get_by_role("button", name="Sample 5", exact=True)).to_have_attribute("aria-pressed", "true")
    assert pixels(again, FIRST) == pixels(page, FIRST)
    assert pixels(again, ".picked canvas") == pixels(page, ".picked canvas")


def test_the_pictures_are_those_of_the_api_and_the_file_is_its_png(
    visit: Callable[..., Page], digits: str, tmp_path: Path
) -> None:
    page = visit(digits, "sample?seed=11&n=16&t=0.5&output=mean")
    await_samples(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    download.value.save_as(tmp_path / "grid.png")
    body = {"seed": 11, "num_samples": 16, "temperature": 0.5, "output": "mean"}
    expected = httpx.post(f"{digits}/sample", json=body, headers={"Accept": "image/png"}).content
    assert (tmp_path / "grid.png").read_bytes() == expected
    x = httpx.post(f"{digits}/sample", json=body).json()["x"]
    shown = (
        page.locator(FIRST)
        .nth(3)
        .evaluate(
            "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, 8, 8).data).filter((_, i) => i % 4 === 0)"
        )
    )
    assert max(abs(a - b * 255 / 16) for a, b in zip(shown, chain(*x[3]), strict=True)) <= 0.51


def test_a_chosen_picture_gives_its_z_to_the_other_areas(visit: Callable[..., Page], digits: str) -> None:
    page = visit(digits, "sample?seed=3&n=16")
    page.get_by_role("button", name="Sample 2", exact=True).click()
    z = httpx.get(f"{digits}/sample", params={"seed": 3, "num_samples": 16}).json()["z"][2]
    expect(page.locator(".bars svg")).to_have_attribute("aria-label", f"z: {', '.join(map(_plain, z))}")
    page.get_by_role("button", name="Explore around it").click()
    expect(page.locator(".start .caption")).to_have_text("Sample 2 of seed 3")
    page.go_back()
    page.get_by_role("button", name="Score it").click()
    expect(page.locator(".lead")).to_contain_text("nats")


def test_arrow_keys_walk_the_tabs_and_the_grid(visit: Callable[..., Page], digits: str) -> None:
    page = visit(digits, "sample?n=16")
    await_samples(page)
    page.get_by_role("button", name="Sample 0", exact=True).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".picked .caption")).to_have_text("Sample 5 of seed 7")
    page.get_by_role("tab", name="Sample").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Explore")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Explore")).to_be_visible()
    page.keyboard.press("End")
    expect(page.get_by_role("tabpanel", name="Service")).to_be_visible()


def test_what_is_no_seed_is_said_to_be_none(visit: Callable[..., Page], digits: str) -> None:
    page = visit(digits)
    await_samples(page)
    page.locator("#seed").fill("seven")
    page.locator("#seed").press("Enter")
    expect(page.get_by_role("alert").first).to_contain_text("A seed is a whole number")


def _plain(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
