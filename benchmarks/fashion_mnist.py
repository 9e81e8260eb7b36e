"""Fashion-MNIST, binarised: train the published architecture and score the published test bits.

    python benchmarks/fashion_mnist.py [--recipe NAME] [--epochs N] [--store URL] [--set KEY=VALUE]
    python benchmarks/fashion_mnist.py --version NAME@VERSION        # score what was trained before

Prints a table next to the published one (Norouzi, Fleet and Norouzi, "Exemplar VAE", NeurIPS 2020, table 1).
"""

import argparse
import math
import platform
import sys
from typing import Any

import numpy as np
import torch

from elbod.generators import bounds, checkpoint
from elbod.generators.bounds import ImportanceWeighted, Summary
from elbod.training import datasets, recipes
from elbod.training.progress import console_listener
from elbod.training.publish import TEST_SEED
from elbod.training.scoring import score
from elbod.training.splits import fashion_split
from elbod.training.worker import run_training
from elbod_store import Manifest, ModelStore

# log p(x) by 5,000 importance samples, nats, of the same architecture, by prior.
PUBLISHED = {"normal": -228.70, "vamp": -227.35}
# The entropy of the binarisation: a model that has not seen the test bits cannot be better.
CEILING = -189.87
# The published number of importance samples, on as many rows as take minutes rather than half an hour.
PUBLISHED_DRAWS, PUBLISHED_DRAWS_ROWS = 5_000, 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name, recipe in recipes.RECIPES.items() if recipe.protocol == "fashion-mnist-binary"]
    parser.add_argument("--recipe", choices=names, default="fashion-mnist-binary")
    parser.add_argument("--version", metavar="NAME@VERSION", help="score this version instead of training one")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--importance-samples", type=int, default=500)
    parser.add_argument("--store", default="./elbod-store")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    store = ModelStore.open(arguments.store)
    if arguments.version:
        manifest = store.resolve(arguments.version)
    else:
        settings = [f"num_importance_samples={arguments.importance_samples}", *arguments.settings]
        if arguments.epochs is not None:
            settings.append(f"epochs={arguments.epochs}")
        recipe = recipes.override(recipes.recipe(arguments.recipe), settings)
        manifest = run_training(recipe, store, seed=arguments.seed, progress=console_listener())
    sys.stdout.write(table(manifest.metrics, manifest.training, *many_draws(store, manifest)))


def many_draws(store: ModelStore, manifest: Manifest) -> tuple[Summary, Summary]:
    """The importance-weighted bound of the published number of draws, and what it adds to that of the manifest's.

    Both are of the first test rows; the second is paired by row, so its error is far smaller than the first one's.
    """
    torch.set_num_threads(1)
    generator = checkpoint.load(checkpoint.blueprint_of(manifest), store.read(manifest.weights))
    test = torch.from_numpy(fashion_split(datasets.load("fashion-mnist"), binary=True).test[:PUBLISHED_DRAWS_ROWS])

    def bound(draws: int) -> ImportanceWeighted:
        found = score(generator, test, TEST_SEED, 1, draws).importance
        assert found is not None
        return found

    draws = manifest.metrics["num_importance_samples"]
    assert isinstance(draws, int)
    few, many = bound(draws), bound(PUBLISHED_DRAWS)
    # The few draws are among the many: their errors do not add up, and rows alone decide the error of the difference.
    gain = bounds.summarize(many.iwae - few.iwae, np.zeros_like(many.iwae))
    return bounds.summarize(many.iwae, many.iwae_standard_error), gain


def table(metrics: Any, training: Any, many: Summary, gain: Summary) -> str:
    """The results of one run as markdown, between the published figure and the limits of the data."""
    baseline, recipe = metrics["baseline"], training["recipe"]
    prior = recipe["spec"].get("prior", "normal")
    elbo = f"{metrics['elbo']:.2f} ± {metrics['standard_error']:.2f}"
    iwae = f"{metrics['iwae']:.2f} ± {metrics['iwae_standard_error']:.2f}"
    more = f"{metrics['iwae'] + gain.mean:.2f} ± {math.hypot(metrics['iwae_standard_error'], gain.standard_error):.2f}"
    code = ", ".join(f"{name} {version}" for name, version in training["code"].items())
    return f"""
| log p(x) of the {metrics["n"]:,} fixed test images | nats |
|---|---|
| independent pixels | {baseline["log_prob"]:.2f} ± {baseline["standard_error"]:.2f} |
| `vae`, {prior} prior, {recipe["epochs"]} epochs: ELBO, 1 draw | {elbo} |
| the same: IWAE, K = {metrics["num_importance_samples"]} | {iwae} |
| the same: IWAE, K = {PUBLISHED_DRAWS:,}, estimated from the first {many.n:,} | {more} |
| published VAE of the same sizes and prior, {PUBLISHED_DRAWS:,} importance samples | {PUBLISHED[prior]:.2f} |
| the most that any model can reach | {CEILING:.2f} |

IWAE, K = {PUBLISHED_DRAWS:,}, of the first {many.n:,} test images: {many.mean:.2f} ± {many.standard_error:.2f}
which is {gain.mean:.2f} ± {gain.standard_error:.2f} more than with K = {metrics["num_importance_samples"]}
{training["steps"]:,} steps at {training["steps_per_second"]:.0f} steps/s on {training["threads"]} thread(s)
best held-out bound at epoch {training["point"]["epoch"]}, {training["wall_time"]:.0f} s with the evaluation
{training["command"]}
{code}, {platform.machine()}
"""


if __name__ == "__main__":
    main()
