"""A worker to be killed. `python trainer.py NAME STORE SAVE_EVERY [RUN [STEP NTH]]` trains, and kills itself at STEP.

NAME is one of `RECIPES`, RUN is a run to resume, `new`, or `newest`; STEP is what `run_training` tells `on_step`.
"""

import os
import signal
import sys
from pathlib import Path

from elbod.training import recipes
from elbod.training.progress import console_listener
from elbod.training.worker import run_training
from elbod_store import ModelStore

# Bits drawn anew at every visit, dropout, a last epoch that is importance-weighted, levels that follow their profile:
# all that is random in training.
SHARED = ("dropout=0.2", "epochs=8", "batch_size=64", "evaluate_every=3", "patience=5")
SHARED += ("num_samples=2", "num_importance_samples=2")
SETTINGS = {
    "digits": ("hidden=24", "latent_dim=3", "importance_epochs=1", "importance_draws=3", *SHARED),
    "digits-diffusion": ("network=mlp", "width=16", "blocks=1", "num_levels=6", *SHARED),
}
RECIPES = {name: recipes.override(recipes.recipe(name), settings) for name, settings in SETTINGS.items()}


def main(name: str, store: str, save_every: str, run: str = "new", step: str = "", nth: str = "1") -> None:
    left = int(nth)

    def on_step(done: str) -> None:
        nonlocal left
        left -= done == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    run_training(
        RECIPES[name],
        ModelStore.open(store),
        alias="production",
        publish_every=2,
        save_every=float(save_every),
        resume={"new": False, "newest": True}.get(run, run),
        progress=console_listener(),
        on_step=on_step,
    )


def run(output: str, *arguments: str) -> None:
    """`main`, what it prints in a file."""
    with Path(output).open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    main(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
