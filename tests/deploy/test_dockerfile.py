"""The Dockerfile, as far as it can be tried without a container engine."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.deploy.composition import DOCKERFILE, ROOT, SERVICES, entrypoint, last, stages
from tests.deploy.ray_manifest import CLUSTER
from tests.support import find_program

COMPOSED = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
TARGETS = COMPOSED | {"ray"}
COPIED = [
    source
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE)
    for source in line.split()[:-1]
]

LOCKED = {f"locks/{name}.txt" for name in ("serve", "train", "ray", "build")} | {'"locks/$TORCH.txt"'}


def test_hadolint_has_nothing_to_say() -> None:
    checked = subprocess.run(
        [find_program("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_worker_service_and_node_of_ray_are_stages_of_one_file() -> None:
    assert {"worker", "service"} == COMPOSED
    assert entrypoint("worker") == ["elbod", "train"]
    assert entrypoint("service") == ["elbod", "serve"]
    assert entrypoint("ray") == ["ray"]


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_an_image_runs_as_nobody_special(target: str) -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last(stages()[target], "USER"))


def test_steps_use_the_network_by_pip_only() -> None:
    steps = re.findall(r"^RUN (.+)$", DOCKERFILE, flags=re.MULTILINE)
    assert len(steps) >= 4
    for step in steps:
        assert not re.search(r"\b(curl|wget|git|ADD|https?:)\b", step)
    assert not re.search(r"^ADD ", DOCKERFILE, flags=re.MULTILINE)


def test_what_is_installed_later_needs_no_network() -> None:
    for target in TARGETS:
        own = [line for line in stages()[target] if line.startswith("RUN ")]
        assert own
        assert all("--no-index" in line for line in own)


def test_every_installation_from_an_index_is_held_by_hashes_of_wheels() -> None:
    pips = re.findall(r"pip (?:install|download) [^&\n]+", DOCKERFILE)
    assert len(pips) == 7
    for pip in pips:
        if "--no-index" not in pip:
            assert "--require-hashes" in pip
            assert "--only-binary=:all:" in pip
            assert set(re.findall(r"--requirement (\S+)", pip)) <= LOCKED
        else:
            # elbod itself was built here.
            assert ("--require-hashes" in pip) != (" --no-deps /wheels/elbod-*.whl" in pip)


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == set(COPIED)
    assert all((ROOT / source).exists() for source in COPIED)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what is copied, and nothing else."""
    folder = tmp_path_factory.mktemp("build")
    for source in COPIED:
        (folder / source).symlink_to(ROOT / source)
    return folder


def test_the_wheel_of_what_is_copied_has_both_packages_the_licence_and_the_command(context: Path) -> None:
    step = re.search(r"pip (wheel .+)$", DOCKERFILE, flags=re.MULTILINE)
    assert step
    arguments = step[1].replace("/wheels", str(context / "wheels")).split()
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], cwd=context, check=True)
    (wheel,) = (context / "wheels").glob("elbod-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert {"elbod/cli/main.py", "elbod/py.typed", "elbod_store/registry.py"} <= set(names)
        assert any(name.endswith("licenses/LICENSE") for name in names)
        (points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert b"elbod = elbod.cli.main:main" in archive.read(points)


def test_the_node_of_ray_has_the_version_that_the_cluster_states() -> None:
    assert f"\nray=={CLUSTER['rayVersion']} " in (ROOT / "locks" / "ray.txt").read_text()
