"""The client against a model whose draws take passes: every field there and back, whole and in pieces."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from elbod_client import AsyncClient, Client, Estimator, InvalidInput, Posterior, Process, Receipt, Samples, Scores
from elbod_client._verbs import elbo, sample
from tests.elbod_client.test_chunks import assert_same
from tests.elbod_client.test_elboctl import Shell
from tests.support import Server

# T of the served model, and its default level.
LEVELS, MIDDLE = 4, 2

CALLS: dict[str, Callable[[Client, Any], Any]] = {
    "sample": lambda client, x: client.sample(40, seed=3, num_steps=2, level=2, sampler="ddim", include=["trajectory"]),
    "sample of rows": lambda client, x: client.sample(x=x, seed=3, include=["trajectory"], trajectory_steps=2),
    "sample of latents": lambda client, x: client.sample(z=np.zeros((40, 64), np.float32), seed=3, level=4),
    "encode": lambda client, x: client.encode(x, seed=3, num_samples=2, level=LEVELS),
    "elbo": lambda client, x: client.elbo(x, seed=3, num_samples=3, include=["bound_map", "kl_per_level"]),
    "elbo in two steps": lambda client, x: client.elbo(x, seed=3, num_steps=2),
    "elbo of sampled levels": lambda client, x: client.elbo(x, seed=3, num_samples=3, num_levels=2),
    "elbo to a target": lambda client, x: client.elbo(x[:3], seed=3, target_standard_error=9, num_levels=2),
}  # fmt: skip


@pytest.fixture
def client(chain_server: Server) -> Iterator[Client]:
    with Client(chain_server.url) as client:
        yield client


@pytest.fixture
def shell(tmp_path: Path, chain_server: Server) -> Shell:
    return Shell(tmp_path, chain_server)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("chunk_rows", [7, 39])
def test_many_requests_give_the_bytes_of_one(client: Client, levels_rows: Any, name: str, chunk_rows: int) -> None:
    call = CALLS[name]
    assert_same(call(client, levels_rows), call(client.with_options(chunk_rows=chunk_rows), levels_rows))


def test_async_gives_the_same_bytes(client: Client, chain_server: Server, levels_rows: Any) -> None:
    drawn: Any = {"seed": 3, "num_steps": 2, "level": 2, "sampler": "ddim", "include": ["trajectory"]}
    scored: Any = {"seed": 3, "num_steps": 2, "include": ["kl_per_level"]}

    async def ask() -> tuple[Samples, Posterior, Scores]:
        async with AsyncClient(chain_server.url, chunk_rows=7) as ours:
            return await asyncio.gather(
                ours.sample(40, **drawn, trajectory_steps=2),
                ours.encode(levels_rows, seed=3, num_samples=2, num_steps=2, level=0),
                ours.elbo(levels_rows, **scored),
            )

    samples, posterior, scores = asyncio.run(ask())
    assert_same(client.sample(40, **drawn, trajectory_steps=2), samples)
    assert_same(client.encode(levels_rows, seed=3, num_samples=2, num_steps=2, level=0), posterior)
    assert_same(client.elbo(levels_rows, **scored), scores)


def test_streams_take_the_fields_of_the_whole(client: Client, levels_rows: Any) -> None:
    whole = client.elbo(levels_rows, seed=2, num_steps=2)
    parts = client.stream_elbo(np.split(levels_rows, [9]), seed=2, num_steps=2)
    assert np.concatenate([part.elbo for part in parts]).tobytes() == whole.elbo.tobytes()
    encoded = client.stream_encode(np.split(levels_rows, [9]), seed=2, level=1)
    assert {part.level for part in encoded} == {1}
    drawn = list(client.with_options(chunk_rows=16).stream_sample(40, seed=2, level=0))
    assert np.concatenate([part.z for part in drawn]).tobytes() == client.sample(40, seed=2, level=0).z.tobytes()


def test_samples_say_how_they_were_drawn(client: Client) -> None:
    drawn = client.sample(3, seed=1, include=["trajectory"], trajectory_steps=3)
    assert drawn.process == Process(sampler="ancestral", num_steps=LEVELS, level=MIDDLE, guidance=0, scored=True)
    assert drawn.trajectory_levels == (4, 2, 0)
    assert drawn.trajectory is not None
    assert (drawn.trajectory.dtype, drawn.trajectory.shape) == (np.float32, (3, 3, 8, 8))
    assert "trajectory=<float32 (3, 3, 8, 8)>" in repr(drawn)
    plain = client.sample(3, seed=1, sampler="ddim", num_steps=2)
    assert plain.process == Process(sampler="ddim", num_steps=2, level=2, guidance=0, scored=False)
    assert plain.trajectory is None
    assert plain.trajectory_levels is None


def test_an_encoding_says_its_level_and_is_sampled_from_there(client: Client, levels_rows: Any) -> None:
    code = client.encode(levels_rows, seed=5, num_samples=1)
    assert code.level == MIDDLE
    assert code.log_snr == pytest.approx(0, abs=1e-9)
    assert code.z is not None
    varied = client.sample(x=levels_rows, seed=5)
    assert client.sample(z=code.z[:, 0], seed=5).x.tobytes() == varied.x.tobytes()


def test_scores_say_what_a_draw_is(client: Client, levels_rows: Any) -> None:
    scores = client.elbo(levels_rows, seed=1, num_samples=2, num_steps=2, include=["bound_map", "kl_per_level"])
    assert scores.estimator == Estimator(kind="paths", num_levels=None)
    assert (scores.num_steps, scores.passes) == (2, 3)
    assert scores.bound_map is not None
    np.testing.assert_allclose(scores.bound_map.sum((1, 2)), scores.elbo, rtol=1e-12)
    assert scores.kl_per_level is not None
    assert scores.kl_per_level.shape == (40, 3)
    levels = client.elbo(levels_rows, seed=1, num_levels=2)
    assert levels.estimator == Estimator(kind="levels", num_levels=2)
    assert (levels.passes, levels.kl_estimator) == (3, "conditional")
    assert levels.bound_map is None


def test_a_model_without_levels_has_none_of_the_fields(client: Client, levels_rows: Any) -> None:
    samples = client.sample(2, model="levels")
    assert samples.process is samples.trajectory is samples.trajectory_levels is None
    code = client.encode(levels_rows, model="levels")
    assert code.level is code.log_snr is None
    scores = client.elbo(levels_rows, model="levels")
    assert scores.estimator is scores.num_steps is scores.passes is None
    assert scores.bound_map is scores.kl_per_level is None
    with pytest.raises(InvalidInput, match="has one level of latents: it takes no num_steps"):
        client.sample(model="levels", num_steps=2)


def test_requests_are_smaller_where_a_row_takes_more_passes_or_has_a_larger_answer() -> None:
    x = np.zeros((9000, 8, 8), np.uint8)
    settings: Any = dict.fromkeys(("label", "seed", "binarize", "num_samples", "target_standard_error", "model"))
    settings |= {"first_index": 0, "num_importance_samples": 0, "num_levels": None, "marginal": None}

    def rows(**asked: Any) -> int:
        return elbo(x, **settings | {"num_steps": None, "include": ()} | asked).spans(None)[0][1]

    assert rows() == 4096
    assert rows(num_steps=127) == 16_384 // 128
    assert rows(num_levels=15, num_samples=16) == 16_384 // 256
    wide = np.zeros((9000, 1024), np.uint8)
    assert elbo(wide, **settings, num_steps=None, include=["reconstruction_map", "bound_map"]).spans(None)[0][1] == 476
    absent = ("seed", "z", "label", "num_steps", "level", "sampler", "guidance", "trajectory_steps", "model")
    drawn: Any = dict.fromkeys(absent)
    drawn |= {"num_samples": None, "first_index": 0, "temperature": 1, "output": "mean", "include": ["trajectory"]}
    assert sample(x=wide, **drawn).spans(None)[0][1] == 8 * 1024**2 // (1024 + 8 * 4 * 1024)
    guided = drawn | {"num_samples": 20_000, "include": [], "num_steps": 127, "guidance": 1.0, "label": np.array(3)}
    assert sample(x=None, **guided).spans(None)[0][1] == 16_384 // 256


def test_more_passes_than_a_server_takes_at_once_are_sent_as_several_requests(client: Client, levels_rows: Any) -> None:
    whole = client.elbo(levels_rows, seed=3, num_samples=200)
    assert whole.passes == 5
    parts = client.stream_elbo(np.split(levels_rows, 8), seed=3, num_samples=200)
    assert np.concatenate([part.elbo for part in parts]).tobytes() == whole.elbo.tobytes()
    with pytest.raises(InvalidInput, match="ask for fewer draws, or give a smaller num_steps"):
        client.elbo(levels_rows[:1], num_samples=5000)


def test_names_to_include_are_a_sequence(client: Client) -> None:
    with pytest.raises(TypeError, match=r"include=\['trajectory'\]"):
        client.sample(include="trajectory")  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_a_trajectory_is_saved_with_its_samples(client: Client, tmp_path: Path, ending: str) -> None:
    samples = client.sample(2, seed=1, include=["trajectory"])
    path = tmp_path / f"samples.{ending}"
    samples.save(path)
    saved = dict(np.load(path)) if ending == "npz" else load_file(path)
    assert saved.keys() == {"x", "z", "trajectory"}
    assert samples.trajectory is not None
    assert saved["trajectory"].tobytes() == samples.trajectory.tobytes()


@pytest.mark.parametrize("name", CALLS)
def test_a_receipt_replays_to_the_same_bytes(client: Client, shell: Shell, levels_rows: Any, name: str) -> None:
    """Asked again by the fields and arrays of its file, and by the command."""
    receipt = CALLS[name](client, levels_rows).receipt()
    receipt.save(shell.folder / "receipt.json")
    kept = Receipt.load(shell.folder / "receipt.json")
    again = getattr(client, kept.verb)(**kept.fields, **kept.arrays).receipt()
    assert again == kept == receipt
    replayed = shell.json("replay", "receipt.json")
    assert (replayed["same"], replayed["same_digest"], replayed["same_fingerprint"]) == (True, True, True)


def test_a_replay_of_other_passes_differs(client: Client, shell: Shell, levels_rows: Any) -> None:
    """Each of the fields decides bytes, so none may be lost between a receipt and its replay."""
    for verb, fields, other in (
        ("sample", {"num_steps": 2, "sampler": "ddim", "level": 2}, {"level": 4}),
        ("sample", {"num_steps": 2, "sampler": "ddim", "level": 2}, {"sampler": "ancestral"}),
        ("sample", {"include": ["trajectory"], "trajectory_steps": 2}, {"trajectory_steps": 3}),
        ("encode", {"level": 3}, {"level": 1}),
        ("elbo", {"num_levels": 2}, {"num_levels": 3}),
        ("elbo", {"num_steps": 2}, {"num_steps": 3}),
        ("elbo", {"include": ["kl_per_level", "bound_map"]}, {"include": ["bound_map"]}),
    ):
        given = {} if verb == "sample" else {"x": levels_rows}
        receipt = getattr(client, verb)(seed=3, **given, **fields).receipt()
        changed = replace(receipt, fields=dict(receipt.fields) | other)
        changed.save(shell.folder / "other.json")
        assert not shell.json("replay", "other.json", code=3)["same"], (verb, other)


def test_a_receipt_of_the_command_line_has_the_fields(shell: Shell) -> None:
    drawing = ("--num-steps", "2", "--level", "0", "--sampler", "ddim")
    shell.run("sample", "3", "--output", "a.npz", "--receipt", "r.json", *drawing)
    assert shell.json("replay", "r.json")["same"]
    fields = Receipt.load(shell.folder / "r.json").fields
    assert {name: fields[name] for name in ("num_steps", "level", "sampler")} == {
        "num_steps": 2,
        "level": 0,
        "sampler": "ddim",
    }


def test_the_command_line_has_the_fields(shell: Shell, client: Client, levels_rows: Any) -> None:
    np.save(shell.folder / "x.npy", levels_rows)
    drawing = ("--num-steps", "2", "--level", "0", "--sampler", "ddim")
    shell.run("sample", "3", "--seed", "7", "--output", "a.npz", *drawing)
    expected = client.sample(3, seed=7, num_steps=2, level=0, sampler="ddim")
    with np.load(shell.folder / "a.npz") as found:
        assert found["x"].tobytes() == expected.x.tobytes()
        assert found["z"].tobytes() == expected.z.tobytes()
    shell.run("sample", "3", "--seed", "7", "--output", "t.npz", "--trajectory", "3")
    shown = client.sample(3, seed=7, include=["trajectory"], trajectory_steps=3).trajectory
    assert shown is not None
    with np.load(shell.folder / "t.npz") as found:
        assert found["trajectory"].tobytes() == shown.tobytes()
    shell.run("encode", "--data", "x.npy", "--output", "q.npz", "--level", "3")
    with np.load(shell.folder / "q.npz") as found:
        assert found["mean"].tobytes() == client.encode(levels_rows, level=3).mean.tobytes()
    for flags, asked in ((("--num-steps", "2"), {"num_steps": 2}), (("--num-levels", "2"), {"num_levels": 2})):
        shell.run("score", "--data", "x.npy", "--output", "s.npz", "--seed", "7", *flags)
        with np.load(shell.folder / "s.npz") as found:
            assert found["elbo"].tobytes() == client.elbo(levels_rows, seed=7, **asked).elbo.tobytes()  # type: ignore[arg-type]
    _, err = shell.run("sample", "--sampler", "heun", code=2)
    assert "--sampler is ancestral or ddim" in err
