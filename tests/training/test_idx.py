import gzip
import struct

import numpy as np
import pytest

from elbod.training.errors import InvalidDataset
from elbod.training.idx import read_idx

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
RAW = b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + ARRAY.tobytes()


@pytest.mark.parametrize("data", [RAW, gzip.compress(RAW, mtime=0)], ids=["raw", "gzipped"])
def test_an_array_is_read_whatever_the_file_is_called(tmp_path, data):
    path = tmp_path / "images"
    path.write_bytes(data)

    assert np.array_equal(read_idx(path), ARRAY)


def test_big_endian_elements_come_back_in_native_order(tmp_path):
    path = tmp_path / "values"
    path.write_bytes(b"\0\0\x0d\x01" + struct.pack(">I", 2) + np.array([1.5, -2], ">f4").tobytes())

    array = read_idx(path)

    assert array.tolist() == [1.5, -2]
    assert array.dtype.isnative


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an IDX file: it begins with nothing"),
        (b"\x89PNG\r\n", "not an IDX file: it begins with 89 50 4e 47"),
        (b"\0\0\x07\x01" + RAW[4:], "not an IDX file"),
        (b"\0\0\x08\x00", "not an IDX file"),
        (RAW[:9], "truncated: it ends within its header"),
        (RAW[:-1], "truncated: its header promises 24 bytes of data for shape (2, 3, 4), there are 23"),
        (RAW + b"\0", "too long"),
        (b"\0\0\x08\x03" + struct.pack(">3I", *[2**32 - 1] * 3), "truncated"),
        (gzip.compress(RAW, mtime=0)[:-9], "damaged gzip"),
        (gzip.compress(RAW, mtime=0)[:20] + b"\0" * 20, "damaged gzip"),
    ],
)
def test_anything_else_is_refused_with_the_file_and_the_fault(tmp_path, data, message):
    path = tmp_path / "broken-idx"
    path.write_bytes(data)

    with pytest.raises(InvalidDataset, match="broken-idx") as caught:
        read_idx(path)

    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidDataset, match="absent cannot be read: No such file"):
        read_idx(tmp_path / "absent")
