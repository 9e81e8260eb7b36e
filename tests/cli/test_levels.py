"""`elbod score`, `sample` and `encode` of a model whose draws take passes: the bytes of the service."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pytest

from elbod.engine.jobs import Verb
from elbod.scale.plan import rows_of_a_part
from elbod_client import Client
from elbod_store import ModelStore
from tests.support import Server, call_elbod


@pytest.fixture
def client(chain_server: Server) -> Any:
    with Client(chain_server.url) as client:
        yield client


@pytest.fixture
def elbod(chain_store: ModelStore, tmp_path: Path, levels_rows: Any) -> Any:
    """Runs `elbod` on `chain_store`, in a folder with rows in x.npy."""
    np.save(tmp_path / "x.npy", levels_rows)
    variables = {"COLUMNS": "200", "ELBOD_STORE": chain_store.objects.url}
    return lambda *arguments: call_elbod(arguments, tmp_path, variables)


DRAWN: Any = {"num_steps": 2, "level": 0, "sampler": "ddim"}
CASES: list[tuple[tuple[str, ...], dict[str, Any], tuple[str, ...]]] = [
    (("sample", "40"), {}, ("x", "z")),
    (("sample", "40"), DRAWN, ("x", "z")),
    (("encode", "--num-samples", "2"), {"level": 3}, ("mean", "stddev", "z")),
    (("encode", "--num-samples", "2"), {"num_steps": 2, "level": 4}, ("mean", "stddev", "z", "kl")),
    (("score", "--num-samples", "2"), {}, ("elbo", "standard_error", "kl")),
    (("score", "--num-samples", "2", "--importance-samples", "3"), {"num_steps": 2}, ("elbo", "iwae")),
    (("score", "--num-samples", "2"), {"num_levels": 3}, ("elbo", "standard_error", "entropy")),
]


def flags_of(asked: dict[str, Any]) -> list[str]:
    return [part for name, value in asked.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.parametrize(("command", "asked", "names"), CASES)
def test_a_whole_and_its_parts_are_those_of_the_service(
    elbod: Any, client: Client, levels_rows: Any, tmp_path: Path, command: Any, asked: Any, names: Any
) -> None:
    given = [*command, "--model", "diffusion", "--seed", "8", *flags_of(asked)]
    if command[0] != "sample":
        given += ["--data", "x.npy"]
    for output in (["whole.npz"], ["parts", "--part-rows", "17"]):
        done = elbod(*given, "--output", *output)
        assert done.returncode == 0, done.stderr
    match command[0]:
        case "sample":
            expected: Any = client.sample(40, seed=8, **asked)._arrays()
        case "encode":
            code = client.encode(levels_rows, seed=8, num_samples=2, **asked)
            expected = {**code._arrays(), **code.parameters}
        case _:
            importance = 3 if "--importance-samples" in command else 0
            expected = client.elbo(
                levels_rows, seed=8, num_samples=2, num_importance_samples=importance, **asked
            )._arrays()
    parts = pyarrow.dataset.dataset(tmp_path / "parts").to_table()
    with np.load(tmp_path / "whole.npz") as whole:
        for name in names:
            assert whole[name].tobytes() == expected[name].tobytes(), name
            column = parts[name].combine_chunks()
            read = column.to_numpy_ndarray() if hasattr(column, "to_numpy_ndarray") else column.to_numpy()
            assert read.tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("output", ["out.npz", "out"])
def test_maps_profiles_and_trajectories_are_those_of_the_service(
    elbod: Any, client: Client, levels_rows: Any, tmp_path: Path, output: str
) -> None:
    names = ("reconstruction_map", "bound_map", "kl_per_level")
    included = [part for name in names for part in ("--include", name)]
    scores = client.elbo(levels_rows, seed=8, num_samples=2, num_steps=2, include=names)
    samples = client.sample(40, seed=8, include=["trajectory"], trajectory_steps=3)
    flags = ("--model", "diffusion", "--seed", "8", "--output")
    for command, expected in (
        (("score", "--data", "x.npy", "--num-samples", "2", "--num-steps", "2", *included), scores._arrays()),
        (("sample", "40", "--trajectory", "3"), samples._arrays()),
    ):
        place = f"{command[0]}-{output}"
        assert (done := elbod(*command, *flags, place)).returncode == 0, done.stderr
        if output == "out":
            table = pyarrow.dataset.dataset(tmp_path / place).to_table()
            for name in {*names, "trajectory"} & expected.keys():
                assert table[name].combine_chunks().to_numpy_ndarray().tobytes() == expected[name].tobytes(), name
        else:
            with np.load(tmp_path / place) as found:
                for name in {*names, "trajectory"} & expected.keys():
                    assert found[name].tobytes() == expected[name].tobytes(), name


def test_a_report_says_which_model_of_the_levels_was_scored(elbod: Any) -> None:
    score = ("score", "--model", "diffusion", "--data", "x.npy")
    assert elbod(*score, "--num-steps", "2").stdout.splitlines()[0].endswith("rows of x, in 2 steps")
    assert elbod(*score, "--num-levels", "3").stdout.splitlines()[0].endswith("rows of x, 3 sampled levels a draw")
    report = json.loads(elbod(*score, "--num-steps", "2", "--json").stdout)
    assert (report["num_steps"], report["num_levels"]) == (2, None)


def test_parts_of_other_passes_are_another_job(elbod: Any) -> None:
    score = ("score", "--model", "diffusion", "--data", "x.npy", "--output", "parts")
    assert elbod(*score, "--num-steps", "2").returncode == 0
    assert elbod(*score, "--num-steps", "2").returncode == 0
    refused = elbod(*score)
    assert refused.returncode == 1
    assert "its num_steps is 2, asked for is None" in refused.stderr


def test_parts_are_sized_by_network_passes(chain_store: ModelStore) -> None:
    diffusion, levels = (chain_store.resolve(name) for name in ("diffusion", "levels"))
    draws: Any = {"num_samples": 1024}
    assert rows_of_a_part(levels, Verb.ELBO, draws) == 4096
    assert rows_of_a_part(diffusion, Verb.ELBO, draws) == 4096 // 5
    assert rows_of_a_part(diffusion, Verb.ELBO, draws | {"num_steps": 2}) == 4096 // 3
    assert rows_of_a_part(diffusion, Verb.ELBO, draws | {"num_levels": 1}) == 4096 // 2
    assert rows_of_a_part(diffusion, Verb.SAMPLE, {"num_steps": 2}) == 16_384
    assert rows_of_a_part(diffusion, Verb.SAMPLE, {"include": ("trajectory",), "trajectory_steps": 16}) == 8192


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "--model", "levels", "--num-steps", "2"), "has one level of latents: it takes no num_steps"),
        (("sample", "--model", "levels", "--sampler", "ancestral"), "has one level of latents: it takes no sampler"),
        (("sample", "--model", "diffusion", "--num-steps", "5"), "num_steps is 5, model 'diffusion' has 4 levels"),
        (("sample", "--model", "diffusion", "--temperature", "0.5"), "which have no temperature"),
        (("encode", "--model", "diffusion", "--data", "x.npy", "--output", "q.npz", "--level", "5"), "level is 5"),
        (
            ("score", "--model", "diffusion", "--data", "x.npy", "--num-levels", "2", "--importance-samples", "3"),
            "importance weights need whole paths",
        ),
        (
            ("score", "--model", "levels", "--data", "x.npy", "--output", "s.npz", "--include", "bound_map"),
            "has one level of latents: it has no bound_map",
        ),
    ],
)
def test_what_levels_cannot_do_is_one_line(elbod: Any, arguments: tuple[str, ...], message: str) -> None:
    done = elbod(*arguments)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score", "--output", "s.csv", "--include", "bound_map"), "give --output FILE.npz, or a folder"),
        (("score", "--output", "s", "--include", "bound_maps"), "reconstruction_map, bound_map or kl_per_level"),
        (("sample", "--output", "s.png", "--trajectory", "2"), "give --output FILE.npz, or a folder"),
    ],
)
def test_arrays_that_cannot_be_written_are_refused_before_work(
    elbod: Any, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = elbod(*arguments, "--model", "diffusion")
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
