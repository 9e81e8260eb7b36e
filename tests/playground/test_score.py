"""Score: what is scored, what is said of it, and what is refused."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

SVG_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    '<svg xmlns="http://www.w3.org/2000/svg" width="100000" height="100000"><text>&b;</text></svg>'
)


def scored(page: Page, other: float | None = None) -> float:
    """The ELBO that is shown, once there is one, and it is not the `other`."""
    page.locator(".verdict[data-elbo] .lead").wait_for()
    page.wait_for_function("other => Number(document.querySelector('.verdict').dataset.elbo) !== other", arg=other)
    return float(page.locator(".verdict").get_attribute("data-elbo") or "nan")


def choose(page: Page, name: str, content: bytes | Path) -> None:
    """Choose a file, as PNG, once the page takes one."""
    page.locator("#panel-score[data-model]").wait_for()
    buffer = content if isinstance(content, Path) else FilePayload(name=name, mimeType="image/png", buffer=content)
    page.locator("input[type=file]").set_input_files(buffer)


def png(array: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(out, "png")
    return out.getvalue()


NO_PICTURES = [
    ("notes.png", b"Dear diary, this is no picture.", "no picture, whatever its name says"),
    ("bomb.svg", SVG_BOMB.encode(), "SVG files are drawings that run"),
    ("bomb.png", SVG_BOMB.encode(), "SVG files are drawings that run"),
    ("cut.png", png(np.zeros((8, 8)))[:20], "ends in the middle of its header"),
    ("damaged.png", png(np.zeros((8, 8)))[:40], "damaged"),
    ("empty.png", b"", "empty"),
    (
        "wide.png",
        png(np.zeros((1, 1)))[:16] + (99_999).to_bytes(4, "big") * 2 + bytes(9),
        "99999 \N{MULTIPLICATION SIGN} 99999",
    ),
]


def test_a_held_out_example_has_the_numbers_of_the_api_and_its_place_among_others(
    visit: Callable[..., Page], digits: str
) -> None:
    page = visit(digits, "score?from=held-out&example=2")
    elbo = scored(page)
    x = httpx.get(f"{digits}/models/digits/versions/3/reference").json()["x"][2:3]
    body = {"x": x, "seed": 0, "num_samples": 64, "num_importance_samples": 256}
    answer = httpx.post(f"{digits}/elbo", json=body).json()
    assert elbo == answer["elbo"][0]
    numbers = page.locator(".numbers").first
    for name in ("ELBO", "Reconstruction", "KL", "Bits per dimension", "IWAE", "Gap"):
        expect(numbers.get_by_text(name, exact=True)).to_be_visible()
    expect(numbers).to_contain_text(f"{answer['kl'][0]:.2f} nats")
    expect(page.get_by_role("img", name="Reconstruction, E[log")).to_be_visible()
    expect(page.get_by_role("img", name="Histogram of the ELBO")).to_be_visible()
    expect(page.get_by_role("img", name="Contribution of each element")).to_be_visible()
    expect(page.locator(".verdict")).to_contain_text(f"Quantile {answer['quantile'][0]:.3f}")
    expect(page.locator(".verdict")).to_contain_text("A likelihood is not a probability of anomaly")


def test_a_drawing_is_scored_after_each_stroke(visit: Callable[..., Page], digits: str) -> None:
    page = visit(digits, "score?from=draw")
    empty = scored(page)
    box = page.locator(".drawing").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.1)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.9, steps=8)
    page.mouse.up()
    assert scored(page, empty) != empty


def test_a_file_is_scored_as_the_pixels_that_are_shown(visit: Callable[..., Page], digits: str) -> None:
    levels = np.zeros((8, 8), np.uint8)
    levels[1:7, 3:5] = 16
    enlarged = (levels.astype(np.float64) / 16 * 255).repeat(20, axis=0).repeat(20, axis=1)
    page = visit(digits, "score?from=file")
    choose(page, "one.png", png(enlarged))
    elbo = scored(page)
    body = {"x": [levels.tolist()], "seed": 0, "num_samples": 64}
    assert elbo == httpx.post(f"{digits}/elbo", json=body).json()["elbo"][0]
    expect(page.locator(".drop + .caption")).to_contain_text(
        "PNG, 160 \N{MULTIPLICATION SIGN} 160, made 8 \N{MULTIPLICATION SIGN} 8"
    )
    # Ink on paper is told by its corners.
    choose(page, "ink.png", png(255 - enlarged))
    expect(page.locator(".drop + .caption")).to_contain_text("inverted")
    page.wait_for_function("elbo => Number(document.querySelector('.verdict').dataset.elbo) === elbo", arg=elbo)


def test_a_picture_is_pasted(visit: Callable[..., Page], digits: str) -> None:
    page = visit(digits, "score?from=draw")
    empty = scored(page)
    page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(16, 16);
          const context = canvas.getContext('2d');
          context.fillRect(0, 0, 16, 16); context.fillStyle = 'white'; context.fillRect(6, 2, 4, 12);
          const pasted = new DataTransfer();
          pasted.items.add(new File([await canvas.convertToBlob()], 'image.png', { type: 'image/png' }));
          document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: pasted }));
        }"""
    )
    scored(page, empty)
    expect(page.get_by_label("A file")).to_be_checked()


def test_what_is_no_picture_is_refused_in_words(visit: Callable[..., Page], digits: str) -> None:
    page = visit(digits, "score?from=file")
    for name, content, said in NO_PICTURES:
        choose(page, name, content)
        expect(page.locator("#panel-score .problem")).to_contain_text(said)


def test_a_file_of_50_megabytes_is_refused_unread(visit: Callable[..., Page], digits: str, tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(50_000_000)
    page = visit(digits, "score?from=file")
    choose(page, "huge.png", tmp_path / "huge.png")
    expect(page.locator("#panel-score .problem")).to_contain_text("50.0 MB")
    # Nothing is broken: the next one is scored.
    choose(page, "dot.png", png([[255]]))
    scored(page)
    expect(page.locator(".drop + .caption")).to_contain_text(
        "1 \N{MULTIPLICATION SIGN} 1, made 8 \N{MULTIPLICATION SIGN} 8; so few pixels"
    )
