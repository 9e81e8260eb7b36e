"""Models whose draws take passes: the way from noise, variations at a level, and the bound of each pass."""

import base64
import json
from collections.abc import Callable
from itertools import chain
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Request, expect

from tests.playground.support import SCREENS, pixels, serious_violations
from tests.support import Server

# T of the served model.
TOP = 4
READ = "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, 8, 8).data).filter((_, i) => i % 4 === 0)"
TILES = ".strip .tile canvas"
LARGE = ".scrubbed canvas"
VARIATIONS = "[aria-label='Variations of this picture'] canvas"
LINE = "[aria-label='From end A to end B'] canvas"


@pytest.fixture
def url(chain_server: Server) -> str:
    return chain_server.url


def shown(page: Page, selector: str) -> list[list[int]]:
    """The grey values of all canvases."""
    return [canvas.evaluate(READ) for canvas in page.locator(selector).all()]


def greys(x: Any) -> list[list[int]]:
    """What the page should show of pictures of 17 levels."""
    return [[min(255, round(value / 16 * 255)) for value in chain(*picture)] for picture in x]


def alike(one: list[list[int]], other: list[list[int]]) -> bool:
    return bool(np.abs(np.array(one) - np.array(other)).max() <= 1)


def strip(page: Page, count: int) -> None:
    """Ask for a strip of that length, and wait for it."""
    page.locator(".strip select").select_option(str(count))
    expect(page.locator(TILES)).to_have_count(min(count, TOP + 1))


def requests_of(page: Page, model: str) -> list[tuple[str, dict[str, Any]]]:
    """The path and the body of what the page asks of that model's latest version from now on, growing."""
    found: list[tuple[str, dict[str, Any]]] = []

    def note(request: Request) -> None:
        body = json.loads(request.post_data or "{}")
        if body.get("model") == f"{model}@1":
            found.append((request.url.rpartition("/")[2], body))

    page.on("request", note)
    return found


def visit_areas(page: Page, *, of_levels: bool) -> None:
    """Open Explore and Score, each until it shows something."""
    page.get_by_role("tab", name="Explore").click()
    page.locator(f"#panel-explore {'.between canvas[aria-label]' if of_levels else '.padded canvas'}").first.wait_for()
    page.locator("#panel-explore .between canvas[aria-label]").wait_for()
    page.get_by_role("tab", name="Score").click()
    page.locator(".verdict .lead").wait_for()
    page.get_by_role("tab", name="Sample").click()


def test_a_strip_shows_as_many_pictures_of_the_way_as_are_asked_for(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "sample?model=diffusion&n=16&seed=7&pick=2")
    strip(page, 4)
    names = [tile.get_attribute("aria-label") for tile in page.locator(".strip .tile").all()]
    log_snr = httpx.get(f"{url}/models/diffusion/versions/1/levels").json()["log_snr"]
    asked = {"seed": 7, "first_index": 2, "include": ["trajectory"], "trajectory_steps": 4}
    answer = httpx.post(f"{url}/sample", json=asked).json()
    texts = [f"level {level}, log SNR {log_snr[level]:.1f}" for level in answer["trajectory_levels"]]
    assert names == [text.replace("-", "\N{MINUS SIGN}") for text in texts]
    assert alike(shown(page, TILES), greys(answer["trajectory"][0]))
    expect(page.locator(".strip")).to_contain_text("Sample 2, at 4 of the 5 levels of its way")


def test_the_slider_of_the_strip_shows_the_picture_at_its_level(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "sample?model=diffusion&n=16&seed=7")
    strip(page, 8)
    slider = page.locator(".strip input[type=range]")
    for place in (0, 2, TOP):
        slider.fill(str(place))
        tile = page.locator(TILES).nth(place)
        assert page.locator(LARGE).evaluate(READ) == tile.evaluate(READ)
        expect(slider).to_have_attribute(
            "aria-valuetext", page.locator(".strip .tile").nth(place).get_attribute("aria-label") or ""
        )
    assert shown(page, TILES)[0] != shown(page, TILES)[TOP]
    slider.press("ArrowLeft")
    expect(page.locator(".strip output")).to_have_text("level 1, log SNR 2.5")


