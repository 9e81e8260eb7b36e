"""scripts/compose-local: the composition as plain processes, and what it does with what it cannot run."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from compose.document import InvalidComposition, read, read_environment
from compose.translation import Ports, Translation
from tests.deploy.composition import COMPOSE_FILE, ROOT, create_bucket
from tests.support import bearer, wait_for

README = (ROOT / "deploy/README.md").read_text()
SCRIPT = ROOT / "scripts/compose-local"


class Composition:
    """A running scripts/compose-local, on free ports and with secrets of its own."""

    def __init__(self, folder: Path) -> None:
        self.state, self.secrets, self.output = folder / "state", folder / "secrets", folder / "output"
        subprocess.run([sys.executable, ROOT / "scripts/compose-secrets", self.secrets], check=True)

    def start(self) -> None:
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, SCRIPT, "--state", self.state],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ
                | {"SECRETS_DIR": str(self.secrets), "SERVICE_PORT": "0", "GRAFANA_PORT": "0"}
                # Settings come from the file, not from whoever starts it.
                | {"ELBOD_PORT": "1", "AWS_ACCESS_KEY_ID": "nobody"},
            )

    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    def wait_ready(self) -> str:
        """The URL of the service."""
        wait_for(lambda: self.process.poll() is not None or "all are there" in self.output.read_text())
        assert self.process.poll() is None, self.output.read_text()
        found = re.search(r"service: healthy on (\S+)", self.output.read_text())
        assert found
        return found[1]

    def left(self) -> list[int]:
        """The processes that work in its folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                working = (process / "cwd").readlink()
            except OSError:
                continue
            if working.is_relative_to(self.state):
                found.append(int(process.name))
        return found

    def log(self, name: str) -> str:
        return (self.state / name / "log").read_text()

    def environments(self) -> list[dict[str, str]]:
        """Of its processes."""
        found = []
        for pid in self.left():
            # One may end meanwhile.
            with contextlib.suppress(OSError):
                pairs = (Path("/proc") / str(pid) / "environ").read_text().split("\0")
                found.append(dict(pair.split("=", 1) for pair in pairs if "=" in pair))
        return found

    def secret_values(self) -> set[str]:
        """All that nobody but those who need it should see."""
        texts = [path.read_text() for path in self.secrets.iterdir()]
        return {value for text in texts for value in re.findall(r"[\w-]{16,}", text)} - {"aws_secret_access_key"}


@pytest.fixture
def composition(tmp_path: Path) -> Iterator[Composition]:
    made = Composition(tmp_path)
    yield made
    with made.process:
        made.process.kill()
    for pid in made.left():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_versions_that_the_worker_publishes_are_served_one_after_the_other_until_ctrl_c(
    composition: Composition,
) -> None:
    composition.start()
    url = composition.wait_ready()
    key = (composition.secrets / "api-key").read_text()
    with httpx.Client(base_url=url, timeout=30) as http:
        # Healthy is a service of which one worker is ready; the next connection may be the other's.
        wait_for(lambda: "\nelbod_ready_workers 2.0\n" in http.get("/metrics", headers=bearer(key)).text)
        assert http.get("/readyz").status_code == 200
        assert http.post("/sample", json={}).status_code == 401

        def version() -> int:
            answer = http.post("/sample", json={"num_samples": 2, "seed": 7}, headers=bearer(key))
            assert answer.status_code == 200, answer.text
            model = answer.json()["model"]
            assert model["name"] == "digits"
            return int(model["version"])

        first = version()
        wait_for(lambda: version() > first + 1)
        assert "elbod_requests_total{" in http.get("/metrics", headers=bearer(key)).text

    ask_as_the_readme_does(composition, url)

    environments = composition.environments()
    seen = {value for environment in environments for value in environment.values()}
    assert len(composition.secret_values()) >= 10
    assert not any(secret in value for secret in composition.secret_values() for value in seen)

    (endpoint,) = {environment["AWS_ENDPOINT_URL"] for environment in environments if "AWS_ENDPOINT_URL" in environment}
    assert create_bucket(endpoint, composition.secrets / "store-admin").stdout == "bucket elbod is there\n"
    refused = create_bucket(endpoint, composition.secrets / "store-writer")
    assert refused.returncode == 1
    assert refused.stderr.startswith("create_bucket: bucket elbod cannot be created: 403 ")

    if shutil.which("prometheus") is None:
        assert "prometheus: left out, there is no program prometheus" in composition.lines()

    # From a terminal the signal reaches the whole group; the services are in sessions of their own.
    composition.process.send_signal(signal.SIGINT)
    assert composition.process.wait(60) == 130
    assert composition.left() == []

    started = [line.split(":")[0] for line in composition.lines() if ": started" in line]
    ended = [line.split(":")[0] for line in composition.lines() if ": ended" in line]
    assert started[:4] == ["store", "store-init", "worker", "service"]
    assert ended == started[::-1]
    codes = dict(re.findall(r"^(\S+): ended with code (\S+)$", composition.output.read_text(), flags=re.MULTILINE))
    assert (codes["store"], codes["store-init"], codes["service"]) == ("0", "0", "0")
    # It may have been through by then.
    assert codes["worker"] in ("0", "130")
    assert "created bucket elbod" in composition.log("store-init")


def test_sigterm_is_no_failure_and_whoever_asks_twice_does_not_wait(composition: Composition) -> None:
    composition.start()
    wait_for(lambda: "store: started" in composition.output.read_text())

    composition.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "ending all" in composition.output.read_text())
    composition.process.send_signal(signal.SIGTERM)
    assert composition.process.wait(30) == 0
    assert "store: ended" in composition.output.read_text()
    assert composition.left() == []


