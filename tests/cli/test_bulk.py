"""`elbod sample` and `elbod encode`: the bytes of the service, without one."""

import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load as load_safetensors

from elbod_store import ModelStore
from tests.support import Server


def ask(server: Server, verb: str, **fields: object) -> dict[str, np.ndarray]:
    answer = httpx.post(
        f"{server.url}/{verb}", json=fields, headers={"Accept": "application/x-safetensors"}, timeout=60
    ).raise_for_status()
    return load_safetensors(answer.content)


@pytest.mark.parametrize("model", ["ladder", "labels"])
def test_samples_are_those_of_the_service(run, served_store: ModelStore, server: Server, tmp_path: Path, model) -> None:
    label = {"label": 2} if model == "labels" else {}
    flags = [part for name, value in label.items() for part in (f"--{name}", str(value))]
    store = served_store.objects.url
    done = run(
        "sample", "1500", "--model", model, "--store", store, "--seed", "8", "--output", "s.npz", "--json", *flags
    )
    assert done.returncode == 0, done.stderr
    expected = ask(server, "sample", model=model, seed=8, num_samples=1500, **label)
    with np.load(tmp_path / "s.npz") as found:
        assert found["x"].tobytes() == expected["x"].tobytes()
        assert found["z"].tobytes() == expected["z"].tobytes()
    assert json.loads(done.stdout)["rows"] == 1500


def test_a_grid_is_the_picture_of_the_service(run, served_store: ModelStore, server: Server, tmp_path: Path) -> None:
    done = run("sample", "9", "--model", "levels", "--store", served_store.objects.url, "--seed", "8", "--mean")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("9 rows, seed 8, samples.png\n")
    body = {"num_samples": 9, "seed": 8, "output": "mean"}
    answer = httpx.post(f"{server.url}/sample", json=body, headers={"Accept": "image/png"})
    with Image.open(tmp_path / "samples.png") as ours, Image.open(io.BytesIO(answer.content)) as theirs:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_rows_may_be_worked_in_parts_by_their_first_index(run_here, served_store: ModelStore, tmp_path: Path) -> None:
    x = np.random.default_rng(1).integers(0, 17, (40, 8, 8), dtype=np.uint8)
    for name, rows in (("whole", x), ("first", x[:25]), ("second", x[25:])):
        np.save(tmp_path / f"{name}.npy", rows)
    found = {}
    for name, first in (("whole", 0), ("first", 0), ("second", 25)):
        flags = ["--data", f"{name}.npy", "--output", f"{name}.npz", "--seed", "8", "--first-index", str(first)]
        done = run_here("score", "--model", "levels", "--store", served_store.objects.url, *flags)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / f"{name}.npz") as arrays:
            found[name] = arrays["elbo"]
    assert np.array_equal(np.concatenate([found["first"], found["second"]]), found["whole"])
    assert not np.array_equal(found["whole"][:15], found["second"])


@pytest.mark.parametrize(("model", "draws"), [("levels", 0), ("linear", 2)])
def test_encodings_are_those_of_the_service(
    run, served_store: ModelStore, server: Server, tmp_path: Path, model, draws
) -> None:
    shape = (40, 6) if model == "linear" else (40, 8, 8)
    rows = np.random.default_rng(1).integers(0, 17, shape, dtype=np.int64)
    np.save(tmp_path / "x.npy", rows)
    flags = ["--store", served_store.objects.url, "--seed", "8", "--num-samples", str(draws)]
    done = run("encode", "--model", model, "--data", "x.npy", "--output", "q.npz", *flags)
    assert done.returncode == 0, done.stderr
    expected = ask(server, "encode", model=model, x=rows.tolist(), seed=8, num_samples=draws)
    with np.load(tmp_path / "q.npz") as found:
        assert set(found.files) == {name.removeprefix("posterior.") for name in expected}
        for name, values in expected.items():
            assert found[name.removeprefix("posterior.")].tobytes() == values.tobytes(), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "--model", "levels", "--output", "s.gif"), "the ending must be .npz or .png"),
        (("sample", "--model", "labels"), "label"),
        (("sample", "--model", "linear"), "is no image"),
        (("sample", "--model", "levels", "--label", "1"), "is not conditional"),
        (("encode", "--model", "levels", "--output", "q.csv"), "the ending must be .npz"),
        (("encode", "--model", "absent", "--output", "q.npz"), "absent"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    run_here, served_store: ModelStore, tmp_path: Path, arguments, message
) -> None:
    done = run_here(*arguments, "--store", served_store.objects.url)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert not [path for path in tmp_path.iterdir() if path.suffix in {".png", ".npz"}]