def test_another_picture_has_another_way(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "sample?model=diffusion&n=16&seed=7")
    strip(page, 8)
    before = pixels(page, LARGE)
    page.get_by_role("button", name="Sample 5", exact=True).click()
    expect(page.locator(".strip")).to_contain_text("Sample 5, at 5 of the 5 levels of its way")
    assert pixels(page, LARGE) != before


def test_samples_say_whether_a_bound_of_them_exists(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "sample?model=diffusion&n=16&seed=7")
    words = page.locator(".process")
    expect(words).to_contain_text("/elbo with num_steps=4 bounds exactly this model")
    page.locator("#panel-sample").get_by_label("Passes, num_steps").fill("2")
    page.keyboard.press("Enter")
    expect(words).to_contain_text("/elbo with num_steps=2 bounds exactly this model")
    page.get_by_label("ddim").check()
    expect(words).to_contain_text("no ELBO of them exists")


def test_a_link_draws_by_the_same_passes_and_sampler_again(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "sample?model=diffusion&n=16&seed=7&steps=2&sampler=ddim")
    expect(page.locator(".process")).to_contain_text("no ELBO of them exists")
    asked = {"seed": 7, "num_samples": 16, "num_steps": 2, "sampler": "ddim"}
    x = httpx.post(f"{url}/sample", json=asked).json()["x"]
    assert alike(shown(page, "#panel-sample .stage .tile canvas"), greys(x))
    link = page.get_by_label("Link to these pictures").input_value()
    assert "steps=2" in link
    assert "sampler=ddim" in link
    expect(page.locator("#panel-sample").get_by_label("Passes, num_steps")).to_have_value("2")
    expect(page.locator(TILES)).to_have_count(3)


def test_a_model_with_a_null_label_draws_of_no_class_and_further_towards_one(
    visit: Callable[..., Page], url: str
) -> None:
    page = visit(url, "sample?model=labelled&n=16&seed=7&label=none&guidance=2")
    expect(page.locator(".process")).to_contain_text("bounds exactly this model")
    drawn = shown(page, "#panel-sample .stage .tile canvas")
    asked = {"model": "labelled", "seed": 7, "num_samples": 16}
    assert alike(drawn, greys(httpx.post(f"{url}/sample", json=asked).json()["x"]))
    page.locator("#panel-sample").get_by_label("Class").select_option("1")
    expect(page.locator(".process")).to_contain_text("no ELBO of them exists")
    guided = httpx.post(f"{url}/sample", json=asked | {"label": 1, "guidance": 2}).json()["x"]
    assert alike(shown(page, "#panel-sample .stage .tile canvas"), greys(guided))
    assert "guidance=2" in page.get_by_label("Link to these pictures").input_value()
    page.get_by_role("combobox", name="Model").select_option("diffusion")
    expect(page.get_by_role("slider", name="Guidance")).to_be_hidden()


def test_a_mean_is_that_at_the_end_of_the_way(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "sample?model=diffusion&n=16&seed=7&output=mean")
    expect(page.locator(".process")).to_contain_text("no ELBO of them exists")
    x = httpx.post(f"{url}/sample", json={"seed": 7, "num_samples": 16, "output": "mean", "level": 0}).json()["x"]
    assert alike(shown(page, "#panel-sample .stage .tile canvas"), greys(x))


def test_a_model_of_levels_is_never_sent_a_temperature(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "sample?model=levels&n=16")
    expect(page.get_by_role("slider", name="Temperature")).to_be_visible()
    refused: list[str] = []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
    sent = requests_of(page, "diffusion")
    page.get_by_role("combobox", name="Model").select_option("diffusion")
    expect(page.locator(".strip")).to_be_visible()
    expect(page.get_by_role("slider", name="Temperature")).to_be_hidden()
    visit_areas(page, of_levels=True)
    assert {path for path, _ in sent} == {"sample", "encode", "elbo"}
    assert all("temperature" not in body for _, body in sent)
    assert refused == []


