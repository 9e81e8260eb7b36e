"""Pages that are watched while a test uses them."""

from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect

from tests.support import HANG

expect.set_options(timeout=HANG * 1000)

# What `Visitor` opens pages with.
SCREENS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"width": 390, "has_touch": True, "is_mobile": True},
}

# The browser's own words about an answer that is an error or never came, and about tests that look at pixels.
_ITS_OWN = ("Failed to load resource", "willReadFrequently")


class Visitor:
    """Opens pages and collects what they must not do."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.failures: list[str] = []

    def __call__(self, url: str, fragment: str = "", *, width: int = 1280, **context: Any) -> Page:
        """The page at `url`/#fragment once it shows a model, in a context of its own."""
        opened = self._browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True, **context)
        opened.set_default_timeout(HANG * 1000)
        self._contexts.append(opened)
        origin = urlsplit(url).netloc

        def asked(request: Request) -> None:
            # What a page made itself is no request to anybody.
            if urlsplit(request.url).scheme not in {"blob", "data"} and urlsplit(request.url).netloc != origin:
                self.failures.append(f"asked {request.url}")

        def said(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"} and not any(words in message.text for words in _ITS_OWN):
                self.failures.append(f"console: {message.text}")

        opened.on("request", asked)
        page = opened.new_page()
        page.on("console", said)
        page.on("pageerror", lambda error: self.failures.append(f"script: {error.stack or error}"))
        page.goto(f"{url}/#{fragment}" if fragment else f"{url}/")
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        assert not self.failures, self.failures


def pixels(page: Page, selector: str) -> str:
    """The picture on a canvas, as a data URL; two canvases show the same if these are equal."""
    shown: str = page.locator(selector).first.evaluate("canvas => canvas.toDataURL()")
    return shown


def await_samples(page: Page) -> None:
    """Until Sample shows what was asked for."""
    page.locator("#panel-sample .stage > .caption").filter(has_text="seed").wait_for()


def serious_violations(page: Page) -> list[tuple[str, str]]:
    """What keeps people from using the page, by axe: the rule, and the first element that breaks it."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [(rule["id"], rule["nodes"][0]["html"]) for rule in found if rule["impact"] in {"serious", "critical"}]
