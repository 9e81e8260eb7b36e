"""The README's commands do what it says, as printed, but for the port."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support import ELBOD, HANG, Server

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def digits_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("digits")
    store = folder / "elbod-store"
    train = [ELBOD, "train", "--recipe", "digits", "--epochs", "2", "--alias", "production", "--store", str(store)]
    subprocess.run(train, check=True, capture_output=True, timeout=HANG)
    server = Server(store, folder / "log")
    yield server.url
    assert server.stop() == 0


def test_the_curl_lines_work(digits_url: str, tmp_path: Path) -> None:
    lines = [line for line in blocks("bash")[0].splitlines() if line.startswith("curl")]
    assert len(lines) == 2
    for line in lines:
        command = line.replace("http://127.0.0.1:8000", digits_url)
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, timeout=30, check=True)
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert b'"iwae":[' in done.stdout


def test_the_python_snippet_works(digits_url: str, tmp_path: Path) -> None:
    program = blocks("python")[0].replace("http://127.0.0.1:8000", digits_url)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    mean, error = map(float, done.stdout.split())
    assert -300 < mean < 0 < error


def test_a_model_of_ones_own_data_is_trained_and_served(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", x=rng.binomial(9, rng.random((300, 1, 1)), (300, 3, 5)))
    train, serve = blocks("bash")[1].splitlines()
    command = f"{ELBOD.with_name(train.split()[0])} {train.partition(' ')[2]} --epochs 2"
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True, timeout=HANG)
    assert serve == "elbod serve --store ./elbod-store"
    assert start_server(tmp_path / "elbod-store").url
