"""Folders of image files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from elbod.training import datasets
from elbod.training.errors import InvalidDataset
from elbod.training.splits import split


def save(path: Path, pixels: Any, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def grey(value: int, shape: tuple[int, int] = (6, 4)) -> Any:
    return np.full(shape, value, np.uint8)


def test_every_file_is_a_row_in_the_order_of_the_paths(tmp_path: Path) -> None:
    for number, name in enumerate(["b.png", "a.PNG", "c.bmp", ".hidden.png", "notes.txt"]):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no image")
        else:
            save(tmp_path / name, grey(number), format="bmp" if name.endswith("bmp") else "png")
    found = datasets.load(str(tmp_path))
    assert found.x.shape == (3, 1, 6, 4)
    assert found.x[:, 0, 0, 0].tolist() == [1, 0, 2]
    assert found.y is None
    assert found.levels == 256
    assert found.name == tmp_path.name


def test_sub_folders_are_classes_by_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("owl", "cat"):
        for number in range(40):
            save(tmp_path / name / f"{number}.png", rng.integers(0, 256, (3, 3)))
    found = datasets.load(str(tmp_path))
    assert found.y is not None
    assert found.classes == ("cat", "owl")
    assert np.bincount(found.y).tolist() == [40, 40]
    labels = split(found).labels
    assert labels is not None
    assert labels.names == ("cat", "owl")


def test_one_colour_image_makes_all_of_them_colour(tmp_path: Path) -> None:
    save(tmp_path / "a.png", grey(9))
    save(tmp_path / "b.png", np.dstack([grey(1), grey(2), grey(3)]))
    x = datasets.load(str(tmp_path)).x
    assert x.shape == (2, 3, 6, 4)
    assert x[0, :, 0, 0].tolist() == [9, 9, 9]
    assert x[1, :, 0, 0].tolist() == [1, 2, 3]


def test_images_of_many_sizes_become_squares_of_the_asked_size(tmp_path: Path) -> None:
    save(tmp_path / "a.png", grey(10, (20, 40)))
    save(tmp_path / "b.png", grey(20, (33, 7)))
    with pytest.raises(InvalidDataset, match=r"a\.png has 40 x 20 pixels, b\.png 7 x 33 .*--set image_size=N"):
        datasets.load(str(tmp_path))
    x = datasets.load(str(tmp_path), image_size=8).x
    assert x.shape == (2, 1, 8, 8)
    assert x[:, 0, 4, 4].tolist() == [10, 20]


def test_a_camera_that_was_turned_is_turned_back(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "a.png", exif=exif)
    assert datasets.load(str(tmp_path)).x.tolist() == [[np.rot90(np.arange(6).reshape(2, 3), -1).tolist()]]


@pytest.mark.parametrize("damage", ["truncated", "text", "bomb"])
def test_a_file_that_is_no_image_is_refused_by_name(tmp_path: Path, damage: str, monkeypatch: Any) -> None:
    save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (50, 50)))
    content = (tmp_path / "a.png").read_bytes()
    if damage == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    (tmp_path / "b.png").write_bytes(b"no image" if damage == "text" else content[: len(content) // 2])
    with pytest.raises(InvalidDataset, match=r"[ab]\.png cannot be read as an image"):
        datasets.load(str(tmp_path))


def test_sixteen_bits_a_channel_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(InvalidDataset, match=r"a\.png has more than 8 bits a channel"):
        datasets.load(str(tmp_path))


def test_images_beside_classes_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "a.png", grey(1))
    save(tmp_path / "loose.png", grey(1))
    with pytest.raises(InvalidDataset, match=r"loose\.png is in no class"):
        datasets.load(str(tmp_path))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InvalidDataset, match="neither images nor an IDX file"):
        datasets.load(str(tmp_path))


def test_a_size_for_what_is_no_image_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="image_size is for folders of images"):
        datasets.load("digits", image_size=8)


def test_classes_are_part_of_the_digest(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / name / "a.png", grey(1))
    before = datasets.load(str(tmp_path)).digest
    (tmp_path / "dog").rename(tmp_path / "owl")
    assert datasets.load(str(tmp_path)).digest != before
