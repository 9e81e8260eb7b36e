"""Small models with decided weights, and real server processes."""

import contextlib
import http.client
import io
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from elbod.api import keys
from elbod.cli.main import main
from elbod.generators import checkpoint
from elbod.generators.base import Blueprint, Generator
from elbod_store import Draft, Manifest, ModelStore

ELBOD = Path(sys.executable).with_name("elbod")

# Seconds after which a wait is taken to hang: ten times what the longest takes. No test asserts how long anything
# takes, since a machine may be slow and busy; benchmarks measure that.
HANG = 300.0

# Of the system: a seed that a test sets would give the ports of another process.
_RANDOM = random.SystemRandom()


def find_program(name: str) -> str:
    """A program that a development dependency installs, next to this Python or on the path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"there is no {name}: make install-dev"
    return found


def build_generator(blueprint: Blueprint, seed: int = 0) -> Generator:
    """A generator with weights decided by the seed, wide enough that its answers differ from row to row."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = checkpoint.build(blueprint)
        rows = torch.rand(64, *blueprint.event_shape) * ((blueprint.levels or 2) - 1)
        # Labels of unequal frequencies.
        label = (torch.arange(64) ** 2 // 64) % len(blueprint.labels) if blueprint.labels else None
        generator.initialize(rows if blueprint.likelihood == "gaussian" else rows.round(), label)
        for parameter in generator.parameters():
            # Layers that begin as zero would leave the posterior at the prior.
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return generator.eval().requires_grad_(False)


LEVELS = Blueprint(
    family="vae",
    spec={"latent_dim": 5, "hidden": [48]},
    likelihood="discretized_logistic",
    event_shape=(8, 8),
    levels=17,
)
BITS = Blueprint(
    family="vae",
    spec={"latent_dim": 3, "hidden": [32]},
    likelihood="bernoulli",
    event_shape=(3, 4),
    levels=2,
    binarization="stochastic",
)
VAMP = Blueprint(
    family="vae",
    spec={"latent_dim": 3, "hidden": [24], "prior": "vamp", "pseudo_inputs": 10},
    likelihood="discretized_logistic",
    event_shape=(8, 8),
    levels=17,
)
FLOW_PRIOR = Blueprint(
    family="vae",
    spec={"latent_dim": 3, "hidden": [24], "prior": "flow", "flow_transforms": 2, "flow_hidden": [8]},
    likelihood="discretized_logistic",
    event_shape=(8, 8),
    levels=17,
)
FLOW_POSTERIOR = Blueprint(
    family="vae",
    spec={"latent_dim": 3, "hidden": [24], "posterior": "flow", "flow_transforms": 2, "flow_hidden": [8]},
    likelihood="discretized_logistic",
    event_shape=(8, 8),
    levels=17,
)
MIXTURE = Blueprint(
    family="mixture", spec={"components": 6}, likelihood="discretized_logistic", event_shape=(8, 8), levels=17
)
CONVOLUTIONAL = Blueprint(
    family="vae",
    spec={"latent_dim": 3, "network": "conv", "channels": [4, 6], "blocks": 1},
    likelihood="discretized_logistic",
    event_shape=(8, 8),
    levels=17,
)
LADDER = Blueprint(
    family="ladder",
    spec={"channels": [4, 6], "groups": [1, 2], "latent_channels": [1, 2]},
    likelihood="discretized_logistic",
    event_shape=(8, 8),
    levels=17,
)
DIFFUSION = Blueprint(
    family="diffusion",
    spec={"num_levels": 4, "width": 16, "blocks": 1},
    likelihood="discretized_logistic",
    event_shape=(8, 8),
    levels=17,
)
CHAIN_OF_LABELS = replace(DIFFUSION, spec={**DIFFUSION.spec, "label_dropout": 0.1}, labels=("cat", "dog", "owl"))
LABELS = Blueprint(
    family="cvae",
    spec={"latent_dim": 3, "hidden": [24]},
    likelihood="discretized_logistic",
    event_shape=(8, 8),
    levels=17,
    labels=("cat", "dog", "owl"),
)
LINEAR = Blueprint(family="ppca", spec={"latent_dim": 2}, likelihood="gaussian", event_shape=(6,))


def publish(store: ModelStore, name: str, blueprint: Blueprint, seed: int = 0) -> Manifest:
    """Publish an untrained model of that blueprint."""
    return store.publish(draft(name, blueprint, seed))


def draft(name: str, blueprint: Blueprint, seed: int = 0) -> Draft:
    """What a worker would hand to the store."""
    return Draft(
        name=name,
        family=blueprint.family,
        spec=checkpoint.canonical_spec(blueprint),
        likelihood=blueprint.likelihood,
        event_shape=blueprint.event_shape,
        levels=blueprint.levels,
        binarization=blueprint.binarization,
        labels=blueprint.labels,
        weights=checkpoint.save(build_generator(blueprint, seed)),
    )


def publish_kinds(folder: Path) -> ModelStore:
    """A store of models of each kind of row, and `rows`, which has reference rows and calibration scores."""
    store = ModelStore.open(folder)
    for name, blueprint in (
        ("levels", LEVELS),
        ("bits", BITS),
        ("linear", LINEAR),
        ("labels", LABELS),
        ("chain", DIFFUSION),
        ("chain-labels", CHAIN_OF_LABELS),
    ):
        publish(store, name, blueprint)
    publish(store, "labels", LABELS, seed=1)
    reference = save({"x": np.ones((2, 8, 8), np.uint8), "elbo": np.array([-1.0, np.nan])})
    calibration = save({f"elbo_{count}": np.linspace(-90, -80, 20) for count in (1, 16)})
    store.publish(replace(draft("rows", LEVELS), reference=reference, calibration=calibration))
    return store


def install_family(folder: Path, name: str, module: str) -> dict[str, str]:
    """Variables with which processes know the family `name`, the class of that name in the module's text."""
    metadata = folder / f"{name}-1.dist-info"
    metadata.mkdir(parents=True)
    (folder / f"{name}.py").write_text(module)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[elbod.generators]\n{name} = {name}:{name.title()}\n")
    return {"PYTHONPATH": str(folder)}


class Server:
    """A real `elbod serve` on a free port, with one worker unless the flags say otherwise."""

    def __init__(self, store: str | Path, log: Path, *flags: str, **variables: str) -> None:
        self.log = log
        if "--workers" not in flags:
            flags = (*flags, "--workers", "1")
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [ELBOD, "serve", "--store", str(store), "--port", "0", *flags],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=os.environ | variables,
                cwd=log.parent,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if not found:
            self.process.kill()
            pytest.fail(f"the server did not start: {line!r}\n{log.read_text()}")
        self.url = found[0]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """The exit code after that signal."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        with self.process:
            return self.process.wait(HANG)


def workers(parent: int) -> set[int]:
    """The worker processes of a supervisor, from /proc."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            status = path.read_text().rpartition(")")[2].split()
            command = path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(status[1]) == parent and status[0] != "Z" and b"spawn_main" in command:
            found.add(int(path.parent.name))
    return found


