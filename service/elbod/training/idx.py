"""IDX files, the format of MNIST and its relatives: https://yann.lecun.com/exdb/mnist/, "the IDX file format".

Two zero bytes, one byte for the element type, one for the number of dimensions, the sizes as big-endian 32-bit
integers, then the elements, last dimension fastest. Files may be gzipped, whatever their name says.
"""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elbod.training.errors import InvalidDataset

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


def read_idx(path: Path) -> NDArray[Any]:
    """The array in native byte order. Raises InvalidDataset, naming the file, unless it is exactly one IDX array."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == _GZIP_MAGIC
        with gzip.open(path) if zipped else path.open("rb") as file:
            return _read(file, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidDataset(f"{path} is a damaged gzip file: {error}") from error
    except OSError as error:
        raise InvalidDataset(f"{path} cannot be read: {error.strerror or error}") from error


def _read(file: gzip.GzipFile | io.BufferedReader, path: Path) -> NDArray[Any]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or magic[3] == 0:
        raise InvalidDataset(f"{path} is not an IDX file: it begins with {magic.hex(' ') or 'nothing'}")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise InvalidDataset(f"{path} is truncated: it ends within its header")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    dtype = np.dtype(_TYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    # Read in pieces: a wrong header may promise more bytes than there is memory.
    body = bytearray()
    while len(body) <= expected and (piece := file.read(_CHUNK)):
        body += piece
    if len(body) != expected:
        fault = "truncated" if len(body) < expected else "too long"
        raise InvalidDataset(
            f"{path} is {fault}: its header promises {expected} bytes of data for shape {shape}, "
            f"there are {'more' if len(body) > expected else len(body)}"
        )
    return np.frombuffer(bytes(body), dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
