"""What the documentation says to type works, from the first to the last block of each page."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.docs.pages import DOCS, Reader, blocks
from tests.support import Server

PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
TUTORIAL = ["tutorial/images.md", "tutorial/anomalies.md", "tutorial/conditional.md"]
ALONE = [
    "how-to/data.md",
    "how-to/family.md",
    "how-to/keys.md",
    "how-to/reproducibility.md",
    "mathematics.md",
    "scale.md",
    "tutorial/diffusion.md",
]
ELSEWHERE = ["operating.md"]  # tests/e2e/test_operating.py


@pytest.fixture
def reader(tmp_path: Path, start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Reader:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Reader(folder, start_server)


@pytest.mark.slow
def test_the_tutorial_works_from_an_empty_directory(reader: Reader) -> None:
    for page in TUTORIAL:
        reader.read(page)
    by_curl, by_client = (
        np.asarray(Image.open(reader.folder / f"{name}.png")).astype(int) for name in ("digits", "from-python")
    )
    # The client, which knows no levels, draws the largest value white.
    assert np.abs(by_curl - by_client).max() <= 256 - by_curl.max()
    assert (reader.folder / "sevens.png").read_bytes().startswith(b"\x89PNG")
    assert len((reader.folder / "scores.csv").read_text().splitlines()) > 100


@pytest.mark.parametrize("page", ALONE)
def test_a_page_works_from_an_empty_directory(reader: Reader, page: str) -> None:
    reader.read(page)


def test_every_page_with_code_to_run_is_run() -> None:
    runs = {page for page in PAGES if any(language in {"bash", "python"} for language, _ in blocks(page))}
    assert runs == {*TUTORIAL, *ALONE, *ELSEWHERE}
