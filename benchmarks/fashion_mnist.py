"""Fashion-MNIST, binarised: train the published architecture and score the published test bits.

    python benchmarks/fashion_mnist.py [--epochs N] [--importance-samples 500] [--store URL] [--set KEY=VALUE]

Prints a table next to the published one (Norouzi, Fleet and Norouzi, "Exemplar VAE", NeurIPS 2020, table 1).
"""

import argparse
import platform
import sys
from typing import Any

from elbod.training import recipes
from elbod.training.progress import console_listener
from elbod.training.worker import run_training
from elbod_store import ModelStore

# log p(x) by 5,000 importance samples, nats, of the same architecture.
PUBLISHED_VAE = -228.70
# The entropy of the binarisation: a model that has not seen the test bits cannot be better.
CEILING = -189.87


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--importance-samples", type=int, default=500)
    parser.add_argument("--store", default="./elbod-store")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    settings = [f"num_importance_samples={arguments.importance_samples}", *arguments.settings]
    if arguments.epochs is not None:
        settings.append(f"epochs={arguments.epochs}")
    recipe = recipes.override(recipes.recipe("fashion-mnist-binary"), settings)
    manifest = run_training(recipe, ModelStore.open(arguments.store), seed=arguments.seed, progress=console_listener())
    sys.stdout.write(table(manifest.metrics, manifest.training))


def table(metrics: Any, training: Any) -> str:
    """The results of one run as markdown, between the published figure and the limits of the data."""
    baseline = metrics["baseline"]
    iwae = f"{metrics['iwae']:.2f} ± {metrics['iwae_standard_error']:.2f}"
    code = ", ".join(f"{name} {version}" for name, version in training["code"].items())
    return f"""
| log p(x) of the {metrics["n"]:,} fixed test images | nats |
|---|---|
| independent pixels | {baseline["log_prob"]:.2f} ± {baseline["standard_error"]:.2f} |
| `vae`, {training["recipe"]["epochs"]} epochs: ELBO, 1 draw | {metrics["elbo"]:.2f} ± {metrics["standard_error"]:.2f} |
| the same: IWAE, K = {metrics["num_importance_samples"]} | {iwae} |
| published VAE of the same sizes, 5,000 importance samples | {PUBLISHED_VAE:.2f} |
| the most that any model can reach | {CEILING:.2f} |

{training["steps"]:,} steps at {training["steps_per_second"]:.0f} steps/s on {training["threads"]} thread(s)
{training["command"]}
{code}, {platform.machine()}
"""


if __name__ == "__main__":
    main()
