"""A folder of parts: the rows of one run, whatever was interrupted, and from whichever files they come."""

import importlib.util
import io
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest
from PIL import Image

from elbod.engine.bulk import numbered
from elbod.errors import StartupError
from elbod.scale.output import PLAN, Output
from elbod.scale.plan import Plan
from elbod.scale.work import patiently
from elbod_store import ModelStore, Unavailable
from elbod_store.objects import Objects
from tests.scale.conftest import Elbod
from tests.support import HANG, disk_of, wait_for

SCORE = ("score", "--model", "levels", "--importance-samples", "32", "--seed", "4", "--first-index", "1000")


def read(folder: Path) -> pyarrow.Table:
    return pyarrow.dataset.dataset(folder).to_table()


def same(table: pyarrow.Table, arrays: Any) -> None:
    """Every column of the table holds the bytes of the array of its name."""
    assert set(table.column_names) == {"row", *arrays} or set(table.column_names) == {*arrays}
    for name in arrays:
        column = table[name].combine_chunks()
        found = (
            column.to_numpy_ndarray() if isinstance(column.type, pyarrow.FixedShapeTensorType) else column.to_numpy()
        )
        assert found.tobytes() == arrays[name].tobytes(), name


@pytest.mark.parametrize("kind", ["numpy", "parquet", "parquets", "memory"])
def test_parts_hold_the_rows_of_one_run_in_order(elbod_here: Elbod, tmp_path: Path, rows: Any, kind: str) -> None:
    np.save(tmp_path / "whole.npy", rows)
    table = pyarrow.table({"x": pyarrow.FixedShapeTensorArray.from_numpy_ndarray(rows)})
    match kind:
        case "numpy":
            data = "whole.npy"
        case "memory":
            data = "rows.npz"
            np.savez(tmp_path / data, x=rows)
        case "parquet":
            data = "rows.parquet"
            pyarrow.parquet.write_table(table, tmp_path / data, row_group_size=97)
        case _:
            data = "tables"
            (tmp_path / data).mkdir()
            pyarrow.parquet.write_table(table.slice(0, 333), tmp_path / data / "a.parquet", row_group_size=50)
            pyarrow.parquet.write_table(table.slice(333), tmp_path / data / "b.parquet", row_group_size=1000)
    alone = elbod_here(*SCORE, "--data", "whole.npy", "--output", "whole.npz", "--json")
    assert alone.returncode == 0, alone.stderr

    done = elbod_here(*SCORE, "--data", data, "--output", "parts", "--part-rows", "150", "--json")

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [
        PLAN,
        *(f"part-0000000{i}.parquet" for i in range(5)),
    ]
    found = read(tmp_path / "parts")
    assert found["row"].to_pylist() == list(range(700))
    with np.load(tmp_path / "whole.npz") as arrays:
        same(found, {name: arrays[name] for name in arrays})
    whole, parts = json.loads(alone.stdout), json.loads(done.stdout)
    for name in (
        "model",
        "digest",
        "fingerprint",
        "n",
        "elbo",
        "standard_error",
        "iwae",
        "median_effective_sample_size",
    ):
        assert parts[name] == whole[name], name


def test_encodings_and_samples_are_those_of_one_run(elbod_here: Elbod, tmp_path: Path, rows: Any) -> None:
    x = pyarrow.FixedShapeTensorArray.from_numpy_ndarray(rows[:90])
    table = pyarrow.table({"x": x, "y": ["cat", "owl", "dog"] * 30})
    pyarrow.parquet.write_table(table, tmp_path / "labelled.parquet", row_group_size=35)
    for command in (
        ("encode", "--model", "labels", "--data", "labelled.parquet", "--num-samples", "2"),
        ("sample", "90", "--model", "labels", "--label", "1"),
    ):
        whole, parts = f"{command[0]}.npz", command[0]
        for output in ((whole,), (parts, "--part-rows", "40")):
            done = elbod_here(*command, "--seed", "6", "--first-index", "7", "--output", *output)
            assert done.returncode == 0, done.stderr
        with np.load(tmp_path / whole) as arrays:
            same(read(tmp_path / parts), {name: arrays[name] for name in arrays})


def test_samples_can_be_scored_from_their_parts(elbod_here: Elbod, tmp_path: Path) -> None:
    assert elbod_here("sample", "60", "--model", "levels", "--output", "drawn", "--part-rows", "25").returncode == 0
    assert elbod_here("sample", "60", "--model", "levels", "--output", "drawn.npz").returncode == 0
    means = []
    for data in ("drawn", "drawn.npz"):
        done = elbod_here(
            "score", "--model", "levels", "--data", data, "--output", f"{data}-scores".replace(".", "-"), "--json"
        )
        assert done.returncode == 0, done.stderr
        means.append(json.loads(done.stdout)["elbo"])
    assert means[0] == means[1]


