"""`elbod score`: a whole set of rows, two models on the same rows, mirror images."""

import csv
import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from elbod.generators.base import Blueprint
from elbod_store import ModelStore
from tests.support import LEVELS, LINEAR, Server, publish


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Untrained models: `levels` twice, `linear`, and `coarse` with fewer levels."""
    store = ModelStore.open(tmp_path_factory.mktemp("score") / "store")
    publish(store, "levels", LEVELS)
    publish(store, "levels", LEVELS, seed=1)
    publish(store, "linear", LINEAR)
    publish(store, "coarse", Blueprint(**{**vars(LEVELS), "levels": 9}))
    return store


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npy"
    np.save(path, np.random.default_rng(4).integers(0, 17, (30, 8, 8), dtype=np.uint8))
    return path


def test_scores_are_those_of_the_service_to_the_last_bit(run, store, rows, tmp_path):
    out = tmp_path / "out.npz"
    done = run(
        "score", "--store", store.objects.url, "--model", "levels@1", "--data", str(rows), "--num-samples", "3",
        "--importance-samples", "40", "--seed", "8", "--output", str(out), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    server = Server(store.objects.url, tmp_path / "log", "--model", "levels")
    try:
        fields = {"model": "levels@1", "seed": 8, "num_samples": 3, "num_importance_samples": 40}
        answer = httpx.post(f"{server.url}/elbo", json=fields | {"x": np.load(rows).tolist()}, timeout=60).json()
    finally:
        server.stop()
    found = np.load(out)
    assert found["row"].tolist() == list(range(30))
    for name in ("elbo", "standard_error", "iwae", "gap", "pareto_k"):
        expected = np.array([np.nan if value is None else value for value in answer[name]])
        assert found[name].tobytes() == expected.tobytes()
    report = json.loads(done.stdout)
    assert report["elbo"] == answer["summary"]["mean"]
    assert report["standard_error"] == answer["summary"]["standard_error"]
    assert report["fingerprint"] == answer["fingerprint"]


def test_paired_differences_are_of_the_same_rows_and_noise(run, store, rows, tmp_path):
    common = ["--store", store.objects.url, "--data", str(rows), "--json"]
    for version in ("1", "2"):
        run("score", "--model", f"levels@{version}", *common, "--output", str(tmp_path / f"{version}.npz"))
    done = run("score", "--model", "levels@1", *common, "--against", "levels@2")
    assert done.returncode == 0, done.stderr
    difference = np.load(tmp_path / "1.npz")["elbo"] - np.load(tmp_path / "2.npz")["elbo"]
    found = json.loads(done.stdout)["against"]["elbo"]
    assert found["mean"] == pytest.approx(difference.mean(), rel=1e-12)
    assert found["standard_error"] == pytest.approx(difference.std(ddof=1) / 30**0.5, rel=1e-12)
    assert found["wins"] == (difference > 0).sum()
    assert found["wins"] + found["losses"] == 30


def test_mirror_images_are_told_apart_as_a_direct_count_says(run, store, rows, tmp_path):
    common = ["score", "--model", "levels@1", "--store", store.objects.url, "--json"]
    done = run(*common, "--data", str(rows), "--against-flips")
    assert done.returncode == 0, done.stderr
    np.save(tmp_path / "mirrored.npy", np.load(rows)[:, :, ::-1])
    for name in ("rows", "mirrored"):
        run(*common, "--data", str(tmp_path / f"{name}.npy"), "--output", str(tmp_path / f"{name}.npz"))
    plain, mirrored = (np.load(tmp_path / f"{name}.npz")["elbo"] for name in ("rows", "mirrored"))
    area = json.loads(done.stdout)["flips"]["horizontal"]["-elbo"]["auroc"]
    assert area == pytest.approx((-mirrored[:, None] > -plain).mean(), abs=1e-12)


def test_a_trained_models_own_test_rows_give_its_published_bound(run):
    trained = run(
        "train", "--recipe", "digits", "--epochs", "2", "--set", "hidden=16", "--set", "num_samples=4",
        "--set", "num_importance_samples=25",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    done = run("score", "--model", "digits", "--num-samples", "4", "--importance-samples", "25", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert "350 test rows of digits" in report["rows"]
    assert report["n"] == 350
    assert 0 <= report["share_atypical"] < 0.2
    assert f"{report['elbo']:.2f}" in trained.stdout
    assert f"{report['iwae']:.2f}" in trained.stdout


def test_people_get_lines_and_a_table_of_every_row(run, store, rows, tmp_path):
    done = run(
        "score", "--model", "levels@1", "--store", store.objects.url, "--data", str(rows), "--rows", "7",
        "--against", "levels@2", "--against-flips", "--output", "scores.csv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "all 30 rows of rows, the first 7" in done.stdout
    assert "ELBO, S = 1" in done.stdout
    assert "vertical flips" in done.stdout
    assert "scoring levels@1  7/7 rows" in done.stderr
    with (tmp_path / "scores.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [line["row"] for line in table] == [str(i) for i in range(7)]
    # One draw has no spread.
    assert table[0]["standard_error"] == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--importance-samples", "10000000"], "--importance-samples is 10000000, the limit is 16384"),
        (["--output", "scores.txt"], "the ending must be one of .csv, .jsonl, .npz, .parquet"),
        (["--output", "nowhere/scores.csv"], "no folder nowhere"),
        (["--against", "coarse"], "levels 17, coarse@1 9"),
        (["--against", "linear"], "events of shape (8, 8), linear@1 (6,)"),
        (["--against", "nobody"], "nobody"),
        (["--binarize", "stochastic"], "binarize is for bernoulli"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_anything_is_scored(run, store, rows, arguments, message):
    done = run("score", "--model", "levels@1", "--store", store.objects.url, "--data", str(rows), *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "scoring" not in done.stderr


def test_rows_outside_the_support_are_named(run, store, tmp_path):
    x = np.zeros((4, 8, 8), np.uint8)
    x[2, 1, 3] = 17
    np.save(tmp_path / "x.npy", x)
    done = run("score", "--model", "levels@1", "--store", store.objects.url, "--data", "x.npy")
    assert done.returncode == 1
    assert "x[2] has value 17" in done.stderr


def test_vectors_have_no_mirror_images(run, store, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 6)))
    done = run("score", "--model", "linear", "--store", store.objects.url, "--data", "x.npy", "--against-flips")
    assert done.returncode == 1
    assert "--against-flips needs images" in done.stderr


def test_a_model_that_does_not_say_how_its_rows_were_split_needs_rows(run, store):
    done = run("score", "--model", "levels", "--store", store.objects.url)
    assert done.returncode == 1
    assert "give rows with --data" in done.stderr
