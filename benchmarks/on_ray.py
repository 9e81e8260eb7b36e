"""What Ray costs: a request through its proxies next to one worker alone, and a million rows by one actor next to one
engine of this process; and what a replica scores of each family.

    python benchmarks/on_ray.py [--requests N] [--rows N] [latency] [bulk] [families]

Needs elbod[ray]. Requests go to both servers in turn, one at a time; bulk runs follow each other in the order A B B A.
Rates of bulk runs are of everything after the first part, so that no start counts.
"""

import argparse
import datetime
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from load import Request, saturate

ELBOD = Path(sys.executable).with_name("elbod")
MODEL = "digits"
CONNECTIONS = 16
# What a million ELBOs of each recipe's model cost; their weights do not matter.
FAMILIES = {
    "digits": 200_000,
    "digits-labels": 20_000,
    "fashion-mnist-binary": 50_000,
    "fashion-mnist-binary-vamp": 20_000,
    "fashion-mnist-8bit": 2_000,
    "fashion-mnist-binary-conv": 2_000,
    "fashion-mnist-binary-ladder": 1_000,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--run", nargs=4, metavar=("ENGINE", "STORE", "DATA", "OUTPUT"), help="one bulk run")
    parser.add_argument("what", nargs="*", default=["latency", "bulk", "families"])
    arguments = parser.parse_args()
    if arguments.run:
        score(*arguments.run)
        return
    say(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        store = f"{folder}/store"
        train = [ELBOD, "train", "--recipe", MODEL, "--epochs", "2", "--alias", "production", "--store", store]
        subprocess.run(train, check=True, capture_output=True)
        if "latency" in arguments.what:
            latency(store, arguments.requests)
        if "bulk" in arguments.what:
            bulk(store, Path(folder), arguments.rows)
        if "families" in arguments.what:
            families(Path(folder))


def latency(store: str, requests: int) -> None:
    """One row of JSON, one connection each; then rows/s of many."""
    x = np.random.default_rng(0).integers(0, 17, (1, 8, 8)).tolist()
    body = json.dumps({"x": x, "seed": 1}).encode()
    say(f"\n| {requests:,} requests of one row each | p50, ms | p90 | p99 | requests/s, {CONNECTIONS} connections |\n")
    say("|---|---|---|---|---|\n")
    for name, variables in (("default proxy", {}), ("HAProxy", {"RAY_SERVE_ENABLE_HA_PROXY": "1"})):
        on_ray = ["--engine", "ray", "--replicas", "1", "--insecure"]
        with serving(store, {}, "--workers", "1") as alone, serving(store, variables, *on_ray) as ray:
            times: dict[str, list[float]] = {alone: [], ray: []}
            callers = {url: http.client.HTTPConnection(*_place(url), timeout=60) for url in times}
            for turn in range(-100, requests):
                for url, caller in callers.items():
                    since = time.perf_counter()
                    caller.request("POST", "/elbo", body, {"Content-Type": "application/json"})
                    answer = caller.getresponse()
                    answer.read()
                    assert answer.status == 200
                    if turn >= 0:
                        times[url].append(1000 * (time.perf_counter() - since))
            rates = {
                url: saturate(_place(url)[1], Request("/elbo", body), connections=CONNECTIONS, seconds=10).per_second
                for url in times
            }
            for url, title in ((alone, "uvicorn, one worker"), (ray, f"Ray Serve, one replica, {name}")):
                p50, p90, p99 = np.percentile(times[url], [50, 90, 99])
                say(f"| {title} | {p50:.2f} | {p90:.2f} | {p99:.2f} | {rates[url]:,.0f} |\n")
            apart = statistics.median(times[ray]) - statistics.median(times[alone])
            say(f"| {name}: p50 more than uvicorn's by | {apart:.2f} | | | |\n")


@contextmanager
def serving(store: str, variables: dict[str, str], *flags: str) -> Iterator[str]:
    """A server's URL while it runs."""
    command = [ELBOD, "serve", "--store", store, "--port", "0", *flags]
    env = os.environ | variables
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as server:
        assert server.stdout is not None
        try:
            found = next(filter(None, (re.search(r"elbod serves .* on (http://\S+)", line) for line in server.stdout)))
            yield found[1]
        finally:
            server.terminate()


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def bulk(store: str, folder: Path, rows: int) -> None:
    """The same rows by one engine here and by one actor of Ray."""
    x = np.random.default_rng(0).integers(0, 17, (rows, 8, 8), dtype=np.uint8)
    np.save(folder / "x.npy", x)
    rates: dict[str, list[float]] = {"local": [], "ray": []}
    for turn, engine in enumerate(("local", "ray", "ray", "local")):
        output = folder / f"{engine}-{turn}"
        subprocess.run(
            [sys.executable, __file__, "--run", engine, store, str(folder / "x.npy"), str(output)],
            check=True,
            capture_output=True,
        )
        written = sorted((path.stat().st_mtime, path) for path in output.glob("part-*.parquet"))
        later = rows - rows_of(written[0][1])
        rates[engine].append(later / (written[-1][0] - written[0][0]))
    names = sorted(path.name for path in (folder / "local-0").iterdir())
    same = all((folder / "local-0" / name).read_bytes() == (folder / "ray-1" / name).read_bytes() for name in names)
    mean = {engine: statistics.mean(found) for engine, found in rates.items()}
    say(f"\n| {rows:,} rows in {len(names) - 1} parts | rows/s | of the local engine's |\n|---|---|---|\n")
    for engine, title in (("local", "one engine of this process"), ("ray", "one actor of Ray")):
        each = ", ".join(f"{rate:,.0f}" for rate in rates[engine])
        say(f"| {title} | {each} | {100 * mean[engine] / mean['local']:.0f} % |\n")
    say(f"\nThe files are {'equal, byte for byte' if same else 'NOT EQUAL'}.\n")


def rows_of(path: Path) -> int:
    import pyarrow.parquet

    count: int = pyarrow.parquet.read_metadata(path).num_rows
    return count


def score(engine: str, store: str, data: str, output: str) -> None:
    """One bulk run of one engine or one actor."""
    from elbod.cli import parts
    from elbod.settings import load_settings
    from elbod_engine import Verb

    request = parts.Request(verb=Verb.ELBO, model=MODEL, output=output, engine=engine, actors=1, data=data, quiet=True)
    parts.run(request, load_settings(store=store))


def families(folder: Path) -> None:
    """Rows a second of one engine on one core, and what a million cost."""
    import workload
    from elbod.training import datasets, recipes
    from elbod.training.worker import prepare
    from elbod_engine import LoadedEngine
    from elbod_store import ModelStore

    url = folder / "families"
    say("\n| one engine, one core | S = 1, rows/s | core-hours a million | K = 64, rows/s | core-hours a million |\n")
    say("|---|---|---|---|---|\n")
    for name, rows in FAMILIES.items():
        recipe = recipes.recipe(name)
        generator, cut = prepare(recipe, datasets.load(recipe.data, recipe.image_size), 0)
        ModelStore.open(url).publish(workload.as_draft(name, generator))
        test = np.asarray(cut.test)
        cells = []
        with LoadedEngine.open(url, name) as engine:
            for draws in (0, 64):
                x = np.resize(test, (max(256, rows // max(1, draws)), *test.shape[1:]))
                engine.elbo(x, draws)
                since = time.perf_counter()
                engine.elbo(x, draws)
                rate = len(x) / (time.perf_counter() - since)
                cells += [f"{rate:,.0f}", f"{1e6 / rate / 3600:.2g}"]
        say(f"| `{name}` | {' | '.join(cells)} |\n")


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
