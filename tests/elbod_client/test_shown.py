"""Results as pictures, files, tables and receipts."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load as load_safetensors

from elbod_client import Client, Receipt
from elbod_client._pictures import grid


def pixels(png: bytes) -> Any:
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        return np.asarray(image)


def test_a_grid_shows_every_image_in_its_place() -> None:
    x = np.arange(5)[:, None, None] * np.ones((5, 40, 50), np.uint8)
    shown = pixels(grid(x.astype(np.uint8)))
    assert shown.shape == (2 * 41 - 1, 3 * 51 - 1)
    assert [int(shown[20 + 41 * (i // 3), 25 + 51 * (i % 3)]) for i in range(5)] == [0, 64, 128, 191, 255]
    assert shown[40, 0] == shown[0, 50] == 128


def test_small_images_are_enlarged_and_colours_kept() -> None:
    x = np.zeros((1, 3, 2, 2))
    x[0, 0, 0, 0] = x[0, 2, 1, 1] = 1.0
    shown = pixels(grid(x))
    assert shown.shape == (32, 32, 3)
    assert shown[0, 0].tolist() == [255, 0, 0]
    assert shown[31, 31].tolist() == [0, 0, 255]


@pytest.mark.parametrize("x", [np.zeros((3, 4)), np.zeros((3, 2, 5, 5)), np.zeros((0, 5, 5))])
def test_what_is_no_image_has_no_picture(x: Any) -> None:
    with pytest.raises(ValueError, match="are no images"):
        grid(x)


def test_a_black_image_is_black() -> None:
    assert pixels(grid(np.zeros((1, 40, 40)))).max() == 0


def test_a_notebook_shows_images_and_no_table(client: Client) -> None:
    shown = client.sample(100, seed=1)._repr_png_()
    assert shown is not None
    assert pixels(shown).shape == (8 * 33 - 1, 8 * 33 - 1)
    assert client.sample(4, model="linear")._repr_png_() is None


def test_samples_are_saved_by_the_ending(client: Client, tmp_path: Path) -> None:
    samples = client.sample(10, seed=1)
    for ending in ("png", "npy", "npz", "safetensors"):
        samples.save(tmp_path / f"a.{ending}")
    assert pixels((tmp_path / "a.png").read_bytes()).shape == (3 * 33 - 1, 4 * 33 - 1)
    assert np.array_equal(np.load(tmp_path / "a.npy"), samples.x)
    with np.load(tmp_path / "a.npz") as saved:
        assert np.array_equal(saved["x"], samples.x)
        assert np.array_equal(saved["z"], samples.z)
    assert np.array_equal(load_safetensors((tmp_path / "a.safetensors").read_bytes())["z"], samples.z)
    with pytest.raises(ValueError, match=r"a\.gif: the ending must be"):
        samples.save(tmp_path / "a.gif")


def test_scores_are_a_table_of_their_columns(client: Client, levels_rows: Any) -> None:
    scores = client.elbo(levels_rows, num_samples=4, seed=1, first_index=7, include=["reconstruction_map"])
    frame = scores.to_frame()
    assert frame.index.tolist() == list(range(7, 47))
    assert frame["elbo"].to_numpy().tobytes() == scores.elbo.tobytes()
    assert {"standard_error", "kl", "bits_per_dim"} <= set(frame.columns)
    assert not {"iwae", "reconstruction_map"} & set(frame.columns)


@pytest.mark.parametrize("chunk_rows", [None, 7])
def test_a_receipt_asks_for_the_same_bytes_again(
    client: Client, levels_rows: Any, tmp_path: Path, chunk_rows: int | None
) -> None:
    some = client.with_options(chunk_rows=chunk_rows)
    posterior = some.encode(levels_rows, num_samples=2)
    posterior.receipt().save(tmp_path / "receipt.json")
    receipt = Receipt.load(tmp_path / "receipt.json")
    assert receipt == posterior.receipt()
    fields = dict(receipt.fields)
    again = client.encode(receipt.arrays["x"], **fields)
    assert again.receipt().outputs == receipt.outputs
    assert set(receipt.outputs) >= {"z", "kl", "posterior.mean"}
    other = client.encode(receipt.arrays["x"], **(fields | {"seed": fields["seed"] + 1}))
    assert other.receipt().outputs["z"] != receipt.outputs["z"]
    assert (receipt.model, receipt.fingerprint) == ("levels@1", posterior.fingerprint)


def test_a_receipt_of_a_streamed_part_is_of_that_part(client: Client, levels_rows: Any) -> None:
    parts = list(client.stream_elbo(np.split(levels_rows, 4), seed=2))
    receipt = parts[2].receipt()
    assert receipt.fields["first_index"] == 20
    again = client.elbo(receipt.arrays["x"], **receipt.fields)
    assert again.receipt().outputs == receipt.outputs


def test_a_receipt_that_was_tampered_with_is_refused(client: Client, levels_rows: Any, tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    client.elbo(levels_rows).receipt().save(path)
    np.savez(tmp_path / "receipt.npz", x=levels_rows + 1)
    with pytest.raises(ValueError, match="does not hold the arrays"):
        Receipt.load(path)
    path.write_text(json.dumps({"schema": 2}))
    with pytest.raises(ValueError, match="another version"):
        Receipt.load(path)
    for text in ("[]", "{}", "no", '{"schema": 1, "verb": "elbo"}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is no receipt"):
            Receipt.load(path)
