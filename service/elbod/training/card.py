"""The model card: what a version is, what it was made from, its held-out numbers and its limits, as markdown."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from elbod.generators.base import Generator
from elbod.generators.chain import grid
from elbod.generators.chained import Chained
from elbod.training.datasets import Dataset
from elbod.training.metrics import headline
from elbod.training.recipes import Recipe
from elbod.training.splits import Split

_LIMITS = """\
## Limits

- A likelihood is not a probability of anomaly. Raw likelihoods can rank data from elsewhere *above* the data that the
  model was trained on: look at the parts of the score, and compare with held-out rows of your own.
- Scores are comparable between models of the same data, levels and binarization only.
- The ELBO is a lower bound on log p(x); the importance-weighted one (IWAE) is closer, and a lower bound too.
"""

# Lines that tell where the KL of a path is.
_SHOWN_STEPS = 8


def write_card(
    name: str,
    recipe: Recipe,
    generator: Generator,
    dataset: Dataset,
    digest: str,
    parts: Split,
    metrics: dict[str, Any],
    command: str,
) -> str:
    """`digest` is the data's, `metrics` as made by `held_out_metrics`, `command` what trains this again."""
    blueprint = generator.blueprint
    shape = " x ".join(map(str, blueprint.event_shape))
    levels = "" if blueprint.levels is None else f", {blueprint.levels} levels"
    spec = ", ".join(f"{key} {value}" for key, value in blueprint.spec.items())
    names = blueprint.labels
    classes = ", ".join(f"{number} is {name!r}" for number, name in enumerate(names or ()))
    labels = f"\nIt is conditional on a label: {classes}." if names else ""
    sizes = ", ".join(f"{size:,} {part}" for part, size in parts.sizes.items())
    binarization = {
        None: "none",
        "stochastic": "one bit b ~ Bernoulli(x) a pixel, drawn anew at every training visit; held-out rows drawn once",
        "threshold": "x > 0.5",
    }[recipe.binarization]
    count = metrics["num_samples"]
    draws = f"{count:,} {'path' if generator.levels else 'draw'}{'' if count == 1 else 's'}"
    chain = _chain(generator, metrics["kl_per_level"]) if isinstance(generator, Chained) else ""
    return f"""\
# {name}

A `{blueprint.family}` generator ({spec}) with a `{blueprint.likelihood}` likelihood over events of {shape}{levels}.
A latent z has {generator.latent_structure}.{labels}

## Data

- Source: {dataset.name}, {len(dataset.x):,} rows, sha256 `{digest}`.
- Units: {dataset.units}.
- Binarization: {binarization}.
- Split ({recipe.protocol}): {sizes}. Test and calibration rows were used for nothing but their own purpose.

## Held-out numbers

{_table(metrics)}

Means over {metrics["n"]:,} test rows, plus or minus the standard error over rows. The ELBO is the real bound (beta = 1,
fully normalised), {draws} a row. Baseline: independent elements, fitted to the training rows.
{chain}
## Made with

    {command}

{_LIMITS}"""


def _table(metrics: dict[str, Any]) -> str:
    lines = ["| | nats | bits/dim |", "|---|---|---|"]
    lines += [f"| {title} | {nats} | {bits or '-'} |" for title, nats, bits in headline(metrics)]
    return "\n".join(lines)


def _chain(generator: Chained, kl_per_level: Sequence[float]) -> str:
    """Whose bound that of a chain is, and the mean KL of its steps, `kl_per_level` (T + 1,), by log SNR."""
    levels, log_snr = generator.levels, generator.log_snr.tolist()
    lines = ["| log signal-to-noise ratio | steps | KL, nats |", "|---|---|---|"]
    for below, level in reversed(list(pairwise(grid(levels, min(levels, _SHOWN_STEPS))))):
        kl = math.fsum(kl_per_level[below:level])
        lines.append(f"| {log_snr[level]:z.1f} ... {log_snr[below]:z.1f} | {level - below} | {kl:.2f} |")
    table = "\n".join(lines)
    return f"""\
The bounds are of this model of {levels:,} steps: in another `num_steps` the same weights are another model, and the KL
divergence is that of a whole path, not the length of a compact code.

## KL by level

{table}

Means over calibration rows, one path each. The noisiest latent still has {kl_per_level[-1]:.2g} nats about a row.
"""
