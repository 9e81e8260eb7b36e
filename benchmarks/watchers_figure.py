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
    """Of runs of a quarter of the replicas, by either schedule, and of all. The same runs give the same bytes."""
    made, (quarter, everyone, noticed) = figure(height=6.2, panels=3, columns=1)
    *fewer, last = runs
    for place, names in ((quarter, fewer), (everyone, [last])):
        place.axhline(len(runs[names[0]].looks), color=INK, linewidth=0.5)
        tops = []
        for name in names:
            counts = buckets(runs[name].requests["LIST"][0], 0, runs[name].seconds, WIDTH)
            colour = "C1" if name.endswith("served") else "C0"
            place.plot(WIDTH * (np.arange(len(counts)) + 0.5), counts / WIDTH, colour, linewidth=0.7, label=name)
            # The start, which all share, would flatten the rest.
            tops.append(counts[round(1 / WIDTH) :].max() / WIDTH)
        for act, (since, _) in zip(("publication", "promotion"), runs[names[0]].acts, strict=True):
            place.axvline(since, color=INK, linewidth=0.7, linestyle=":")
            place.annotate(act, (since, 1.25 * max(tops)), xytext=(3, -9), textcoords="offset points", fontsize=7)
        place.set(ylabel="list requests/s", ylim=(0, 1.25 * max(tops)), xlim=(0, runs[last].seconds))
        place.legend(fontsize=7, loc="upper right", ncols=2)
    everyone.set_xlabel("seconds since all replicas started")
    for name, colour in ((last, "C1"), (fewer[-1], "C2")):
        waited = runs[name].noticed[2] - runs[name].acts[-1][0]
        bins = np.arange(0, waited.max() + 0.05, 0.05)
        weights = np.full(len(waited), 100 / len(waited))
        noticed.hist(waited, bins=bins.tolist(), weights=weights, histtype="step", color=colour, label=name)
    noticed.set(xlabel="seconds from the promotion until a replica had resolved it", ylabel="% of the replicas")
    noticed.set_ylim(top=1.25 * noticed.get_ylim()[1])
    noticed.legend(fontsize=7, loc="upper right", ncols=2)
    body = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "watchers", "path.simplify_threshold": 0.3}):
        made.savefig(body, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", body.getvalue(), flags=re.DOTALL)
    # A tenth of a point is enough, in what is drawn (not in what is written).
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d)\d+", r"\1", tag[0]), text).replace(INK, "#333333")
    target.parent.mkdir(exist_ok=True)
    target.write_text(re.sub(r"[ \t]+\n", "\n", text))