def ask_as_the_readme_does(composition: Composition, url: str) -> None:
    (commands,) = re.findall(r"```bash\n(export ELBOD_API_KEY.*?)```", README, flags=re.DOTALL)
    folder = composition.secrets.parent
    program = "set -e\n" + commands.replace("http://127.0.0.1:8000", url).replace("curl -s", "curl -sf")
    subprocess.run(["bash", "-c", program], cwd=folder, check=True, timeout=60)
    assert (folder / "digits.png").read_bytes().startswith(b"\x89PNG")


def test_a_process_that_fails_ends_all_and_is_named_with_the_end_of_its_log(composition: Composition) -> None:
    (composition.secrets / "store-identities.json").write_text("no JSON")
    composition.start()
    assert composition.process.wait(60) == 1
    assert composition.left() == []
    lines = composition.lines()
    (failure,) = [number for number, line in enumerate(lines) if line.startswith("compose-local: ")]
    assert re.match(r"compose-local: store ended with code \d+; the end of .*/store/log:", lines[failure])
    assert any("store-identities" in line for line in lines[failure:])


def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables, timeout=60)


def test_missing_secrets_are_named_with_the_script_that_makes_them(tmp_path: Path) -> None:
    done = run("--state", tmp_path / "state", SECRETS_DIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("compose-local: store needs the file ")
    assert done.stderr.endswith("scripts/compose-secrets makes it\n")


COMPOSITION = """\
services:
  second:
    image: docker.io/example/second:1.0
    command: [--url, "http://first:80/data", --listen.port=9, --off.port=0, --bind=0.0.0.0, --keep=/data/x]
    environment: {ELBOD_PORT: "9", WHERE: "${WHERE:-here}", PRICE: "$$5", CONFIG: /etc/second/config/second.yml}
    secrets: [password]
    volumes: ["data:/data", "./second.yml:/etc/second/config/second.yml:ro,z"]
    ports: ["127.0.0.1:7777:9"]
    depends_on: {first: {condition: service_healthy}}
  first:
    image: docker.io/example/first:1.0
    healthcheck: {test: [CMD, curl, "http://127.0.0.1:80/"], interval: 5s, start_period: 7s, retries: 2}
    stop_grace_period: 3s
volumes: {data: }
secrets: {password: {file: ./password}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "password").write_text("hush")
    (tmp_path / "second.yml").write_text("first:80 first:8 first.example:80 /run/secrets/password /data/y /database")
    path = tmp_path / "docker-compose.yml"
    path.write_text(COMPOSITION)
    return path


def test_services_come_after_those_that_they_wait_for(file: Path) -> None:
    services = read(file, {})
    assert list(services) == ["first", "second"]
    assert (services["first"].patience, services["first"].grace) == (17.0, 3.0)


def test_variables_are_filled_in_or_have_defaults(file: Path) -> None:
    assert read(file, {})["second"].environment["WHERE"] == "here"
    assert read(file, {"WHERE": "there"})["second"].environment["WHERE"] == "there"
    assert read(file, {"WHERE": ""})["second"].environment["WHERE"] == "here"
    assert read(file, {})["second"].environment["PRICE"] == "$5"


def test_a_file_of_variables_is_lines_of_names_and_values(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# who\nRUN_AS=1:2\n\nX = y=z\n")
    assert read_environment(tmp_path / ".env") == {"RUN_AS": "1:2", "X": "y=z"}
    assert read_environment(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("${WHERE:-here}", "${WHERE}", "the variable WHERE is not set"),
        ("${WHERE:-here}", "${WHERE:?say}", "only .* are understood"),
        ("${WHERE:-here}", "$WHERE", "only .* are understood"),
        ("first: {condition", "third: {condition", "depends_on has a cycle, or names nobody"),
        ("interval: 5s", "interval: 5m", "durations are whole seconds"),
        ('"http://127.0.0.1:80/"', "file", "the health check of first asks no URL"),
    ],
)
def test_what_it_does_not_understand_is_refused(file: Path, before: str, after: str, complaint: str) -> None:
    assert before in COMPOSITION
    file.write_text(COMPOSITION.replace(before, after))
    with pytest.raises(InvalidComposition, match=complaint):
        read(file, {})


def test_names_ports_and_paths_of_containers_become_those_of_this_machine(file: Path) -> None:
    services, state = read(file, {}), file.parent / "state"
    ports = Ports(services)
    here = Translation(services["second"], services, ports, state)
    here.write_files()
    first = ports.of("first", 80)
    ports.release()
    assert first not in (80, 7777)
    assert here.command() == [
        "--url",
        f"http://127.0.0.1:{first}/data",
        "--listen.port=7777",
        "--off.port=0",
        "--bind=127.0.0.1",
        f"--keep={state}/volumes/data/x",
    ]
    config = state / "second/files/etc/second/config/second.yml"
    assert here.environment() == {"ELBOD_PORT": "7777", "WHERE": "here", "PRICE": "$5", "CONFIG": str(config)}
    words = config.read_text().split()
    assert words[0] == f"127.0.0.1:{first}"
    assert words[1].startswith("127.0.0.1:")
    assert words[1] != words[0]
    assert words[2:] == ["first.example:80", f"{file.parent}/password", f"{state}/volumes/data/y", "/database"]


def test_the_file_of_this_project_is_understood_whole() -> None:
    assert list(read(COMPOSE_FILE, {})) == ["store", "store-init", "worker", "service", "prometheus", "grafana"]
