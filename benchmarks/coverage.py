"""How often 95 % intervals of a model with levels hold its bound, on its own test rows.

    python benchmarks/coverage.py STORE MODEL [--rows N] [--repeats N]

Each row is scored with N seeds, and each score is compared with the mean of the row's other scores.
"""

import argparse
import sys

import numpy as np
import torch

from elbod.engine.backends import open_backend
from elbod.engine.bulk import open_bulk
from elbod.engine.jobs import Job, Verb
from elbod.engine.loading import load
from elbod.report.coverage import LEVELS, coverage
from elbod.training.held_out import rows_to_score
from elbod_store import ModelStore

# S and B of the scores; B None: of whole paths.
WAYS = ((4, None), (8, None), (16, None), (4, 4), (16, 4), (16, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=350)
    parser.add_argument("--repeats", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store, backend = ModelStore.open(arguments.store), open_backend("cpu")
    manifest = store.resolve(arguments.model)
    model, x = load(store, manifest, backend), rows_to_score(manifest, None).x[: arguments.rows]
    say(f"{manifest.name}@{manifest.version}, {len(x)} test rows, {arguments.repeats} seeds", "")
    say("| a score | 95 % intervals that hold the bound | mean bound, nats |", "|---|---|---|")
    with open_bulk(backend, 1) as bulk:
        for samples, strata in WAYS:
            bounds, errors = [], []
            for seed in range(arguments.repeats):
                job = Job(verb=Verb.ELBO, rows=len(x), seed=seed, x=x, num_samples=samples, num_levels=strata)
                columns = bulk.run(job, model, lambda _: None)
                bounds.append(columns["elbo"])
                errors.append(columns["standard_error"])
            found = coverage(np.stack(bounds, 1), np.stack(errors, 1), samples)
            assert found is not None
            at = LEVELS.index(0.95)
            title = "whole paths" if strata is None else f"{strata} sampled levels a draw"
            held = f"{found.observed[at]:.3f} +- {found.errors[at]:.3f} of {found.intervals:,}"
            say(f"| {title}, S = {samples} | {held} | {np.mean(bounds):.3f} |")


def say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
