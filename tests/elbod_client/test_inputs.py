"""Rows of other kinds than arrays: torch's tensors, Pillow's images, lists of either."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from elbod_client import Client
from elbod_client._arrays import as_rows


def images(rows: Any) -> list[Image.Image]:
    return [Image.fromarray(row) for row in rows]


def test_every_kind_of_rows_gives_the_scores_of_the_array(client: Client, levels_rows: Any) -> None:
    expected = client.elbo(levels_rows, seed=1).elbo.tobytes()
    tensor = torch.from_numpy(levels_rows)
    kinds: list[Any] = [
        levels_rows.tolist(),
        list(levels_rows),
        tensor,
        list(tensor),
        torch.nn.Parameter(tensor.float()),
        tensor.bfloat16(),
        images(levels_rows),
        tuple(images(levels_rows)),
    ]
    for rows in kinds:
        assert client.elbo(rows, seed=1).elbo.tobytes() == expected, type(rows)
    assert client.elbo(images(levels_rows)[0], seed=1).elbo.tobytes() == expected[:8]


def test_labels_may_be_a_tensor(client: Client) -> None:
    ours = client.sample(label=torch.tensor([0, 2]), seed=1, model="labels")
    assert ours.x.tobytes() == client.sample(label=[0, 2], seed=1, model="labels").x.tobytes()


def test_images_in_colour_have_their_channels_first() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    assert np.array_equal(as_rows("x", images(pixels)), np.moveaxis(pixels, -1, 1))
    assert as_rows("x", Image.fromarray(pixels[0])).shape == (1, 3, 5, 4)


def test_what_would_be_guessed_is_refused() -> None:
    with pytest.raises(TypeError, match="x has an image of mode 'RGBA': convert it to 'L' or 'RGB'"):
        as_rows("x", [Image.new("RGBA", (3, 3))])
    with pytest.raises(ValueError, match=r"x\[1\] has shape \(2, 3\), x\[0\] \(3, 3\)"):
        as_rows("x", [Image.new("L", (3, 3)), Image.new("L", (3, 2))])
    with pytest.raises(TypeError, match="complex"):
        as_rows("x", torch.zeros(2, dtype=torch.complex64))
