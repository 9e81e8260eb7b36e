"""What callers see of each fault, what is lost, and how long it lasts, as a table of docs/operating.md.

    python benchmarks/faults.py [--only NAME ...] [--output FILE]

Eight callers of the Python client ask a real `elbod serve --workers 2` without a break while one thing after the other
goes wrong. Sent, answered and lost are calls, retried is what the client logged; a call is lost when it raises. Faults
that this machine cannot have (no root, no libfaketime, no SeaweedFS) are named.
"""

import argparse
import datetime
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import faults_of_processes
import faults_of_stores
import servers
from elbod_store import ModelStore
from fault import Fault, NotHere
from report import table
from servers import NotStarted
from tests.support import LEVELS, publish

COLUMNS = (
    "fault",
    "what a caller sees",
    "sent",
    "answered",
    "retried",
    "lost",
    "seconds until all is well",
    "longest call, s",
)
FAULTS: dict[str, Callable[[Path], Fault]] = {**faults_of_processes.FAULTS, **faults_of_stores.FAULTS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--output", type=Path, metavar="FILE", help="the same table")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    packages = servers.versions(Path(sys.executable), ["elbod", "elbod-client", "torch"])
    say(
        f"{datetime.date.today()}, {servers.CORES} cores, Python {platform.python_version()}, {packages}, "
        f"load {os.getloadavg()[0]:.1f}:\n"
    )
    for line in table(COLUMNS, []):
        say(line)
    began = time.monotonic()
    for name in arguments.only or FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            publish(ModelStore.open(Path(folder) / "store"), "levels", LEVELS)
            try:
                cells = FAULTS[name](Path(folder)).cells()
            except NotHere as reason:
                cells = [f"not measured: {reason}", *["-"] * 6]
            except NotStarted as error:
                cells = [f"**{error}**", *["-"] * 6]
        say(f"| {' | '.join([name, *cells])} |")
    sys.stderr.write(f"{time.monotonic() - began:.0f} s\n")
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
