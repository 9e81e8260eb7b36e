"""Counter-based noise: every random number is a pure function of (seed, stream, index, draw, dimension).

Philox-4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) encrypts a
128-bit counter under a 64-bit key. Here

    key     = seed
    counter = (dimension // 4, draw, index low 32 bits, stream << 24 | index high 24 bits)

and the four output words belong to dimensions 4b ... 4b+3. Nothing depends on what else is computed beside it, so a
row's noise is the same alone, in a batch, and on any replica.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]
V = TypeVar("V", bound=int)

MAX_SEED = 2**63
MAX_INDEX = 2**56

_MASK = np.uint64(0xFFFF_FFFF)
_SHIFT = np.uint64(32)
_STREAM = np.uint64(24)
_MULTIPLIERS = np.array([0xD251_1F53, 0xCD9E_8D57], np.uint64)[:, None, None]
_WEYL = np.array([0x9E37_79B9, 0xBB67_AE85], np.uint64)[:, None]
_ROUND_KEYS = np.arange(10, dtype=np.uint64)[:, None, None] * _WEYL

_WORDS_PER_SLICE = 16384


class Stream(IntEnum):
    """Independent uses of one seed: no two of them ever share a counter."""

    PRIOR = 0
    POSTERIOR = 1
    OBSERVATION = 2
    BINARIZATION = 3
    PILOT = 4
    CALIBRATION = 5
    TRANSITION = 6
    LEVELS = 7
    PROBE = 8


@dataclass(frozen=True, slots=True)
class Keys:
    """n noise keys, one a row: `seed`, `index` and `draw` are (n,) uint64 arrays."""

    seed: Words
    index: Words
    draw: Words

    @classmethod
    def of(cls, seed: int, index: Sequence[int] | NDArray[Any], draw: int | Sequence[int] | NDArray[Any] = 0) -> Self:
        """Keys of one seed; `index` and `draw` broadcast against each other."""
        indices, draws = np.broadcast_arrays(np.asarray(index, np.uint64), np.asarray(draw, np.uint64))
        return cls(np.full(indices.shape, seed, np.uint64), indices, draws)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> "Keys":
        return Keys(self.seed[rows], self.index[rows], self.draw[rows])


def philox_4x32_10(even: Words, odd: Words, key: Words) -> None:
    """Encrypt counters in place: words 0 and 2 are `even`, 1 and 3 `odd`, (2, n, blocks) each; the key is (2, n).

    Words have 32 bits and lie in uint64 arrays. Both lanes of a round are one call each: on a small tile the calls
    cost more than the arithmetic.
    """
    keys = (key + _ROUND_KEYS) & _MASK
    products = np.empty_like(even)
    for round_key in keys:
        np.multiply(even, _MULTIPLIERS, out=products)
        swapped = products[::-1]
        np.right_shift(swapped, _SHIFT, out=even)
        even ^= odd
        even ^= round_key[:, :, None]
        np.bitwise_and(swapped, _MASK, out=odd)


def blocks_of(dimensions: int) -> int:
    """Counter blocks that so many dimensions take: the noise of level i of a chain starts at block i blocks_of(D)."""
    return -(-dimensions // 4)


def words(keys: Keys, stream: Stream | Words, dimensions: int, first_block: Words | int = 0) -> Words:
    """(n, dimensions) random 32-bit words of one stream, or of a stream a row, (n,), from dimension 4 `first_block` of
    it on: one block, or one a row, (n,)."""
    n, blocks = len(keys), blocks_of(dimensions)
    even, odd = np.empty((2, n, blocks), np.uint64), np.empty((2, n, blocks), np.uint64)
    even[0] = np.arange(blocks, dtype=np.uint64) + np.asarray(first_block, np.uint64).reshape(-1, 1)
    even[1] = (keys.index & _MASK)[:, None]
    odd[0] = keys.draw[:, None]
    odd[1] = (np.left_shift(np.asarray(stream, np.uint64), _STREAM) | (keys.index >> _SHIFT))[:, None]
    philox_4x32_10(even, odd, np.stack((keys.seed & _MASK, keys.seed >> _SHIFT)))
    lanes = np.stack((even, odd)).transpose(2, 3, 1, 0)
    return lanes.reshape(n, blocks * 4)[:, :dimensions]


def uniforms(keys: Keys, stream: Stream | Words, dimensions: int, first_block: Words | int = 0) -> Floats:
    """(n, dimensions) uniforms in the open interval (0, 1): (word + 1/2) / 2^32, exact in float64."""
    out = np.empty((len(keys), dimensions))
    for rows in _slices(len(keys), dimensions):
        out[rows] = _uniforms(keys[rows], _of(stream, rows), dimensions, _of(first_block, rows))
    return out


def normals(keys: Keys, stream: Stream | Words, dimensions: int, first_block: Words | int = 0) -> Floats:
    """(n, dimensions) standard normals by Box and Muller (1958): words (2j, 2j+1) give dimensions 2j and 2j+1.

    Computed in float64, |value| < 6.8. Equal integers everywhere; `log`, `cos` and `sin` may differ in the last bit
    between builds of numpy, which is why a fingerprint stands next to every seed.
    """
    out = np.empty((len(keys), dimensions + dimensions % 2))
    for rows in _slices(len(keys), dimensions):
        u = _uniforms(keys[rows], _of(stream, rows), out.shape[1], _of(first_block, rows))
        # Contiguous copies: numpy may round the logarithm of a strided array differently.
        radius = np.sqrt(-2.0 * np.log(np.ascontiguousarray(u[:, 0::2])))
        angle = (2.0 * np.pi) * np.ascontiguousarray(u[:, 1::2])
        out[rows, 0::2] = radius * np.cos(angle)
        out[rows, 1::2] = radius * np.sin(angle)
    return out[:, :dimensions]


def _uniforms(keys: Keys, stream: Stream | Words, dimensions: int, first_block: Words | int) -> Floats:
    u = words(keys, stream, dimensions, first_block).astype(np.float64)
    u += 0.5
    u *= 2.0**-32
    return u


def _of(each: V | Words, rows: slice) -> V | Words:
    return each[rows] if isinstance(each, np.ndarray) else each


def _slices(rows: int, dimensions: int) -> Iterator[slice]:
    """Slices of rows whose intermediate arrays stay in a core's cache."""
    step = max(1, _WORDS_PER_SLICE // max(dimensions, 1))
    return (slice(start, start + step) for start in range(0, rows, step))
