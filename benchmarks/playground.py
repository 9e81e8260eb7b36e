"""How fast the playground is: what it weighs, when it paints, and how many pictures a second its pad decodes.

    python benchmarks/playground.py [--store URL] [--model REF] [--seconds N] [--chromium PATH]

Starts `elbod serve` with one worker and a Chromium without a window on the same cores. The pad is dragged along a
circle by pointer events that come as fast as the browser takes them; it has one request under way at a time. Counted
are the pictures that were asked for, decoded, and painted. Without `--store` the digits recipe is trained first.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import Page, sync_playwright

ELBOD = Path(sys.executable).with_name("elbod")
_LOADS = 5

# Drags for so many milliseconds, and gives [pictures, milliseconds, gaps between them].
_DRAG = """async milliseconds => {
  const pad = document.querySelector('.pad');
  const box = pad.getBoundingClientRect();
  const send = (kind, angle) => pad.dispatchEvent(new PointerEvent(kind, {
    bubbles: true, pointerId: 1, button: 0,
    clientX: box.left + box.width * (0.5 + 0.4 * Math.cos(angle)),
    clientY: box.top + box.height * (0.5 + 0.4 * Math.sin(angle)),
  }));
  pad.setPointerCapture = () => {};
  const times = [];
  const watch = new MutationObserver(() => times.push(performance.now()));
  watch.observe(pad, { attributes: true, attributeFilter: ['data-decoded'] });
  const started = performance.now();
  send('pointerdown', 0);
  while (performance.now() - started < milliseconds) {
    send('pointermove', (performance.now() - started) / 300);
    await new Promise(requestAnimationFrame);
  }
  send('pointerup', 0);
  watch.disconnect();
  return [times.length, performance.now() - started, times.slice(1).map((time, i) => time - times[i])];
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="a model store; default: digits, trained now")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    arguments = parser.parse_args()
    if arguments.chromium is None:
        sys.exit("there is no chromium: apt-get install chromium, or give --chromium")
    with tempfile.TemporaryDirectory() as folder:
        store = arguments.store or f"{folder}/store"
        if arguments.store is None:
            subprocess.run(
                [ELBOD, "train", "--recipe", "digits", "--store", store], check=True, stdout=subprocess.DEVNULL
            )
        command = [ELBOD, "serve", "--store", store, "--port", "0", "--workers", "1", "--model", arguments.model]
        with (
            Path(folder, "log").open("w") as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server,
        ):
            assert server.stdout is not None
            try:
                found = re.search(r"http://\S+", server.stdout.readline())
                if found is None:
                    sys.exit(Path(folder, "log").read_text())
                report(found[0], arguments.model, arguments.seconds, arguments.chromium)
            finally:
                server.terminate()


def report(url: str, model: str, seconds: float, chromium: str) -> None:
    """Print the page's weight, its paints, and the pad's rate."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        paints, shown = [], []
        for _ in range(_LOADS):
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            started = time.perf_counter()
            page.goto(f"{url}/#sample?model={model}")
            page.locator("#panel-sample .tile").first.wait_for()
            shown.append(time.perf_counter() - started)
            paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        page.goto(f"{url}/#explore?model={model}")
        page.locator(".between canvas[aria-label]").wait_for()
        files, weight = _weight(page)
        page.locator(".pad").scroll_into_view_if_needed()
        count, milliseconds, gaps = page.evaluate(_DRAG, seconds * 1000)
        sys.stdout.write(
            f"Chromium {browser.version}, {model}\n"
            f"page: {files} files, {weight / 1000:.0f} kB\n"
            f"first paint {median(paints):.0f} ms, 64 samples shown after {median(shown) * 1000:.0f} ms "
            f"(medians of {_LOADS} empty caches)\n"
            f"pad: {count / milliseconds * 1000:.0f} pictures a second over {milliseconds / 1000:.1f} s, "
            f"median gap {median(gaps):.1f} ms, longest {max(gaps):.0f} ms\n"
        )
        browser.close()


def _weight(page: Page) -> tuple[int, int]:
    sizes: list[int] = page.evaluate(
        "[...performance.getEntriesByType('navigation'),"
        " ...performance.getEntriesByType('resource').filter(entry => entry.name.includes('/playground/'))]"
        ".map(entry => entry.decodedBodySize)"
    )
    return len(sizes), sum(sizes)


if __name__ == "__main__":
    main()
