"""`elboctl` against a real server, as a process of its own."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from elbod_client import Client
from tests.support import HANG, Server, wait_for

ELBOCTL = Path(sys.executable).with_name("elboctl")


class Shell:
    """A folder and a server."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = folder, server
        self.environment = os.environ | {"ELBOD_URL": server.url, "COLUMNS": "200"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [ELBOCTL, *arguments], cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=HANG)
        assert process.returncode == code, err
        return out, err

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code)[0])


@pytest.fixture
def shell(tmp_path: Path, server: Server) -> Shell:
    return Shell(tmp_path, server)


def test_samples_are_saved_and_described(shell: Shell, client: Client) -> None:
    out, _ = shell.run("sample", "9", "--seed", "7", "--output", "a.png")
    assert out == "9 rows of levels@1, seed 7: a.png\n"
    with Image.open(shell.folder / "a.png") as grid:
        assert grid.size == (98, 98)
    described = shell.json(
        "sample", "3", "--seed", "7", "--output", "a.npy", "--model", "labels", "--label", "1", "--mean"
    )
    assert (described["model"], described["rows"], described["seed"]) == ("labels@1", 3, 7)
    expected = client.sample(3, seed=7, model="labels", label=1, output="mean").x
    assert np.array_equal(np.load(shell.folder / "a.npy"), expected)


def test_rows_are_encoded_batch_by_batch(shell: Shell, client: Client, levels_rows: Any) -> None:
    rows = np.tile(levels_rows, (210, 1, 1))  # three batches
    np.save(shell.folder / "x.npy", rows)
    shell.run("encode", "--data", "x.npy", "--output", "q.npz", "--num-samples", "2", "--seed", "3")
    expected = client.encode(rows, num_samples=2, seed=3)
    with np.load(shell.folder / "q.npz") as found:
        assert set(found.files) == {"mean", "stddev", "z", "kl", "kl_per_dimension"}
        for name in ("mean", "stddev", "z", "kl", "kl_per_dimension"):
            assert found[name].tobytes() == getattr(expected, name).tobytes()
            assert found[name].shape == getattr(expected, name).shape
    assert {path.name for path in shell.folder.iterdir()} == {"x.npy", "q.npz"}


def test_a_parameter_that_all_rows_share_is_kept_once(shell: Shell, client: Client) -> None:
    rows = np.random.default_rng(0).normal(size=(9_000, 6))
    np.save(shell.folder / "x.npy", rows)
    shell.run("encode", "--data", "x.npy", "--output", "q.npz", "--model", "linear")
    expected = client.encode(rows, model="linear")
    with np.load(shell.folder / "q.npz") as found:
        assert found["mean"].shape == (9_000, 2)
        assert np.array_equal(found["scale_tril"], expected.parameters["scale_tril"])


def test_an_interrupted_encoding_leaves_nothing(shell: Shell, levels_rows: Any) -> None:
    np.save(shell.folder / "x.npy", np.tile(levels_rows, (5_000, 1, 1)))
    with shell.start("encode", "--data", "x.npy", "--output", "q.npz", "--num-samples", "4") as process:
        wait_for(lambda: any(path.stat().st_size > 10_000 for path in shell.folder.glob(".q.npz.*/z.npy")))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert [path.name for path in shell.folder.iterdir()] == ["x.npy"]


@pytest.mark.parametrize(("ending", "source"), [("csv", "npy"), ("jsonl", "npz"), ("npz", "npy"), ("parquet", "npz")])
def test_scores_are_those_of_the_client(
    shell: Shell, client: Client, levels_rows: Any, ending: str, source: str
) -> None:
    data = f"x.{source}"
    if source == "npy":
        np.save(shell.folder / data, levels_rows)
    else:
        np.savez(shell.folder / data, x=levels_rows)
    shell.run("score", "--data", data, "--output", f"s.{ending}", "--seed", "3", "--num-samples", "4")
    expected = client.elbo(levels_rows, seed=3, num_samples=4)
    path = shell.folder / f"s.{ending}"
    if ending == "csv":
        with path.open() as file:
            rows = list(csv.DictReader(file))
        elbo, index = [float(row["elbo"]) for row in rows], [int(row["index"]) for row in rows]
    elif ending == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        elbo, index = [row["elbo"] for row in rows], [row["index"] for row in rows]
    elif ending == "npz":
        with np.load(path) as found:
            elbo, index = found["elbo"].tolist(), found["index"].tolist()
    else:
        table = pyarrow.parquet.read_table(path)
        elbo, index = table["elbo"].to_pylist(), table["index"].to_pylist()
    assert elbo == expected.elbo.tolist()
    assert index == list(range(40))
    assert sorted(path.name for path in shell.folder.iterdir() if path.name.startswith(".")) == []


def test_the_summary_is_of_all_rows(shell: Shell, levels_rows: Any) -> None:
    np.save(shell.folder / "x.npy", levels_rows)
    described = shell.json("score", "--data", "x.npy", "--output", "s.npz")
    with np.load(shell.folder / "s.npz") as found:
        elbo = found["elbo"]
    assert described["mean"] == pytest.approx(elbo.mean())
    assert described["standard_error"] == pytest.approx(elbo.std(ddof=1) / 40**0.5)
    out, _ = shell.run("score", "--data", "x.npy", "--output", "s.csv", "--quiet", "--seed", str(described["seed"]))
    assert f"mean ELBO {described['mean']:.3f} ± {described['standard_error']:.3f} nats" in out