def test_a_model_of_one_level_shows_and_is_asked_nothing_of_levels(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "sample?model=diffusion&n=16")
    expect(page.locator(".strip")).to_be_visible()
    sent = requests_of(page, "levels")
    page.get_by_role("combobox", name="Model").select_option("levels")
    expect(page.get_by_role("slider", name="Temperature")).to_be_visible()
    for hidden in (page.locator(".strip"), page.locator(".process"), page.get_by_label("ddim")):
        expect(hidden).to_be_hidden()
    visit_areas(page, of_levels=False)
    of_levels = {"num_steps", "num_levels", "level", "sampler", "trajectory_steps"}
    assert all(of_levels.isdisjoint(body) for _, body in sent)
    assert {name for _, body in sent for name in body.get("include", [])} == {"reconstruction_map"}
    page.get_by_role("tab", name="Score").click()
    expect(page.get_by_role("img", name="Contribution of each element")).to_be_visible()
    expect(page.locator(".profile")).to_have_count(0)
    expect(page.get_by_role("img", name="Share of the ELBO")).to_have_count(0)
    expect(page.get_by_role("button", name="Vary it in Explore")).to_be_hidden()
    page.get_by_role("tab", name="Explore").click()
    expect(page.locator(".traversal").first).to_be_visible()
    expect(page.locator(VARIATIONS).first).to_be_hidden()
    expect(page.get_by_role("slider", name="Level of the line")).to_be_hidden()


def test_the_bound_profile_has_a_point_for_each_pass_and_one_for_the_prior(
    visit: Callable[..., Page], url: str
) -> None:
    page = visit(url, "score?model=diffusion&from=draw")
    expect(page.locator(".profile circle")).to_have_count(TOP + 1)
    body = {"x": [[[0] * 8] * 8], "seed": 0, "num_samples": 16, "include": ["kl_per_level", "bound_map"]}
    answer = httpx.post(f"{url}/elbo", json=body).json()
    assert page.locator(".verdict").get_attribute("data-elbo") == json.dumps(answer["elbo"][0])
    plot = page.get_by_role("img", name="KL of each of 4 passes")
    kl = answer["kl_per_level"][0]
    assert f"at most {max(kl):.2f} nats" in (plot.get_attribute("aria-label") or "")
    heights = [float(point.get_attribute("cy") or "nan") for point in page.locator(".profile circle").all()]
    assert np.corrcoef(heights, kl)[0, 1] < -0.999
    places = [float(point.get_attribute("cx") or "nan") for point in page.locator(".profile circle").all()]
    assert places == sorted(places, reverse=True)


def test_a_score_of_fewer_passes_has_their_profile(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "score?model=diffusion&from=draw")
    expect(page.locator(".profile circle")).to_have_count(TOP + 1)
    page.get_by_text("Draws, seed and class").click()
    page.locator("#panel-score").get_by_label("Passes, num_steps").fill("2")
    page.keyboard.press("Enter")
    expect(page.locator(".profile circle")).to_have_count(3)
    body = {"x": [[[0] * 8] * 8], "seed": 0, "num_samples": 16, "num_steps": 2}
    elbo = httpx.post(f"{url}/elbo", json=body).json()["elbo"][0]
    assert page.locator(".verdict").get_attribute("data-elbo") == json.dumps(elbo)


def test_the_bound_map_stands_next_to_the_reconstruction_and_its_map(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "score?model=diffusion&from=draw")
    figures = page.locator(".triptych.four figure")
    expect(figures).to_have_count(4)
    expect(figures.nth(2).get_by_role("img", name="Contribution of each element")).to_be_visible()
    expect(figures.nth(3).get_by_role("img", name="Share of the ELBO of each element")).to_be_visible()
    maps = shown(page, ".triptych.four canvas")
    assert maps[2] != maps[3]
    body = {"x": [[[0] * 8] * 8], "seed": 0, "level": 0, "output": "mean"}
    assert alike([maps[1]], greys(httpx.post(f"{url}/sample", json=body).json()["x"]))


