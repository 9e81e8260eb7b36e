"""The sections that a model with levels has in place of those about one latent."""

from collections.abc import Iterator

import numpy as np

from elbod.engine.comparison import paired_difference
from elbod.generators.bounds import summarize
from elbod.generators.likelihoods import Likelihood
from elbod.report import figures, pictures
from elbod.report.findings import Findings
from elbod.report.levels import ByLevel
from elbod.report.markup import number, section, table


def spent(found: Findings) -> str:
    """How much was computed for the page."""
    effort, levels = found.effort, found.resident.levels
    return (
        f"A path takes {levels + 1:,} passes of the network, so this page scores few paths: {effort.num_samples:,} a "
        f"row for the ELBO and {effort.num_importance_samples:,} for the importance-weighted bound, of "
        f"{effort.rows:,} of {effort.available:,} rows. All of the page took {found.evaluations:,} passes. "
        "--num-samples, --importance-samples and --rows ask for more."
    )


def whose_bound(levels: int) -> str:
    """What a score of a model of T levels is, and what it is not."""
    return (
        f"These numbers bound log p(x) of this model of {levels:,} steps, the one that POST /sample draws from. In "
        "another num_steps the same weights are another model with another bound. The KL divergence is that of a whole "
        "path of latents: it is not the length of a compact code."
    )


def level_sections(found: Findings, by_level: ByLevel) -> Iterator[str]:
    likelihood = found.resident.generator.likelihood
    yield section("From noise to data", _trajectories(found, by_level, likelihood), _from_noise(by_level))
    yield section("Bound profile", figures.profile(by_level.levels.log_snr, by_level.kl), *_profile(by_level))
    if found.effort.shorter:
        yield section("Fewer steps", _steps(by_level, likelihood), _STEPS)
    else:
        yield section("Fewer steps", "", f"There is no curve: {by_level.levels.count} steps are few already.")


RECONSTRUCTIONS = (
    "Held-out rows and E[x|z] of one draw z at levels of more and more noise: what the noise hides, the network "
    "guesses, each element for itself."
)
RATE_DISTORTION = (
    "Every row is a point: the KL divergence of its paths against what p(x|z) of the least noisy z leaves to be said. "
    "Rows on a dotted line have equal ELBO; the diamond is the mean. A path is drawn, not sent, so neither axis is a "
    "length of a code."
)
_STEPS = (
    "The same rows in chains of fewer of these levels. Each is another model: POST /sample with that num_steps draws "
    "from it, POST /elbo with that num_steps scores it. Errors are of the rows; the last column is the paired "
    "difference, over the same rows, which has a far smaller error."
)


def _from_noise(by_level: ByLevel) -> str:
    log_snr = ", ".join(f"{by_level.levels.log_snr[level]:z.1f}" for level in by_level.shown)
    return (
        f"One sample a row, on its way: E[x|z] at log signal-to-noise ratios {log_snr}. They are among the samples "
        "above. What is drawn at the end has the noise of the likelihood as well."
    )


def _trajectories(found: Findings, by_level: ByLevel, likelihood: Likelihood) -> str:
    shown = by_level.trajectories
    if pictures.is_image(likelihood.event_shape):
        flat = shown.reshape(-1, *shown.shape[2:])
        return pictures.image_grid(flat, likelihood, len(by_level.shown), "Samples on their way from noise to data")
    names = [f"sample {number}" for number in range(1, len(shown) + 1)]
    return pictures.lines(found.x, shown, names, "Means of samples on their way from noise to data")


def _profile(by_level: ByLevel) -> Iterator[str]:
    kl = by_level.kl.mean(axis=0)
    yield (
        "The mean KL divergence of every step of a path, with two standard errors over rows, across the log "
        "signal-to-noise ratios that the step passes: where the nats of the bound are spent. Paths go from noise on "
        "the left to data on the right."
    )
    yield (
        f"The steps add up to {kl[:-1].sum():.2f} nats. The noisiest latent still has {kl[-1]:.2g} nats about a row, "
        "KL(q(z_T|x) || p(z_T)). Each is a closed form at its level, so together they are the KL divergence above up "
        "to chance."
    )


def _steps(by_level: ByLevel, likelihood: Likelihood) -> str:
    whole = by_level.elbo[by_level.levels.count]
    discrete, unit = likelihood.measure == "pmf", likelihood.event_dims * float(np.log(2))
    rows = []
    for steps, elbo in by_level.elbo.items():
        bound = summarize(elbo, np.zeros_like(elbo))
        bits = (f"{-bound.mean / unit:.4f} ± {bound.standard_error / unit:.4f}",) if discrete else ()
        less = paired_difference(elbo, whole)
        difference = "" if elbo is whole else f"{less['mean']:+.2f} ± {number(less['standard_error'], 2)}"
        rows.append((f"{steps:,}", f"{bound.mean:.2f} ± {bound.standard_error:.2f}", *bits, difference))
    head = (
        "num_steps",
        "ELBO, nats",
        *(("bits/dim",) if discrete else ()),
        f"difference from {by_level.levels.count:,}",
    )
    return figures.bound_by_steps(by_level.elbo) + table(head, rows)
