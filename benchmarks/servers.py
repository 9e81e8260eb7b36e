"""elbod, its peers and an empty FastAPI application as processes, one at a time; peers have virtual environments."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

import workload
from load import HOST, Request, ask

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
CORES = len(os.sched_getaffinity(0))
# One version of torch is compared, elbod's own.
COMMON = (f"torch=={torch.__version__.partition('+')[0]}", "numpy", "safetensors")


class NotStarted(Exception):
    """A server that does not install or answer, and why."""


@dataclass(frozen=True)
class Place:
    """What a server is started with."""

    port: int
    store: Path
    weights: Path
    # Its own, empty at first.
    folder: Path
    python: Path
    workers: int = CORES


@dataclass(frozen=True)
class Kind:
    """One sort of server: how it is installed and started, and how rows are sent to it as JSON."""

    title: str
    command: Callable[[Place], list[str]]
    request: Callable[[int], Request]
    requirement: str | None = None

    @property
    def package(self) -> str | None:
        return self.requirement and self.requirement.partition("==")[0].partition("[")[0]


def _elbod(place: Place) -> list[str]:
    command = [str(place.python.with_name("elbod")), "serve", "--store", str(place.store), "--model", workload.NAME]
    return [*command, "--port", str(place.port), "--workers", str(place.workers)]


def _empty(place: Place) -> list[str]:
    options = ["--workers", str(place.workers), "--log-level", "warning", "--no-access-log", "--app-dir", str(PEERS)]
    return [str(place.python), "-m", "uvicorn", "empty:app", "--port", str(place.port), *options]


def _litserve(place: Place) -> list[str]:
    return [str(place.python), str(PEERS / "litserve_api.py"), str(place.port), str(place.workers)]


def _bentoml(place: Place) -> list[str]:
    bentoml = str(place.python.with_name("bentoml"))
    service = ["bentoml_service:Elbo", "--working-dir", str(PEERS)]
    return [bentoml, "serve", *service, "--host", HOST, "--port", str(place.port)]


def _mlserver(place: Place) -> list[str]:
    server = {
        "host": HOST,
        "http_port": place.port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
        "logging_settings": None,
    }
    model = {
        "name": "elbo",
        "implementation": "mlserver_runtime.Elbo",
        "max_batch_size": 32,
        "max_batch_time": 0.005,
    }
    (place.folder / "settings.json").write_text(json.dumps(server))
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return [str(place.python.with_name("mlserver")), "start", str(place.folder)]


def _rayserve(place: Place) -> list[str]:
    return [str(place.python), str(PEERS / "rayserve_app.py"), str(place.port), str(place.workers)]


ELBOD = Kind("elbod", _elbod, workload.as_json)
EMPTY = Kind("FastAPI, empty", _empty, lambda n: Request("/empty"))
KINDS: dict[str, Kind] = {
    "litserve": Kind("LitServe", _litserve, workload.as_json, "litserve==0.2.19"),
    "bentoml": Kind("BentoML", _bentoml, workload.as_json, "bentoml==1.4.40"),
    "mlserver": Kind(
        "MLServer",
        _mlserver,
        lambda n: workload.as_inference_protocol(n, "/v2/models/elbo/infer"),
        "mlserver==1.7.1",
    ),
    "rayserve": Kind("Ray Serve", _rayserve, workload.as_json, "ray[serve]==2.60.0"),
}


def python_of(name: str, kind: Kind, folder: Path) -> Path:
    """The Python that has the server; a peer's virtual environment is made unless it is there. Raises NotStarted."""
    if kind.requirement is None:
        return Path(sys.executable)
    python = folder / name / "bin" / "python"
    finished = folder / name / "installed"
    if not finished.exists() or finished.read_text() != kind.requirement:
        venv.create(folder / name, clear=True, with_pip=True)
        (folder / ".gitignore").write_text("*\n")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *COMMON, kind.requirement]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            raise NotStarted(f"pip: {_last_line(done.stderr)}")
        finished.write_text(kind.requirement)
    return python


def versions(python: Path, packages: list[str]) -> str:
    """`name version, ...` of what is installed there."""
    code = "import sys; from importlib.metadata import version; print(*(f'{n} {version(n)}' for n in sys.argv[1:]))"
    return subprocess.run([python, "-c", code, *packages], check=True, capture_output=True, text=True).stdout.strip()


class Server:
    """A running server that has answered a request; the end of the `with` ends all of its processes."""

    def __init__(
        self, name: str, kind: Kind, place: Place, variables: Mapping[str, str] | None = None, stderr: int | None = None
    ) -> None:
        self.kind, self.port = kind, place.port
        self._log = place.folder / "log.txt"
        environment = os.environ | {
            "ELBO_WEIGHTS": str(place.weights),
            "ELBO_WORKERS": str(place.workers),
            # What the peers would print, ask and report at every start.
            "BENTOML_DO_NOT_TRACK": "true",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONUNBUFFERED": "1",
            **(variables or {}),
        }
        if kind.requirement is not None:
            environment["PYTHONPATH"] = str(PEERS)
        with self._log.open("w") as log:
            # A session of its own, so that its processes are found, whatever it starts.
            self._process = subprocess.Popen(
                kind.command(place),
                stdout=log,
                stderr=log if stderr is None else stderr,
                env=environment,
                cwd=place.folder,
                start_new_session=True,
            )

    def wait_until(self, request: Request, seconds: float = 120) -> None:
        """Returns once the request is answered with 200. Raises NotStarted."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise NotStarted(f"exit code {self._process.returncode}: {_last_line(self._log.read_text())}")
            with contextlib.suppress(OSError):
                if ask(self.port, request, max(0.1, end - time.monotonic()))[0] == 200:
                    return
            time.sleep(0.01)
        raise NotStarted(f"no answer in {seconds:.0f} s: {_last_line(self._log.read_text())}")

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def end(self, how: signal.Signals, seconds: float = 60) -> float:
        """Seconds from the signal to the process's end, or all that it was given."""
        since = time.monotonic()
        self._process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return time.monotonic() - since

    def resident_bytes(self) -> int:
        """Of all its processes together, shared pages counted in each."""
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in self._pids())

    def _pids(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    session = (entry / "stat").read_text().rpartition(")")[2].split()[3]
                    found += [int(entry.name)] if int(session) == self._process.pid else []
        return found

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(15)
            # What a server leaves behind would disturb the next one.
            for pid in self._pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")[:160]
