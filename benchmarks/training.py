"""Training steps a second of elbod's loop and of pythae's trainer: the same network, data and batches.

    python benchmarks/training.py [--rounds N] [--steps N] [--threads N ...] [--pythae-python PATH]

A VAE 784-512-16-512-784 with ReLU and a Bernoulli likelihood (what pythae builds when it is given no network), on fixed
bits of Fashion-MNIST, or on random ones where its Debian package is absent. Each variant is a process that trains one
epoch whenever it is told to; one is told at a time and all of them in every round, so that whatever else the machine
does falls on all alike. pythae's times hold its batches alone, elbod's also an evaluation of two rows. pythae has a
virtual environment of its own, made on the first run.
"""

import argparse
import contextlib
import datetime
import json
import platform
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
# Without elbod's own version of torch two versions of torch would be compared, too.
REQUIREMENTS = ("pythae==0.1.2", f"torch=={torch.__version__.partition('+')[0]}")
HIDDEN, LATENT, BATCH, LEARNING_RATE = 512, 16, 128, 1e-3

# Fields of pythae's BaseTrainerConfig or of elbod's Recipe. Ratios are relative to the first.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "pythae, Adam (default)": ("pythae", {}),
    "pythae, fused Adam": ("pythae", {"optimizer_params": {"fused": True}}),
    "elbod, highest (default)": ("elbod", {}),
    "elbod, highest, new bits at every visit": ("elbod", {"binarization": "stochastic"}),
    "elbod, medium": ("elbod", {"matmul_precision": "medium"}),
    "elbod, autocast": ("elbod", {"autocast": True}),
}