def test_tables_and_folders_of_images_are_read(shell: Shell, client: Client) -> None:
    x = np.random.default_rng(0).standard_normal((30, 6))
    pyarrow.parquet.write_table(
        pyarrow.table({f"c{i}": x[:, i] for i in range(6)} | {"y": ["a"] * 30}), shell.folder / "x.parquet"
    )
    shell.run("score", "--data", "x.parquet", "--output", "s.npz", "--model", "linear", "--seed", "1")
    with np.load(shell.folder / "s.npz") as found:
        assert found["elbo"].tolist() == client.elbo(x, model="linear", seed=1).elbo.tolist()
    (shell.folder / "images").mkdir()
    for i in range(3):
        Image.fromarray(np.full((9, 7), i, np.uint8)).save(shell.folder / "images" / f"{i}.png")
    shell.run("score", "--data", "images", "--image-size", "8", "--output", "i.npz", "--quiet", "--seed", "1")
    grey = np.repeat(np.arange(3, dtype=np.uint8), 64).reshape(3, 8, 8)
    with np.load(shell.folder / "i.npz") as found:
        assert found["elbo"].tolist() == client.elbo(grey, seed=1).elbo.tolist()


def test_an_interrupted_score_goes_on_and_has_every_row_once(shell: Shell, client: Client, levels_rows: Any) -> None:
    rows = np.tile(levels_rows, (500, 1, 1))
    np.save(shell.folder / "x.npy", rows)
    arguments = ("score", "--data", "x.npy", "--output", "s.npz", "--num-samples", "15")
    parts = shell.folder / ".s.npz.parts"
    with shell.start(*arguments) as process:
        wait_for(lambda: len(list(parts.glob("0*.npz"))) >= 1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert not (shell.folder / "s.npz").exists()
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.npz")}
    _, err = shell.run("score", "--data", "x.npy", "--output", "s.npz", "--num-samples", "16", code=1)
    assert "parts of another run, whose num_samples differ" in err
    copy = shutil.copytree(parts, shell.folder / "kept")
    _, err = shell.run(*arguments)
    assert "rows are there already" in err
    seed = json.loads((copy / "run.json").read_text())["chosen"]["seed"]
    expected = client.elbo(rows, seed=seed, num_samples=15)
    with np.load(shell.folder / "s.npz") as found:
        assert found["elbo"].tobytes() == expected.elbo.tobytes()
        assert found["index"].tolist() == list(range(20_000))
    assert 1 <= len(before) < 5
    assert not parts.exists()


def test_a_bad_row_is_named_as_it_is_in_the_file(shell: Shell, levels_rows: Any) -> None:
    rows = np.tile(levels_rows, (250, 1, 1))
    rows[9_000, 0, 0] = 99
    np.save(shell.folder / "x.npy", rows)
    _, err = shell.run("score", "--data", "x.npy", "--output", "s.npz", "--quiet", code=1)
    assert err.startswith("elboctl: x[9000] has value 99")
    # What came before stays, and the row is still named right when the run goes on.
    _, err = shell.run("score", "--data", "x.npy", "--output", "s.npz", "--quiet", code=1)
    assert err.startswith("elboctl: x[9000] has value 99")


def test_a_replay_has_the_same_bytes_or_says_what_differs(shell: Shell) -> None:
    shell.run("sample", "5", "--output", "a.npy", "--receipt", "r.json")
    out, _ = shell.run("replay", "r.json")
    assert out.splitlines()[-1] == "every byte is the same"
    receipt = json.loads((shell.folder / "r.json").read_text())
    receipt["outputs"]["x"] = "0" * 64
    receipt["fingerprint"] = "another"
    (shell.folder / "r.json").write_text(json.dumps(receipt))
    out, _ = shell.run("replay", "r.json", code=3)
    assert "the fingerprint is another one" in out
    assert out.splitlines()[-1] == "bytes differ: x"
    described = shell.json("replay", "r.json", code=3)
    assert (described["same"], described["different"], described["same_digest"]) == (False, ["x"], True)


def test_models_are_listed_and_readiness_waited_for(shell: Shell) -> None:
    out, _ = shell.run("models")
    assert "levels  versions 1  loaded @1" in out
    assert {"name": "bits", "versions": [1], "aliases": {}}.items() <= next(
        model for model in shell.json("models")["models"] if model["name"] == "bits"
    ).items()
    assert shell.json("wait")["ready"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("sample", "--output", "a.gif"), 2, "--output a.gif: the ending must be"),
        (("score", "--data", "absent.npy", "--output", "s.csv"), 1, "absent.npy"),
        (("score", "--data", "x.txt", "--output", "s.csv"), 1, "neither a folder of images"),
        (("score", "--data", "x.npy", "--output", "s.xlsx"), 1, "the ending must be one of .csv"),
        (("score", "--data", "x.npy", "--output", "no/s.csv"), 1, "there is no folder no"),
        (("sample", "--url", "http://127.0.0.1:9", "--timeout", "1"), 1, "cannot connect to http://127.0.0.1:9"),
        (("sample", "--model", "leveles"), 1, "did you mean 'levels'"),
        (("replay", "x.npy"), 1, "is no receipt"),
    ],
)
def test_what_cannot_be_done_is_one_line(shell: Shell, arguments: tuple[str, ...], code: int, message: str) -> None:
    np.save(shell.folder / "x.npy", np.zeros((2, 8, 8), np.uint8))
    (shell.folder / "x.txt").write_text("")
    _, err = shell.run(*arguments, code=code)
    assert message in " ".join(err.split())
    assert code == 2 or err.count("\n") == 1


def test_the_shell_can_complete_commands(shell: Shell) -> None:
    out, _ = shell.run("--show-completion", "bash")
    assert "_ELBOCTL_COMPLETE" in out


def test_commands_import_readers_only_when_they_read() -> None:
    program = "import sys, elbod_client.cli.main; print({'torch', 'pyarrow', 'PIL', 'tqdm'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