def test_a_folder_of_images_is_read_file_by_file(elbod_here: Elbod, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 2, (9, 3, 4), dtype=np.uint8) * 255
    for number, pixels in enumerate(images):
        path = tmp_path / "pictures" / f"{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    flags = ("score", "--model", "bits", "--data", "pictures", "--binarize", "stochastic")

    assert elbod_here(*flags, "--output", "whole.npz").returncode == 0
    done = elbod_here(*flags, "--output", "parts", "--part-rows", "4")

    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "whole.npz") as arrays:
        same(read(tmp_path / "parts"), {name: arrays[name] for name in arrays})


def test_rows_and_parts_may_lie_in_s3(elbod_here: Elbod, tmp_path: Path, rows: Any, s3_url: str) -> None:
    body = io.BytesIO()
    np.save(body, rows[:50])
    Objects.open(s3_url).put("rows/x.npy", body.getvalue())
    np.save(tmp_path / "x.npy", rows[:50])
    done = elbod_here(
        "score", "--model", "levels", "--data", f"{s3_url}/rows/x.npy", "--output", f"{s3_url}/out", "--part-rows", "20"
    )
    assert done.returncode == 0, done.stderr
    assert (
        elbod_here("score", "--model", "levels", "--data", "x.npy", "--output", "here", "--part-rows", "20").returncode
        == 0
    )
    there = Output(f"{s3_url}/out")
    assert there.finished() == {0, 1, 2}
    for name, column in there.read(3).items():
        assert column.tobytes() == read(tmp_path / "here")[name].to_numpy().tobytes()


@pytest.mark.parametrize(
    "asked",
    [("levels", "--importance-samples", "512"), ("diffusion", "--num-steps", "2", "--importance-samples", "64")],
)
def test_a_killed_job_goes_on_with_the_parts_that_are_not_there(
    elbod_here: Elbod,
    start: Callable[..., "subprocess.Popen[str]"],
    chain_store: ModelStore,
    tmp_path: Path,
    rows: Any,
    asked: tuple[str, ...],
) -> None:
    np.save(tmp_path / "x.npy", rows)
    whole = ("score", "--model", *asked, "--data", "x.npy", "--seed", "4", "--json")
    whole += ("--store", chain_store.objects.url)
    command = (*whole, "--part-rows", "20")
    process = start(*command, "--output", "killed")
    parts = tmp_path / "killed"
    wait_for(lambda: parts.exists() and len(list(parts.glob("part-*.parquet"))) >= 3)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}
    assert 3 <= len(kept) < 35

    again = elbod_here(*command, "--output", "killed")

    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert elbod_here(*command, "--output", "alone").returncode == 0
    assert len(list((tmp_path / "alone").iterdir())) == 36
    for path in (tmp_path / "alone").iterdir():
        assert (parts / path.name).read_bytes() == path.read_bytes()
    assert elbod_here(*whole, "--output", "whole.npz").returncode == 0
    with np.load(tmp_path / "whole.npz") as arrays:
        same(read(parts), {name: arrays[name] for name in arrays})


def test_ctrl_c_says_how_far_it_came(start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, rows: Any) -> None:
    np.save(tmp_path / "x.npy", rows)
    process = start(*SCORE, "--importance-samples", "4096", "--data", "x.npy", "--part-rows", "20", "--output", "parts")
    wait_for(lambda: any((tmp_path / "parts").glob("part-*.parquet")))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert f"of 35 parts are in {tmp_path / 'parts'}; the same command goes on" in errors


def plan(**fields: Any) -> Plan:
    return Plan(
        **{"verb": "elbo", "model": "m@1", "digest": "d", "fingerprint": "f", "rows": 10, "part_rows": 4} | fields
    )


def test_a_folder_belongs_to_one_job(tmp_path: Path) -> None:
    assert Output(str(tmp_path / "out")).claim(plan()) == set()
    assert Output(str(tmp_path / "out")).claim(plan()) == set()
    for fields, said in (
        ({"seed": 5}, "its seed is 0, asked for is 5"),
        ({"data": {"bytes": 3}}, 'its data is None, asked for is {"bytes": 3}'),
        ({"fingerprint": "g"}, "its fingerprint is f, asked for is g"),
    ):
        with pytest.raises(StartupError, match=said):
            Output(str(tmp_path / "out")).claim(plan(**fields))


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StartupError, match=r"is not empty.*thesis\.tex"):
        Output(str(tmp_path)).claim(plan())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "thesis.tex").rename(tmp_path / PLAN)
    with pytest.raises(StartupError, match="cannot be read"):
        Output(str(tmp_path)).claim(plan())


