"""docs/figures/watchers.svg: list requests a second over time, and when replicas noticed a promotion."""

import io
import re
from pathlib import Path

import matplotlib
import numpy as np

from elbod.report.figures import INK, figure, styled
from fleet import Run
from looks import buckets

WIDTH = 0.1  # seconds a bucket


@styled
def draw(runs: dict[str, Run], target: Path) -> None:
    """The same runs give the same bytes."""
    made, (rates, noticed) = figure(height=5, panels=2, columns=1)
    for name, run in runs.items():
        counts = buckets(run.requests["LIST"][0], 0, run.seconds, WIDTH)
        rates.plot(WIDTH * (np.arange(len(counts)) + 0.5), counts / WIDTH, linewidth=0.8, label=name)
    last = list(runs.values())[-1]
    # The start, which all share, would flatten the rest.
    top = 1.15 * max(buckets(run.requests["LIST"][0], 1, run.seconds, WIDTH).max() for run in runs.values()) / WIDTH
    for act, (since, _) in zip(("publication", "promotion"), last.acts, strict=True):
        rates.axvline(since, color=INK, linewidth=0.7, linestyle=":")
        rates.annotate(act, (since, top), xytext=(3, -9), textcoords="offset points", fontsize=8)
    rates.set(xlabel="seconds since all replicas started", ylabel="list requests a second", ylim=(0, top))
    rates.set_xlim(0, last.seconds)
    rates.legend(fontsize=8, loc="center right")
    promoted = last.acts[-1][0]
    delays = last.noticed[2] - promoted
    noticed.hist(delays, bins=np.arange(0, max(delays.max(), 1.1) + 0.05, 0.05).tolist(), color="C1", alpha=0.8)
    noticed.set(xlabel="seconds from the promotion until a replica had resolved it", ylabel="replicas")
    body = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "watchers", "path.simplify_threshold": 0.3}):
        made.savefig(body, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", body.getvalue(), flags=re.DOTALL)
    # A tenth of a point is enough, in what is drawn (not in what is written).
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d)\d+", r"\1", tag[0]), text).replace(INK, "#333333")
    target.parent.mkdir(exist_ok=True)
    target.write_text(re.sub(r"[ \t]+\n", "\n", text))
