"""Explore: what latents do."""

from collections.abc import Callable

import httpx
from playwright.sync_api import Page, expect

from tests.playground.support import pixels
from tests.support import wait_for


def test_traversals_are_ordered_by_the_kl_of_the_held_out_rows(visit: Callable[..., Page], digits: str) -> None:
    page = visit(digits, "explore")
    expect(page.locator(".traversal")).to_have_count(8)
    kl = httpx.get(f"{digits}/models/digits/versions/3").json()["metrics"]["kl_per_dimension"]
    order = sorted(range(len(kl)), key=lambda d: -kl[d])[:8]
    assert page.locator(".traversal strong").all_inner_texts() == [f"z{d + 1}" for d in order]
    ends = page.locator(".traversal").first.locator("canvas")
    assert ends.first.evaluate("canvas => canvas.toDataURL()") != ends.last.evaluate("canvas => canvas.toDataURL()")


def test_the_pad_decodes_while_it_is_dragged_and_ends_where_the_finger_does(
    visit: Callable[..., Page], digits: str
) -> None:
    page = visit(digits, "explore")
    pad = page.locator(".pad")
    expect(page.locator(".end canvas").first).to_be_visible()
    expect(pad).not_to_have_attribute("data-decoded", "0")
    pad.scroll_into_view_if_needed()
    decoded = int(pad.get_attribute("data-decoded") or 0)
    box = pad.bounding_box()
    assert box
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.9, steps=30)
    page.mouse.up()
    wait_for(lambda: int(pad.get_attribute("data-decoded") or 0) > decoded + 5)
    across, up = (int(select.input_value()) for select in page.locator(".padded select").all())
    sliders = page.locator(".padded input[type=range]")
    at = [float(sliders.nth(i).input_value()) for i in (0, 1)]
    assert at[0] > 2
    assert at[1] < -2
    z = [0.0] * 12
    z[across], z[up] = at
    mean = httpx.post(f"{digits}/sample", json={"z": [z], "output": "mean"}).json()["x"][0]
    expected = [round(min(max(value / 16 * 255, 0), 255)) for row in mean for value in row]
    read = "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, 8, 8).data).filter((_, i) => i % 4 === 0)"
    page.wait_for_function(
        f"expected => {{ const shown = ({read})(document.querySelector('.padded .figure canvas'));"
        " return shown.every((value, i) => Math.abs(value - expected[i]) <= 1); }",
        arg=expected,
    )


def test_an_interpolation_begins_and_ends_with_the_chosen_pictures(visit: Callable[..., Page], digits: str) -> None:
    page = visit(digits, "explore")
    page.get_by_role("combobox", name="End A").select_option("0")
    page.get_by_role("combobox", name="End B").select_option("1")
    strip = "[aria-label='From end A to end B'] canvas"
    expect(page.locator(strip)).to_have_count(9)
    rows = httpx.get(f"{digits}/models/digits/versions/3/reference").json()["x"][:2]
    means = httpx.post(f"{digits}/sample", json={"x": rows, "temperature": 0, "output": "mean"}).json()["x"]
    for place, mean in ((0, means[0]), (8, means[1])):
        middle = mean[4][4] / 16 * 255
        page.wait_for_function(
            "([strip, place, value]) => Math.abs(document.querySelectorAll(strip)[place].getContext('2d')"
            ".getImageData(4, 4, 1, 1).data[0] - value) <= 1",
            arg=[strip, place, middle],
        )
    before = pixels(page, ".between canvas")
    page.get_by_role("slider", name="Place between A and B").fill("1")
    page.wait_for_function("before => document.querySelector('.between canvas').toDataURL() !== before", arg=before)
