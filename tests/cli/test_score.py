"""`elbod score`: a whole set of rows, two models on the same rows, mirror images."""

import csv
import json
import stat
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from elbod.generators.base import Blueprint
from elbod_store import ModelStore
from tests.support import BITS, LABELS, LEVELS, LINEAR, MIXTURE, Server, build_generator, publish

# Wide enough that linear algebra would share the pseudo-inputs' rows out among threads.
WIDE_VAMP = Blueprint(
    family="vae",
    spec={"latent_dim": 40, "hidden": [300, 300], "prior": "vamp", "pseudo_inputs": 500},
    likelihood="bernoulli",
    event_shape=(28, 28),
    levels=2,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Untrained models: `levels` twice, `coarse` with fewer levels, two densities of one shape, and others."""
    store = ModelStore.open(tmp_path_factory.mktemp("score") / "store")
    publish(store, "levels", LEVELS)
    publish(store, "levels", LEVELS, seed=1)
    publish(store, "linear", LINEAR)
    publish(store, "coarse", Blueprint(**{**vars(LEVELS), "levels": 9}))
    publish(store, "real", Blueprint(**{**vars(LEVELS), "likelihood": "gaussian", "levels": None}))
    publish(store, "unit", Blueprint(**{**vars(LEVELS), "likelihood": "continuous_bernoulli", "levels": None}))
    publish(store, "bits", BITS)
    # Bits, whatever number of levels the data had before.
    publish(store, "two_levels", Blueprint(**{**vars(LEVELS), "likelihood": "bernoulli"}))
    publish(store, "labels", LABELS)
    publish(store, "mixture", MIXTURE)
    publish(store, "vamp", WIDE_VAMP)
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


def test_a_prior_that_is_computed_at_load_has_the_bytes_of_the_service_too(run, store, tmp_path):
    x = np.random.default_rng(1).integers(0, 2, (4, 28, 28), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    done = run(
        "score", "--store", store.objects.url, "--model", "vamp", "--data", "x.npy", "--importance-samples", "30",
        "--output", "out.npz",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    server = Server(store.objects.url, tmp_path / "log", "--model", "vamp")
    try:
        request = {"x": x.tolist(), "seed": 0, "num_importance_samples": 30}
        answer = httpx.post(f"{server.url}/elbo", json=request, timeout=60).json()
    finally:
        server.stop()
    found = np.load(tmp_path / "out.npz")
    for name in ("elbo", "kl", "iwae"):
        assert found[name].tobytes() == np.array(answer[name]).tobytes()


def test_paired_differences_are_of_the_same_rows_and_noise(run_here, store, rows, tmp_path):
    common = ["--store", store.objects.url, "--data", str(rows), "--json"]
    for version in ("1", "2"):
        run_here("score", "--model", f"levels@{version}", *common, "--output", str(tmp_path / f"{version}.npz"))
    done = run_here("score", "--model", "levels@1", *common, "--against", "levels@2")
    assert done.returncode == 0, done.stderr
    difference = np.load(tmp_path / "1.npz")["elbo"] - np.load(tmp_path / "2.npz")["elbo"]
    found = json.loads(done.stdout)["against"]["elbo"]
    assert found["mean"] == pytest.approx(difference.mean(), rel=1e-12)
    assert found["standard_error"] == pytest.approx(difference.std(ddof=1) / 30**0.5, rel=1e-12)
    assert found["wins"] == (difference > 0).sum()
    assert found["wins"] + found["losses"] == 30


def test_mirror_images_are_told_apart_as_a_direct_count_says(run_here, store, rows, tmp_path):
    common = ["score", "--model", "levels@1", "--store", store.objects.url, "--json"]
    done = run_here(*common, "--data", str(rows), "--against-flips")
    assert done.returncode == 0, done.stderr
    np.save(tmp_path / "mirrored.npy", np.load(rows)[:, :, ::-1])
    for name in ("rows", "mirrored"):
        run_here(*common, "--data", str(tmp_path / f"{name}.npy"), "--output", str(tmp_path / f"{name}.npz"))
    plain, mirrored = (np.load(tmp_path / f"{name}.npz")["elbo"] for name in ("rows", "mirrored"))
    area = json.loads(done.stdout)["flips"]["horizontal"]["-elbo"]["auroc"]
    assert area == pytest.approx((-mirrored[:, None] > -plain).mean(), abs=1e-12)


def test_the_flips_of_an_exact_model_are_told_apart_as_its_evidence_says(run_here, store, rows):
    done = run_here(
        "score", "--model", "mixture", "--store", store.objects.url, "--data", str(rows), "--against-flips", "--json"
    )
    assert done.returncode == 0, done.stderr
    x, generator = torch.from_numpy(np.load(rows)), build_generator(MIXTURE)
    plain = generator.log_evidence(x).numpy()
    for name, axis in (("horizontal", 2), ("vertical", 1)):
        flipped = generator.log_evidence(x.flip(axis)).numpy()
        area = (flipped[:, None] < plain).mean() + 0.5 * (flipped[:, None] == plain).mean()
        assert json.loads(done.stdout)["flips"][name]["-elbo"]["auroc"] == pytest.approx(area, abs=1e-12)


def test_a_file_may_have_any_dtype_that_holds_the_values(run_here, store, tmp_path):
    x, found = np.random.default_rng(0).integers(0, 2, (5, 8, 8)), set()
    for dtype in ("int64", "bool", "int8", "uint16", "uint64", "float16", ">f8"):
        np.save(tmp_path / "rows.npy", x.astype(dtype))
        done = run_here("score", "--model", "levels", "--store", store.objects.url, "--data", "rows.npy", "--json")
        assert done.returncode == 0, (dtype, done.stderr)
        found.add(str(json.loads(done.stdout)["elbo"]))
    assert len(found) == 1


@pytest.mark.parametrize("binarize", ["threshold", "stochastic"])
def test_grey_bytes_become_bits_as_their_intensities_do(run_here, store, tmp_path, binarize):
    grey = np.random.default_rng(0).integers(0, 256, (9, 3, 4), dtype=np.uint8)
    np.save(tmp_path / "grey.npy", grey)
    np.save(tmp_path / "unit.npy", grey / 255)
    common = ("score", "--model", "bits", "--store", store.objects.url, "--binarize", binarize, "--json")
    bytes_, intensities = (run_here(*common, "--data", f"{name}.npy") for name in ("grey", "unit"))
    assert bytes_.returncode == 0, bytes_.stderr
    assert json.loads(bytes_.stdout)["elbo"] == json.loads(intensities.stdout)["elbo"]
    assert "bytes divided by 255" in json.loads(bytes_.stdout)["rows"]


def test_bits_stay_bits_when_they_are_binarized(run_here, store, tmp_path):
    np.save(tmp_path / "bits.npy", np.random.default_rng(0).integers(0, 2, (9, 3, 4)))
    common = ("score", "--model", "bits", "--store", store.objects.url, "--data", "bits.npy", "--json")
    found = [json.loads(run_here(*common, *flags).stdout)["elbo"] for flags in ([], ["--binarize", "stochastic"])]
    assert found[0] == found[1]


def test_the_numbers_say_of_which_measure_and_size_they_are(run_here, store, rows):
    arguments = ("--data", str(rows), "--num-samples", "4", "--importance-samples", "5")
    common = ("score", "--model", "levels@1", "--store", store.objects.url, *arguments)
    found = json.loads(run_here(*common, "--json").stdout)
    said = (found["likelihood"], found["measure"], found["units"], found["event_dims"], found["reproducible"])
    assert said == ("discretized_logistic", "pmf", "nats", 64, True)
    # Five draws have no tail to speak of.
    assert found["share_over_pareto_k_limit"] is None
    lines = run_here(*common).stdout
    assert "Pareto" not in lines
    assert f"Monte-Carlo error   {found['monte_carlo_standard_error']:12.2f}" in lines


def test_a_table_is_as_readable_as_any_new_file(run_here, store, rows, tmp_path):
    done = run_here(
        "score", "--model", "levels", "--store", store.objects.url, "--data", str(rows), "--output", "o.npz"
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "o.npz").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert "allow_pickle" not in np.load(tmp_path / "o.npz").files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.npz", "plain", "rows.npy"]


def test_a_trained_models_own_test_rows_give_its_published_bound(run_here):
    trained = run_here(
        "train", "--recipe", "digits", "--epochs", "2", "--set", "hidden=16", "--set", "num_samples=4",
        "--set", "num_importance_samples=25",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    done = run_here("score", "--model", "digits", "--num-samples", "4", "--importance-samples", "25", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert "350 test rows of digits" in report["rows"]
    assert report["n"] == 350
    assert 0 <= report["share_atypical"] < 0.2
    assert f"{report['elbo']:.2f}" in trained.stdout
    assert f"{report['iwae']:.2f}" in trained.stdout


def test_people_get_lines_and_a_table_of_every_row(run_here, store, rows, tmp_path):
    done = run_here(
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
        (["--output", "scores.txt"], "the ending must be .csv or .jsonl or .npz or .parquet"),
        (["--output", "nowhere/scores.csv"], "no folder nowhere"),
        (["--against", "coarse"], "levels 17, coarse@1 9"),
        (["--against", "linear"], "events of shape (8, 8), linear@1 (6,)"),
        (["--against", "two_levels"], "levels 17, two_levels@1 2"),
        (["--against", "nobody"], "nobody"),
        (["--binarize", "stochastic"], "binarize is for bernoulli"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_anything_is_scored(run_here, store, rows, arguments, message):
    done = run_here("score", "--model", "levels@1", "--store", store.objects.url, "--data", str(rows), *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "scoring" not in done.stderr


def test_rows_outside_the_support_are_named(run_here, store, tmp_path):
    x = np.zeros((4, 8, 8), np.uint8)
    x[2, 1, 3] = 17
    np.save(tmp_path / "x.npy", x)
    done = run_here("score", "--model", "levels@1", "--store", store.objects.url, "--data", "x.npy")
    assert done.returncode == 1
    assert "x[2] has value 17" in done.stderr


def test_densities_over_different_supports_are_not_compared(run_here, store, tmp_path):
    np.save(tmp_path / "x.npy", np.full((4, 8, 8), 0.5))
    done = run_here("score", "--model", "real", "--store", store.objects.url, "--data", "x.npy", "--against", "unit")
    assert done.returncode == 1
    assert "the support the real numbers, unit@1 the interval [0, 1]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_vectors_have_no_mirror_images(run_here, store, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 6)))
    done = run_here("score", "--model", "linear", "--store", store.objects.url, "--data", "x.npy", "--against-flips")
    assert done.returncode == 1
    assert "--against-flips needs images" in done.stderr


def test_a_model_that_does_not_say_how_its_rows_were_split_needs_rows(run_here, store):
    done = run_here("score", "--model", "levels", "--store", store.objects.url)
    assert done.returncode == 1
    assert "give rows with --data" in done.stderr


def test_a_conditional_model_scores_the_marginal_or_given_the_labels_of_the_data(run_here, store, rows, tmp_path):
    table = tmp_path / "labelled.npz"
    x = np.load(rows)
    np.savez(table, x=x, y=np.arange(30) % 3)
    names = Blueprint(**{**vars(LABELS), "labels": ("0", "1", "2")})
    publish(store, "numbers", names)
    arguments = ("score", "--store", store.objects.url, "--model", "numbers", "--data", str(table), "--json")
    outputs = tmp_path / "marginal.npz", tmp_path / "given.npz"
    marginal = run_here(*arguments, "--output", str(outputs[0]), "--importance-samples", "3")
    given = run_here(*arguments, "--output", str(outputs[1]), "--given-labels", "--num-samples", "2")
    assert (marginal.returncode, given.returncode) == (0, 0), marginal.stderr + given.stderr
    reports = [json.loads(done.stdout) for done in (marginal, given)]
    assert [report["conditional_on"] for report in reports] == [None, "label"]
    server = Server(store.objects.url, tmp_path / "log", "--model", "numbers")
    try:
        fields = {"seed": 0, "x": x.tolist()}
        plain = httpx.post(f"{server.url}/elbo", json=fields | {"num_importance_samples": 3}, timeout=60).json()
        labelled = fields | {"label": (np.arange(30) % 3).tolist(), "num_samples": 2}
        conditional = httpx.post(f"{server.url}/elbo", json=labelled, timeout=60).json()
    finally:
        server.stop()
    for output, answer in zip(outputs, (plain, conditional), strict=True):
        assert np.load(output)["elbo"].tolist() == answer["elbo"]
    assert np.load(outputs[0])["iwae"].tolist() == plain["iwae"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "labels", "--given-labels"], "have no labels"),
        (["--model", "levels", "--given-labels"], "levels@2 is not conditional on labels"),
    ],
)
def test_labels_that_nobody_knows_are_one_clear_line(run_here, store, rows, arguments, message):
    done = run_here("score", "--store", store.objects.url, "--data", str(rows), *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_labels_that_the_model_does_not_have_are_named(run_here, store, rows, tmp_path):
    table = tmp_path / "strange.npz"
    np.savez(table, x=np.load(rows), y=np.full(30, 9))
    done = run_here("score", "--store", store.objects.url, "--model", "labels", "--data", str(table), "--given-labels")
    assert done.returncode == 1
    assert "y[0] is 9, no label of labels@1: it has cat, dog, owl" in done.stderr


def test_a_row_that_a_model_cannot_score_is_named_by_its_number_in_the_file(run_here, store, tmp_path):
    x = np.zeros((3000, 8, 8))
    x[2345] = 1e38
    np.save(tmp_path / "x.npy", x)
    for output in ("whole.csv", "parts"):
        done = run_here(
            "score", "--model", "real", "--store", store.objects.url, "--data", "x.npy", "--output", output,
            *(["--part-rows", "2000"] if output == "parts" else []),
        )  # fmt: skip
        assert done.returncode == 1
        assert "not finite for x[2345]" in done.stderr
