"""The notebooks run from the first cell to the last, on the server that the examples' README starts, and are right."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest

from tests.support import ELBOD, HANG, Server

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(path.name for path in (EXAMPLES / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the data and the store of the README's commands."""
    folder = tmp_path_factory.mktemp("notebooks")
    (block,) = re.findall(r"```bash\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)
    *commands, serve = block.strip().splitlines()
    assert serve == "elbod serve --store ./elbod-store"
    variables = {"PATH": f"{ELBOD.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", "\n".join(commands)],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    server = Server(folder / "elbod-store", folder / "server.log")
    yield server.url
    assert server.stop() == 0


@pytest.fixture
def drawn_without_a_window() -> Iterator[None]:
    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    yield
    matplotlib.use(backend)


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.usefixtures("drawn_without_a_window")
def test_a_notebook_runs_and_what_it_claims_holds(
    name: str, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ELBOD_URL", url)
    notebook = json.loads((EXAMPLES / "notebooks" / name).read_text())
    session: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}:{cell['id']}", "exec"), session)
    assert len(session) > 10


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_without_what_it_showed(name: str) -> None:
    cells = json.loads((EXAMPLES / "notebooks" / name).read_text())["cells"]
    assert all(cell.get("outputs", []) == [] and cell.get("execution_count") is None for cell in cells)
