"""Figures as SVG within the page: text and axes take the page's own colour, so light and dark both read well."""

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from elbod.engine.jobs import Array, Floats
from elbod.report.coverage import LEVELS, Coverage

INK = "#010203"
"""Stands for the colour of the page's text."""

# Near those of Okabe and Ito, 2008: told apart by colour-blind readers, on white and on black.
_COLOURS = ["#2f86c9", "#d8650f", "#0d9b74", "#c06c9c"]

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=_COLOURS),
}


styled = matplotlib.rc_context(_STYLE)
"""Decorates whatever draws: every artist takes its colours when it is made."""


def figure(width: float = 7.5, height: float = 3.2, panels: int = 1, columns: int | None = None) -> tuple[Figure, Any]:
    """A figure of that many inches and its axes: one, or an array of them."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(made)
    across = columns or panels
    return made, made.subplots(-(-panels // across), across)


def svg(made: Figure, alt: str) -> str:
    """The figure as an <svg> element that a screen reader names by `alt`."""
    body = io.StringIO()
    # Names within it are made of the salt: other figures on the page have others.
    with matplotlib.rc_context({"svg.hashsalt": alt}):
        made.savefig(body, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = body.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    referenced = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referenced else "", text)
    box = re.search(r'viewBox="0 0 ([0-9.]+) [0-9.]+"', text)
    assert box is not None
    opened = f'<svg role="img" aria-label="{html.escape(alt)}" width="{box[1]}pt" {box[0]}>'
    return opened + text.partition(">")[2].replace(INK, "currentColor")


@styled
def scores(columns: Mapping[str, Array], calibration: Floats | None) -> str:
    """ELBO of every row, next to those of the calibration rows, and its two parts."""
    made, axes = figure(panels=3, height=2.8)
    for place, (name, label) in zip(
        axes, (("elbo", "ELBO"), ("reconstruction", "reconstruction"), ("kl", "KL")), strict=True
    ):
        values = columns[name]
        bins = np.histogram_bin_edges(values, bins=min(40, max(5, len(values) // 8)))
        place.hist(values, bins=bins, density=True, color="C0", alpha=0.7, label="held-out rows")
        if name == "elbo" and calibration is not None:
            place.hist(calibration, bins=bins, density=True, histtype="step", color="C1", label="calibration rows")
            place.legend(fontsize=7)
        place.axvline(values.mean(), color=INK, linewidth=0.9)
        place.set_xlabel(f"{label}, nats")
        place.set_yticks([])
    return svg(made, "Histograms of the ELBO, the reconstruction and the KL divergence over held-out rows")


@styled
def rate_distortion(columns: Mapping[str, Array], rate_label: str) -> str:
    """Rate (KL) against distortion (-reconstruction): a point a row, their mean, and lines of equal ELBO."""
    rate, distortion = columns["kl"], -columns["reconstruction"]
    made, axes = figure(width=6, height=3.8)
    axes.plot(rate, distortion, ".", color="C0", alpha=0.5, markersize=5)
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    for level in np.quantile(columns["elbo"], (0.1, 0.5, 0.9)):
        ends = np.array(axes.get_xlim())
        axes.plot(ends, -level - ends, color=INK, linewidth=0.7, linestyle=":")
        inside = float(np.clip(-level - ends[1], *axes.get_ylim()))
        axes.annotate(f"ELBO {level:.0f}", (-level - inside, inside), fontsize=7, ha="right")
    axes.plot(rate.mean(), distortion.mean(), "D", color="C1", markersize=7, markeredgecolor=INK)
    axes.set_xlabel(rate_label)
    axes.set_ylabel("distortion: -reconstruction, nats")
    return svg(made, "Rate and distortion of held-out rows, with lines of equal ELBO")


@styled
def divergences(kl: Floats) -> str:
    """Mean KL of each latent dimension, in descending order."""
    order = np.argsort(-kl, kind="stable")
    made, axes = figure(height=2.6)
    axes.bar(np.arange(len(kl)), kl[order], color="C0")
    if len(kl) <= 40:
        axes.set_xticks(np.arange(len(kl)), [str(i) for i in order], fontsize=7)
    axes.set_xlabel("latent dimension")
    axes.set_ylabel("KL, nats")
    return svg(made, "KL divergence of every latent dimension, in descending order")


@styled
def profile(log_snr: Floats, kl: Floats) -> str:
    """Mean KL (n, T + 1) of every step over the log signal-to-noise ratios, (T + 1,) descending, that it crosses."""
    made, axes = figure(height=2.8)
    steps = kl[:, :-1]
    mean, error = steps.mean(axis=0), steps.std(axis=0, ddof=1) / np.sqrt(len(steps))
    edges = log_snr[::-1]
    axes.stairs(mean[::-1], edges, fill=True, color="C0", alpha=0.35)
    axes.stairs(mean[::-1], edges, color="C0", baseline=None)
    centres = (log_snr[:-1] + log_snr[1:]) / 2
    axes.errorbar(centres, mean, yerr=2 * error, fmt="none", ecolor=INK, elinewidth=0.7)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("log signal-to-noise ratio")
    axes.set_ylabel("KL of the step, nats")
    return svg(made, "KL divergence of every step against the log signal-to-noise ratio")


@styled
def bound_by_steps(elbo: Mapping[int, Floats]) -> str:
    """Mean ELBO by number of steps, with the standard error over rows."""
    made, axes = figure(width=6, height=2.8)
    steps = list(elbo)
    means = [values.mean() for values in elbo.values()]
    errors = [values.std(ddof=1) / np.sqrt(len(values)) for values in elbo.values()]
    axes.errorbar(steps, means, yerr=errors, fmt="o-", color="C0", capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(each) for each in steps])
    axes.set_xlabel("num_steps")
    axes.set_ylabel("ELBO ± standard error, nats")
    return svg(made, "ELBO by number of steps")


@styled
def curve(points: Sequence[Mapping[str, Any]]) -> str:
    """Validation bound with its standard error, and the training objective, by epoch."""
    made, axes = figure()
    epochs = [point["epoch"] for point in points]
    elbo, error = (np.array([_number(point[name]) for point in points]) for name in ("elbo", "standard_error"))
    axes.fill_between(epochs, elbo - error, elbo + error, color="C0", alpha=0.25, linewidth=0)
    axes.plot(epochs, elbo, color="C0", marker="." if len(points) < 60 else "", label="ELBO of validation rows")
    axes.plot(epochs, [_number(point["objective"]) for point in points], color="C1", label="training objective")
    iwae = [_number(point.get("iwae")) for point in points]
    if not np.isnan(iwae).all():
        axes.plot(epochs, iwae, color="C2", label="importance-weighted bound of validation rows")
    finite = elbo[np.isfinite(elbo)]
    if len(finite) > 4:
        # The first steps lie far below all that is of interest.
        axes.set_ylim(bottom=float(np.quantile(finite, 0.1) - 0.5 * np.ptp(finite[len(finite) // 10 :])))
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats a row")
    axes.legend(fontsize=7, loc="lower right")
    return svg(made, "Bounds of validation and training rows by epoch")


@styled
def reliability(found: Coverage) -> str:
    """Observed against nominal coverage of intervals."""
    made, axes = figure(width=4.5, height=3.8)
    axes.plot([0.4, 1], [0.4, 1], color=INK, linewidth=0.8)
    axes.errorbar(LEVELS, found.observed, yerr=2 * np.array(found.errors), fmt="o", color="C0", capsize=3)
    axes.set_xlabel("nominal coverage")
    axes.set_ylabel("observed coverage, ± 2 standard errors")
    return svg(made, "Observed coverage of intervals against nominal coverage")


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
