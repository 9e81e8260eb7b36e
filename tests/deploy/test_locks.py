"""What the images install is pinned by version and by hash, all of it, and agrees with what the suite ran with."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.deploy.composition import DOCKERFILE, ROOT, SERVICES

LOCKS = {path.stem: path.read_text() for path in (ROOT / "locks").glob("*.txt")}
IMAGES = {
    "service": ("serve", "torch"),
    "worker": ("serve", "torch", "train"),
    "ray": ("serve", "torch", "ray"),
    "the build": ("build",),
}
MACHINES = ("x86_64", "aarch64")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")

with (ROOT / "pyproject.toml").open("rb") as file:
    PROJECT = tomllib.load(file)
EXTRAS = PROJECT["project"]["optional-dependencies"]
ASKED = {
    "service": PROJECT["project"]["dependencies"],
    "worker": EXTRAS["train"],
    # elbod itself is not asked for: an index may have another one.
    "ray": [*EXTRAS["tables"], *(line for line in EXTRAS["ray"] if not line.startswith("elbod["))],
    "the build": PROJECT["build-system"]["requires"],
}


def entries(lock: str) -> dict[str, list[Requirement]]:
    """The locked releases by name; most have one for all environments."""
    found: dict[str, list[Requirement]] = {}
    for line in re.findall(r"^[a-z].*", LOCKS[lock], flags=re.MULTILINE):
        requirement = Requirement(line.removesuffix("\\"))
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def pins(*files: str) -> dict[str, str]:
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def version(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


@pytest.mark.parametrize("lock", sorted(LOCKS))
def test_every_release_is_exact_and_has_the_hashes_of_its_files(lock: str) -> None:
    release = r"[a-z0-9-]+==[0-9a-z.+]+(?: ; .+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(rf"# .+\n(?:{release})+", LOCKS[lock])


@pytest.mark.parametrize("lock", sorted(LOCKS.keys() - {"torch-cpu"}))
def test_locks_and_constraints_agree(lock: str) -> None:
    pinned = pins("constraints.txt", "constraints-ray.txt")
    for name, requirements in entries(lock).items():
        # CUDA's libraries are of no other machine than an image's.
        if name not in pinned:
            assert lock == "torch"
            assert re.match(r"cuda-|nvidia-|triton$", name)
        else:
            assert {Version(version(one)) for one in requirements} == {Version(pinned[name])}


def test_the_cpu_build_is_of_the_same_torch() -> None:
    ((torch,),) = entries("torch-cpu").values()
    assert str(torch) == f"torch=={pins('constraints.txt')['torch']}+cpu"


def environments() -> Iterator[dict[str, str]]:
    for machine in MACHINES:
        for python in PYTHONS:
            yield {
                **{key: str(value) for key, value in default_environment().items()},
                "sys_platform": "linux",
                "platform_system": "Linux",
                "platform_machine": machine,
                "python_version": python,
                "python_full_version": f"{python}.1",
            }


def applies(requirement: Requirement, environment: dict[str, str], extras: frozenset[str]) -> bool:
    return requirement.marker is None or any(
        requirement.marker.evaluate({**environment, "extra": extra}) for extra in extras | {""}
    )


@pytest.mark.parametrize("image", IMAGES)
def test_a_lock_has_everything_that_its_image_needs(image: str) -> None:
    locked = {name: found for lock in IMAGES[image] for name, found in entries(lock).items()}
    for environment in environments():
        waiting = [(Requirement(line), frozenset[str]()) for line in ASKED[image]]
        seen = set()
        while waiting:
            wanted, extras = waiting.pop()
            name = canonicalize_name(wanted.name)
            if not applies(wanted, environment, extras) or (name, frozenset(wanted.extras)) in seen:
                continue
            seen.add((name, frozenset(wanted.extras)))
            (found,) = [one for one in locked.get(name, []) if applies(one, environment, frozenset())]
            assert wanted.specifier.contains(version(found), prereleases=True), str(wanted)
            try:
                # What is not installed here, as Ray often is not, says nothing of what it needs.
                further = requires(name) or []
            except PackageNotFoundError:
                continue
            waiting += [(Requirement(line), frozenset(wanted.extras)) for line in further]


def test_the_build_of_torch_is_chosen_by_one_argument_of_build_and_composition() -> None:
    default = re.search(r"^ARG TORCH=(\S+)$", DOCKERFILE, flags=re.MULTILINE)
    assert default
    assert {"torch", "torch-cpu"} <= LOCKS.keys()
    assert default[1] == "torch"
    for service in SERVICES.values():
        if "build" in service:
            assert service["build"]["args"]["TORCH"] == "${TORCH:-torch}"
