"""A real Chromium in front of a real server of a trained digits model."""

import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from elbod_store import ModelStore
from tests.playground.support import Visitor
from tests.support import ELBOD, HANG, Server

# Little training, but digits all the same, in three versions.
_TRAINING = ["--set", "epochs=24", "--set", "kl_warmup_epochs=6", "--publish-every", "8"]


# Of a module: while Playwright runs, its event loop counts as this thread's, and `asyncio.run` of other tests fails.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or whatever goes by that name."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # Containers forbid the sandbox; the pages are our own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages in contexts of their own. At the end none may have asked another origin, or failed in its scripts."""
    visitor = Visitor(browser)
    yield visitor
    visitor.close()


@pytest.fixture(scope="session")
def digits_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store of a digits model that was published three times while it learnt."""
    folder = tmp_path_factory.mktemp("digits") / "store"
    command = [ELBOD, "train", "--recipe", "digits", "--store", str(folder), *_TRAINING]
    subprocess.run(command, check=True, capture_output=True, timeout=HANG)
    return ModelStore.open(folder)


@pytest.fixture(scope="session")
def digits(digits_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of `digits_store` for all tests that only read."""
    server = Server(digits_store.objects.url, tmp_path_factory.mktemp("digits-server") / "log")
    yield server.url
    assert server.stop() == 0