def starts(server: Server) -> int:
    """How many workers have begun to serve."""
    return server.log.read_text().count("Started server process")


def issue_key(path: Path, *scopes: keys.Scope, name: str = "ada") -> tuple[str, str]:
    """(id, key) of a new key in that file."""
    key, text = keys.generate(name, scopes)
    keys.change(path, lambda present: [*present, key])
    return key.id, text


def next_status(connection: socket.socket) -> int:
    """The status of the next answer on a connection, which is read to its end."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


@contextlib.contextmanager
def disk_of(megabytes: int, place: Path) -> Iterator[Path]:
    """A file system of its own at that place, so small; skips where none can be mounted."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def wait_for(condition: Callable[[], bool], seconds: float = HANG) -> None:
    """Return once the condition holds; fail if it does not within so many seconds."""
    until = time.monotonic() + seconds
    waiting = threading.Event()
    while not condition():
        assert time.monotonic() < until, f"it did not happen within {seconds:g} s"
        waiting.wait(0.02)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that are free, and stay so while a server of a test is down.

    They lie below those that outgoing connections get, and above the ones of Ray's workers.
    """
    found: set[int] = set()
    while len(found) < count:
        port = _RANDOM.randrange(20_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


def call_elbod(arguments: Sequence[str], folder: Path, variables: Mapping[str, str]) -> "CompletedProcess[str]":
    """`elbod` with these arguments in this process, whose modules are loaded: a process of its own takes seconds more.

    What a process is and sees otherwise (signals, what it imports, its end) is for tests that start one.
    """
    out, errors, before = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGINT)
    code: object = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        patch.setattr(sys, "argv", [str(ELBOD), *arguments])
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            signal.signal(signal.SIGINT, before)
    assert isinstance(code, int)
    return CompletedProcess([*arguments], code, out.getvalue(), errors.getvalue())
