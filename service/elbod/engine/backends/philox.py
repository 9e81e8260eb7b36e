"""The noise of `generators.noise` on a GPU: one Triton kernel, the same integers, uniforms and normals.

Uniforms are exact in float64, so they are equal everywhere. Normals are computed in float64 and rounded to float32;
`log`, `cos` and `sin` of another library may differ in the last bit, which rounding hides nearly always.
"""

import triton
import triton.language as tl
from torch import Tensor

# Counter blocks of four words that one program of the kernel computes.
_BLOCK = 256


@triton.jit  # type: ignore[untyped-decorator]
def _philox_kernel(keys, out, rows, blocks, dimensions, gaussian: tl.constexpr, block_size: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * block_size + tl.arange(0, block_size)
    inside = place < rows.to(tl.int64) * blocks
    row, block = place // blocks, place % blocks
    # Words (6, rows): seed low and high, index low, draw, stream with the index's high bits, and the first block.
    k0 = tl.load(keys + row, mask=inside, other=0).to(tl.uint32)
    k1 = tl.load(keys + rows + row, mask=inside, other=0).to(tl.uint32)
    c0 = (block + tl.load(keys + 5 * rows + row, mask=inside, other=0)).to(tl.uint32)
    c1 = tl.load(keys + 3 * rows + row, mask=inside, other=0).to(tl.uint32)
    c2 = tl.load(keys + 2 * rows + row, mask=inside, other=0).to(tl.uint32)
    c3 = tl.load(keys + 4 * rows + row, mask=inside, other=0).to(tl.uint32)
    m0 = tl.full((block_size,), 0xD2511F53, tl.uint32)
    m1 = tl.full((block_size,), 0xCD9E8D57, tl.uint32)
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, m0), c0 * m0
        high1, low1 = tl.umulhi(c2, m1), c2 * m1
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = k0 + tl.full((block_size,), 0x9E3779B9, tl.uint32)
        k1 = k1 + tl.full((block_size,), 0xBB67AE85, tl.uint32)
    u0, u1, u2, u3 = _uniform(c0), _uniform(c1), _uniform(c2), _uniform(c3)
    if gaussian:
        r0, r1 = tl.sqrt(-2.0 * tl.log(u0)), tl.sqrt(-2.0 * tl.log(u2))
        a0, a1 = 6.283185307179586 * u1, 6.283185307179586 * u3
        u0, u1, u2, u3 = r0 * tl.cos(a0), r0 * tl.sin(a0), r1 * tl.cos(a1), r1 * tl.sin(a1)
    first = row * dimensions + 4 * block
    dimension = 4 * block
    tl.store(out + first, u0, mask=inside & (dimension < dimensions))
    tl.store(out + first + 1, u1, mask=inside & (dimension + 1 < dimensions))
    tl.store(out + first + 2, u2, mask=inside & (dimension + 2 < dimensions))
    tl.store(out + first + 3, u3, mask=inside & (dimension + 3 < dimensions))


@triton.jit
def _uniform(word):  # type: ignore[no-untyped-def]
    return (word.to(tl.float64) + 0.5) * 2.3283064365386963e-10


def fill(keys: Tensor, out: Tensor, *, gaussian: bool) -> None:
    """Write uniforms (float64) or normals (float32) into `out`, (n, dimensions), from keys (6, n) int64.

    Both tensors are on one device.
    """
    rows, dimensions = out.shape
    blocks = -(-dimensions // 4)
    grid = (triton.cdiv(rows * blocks, _BLOCK),)
    _philox_kernel[grid](keys, out, rows, blocks, dimensions, gaussian=gaussian, block_size=_BLOCK)
