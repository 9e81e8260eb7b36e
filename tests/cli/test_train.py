"""`elbod train`: where its configuration comes from, and what it refuses."""

import shlex

import numpy as np
import pytest

from elbod_store import ModelStore

QUICK = [*shlex.split("--recipe digits --epochs 1 --set hidden=8 --set num_samples=1 --set num_importance_samples=1")]


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(run_here, tmp_path):
    (tmp_path / "elbod.toml").write_text('store = "from-toml"\ndevice = "abacus"\n')

    done = [
        run_here("train", *QUICK, ELBOD_DEVICE="cpu"),
        run_here("train", *QUICK, ELBOD_DEVICE="cpu", ELBOD_STORE="from-variable"),
        run_here("train", *QUICK, "--device", "cpu", "--store", "from-flag", ELBOD_STORE="lost", ELBOD_DEVICE="abacus"),
    ]

    assert [process.returncode for process in done] == [0, 0, 0], done[-1].stderr
    for folder in ("from-toml", "from-variable", "from-flag"):
        assert ModelStore.open(tmp_path / folder).versions("digits") == [1]
    assert not (tmp_path / "lost").exists()


def test_the_device_of_the_file_is_used(run_here, tmp_path):
    (tmp_path / "elbod.toml").write_text('device = "abacus"\n')

    done = run_here("train", *QUICK)

    assert done.returncode == 1
    assert done.stderr.startswith("elbod: unknown device 'abacus'")


def test_an_unknown_key_of_the_file_is_one_clear_line(run_here, tmp_path):
    (tmp_path / "elbod.toml").write_text("colour = 1\n")

    done = run_here("train", *QUICK)

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "elbod.toml" in done.stderr
    assert "colour" in done.stderr


@pytest.mark.parametrize("seed", ["-1", str(2**63), str(10**30)])
def test_a_seed_that_no_stream_has_is_a_usage_error(run_here, seed):
    done = run_here("train", "--recipe", "digits", "--seed", seed)

    assert done.returncode == 2
    assert "--seed" in done.stderr


@pytest.mark.parametrize("setting", ["clip_norm=inf", "kl_warmup_epochs=Infinity", "warmup_epochs=1e999"])
def test_a_number_that_is_not_finite_is_refused_before_training(run_here, setting, tmp_path):
    done = run_here("train", *QUICK, "--set", setting)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"elbod: {setting.partition('=')[0]} must be finite, got inf\n"
    assert not (tmp_path / "elbod-store").exists()


def test_rows_without_variety_are_one_clear_line(run_here, tmp_path):
    np.save(tmp_path / "flat.npy", np.ones((400, 3)))

    done = run_here("train", *shlex.split("--family vae --likelihood gaussian --data flat.npy"))

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "distinct rows" in done.stderr


def test_the_help_says_which_weights_are_published_on_the_way(run_here):
    assert "best" not in run_here("train", "--help").stdout.partition("--publish-every")[2].partition(";")[0]


def test_a_training_of_nothing_says_what_it_needs(run_here):
    done = run_here("train")

    assert done.returncode == 2
    assert "give either --recipe, or --family and --likelihood with --data" in " ".join(
        done.stderr.replace("│", " ").split()
    )
