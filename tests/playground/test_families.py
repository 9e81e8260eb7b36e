"""Every kind of model: vectors, bits, classes, discrete z, and priors and posteriors without a closed form."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.support import Server

MODELS = ["linear", "bits", "labels", "mixture", "ladder"]


@pytest.mark.parametrize("model", MODELS)
def test_any_model_is_sampled_explored_and_scored(visit: Callable[..., Page], server: Server, model: str) -> None:
    page = visit(server.url, f"sample?model={model}&n=16&pick=1")
    page.locator(".picked .bars svg").wait_for()
    expect(page.locator("#panel-sample .problem")).to_be_hidden()
    page.get_by_role("button", name="Score it").click()
    expect(page.locator(".lead")).to_contain_text("nats")
    expect(page.locator("#panel-score")).to_contain_text("published without calibration scores")
    page.get_by_role("tab", name="Explore").click()
    ready = "[aria-label='Every value of z'] canvas" if model == "mixture" else ".between canvas[aria-label]"
    page.locator(ready).first.wait_for()
    expect(page.locator("#panel-explore .problem")).to_be_hidden()
    page.get_by_role("tab", name="Models").click()
    expect(page.locator("#panel-models [data-version]")).to_be_visible()
    expect(page.locator("#panel-models > .problem")).to_be_hidden()


def test_classes_are_drawn_in_turn_or_one_of_them(visit: Callable[..., Page], server: Server) -> None:
    page = visit(server.url, "sample?model=labels&n=16")
    expect(page.get_by_role("button", name="Sample 4, dog")).to_be_visible()
    page.locator("#panel-sample").get_by_label("Class").select_option("owl")
    expect(page.get_by_role("button", name="Sample 4, owl")).to_be_visible()


def test_a_vector_is_drawn_as_bars_in_the_colours_of_the_page(visit: Callable[..., Page], server: Server) -> None:
    count = """canvas => {
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return [...new Set(new Uint32Array(data.buffer))].length;
    }"""
    page = visit(server.url, "sample?model=linear&n=16")
    tile = page.locator("#panel-sample .tile canvas").first
    tile.wait_for()
    corner = "canvas => [...canvas.getContext('2d').getImageData(0, 0, 1, 1).data]"
    assert tile.evaluate(count) > 2
    assert min(tile.evaluate(corner)) > 200
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        f"() => Math.max(...({corner})(document.querySelector('#panel-sample .tile canvas')).slice(0, 3)) < 60"
    )


def test_numbers_are_typed_for_a_model_of_vectors(visit: Callable[..., Page], server: Server) -> None:
    page = visit(server.url, "score?model=linear&from=numbers")
    page.locator("#panel-score[data-model]").wait_for()
    values = page.get_by_label("Values")
    values.fill("0.1, 0.2, 0.3")
    values.blur()
    expect(page.locator("#panel-score .problem")).to_contain_text("the model needs 6 numbers")
    values.fill("0.1, 0.2, 0.3, -1, 2, 0")
    values.blur()
    expect(page.locator(".numbers")).to_contain_text("Exact log p(x)")


def test_another_model_is_picked_in_any_area(visit: Callable[..., Page], server: Server) -> None:
    page = visit(server.url, "explore?model=levels")
    expect(page.locator(".traversal")).to_have_count(5)
    page.get_by_role("combobox", name="Model").select_option("vamp")
    expect(page.locator(".traversal")).to_have_count(3)
    assert "model=vamp" in page.url