def test_of_two_writers_of_a_part_the_second_changes_nothing(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    for value in (1.0, 2.0):
        output.write(3, 12, {"elbo": np.array([value])})
    assert read(tmp_path).to_pydict() == {"row": [12], "elbo": [1.0]}


def test_a_wrong_value_is_named_by_its_row_in_the_whole(elbod_here: Elbod, tmp_path: Path, rows: Any) -> None:
    wrong = rows.copy()
    wrong[321, 0, 5] = 200
    np.save(tmp_path / "x.npy", wrong)
    done = elbod_here(*SCORE, "--data", "x.npy", "--output", "parts", "--part-rows", "150")
    assert done.returncode == 1
    assert "x[321] has value 200" in done.stderr
    assert len(list((tmp_path / "parts").glob("part-*"))) == 2


def test_a_full_disk_ends_the_job_at_once_and_the_same_command_goes_on(elbod_here: Elbod, tmp_path: Path) -> None:
    command = ("sample", "8000", "--model", "levels", "--part-rows", "1000", "--output")
    with disk_of(1, tmp_path / "disk") as disk:
        (disk / "ballast").write_bytes(bytes(900_000))
        began = time.monotonic()
        done = elbod_here(*command, "disk/parts")
        # It takes a few seconds, and S3 would have three minutes to come back.
        assert time.monotonic() - began < 150
        assert done.returncode == 1
        assert "No space left" in done.stderr.splitlines()[-1]
        assert 0 < len(list((disk / "parts").glob("part-*.parquet"))) < 8
        (disk / "ballast").unlink()
        assert elbod_here(*command, "disk/parts").returncode == 0
        assert elbod_here(*command, "alone").returncode == 0
        assert read(disk / "parts").equals(read(tmp_path / "alone"))


def test_a_store_that_does_not_answer_is_waited_for_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    answers = [Unavailable("cannot read x in s3://b"), Unavailable("cannot read x in s3://b"), None]

    def read() -> str:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return "rows"

    assert patiently(read) == "rows"
    assert caplog.messages == ["cannot read x in s3://b; trying again for 180 s"]


def test_numbers_of_rows_are_those_of_the_whole() -> None:
    assert numbered("x[3] has value nan; label[0] is 7; max[2]", 100) == "x[103] has value nan; label[100] is 7; max[2]"
    assert numbered("z[7] and row 12 are not finite", 1000) == "z[1007] and row 1012 are not finite"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--output", "x.npz", "--part-rows", "5"], "--part-rows is of a folder"),
        (["--output", "folder", "--actors", "2"], "--actors is of --engine ray"),
        (["--output", "folder", "--engine", "spark"], "--engine is local or ray, not spark"),
        (["--output", "x.npz", "--engine", "ray"], "give --output FOLDER, without an ending"),
        (["--output", "folder", "--against", "levels"], "need all rows at once"),
    ],
)
def test_flags_that_do_not_fit_are_refused(elbod_here: Elbod, flags: list[str], said: str) -> None:
    done = elbod_here("score", "--model", "levels", *flags)
    assert done.returncode == 2
    assert said in done.stderr


def test_what_a_killed_writer_began_goes_when_the_job_is_done(elbod_here: Elbod, tmp_path: Path, rows: Any) -> None:
    np.save(tmp_path / "x.npy", rows[:40])
    (tmp_path / "parts").mkdir()
    draft = tmp_path / "parts" / "part-00000001.parquet#1"
    draft.write_bytes(b"PAR1 and no more")
    done = elbod_here(*SCORE, "--data", "x.npy", "--output", "parts", "--part-rows", "20")
    assert done.returncode == 0, done.stderr
    assert not draft.exists()
    assert len(read(tmp_path / "parts")) == 40


@pytest.mark.parametrize(
    "command",
    [
        ("score", "--model", "levels", "--output", "parts"),
        ("encode", "--model", "levels", "--output", "parts"),
        ("sample", "--model", "levels", "--output", "parts"),
        ("serve",),
        ("train", "--recipe", "digits"),
    ],
    ids=lambda command: command[0],
)
def test_without_ray_one_line_says_which_extra(
    elbod_here: Elbod, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else find(name, *more))
    done = elbod_here(*command, "--engine", "ray")
    assert done.returncode == 1
    assert done.stderr == "elbod: --engine ray needs Ray: pip install 'elbod[ray]'\n"
