"""elbod next to other servers, next to its own limits, and what its service promises about time and memory.

    python benchmarks/serving.py [--quick] [--only NAME ...] [--peers NAME,...] [--seconds N] [--json FILE]

One model (an MLP VAE 784-500-500-50-500-500-784 over bits, ELBO of one draw a row) and the same rows for every server.
What is compared runs in rounds, A B C A B C, with a process a core and the load generator (wrk, else asyncio) on the
same cores; a ratio is the median of the rounds' ratios, next to the least and the most of them. Other load on the
machine moves all figures: ratios of one run count. A peer that does not install or start is named with its reason.
"""

import argparse
import datetime
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import in_process
import levels
import servers
import service
import side_by_side
import tail
from bench import Bench
from load import generator
from report import Section, target_table

OWN_PACKAGES = ["torch", "numpy", "fastapi", "uvicorn", "uvloop", "elbod", "elbod-client"]
SECONDS, QUICK_SECONDS = 4.0, 2.0
ROUNDS, QUICK_ROUNDS = 5, 3
NAMES = ("peers", "bulk", "tail", "alone", "families", "levels", "start", "swap", "client", "growth")
SIZES = (10**3, 10**4, 10**5, 10**6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds of 2 seconds, fewer rows")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--peers", default=",".join(servers.KINDS), help="of litserve, bentoml, mlserver, rayserve")
    parser.add_argument("--seconds", type=float, help="of a figure in one of its rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the same figures for programs")
    parser.add_argument("--environments", type=Path, default=servers.HERE / ".cache", help="where peers are installed")
    arguments = parser.parse_args()
    # Ended from outside, it ends its servers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    peers = [name for name in arguments.peers.split(",") if name]
    measurements: dict[str, Callable[[Bench], Section]] = {
        "peers": lambda bench: side_by_side.measure(bench, peers),
        "bulk": in_process.measure_bulk,
        "tail": tail.measure,
        "alone": in_process.measure_alone,
        "families": in_process.measure_families,
        "levels": levels.measure,
        "start": service.measure_start,
        "swap": service.measure_swap,
        "client": service.measure_client,
        "growth": lambda bench: service.measure_growth(bench, SIZES[:2] if arguments.quick else SIZES),
    }
    for kind, given, known in (("peer", peers, servers.KINDS), ("measurement", arguments.only or [], measurements)):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"no {kind} {unknown[0]!r}: known are {', '.join(known)}")
    chosen = [name for name in measurements if not arguments.only or name in arguments.only]
    said = [f"    python benchmarks/serving.py {' '.join(sys.argv[1:])}".rstrip(), ""]
    sections: list[Section] = []
    with tempfile.TemporaryDirectory() as folder:
        seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
        rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
        bench = Bench.prepare(Path(folder), arguments.environments, seconds, rounds)
        said += conditions(arguments.environments, peers if "peers" in chosen else [])
        say("\n".join(said) + "\n")
        for name in chosen:
            started, load = time.monotonic(), os.getloadavg()[0]
            section = measurements[name](bench)
            took = time.monotonic() - started
            section.notes.append(f"{took:.0f} s; load average before {load:.1f}.")
            sections.append(section)
            say("\n".join(section.lines()) + "\n")
    say("\n".join(["", "### Targets", "", *target_table(sections)]) + "\n")
    if arguments.json:
        found = {"conditions": said, "sections": [section.plain() for section in sections]}
        arguments.json.write_text(json.dumps(found, indent=1))


def conditions(environments: Path, peers: list[str]) -> list[str]:
    """The day, the machine, and the versions of everything that runs."""
    lines = [
        f"{datetime.date.today()}, {processor()}, Python {platform.python_version()}; load by {generator()}; "
        f"{servers.CORES} workers",
        servers.versions(Path(sys.executable), OWN_PACKAGES),
    ]
    for name in peers:
        try:
            python = servers.python_of(name, servers.KINDS[name], environments)
            lines.append(servers.versions(python, [servers.KINDS[name].package or name, "torch", "numpy"]))
        except (servers.NotStarted, OSError) as error:
            lines.append(f"{name}: {error}")
    return lines


def processor() -> str:
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("model name")]
    return f"{servers.CORES} x {models[0] if models else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
