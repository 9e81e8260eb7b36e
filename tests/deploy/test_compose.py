"""docker-compose.yml: a composition by the specification, of commands that exist, closed wherever it can be."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML
from typer.core import TyperGroup
from typer.exceptions import TyperException

from compose.document import read
from elbod import __version__
from elbod.cli.main import app
from elbod.process import drain_limit
from elbod.settings import Settings
from tests.deploy.composition import COMPOSE_FILE, DOCKERFILE, DOCUMENT, ROOT, SERVICES, entrypoint
from tests.support import find_program

OURS = {name: service for name, service in SERVICES.items() if "build" in service}
COMMANDS = {
    name: [*entrypoint(service["build"]["target"]), *service["command"]]
    for name, service in OURS.items()
    if "entrypoint" not in service
}
CUDA_FILE = ROOT / "deploy/compose/cuda.yml"
EACH = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)

WEED = find_program("weed")


def parse(command: list[str]) -> dict[str, Any]:
    """The parameters of a command line, read as `elbod` would, without running it. Raises TyperException."""
    assert command[0] == "elbod"
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return dict(group.commands[command[1]].make_context(command[1], list(command[2:])).params)


@pytest.mark.parametrize("path", [COMPOSE_FILE, CUDA_FILE], ids=["compose", "cuda"])
def test_the_file_follows_the_compose_specification(path: Path) -> None:
    checked = check_schema(path)
    assert checked.returncode == 0, checked.stdout


def test_a_file_that_does_not_follow_it_is_noticed(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(COMPOSE_FILE.read_text().replace("depends_on:", "depend_on:"))
    assert check_schema(broken).returncode == 1


def check_schema(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_worker_and_a_service_are_composed_with_commands_of_elbod() -> None:
    assert {command[1] for command in COMMANDS.values()} == {"train", "serve"}
    assert parse(COMMANDS["worker"])["publish_every"] == 1
    assert parse(COMMANDS["service"])["workers"] == 2


def test_the_addition_for_a_gpu_serves_on_it() -> None:
    added = YAML(typ="safe", pure=True).load(CUDA_FILE)["services"]["service"]["command"]
    given = parse([*entrypoint("service"), *added])
    assert (given["workers"], given["device"]) == (1, "cuda")


def test_a_flag_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(TyperException, match="publish-always"):
        parse([*COMMANDS["worker"], "--publish-always"])


def test_every_variable_of_elbod_is_a_setting_with_a_valid_value() -> None:
    for service in OURS.values():
        given = {
            name.removeprefix("ELBOD_").lower(): value
            for name, value in service["environment"].items()
            if name.startswith("ELBOD_")
        }
        assert given.keys() <= Settings.model_fields.keys()
        Settings(**given)
    assert "ELBOD_STORE" in SERVICES["worker"]["environment"]
    assert SERVICES["worker"]["environment"]["ELBOD_STORE"] == SERVICES["service"]["environment"]["ELBOD_STORE"]


@pytest.fixture(scope="module")
def weed_help() -> str:
    done = subprocess.run([WEED, "help", "server"], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_every_flag_of_the_store_exists(weed_help: str) -> None:
    flags = [argument.split("=")[0] for argument in SERVICES["store"]["command"][2:]]
    assert len(flags) > 15
    known = set(re.findall(r"^\s+(-[\w.]+)", weed_help, flags=re.MULTILINE))
    assert set(flags) <= known


def test_the_store_is_of_the_version_that_the_tests_run() -> None:
    version = subprocess.run([WEED, "version"], capture_output=True, text=True, check=True).stdout
    assert f" {SERVICES['store']['image'].rpartition(':')[2]} " in version


@EACH
def test_every_image_has_a_fixed_tag(service: dict[str, Any]) -> None:
    name, _, tag = service["image"].rpartition(":")
    assert re.search(r"\d+\.\d+", tag)
    if "build" in service:
        assert tag == __version__
    else:
        # A short name is not the same image everywhere.
        assert name.startswith("docker.io/")


def test_the_base_image_is_the_same_here_and_in_the_dockerfile() -> None:
    base = re.search(r"^ARG BASE_IMAGE=(\S+:\d+\.\d+\.\d+\S*)$", DOCKERFILE, flags=re.MULTILINE)
    assert base
    for service in OURS.values():
        assert service["build"]["args"]["BASE_IMAGE"] == f"${{BASE_IMAGE:-{base[1]}}}"


@EACH
def test_every_service_is_confined(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service
    assert "/tmp" in service["tmpfs"]
    user = service["user"].removeprefix("${RUN_AS:-").removesuffix("}")
    assert re.fullmatch(r"[1-9]\d*:\d+", user)


@EACH
def test_every_service_has_limits(service: dict[str, Any]) -> None:
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert service["restart"] in ("no", "on-failure", "unless-stopped")


@EACH
def test_every_service_has_a_health_check_or_a_reason_for_none(service: dict[str, Any]) -> None:
    assert ("healthcheck" in service) != ("x-no-healthcheck" in service)


def test_whoever_is_waited_for_can_be_waited_for() -> None:
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert SERVICES[other]["restart"] == "no"


def test_who_uses_the_store_waits_for_its_bucket() -> None:
    for name in COMMANDS:
        waits = SERVICES[name]["depends_on"]
        assert waits["store"]["condition"] == "service_healthy"
        assert waits["store-init"]["condition"] == "service_completed_successfully"
        assert SERVICES[name]["environment"]["ELBOD_STORE"] == SERVICES["store-init"]["command"][0]


def test_nobody_waits_for_the_end_of_what_waits_itself() -> None:
    # podman could not start it.
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy" or "depends_on" not in SERVICES[other]


def test_only_the_service_and_grafana_are_reached_from_outside_and_by_loopback() -> None:
    published = {name: port for name, service in SERVICES.items() for port in service.get("ports", ())}
    assert published.keys() == {"service", "grafana"}
    assert all(port.startswith("127.0.0.1:") for port in published.values())
    networks = DOCUMENT["networks"]
    inside = {name for name, network in networks.items() if network and network.get("internal")}
    assert {name for name, service in SERVICES.items() if set(service["networks"]) - inside} == published.keys()


def test_every_address_is_of_a_service_on_a_network_of_the_one_who_asks() -> None:
    texts = {name: [*service.get("environment", {}).values()] for name, service in SERVICES.items()}
    for name, service in SERVICES.items():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source.endswith(".yml"):
                texts[name].append((ROOT / source).read_text())
    found = {
        (name, host, int(port))
        for name, each in texts.items()
        for text in each
        for host, port in re.findall(rf"\b({'|'.join(SERVICES)}):(\d+)", text)
    }
    assert found == {
        ("store-init", "store", 8333),
        ("worker", "store", 8333),
        ("service", "store", 8333),
        ("prometheus", "service", 8000),
        ("grafana", "prometheus", 9090),
    }
    for name, host, port in found:
        assert set(SERVICES[name]["networks"]) & set(SERVICES[host]["networks"])
        assert any(str(port) in str(argument) for argument in _settings_of(SERVICES[host]))


def _settings_of(service: dict[str, Any]) -> list[str]:
    return [*service.get("command", ()), *service.get("environment", {}).values()]


def test_secrets_are_files_that_somebody_reads() -> None:
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", ())}
    assert used == DOCUMENT["secrets"].keys()
    for secret in DOCUMENT["secrets"].values():
        assert secret.keys() == {"file"}
        assert secret["file"].startswith("${SECRETS_DIR:-./secrets}/")


@EACH
def test_no_secret_is_in_the_environment(service: dict[str, Any]) -> None:
    mine = {f"/run/secrets/{secret}" for secret in service.get("secrets", ())}
    for name, value in service.get("environment", {}).items():
        if re.search(r"KEY|SECRET|PASSWORD|TOKEN|CREDENTIAL", name):
            assert re.sub(r"^\$\$__file\{(.*)\}$", r"\1", value) in mine
    named = {path for text in _settings_of(service) for path in re.findall(r"/run/secrets/[\w-]+", text)}
    assert named <= mine


def test_the_service_cannot_write_to_the_store_and_only_the_first_step_can_administer_it() -> None:
    holders = {
        secret: [name for name, service in SERVICES.items() if secret in service.get("secrets", ())]
        for secret in DOCUMENT["secrets"]
    }
    assert holders["store-reader"] == ["service"]
    assert holders["store-writer"] == ["worker"]
    assert holders["store-admin"] == ["store-init"]
    assert holders["store-identities"] == ["store"]


def test_every_mounted_file_is_there_and_every_volume_is_declared() -> None:
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service.get("volumes", ())]
    files = [mount for mount in mounts if mount[0].startswith("./")]
    assert all((ROOT / source).is_file() and mode == "ro,z" for source, _, mode in files)
    assert {mount[0] for mount in mounts if mount not in files} == DOCUMENT["volumes"].keys()


def test_grafana_gets_the_dashboard_and_the_data_source_that_it_asks() -> None:
    source = YAML(typ="safe", pure=True).load(ROOT / "deploy/compose/datasource.yml")["datasources"][0]
    assert source["uid"] == "prometheus"
    provider = YAML(typ="safe", pure=True).load(ROOT / "deploy/grafana/provisioning/dashboards/elbod.yml")
    folder = provider["providers"][0]["options"]["path"]
    assert any(f"{folder}/elbod.json" in mount for mount in SERVICES["grafana"]["volumes"])


def test_a_container_is_given_the_time_that_its_drain_may_take() -> None:
    given = read(COMPOSE_FILE, os.environ)["service"].grace
    assert given > drain_limit(Settings())