def test_variations_keep_the_picture_at_level_0_and_lose_it_at_the_last(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "explore?model=diffusion")
    grid = page.get_by_role("group", name="Variations of this picture")
    x = httpx.post(f"{url}/sample", json={"seed": 0}).json()["x"]
    distances = []
    for level in (0, TOP):
        page.get_by_role("slider", name="Level of noise").fill(str(level))
        expect(grid).to_have_attribute("data-level", str(level))
        varied = httpx.post(f"{url}/sample", json={"x": x * 8, "level": level, "seed": 0}).json()["x"]
        assert alike(shown(page, VARIATIONS), greys(varied))
        distances.append(float(np.abs(np.array(varied) - np.array(x)).mean()))
    assert distances[0] < 1 < distances[1]
    expect(page.locator(".traversals")).to_be_hidden()
    expect(page.locator(".pad")).to_be_hidden()


def test_a_variation_or_a_scored_row_becomes_the_picture_to_vary(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "explore?model=diffusion")
    page.get_by_role("button", name="Variation 3").click()
    expect(page.locator(".start .caption")).to_have_text("Variation 3 at level 2, log SNR 0.0")
    page.goto(f"{url}/#score?model=diffusion&from=draw")
    page.locator(".verdict .lead").wait_for()
    page.get_by_role("button", name="Vary it in Explore").click()
    expect(page.locator(".start .caption")).to_have_text("The scored row")
    assert shown(page, ".start canvas") == [[0] * 64]


def test_an_interpolation_puts_both_ends_under_the_same_noise(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "explore?model=diffusion")
    page.locator("#panel-explore .between canvas[aria-label]").wait_for()
    sent = requests_of(page, "diffusion")
    page.get_by_role("slider", name="Level of the line").fill("1")
    expect(page.get_by_role("group", name="From end A to end B")).to_have_attribute("data-level", "1")
    encoded = [body for path, body in sent if path == "encode"]
    assert [(body["level"], body["seed"], body["first_index"]) for body in encoded] == [(1, 0, 0)] * 2
    codes = [httpx.post(f"{url}/encode", json=body | {"encoding": "list"}).json() for body in encoded]
    a, b = (np.array(code["z"][0][0]) for code in codes)
    noises = [end - np.array(code["posterior"]["mean"][0]) for end, code in zip((a, b), codes, strict=True)]
    assert np.abs(noises[0] - noises[1]).max() < 1e-5
    drawn = [body for path, body in sent if path == "sample" and "z" in body][:9]
    assert {(body["level"], body["seed"], body["first_index"]) for body in drawn} == {(1, 0, 0)}
    for i, body in enumerate(drawn):
        z = np.frombuffer(base64.b64decode(body["z"]["data"]), np.float32)
        assert np.abs(z - (a + i / 8 * (b - a))).max() < 1e-5
    pictures = [httpx.post(f"{url}/sample", json=body | {"encoding": "list"}).json()["x"][0] for body in drawn]
    assert alike(shown(page, LINE), greys(pictures))


def test_a_line_ends_at_its_ends_where_there_is_hardly_noise(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, "explore?model=diffusion")
    page.get_by_role("slider", name="Level of the line").fill("0")
    expect(page.get_by_role("group", name="From end A to end B")).to_have_attribute("data-level", "0")
    ends, line = shown(page, ".end canvas"), shown(page, LINE)
    for end, first, other in ((ends[0], line[0], line[-1]), (ends[1], line[-1], line[0])):
        distances = [float(np.abs(np.array(end) - np.array(picture)).mean()) for picture in (first, other)]
        assert distances[0] < distances[1] / 4


@pytest.mark.parametrize("screen", SCREENS)
def test_what_levels_add_is_accessible_and_fits_the_screen(visit: Callable[..., Page], url: str, screen: str) -> None:
    page = visit(url, "sample?model=diffusion&n=16&pick=3", **SCREENS[screen])
    ready = {
        "sample?n=16&pick=3": f"{LARGE}[aria-label]",
        "explore": "#panel-explore .between canvas[aria-label]",
        "score?from=draw": ".profile svg",
    }
    for fragment, element in ready.items():
        page.evaluate("fragment => { location.hash = fragment; }", fragment)
        page.locator(element).first.wait_for()
        assert serious_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), fragment
