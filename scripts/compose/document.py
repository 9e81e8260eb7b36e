"""What docker-compose.yml says, with its variables filled in. What this cannot read is refused, not passed over."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


class InvalidComposition(Exception):
    """The file, or a variable of it, is not what can be run here. One line."""


@dataclass(frozen=True)
class Mount:
    """A file of the project, or a named volume, at a path inside the container."""

    source: Path | str
    target: str


@dataclass(frozen=True)
class Service:
    """One service. Ports are those inside the container; `published` maps them to the machine's, 0 for any."""

    name: str
    image: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    tmpfs: tuple[str, ...]
    published: Mapping[int, int]
    depends_on: Mapping[str, str]
    health_url: str | None
    patience: float  # seconds until it must be healthy
    stop_signal: str
    grace: float  # seconds until it is killed


def read(path: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """The services by name, each after those that it depends on. Raises InvalidComposition, OSError."""
    document = _interpolate(YAML(typ="safe", pure=True).load(path), variables)
    root = path.resolve().parent
    secrets = {name: root / secret["file"] for name, secret in document.get("secrets", {}).items()}
    found = {name: _service(name, given, root, secrets) for name, given in document["services"].items()}
    return _in_order(found)


def read_environment(path: Path) -> dict[str, str]:
    """The variables of a file of NAME=VALUE lines; none if there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = [line.partition("=") for line in lines if line.strip() and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in pairs}


def _service(name: str, given: Mapping[str, Any], root: Path, secrets: Mapping[str, Path]) -> Service:
    entrypoint = tuple(given.get("entrypoint", ()))
    if not entrypoint and "build" in given:
        build = given["build"]
        entrypoint = _entrypoint(root / build["context"] / "Dockerfile", build["target"])
    health = given.get("healthcheck", {})
    return Service(
        name=name,
        image=given["image"],
        entrypoint=entrypoint,
        command=tuple(given.get("command", ())),
        environment=given.get("environment", {}),
        mounts=(
            *(Mount(secrets[secret], f"/run/secrets/{secret}") for secret in given.get("secrets", ())),
            *(_mount(text, root) for text in given.get("volumes", ())),
        ),
        tmpfs=tuple(given.get("tmpfs", ())),
        published=dict(_port(text) for text in given.get("ports", ())),
        depends_on={other: how["condition"] for other, how in given.get("depends_on", {}).items()},
        health_url=_url(name, health["test"]) if health else None,
        patience=_seconds(health.get("start_period", "0s")) + health.get("retries", 3) * _seconds(health["interval"])
        if health
        else 0.0,
        stop_signal=given.get("stop_signal", "SIGTERM"),
        grace=_seconds(given.get("stop_grace_period", "10s")),
    )


def _interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, variables) for item in value]
    return _VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}|(?P<other>))")


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    if found["dollar"]:
        return "$"
    if not found["name"]:
        raise InvalidComposition(f"only ${{NAME}}, ${{NAME:-default}} and $$ are understood, not {found.string!r}")
    given = variables.get(found["name"], "")
    if not given and found["default"] is None:
        raise InvalidComposition(f"the variable {found['name']} is not set")
    return given or found["default"]


def _mount(text: str, root: Path) -> Mount:
    source, target, *_ = text.split(":")
    return Mount(root / source if source.startswith(".") else source, target)


def _port(text: str) -> tuple[int, int]:
    _, outside, inside = text.split(":")
    return int(inside), int(outside)


def _url(name: str, test: Sequence[str]) -> str:
    found = re.search(r"http://[^\s\"']+", " ".join(test))
    if not found:
        raise InvalidComposition(f"the health check of {name} asks no URL")
    return found[0]


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)s", text)
    if not found:
        raise InvalidComposition(f"durations are whole seconds, such as 30s, not {text!r}")
    return float(found[1])


def _entrypoint(dockerfile: Path, target: str) -> tuple[str, ...]:
    """What an image of that stage runs."""
    stages = re.split(r"^FROM ", dockerfile.read_text(), flags=re.MULTILINE)
    for stage in stages:
        if re.match(rf"\S+ AS {re.escape(target)}\n", stage):
            found = re.search(r"^ENTRYPOINT \[(.+)\]$", stage, flags=re.MULTILINE)
            if found:
                return tuple(re.findall(r'"([^"]+)"', found[1]))
    raise InvalidComposition(f"{dockerfile} has no stage {target} with an ENTRYPOINT")


def _in_order(services: Mapping[str, Service]) -> dict[str, Service]:
    ordered: dict[str, Service] = {}
    while len(ordered) < len(services):
        ready = [s for n, s in services.items() if n not in ordered and s.depends_on.keys() <= ordered.keys()]
        if not ready:
            raise InvalidComposition(f"depends_on has a cycle, or names nobody: {sorted(services.keys() - ordered)}")
        ordered |= {service.name: service for service in ready}
    return ordered