# What one epoch took: "wall" and "processor" seconds (all threads), "steps", and the model's "weights".
Epoch = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=200, help="of each variant in each round")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1], help="on busy cores two can be far slower than one"
    )
    parser.add_argument("--pythae-python", metavar="PATH", help="a Python that has pythae")
    parser.add_argument("--train", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train is not None:
        train(**arguments.train)
        return
    pythons = {"pythae": arguments.pythae_python or pythae_python(), "elbod": sys.executable}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_rows(folder, arguments.steps * BATCH)
        say(f"{conditions(pythons)}\n{arguments.rounds} rounds of {arguments.steps} steps of {BATCH} {source}\n")
        for threads in arguments.threads:
            say(table(threads, measure(pythons, folder, threads, arguments.rounds)))


def measure(pythons: dict[str, str], folder: Path, threads: int, rounds: int) -> dict[str, list[Epoch]]:
    """Epochs of every variant without its first one, which warms up; another variant begins each round."""
    names, log = list(VARIANTS), folder / "log.txt"
    found: dict[str, list[Epoch]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        errors, workers = stack.enter_context(log.open("w")), {}
        for name, (kind, settings) in VARIANTS.items():
            what = {"kind": kind, "settings": settings, "folder": str(folder), "threads": threads, "epochs": rounds + 1}
            command = [pythons[kind], __file__, "--train", json.dumps(what)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            workers[name] = stack.enter_context(subprocess.Popen(command, **pipes, text=True))  # type: ignore[call-overload]
        for turn in range(rounds + 1):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                workers[name].stdin.write("epoch\n")
                workers[name].stdin.flush()
                if not (line := workers[name].stdout.readline()):
                    raise SystemExit(f"{name} ended early:\n{log.read_text()}")
                found[name].append(json.loads(line))
    assert len({epochs[0]["weights"] for epochs in found.values()}) == 1, "the networks differ in size"
    return {name: epochs[1:] for name, epochs in found.items()}


def table(threads: int, found: dict[str, list[Epoch]]) -> str:
    """Medians over rounds and ratios of them as markdown; a ratio above 1 is faster than the first variant."""
    lines = [
        f"\n| {threads} thread(s) | steps/s (least - most) | ratio | processor time, ms a step | ratio |",
        "|---|---|---|---|---|",
    ]
    first: tuple[float, float] | None = None
    for name, epochs in found.items():
        speeds = [epoch["steps"] / epoch["wall"] for epoch in epochs]
        speed, cost = median(speeds), median(1e3 * epoch["processor"] / epoch["steps"] for epoch in epochs)
        first = first or (speed, cost)
        spread = f"{speed:.0f} ({min(speeds):.0f} - {max(speeds):.0f})"
        lines.append(f"| {name} | {spread} | {speed / first[0]:.2f} | {cost:.2f} | {first[1] / cost:.2f} |")
    return "\n".join([*lines, ""])


def write_rows(folder: Path, rows: int) -> str:
    """grey.npy and bits.npy, (rows, 28, 28) bytes of 0 ... 255 and of 0 and 1; what they are, in words."""
    from elbod.training import datasets
    from elbod.training.splits import binarize

    rng = np.random.default_rng(0)
    if datasets.FASHION_MNIST.is_dir():
        images, source = datasets.load("fashion-mnist").x, "rows of Fashion-MNIST"
    else:
        images, source = rng.integers(0, 256, (rows, 28, 28), np.uint8), "random rows"
    grey = np.resize(images, (rows, 28, 28))
    np.save(folder / "grey.npy", grey)
    np.save(folder / "bits.npy", binarize(grey / 255, first_index=0))
    return source


def pythae_python() -> str:
    """The Python of pythae's virtual environment, which is made unless it is there."""
    cache = HERE / ".cache"
    python = str(cache / "pythae" / "bin" / "python")
    if not Path(python).exists() or subprocess.call([python, "-c", "import pythae"], stderr=subprocess.DEVNULL):
        venv.create(cache / "pythae", clear=True, with_pip=True)
        (cache / ".gitignore").write_text("*\n")
        pip = [python, "-m", "pip", "install", "--quiet", *REQUIREMENTS, "-c", str(HERE.parent / "constraints.txt")]
        subprocess.run(pip, check=True)
    return python


def conditions(pythons: dict[str, str]) -> str:
    """The day, the processor and what torch uses of it, and the packages of each virtual environment."""
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("model name")]
    cpu = f"{len(models)} x {models[0] if models else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    code = "import sys; from importlib.metadata import version; print(*(f'{n} {version(n)}' for n in sys.argv[1:]))"
    calls = [[python, "-c", code, kind, "torch", "numpy"] for kind, python in pythons.items()]
    found = [subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip() for call in calls]
    return f"{datetime.date.today()}, {cpu}, Python {platform.python_version()}\n{'; '.join(found)}"


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def train(kind: str, settings: dict[str, Any], folder: str, threads: int, epochs: int) -> None:
    """One epoch for each line of standard input, and what it took as a line of standard output."""
    torch.set_num_threads(threads)
    {"elbod": train_elbod, "pythae": train_pythae}[kind](Path(folder), epochs, settings)


def start() -> tuple[float, float]:
    sys.stdin.readline()
    return time.perf_counter(), time.process_time()


def stop(since: tuple[float, float], steps: int, model: torch.nn.Module) -> None:
    took = {"wall": time.perf_counter() - since[0], "processor": time.process_time() - since[1]}
    say(json.dumps({**took, "steps": steps, "weights": sum(p.numel() for p in model.parameters())}) + "\n")


def train_elbod(folder: Path, epochs: int, settings: dict[str, Any]) -> None:
    from elbod.generators import checkpoint
    from elbod.generators.base import Blueprint
    from elbod.training import recipes
    from elbod.training.loop import Loop
    from elbod.training.splits import Split

    spec = {"latent_dim": LATENT, "hidden": (HIDDEN,), "activation": "relu"}
    settings |= {"epochs": epochs, "batch_size": BATCH, "learning_rate": LEARNING_RATE, "spec": spec}
    recipe = replace(recipes.custom("vae", "bernoulli", "benchmark"), **settings)
    generator = checkpoint.build(Blueprint(family="vae", spec=spec, likelihood="bernoulli", event_shape=(28, 28)))
    bits = np.load(folder / "bits.npy")
    generator.initialize(torch.from_numpy(bits))
    rows = np.load(folder / "grey.npy") if recipe.binarization == "stochastic" else bits
    loop = Loop(generator, Split(rows, bits[:2], bits[:2], bits[:2]), recipe, 0, torch.device("cpu"))
    points = loop.points()
    for _ in range(epochs):
        before, since = loop.steps, start()
        next(points)
        stop(since, loop.steps - before, generator)


def train_pythae(folder: Path, epochs: int, settings: dict[str, Any]) -> None:
    from pythae.models import VAE, VAEConfig  # type: ignore[import-not-found]  # in a virtual environment of its own
    from pythae.pipelines import TrainingPipeline  # type: ignore[import-not-found]
    from pythae.trainers import BaseTrainerConfig  # type: ignore[import-not-found]
    from pythae.trainers.training_callbacks import TrainingCallback  # type: ignore[import-not-found]

    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce"))

    class Timed(TrainingCallback):  # type: ignore[misc]
        """`on_train_step_begin` comes before the batches of an epoch, `on_train_step_end` after each of them."""

        def on_train_step_begin(self, training_config: Any, **given: Any) -> None:
            self.steps, self.last = 0, len(given["train_loader"])
            self.since = start()

        def on_train_step_end(self, training_config: Any, **given: Any) -> None:
            self.steps += 1
            if self.steps == self.last:
                stop(self.since, self.steps, model)

    settings |= {"num_epochs": epochs, "per_device_train_batch_size": BATCH, "learning_rate": LEARNING_RATE}
    config = BaseTrainerConfig(output_dir=str(folder / "pythae"), no_cuda=True, **settings)
    rows = np.load(folder / "bits.npy").astype(np.float32)[:, None]
    TrainingPipeline(model, config)(rows, callbacks=[Timed()])


if __name__ == "__main__":
    main()
