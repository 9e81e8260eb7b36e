"""The noise is a pure function of (seed, stream, index, draw, dimension), and it is random."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from elbod.generators.noise import (
    MAX_INDEX,
    MAX_SEED,
    Floats,
    Keys,
    Stream,
    blocks_of,
    normals,
    philox_4x32_10,
    uniforms,
    words,
)

Noise = Callable[..., Floats]

both = pytest.mark.parametrize("noise", [normals, uniforms])


def _philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]:
    even, odd = (np.array(counter[lane::2], np.uint64).reshape(2, 1, 1) for lane in (0, 1))
    philox_4x32_10(even, odd, np.array(key, np.uint64)[:, None])
    return int(even[0, 0, 0]), int(odd[0, 0, 0]), int(even[1, 0, 0]), int(odd[1, 0, 0])


ONES = 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_known_answers_of_the_random123_distribution(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """Philox-4x32-10 encrypts the three published counters to the published words."""
    assert _philox(counter, key) == expected


seeds = st.one_of(st.integers(0, MAX_SEED - 1), st.integers(MAX_SEED - 4, MAX_SEED - 1), st.integers(0, 4))
indices = st.one_of(
    st.integers(0, MAX_INDEX - 1),
    st.integers(MAX_INDEX - 4, MAX_INDEX - 1),
    st.integers(2**32 - 2, 2**32 + 2),
    st.integers(0, 4),
)
draws = st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 4, 2**32 - 1), st.integers(0, 4))


@given(seeds, indices, draws, st.sampled_from(Stream), st.integers(0, 2**16))
def test_the_counter_is_block_draw_index_and_stream_under_the_seed(
    seed: int, index: int, draw: int, stream: Stream, dimension: int
) -> None:
    """Dimension i is lane i % 4 of counter (i // 4, draw, index low, stream << 24 | index high) under key = seed."""
    counter = (dimension // 4, draw, index & ONES, stream << 24 | index >> 32)
    expected = _philox(counter, (seed & ONES, seed >> 32))[dimension % 4]
    assert words(Keys.of(seed, [index], [draw]), stream, dimension + 1)[0, dimension] == expected


def test_streams_have_the_numbers_of_the_contract() -> None:
    """Stream numbers are part of the noise's definition, so they never change."""
    assert [(stream.name.lower(), stream.value) for stream in Stream] == [
        ("prior", 0),
        ("posterior", 1),
        ("observation", 2),
        ("binarization", 3),
        ("pilot", 4),
        ("calibration", 5),
        ("transition", 6),
        ("levels", 7),
        ("probe", 8),
    ]


@pytest.mark.parametrize(
    ("stream", "first_block", "expected"),
    [
        (Stream.TRANSITION, 0, [0xEADF4497, 0x773CC3BB, 0xC0C98ABA, 0x28369663]),
        (Stream.LEVELS, 0, [0x167F6A88, 0x2DE779BB, 0xF3F8968D, 0x8DFAF91E]),
        (Stream.PROBE, 0, [0x1C5D45F8, 0x5A55E60F, 0x62978F61, 0x0DBE7DDC]),
        (Stream.TRANSITION, 16, [0x7E676B8D, 0x621B05A5, 0xEE7CF198, 0x49C76C8B]),
        (Stream.POSTERIOR, 512, [0x24FADD2A, 0x0AD51D0C, 0xC4D594A4, 0x718BE85F]),
    ],
)
def test_the_streams_of_chains_have_known_words(stream: Stream, first_block: int, expected: list[int]) -> None:
    """Seed 5, example 2^33 + 3, draw 7: the words never change, wherever a level begins."""
    keys = Keys.of(5, [2**33 + 3], 7)
    assert words(keys, stream, 4, first_block)[0].tolist() == expected
    counter = (first_block, 7, 3, stream << 24 | 2)
    assert list(_philox(counter, (5, 0))) == expected


def test_levels_share_no_block() -> None:
    """D numbers take ceil(D/4) blocks: level i begins at block i ceil(D/4)."""
    assert [blocks_of(d) for d in (1, 4, 5, 64, 783, 784)] == [1, 1, 2, 16, 196, 196]


@given(seeds, indices, draws, st.sampled_from(Stream), st.integers(1, 9))
def test_uniforms_are_the_centres_of_the_words_cells(
    seed: int, index: int, draw: int, stream: Stream, dimensions: int
) -> None:
    """u = (word + 1/2) / 2^32 without rounding, hence in the open interval (0, 1)."""
    keys = Keys.of(seed, [index], [draw])
    u = uniforms(keys, stream, dimensions)
    assert np.array_equal(u * 2.0**33, 2.0 * words(keys, stream, dimensions).astype(np.float64) + 1.0)
    assert ((u > 0) & (u < 1)).all()


@given(seeds, indices, draws, st.integers(1, 23))
def test_normals_are_box_and_mullers_pairs(seed: int, index: int, draw: int, dimensions: int) -> None:
    """Dimensions (2j, 2j+1) are sqrt(-2 log u) (cos, sin)(2 pi v), with u and v from words 2j and 2j+1."""
    keys = Keys.of(seed, [index], [draw])
    u = uniforms(keys, Stream.PRIOR, dimensions + 1)[0]
    for i, value in enumerate(normals(keys, Stream.PRIOR, dimensions)[0]):
        radius, angle = math.sqrt(-2 * math.log(u[i - i % 2])), 2 * math.pi * u[i - i % 2 + 1]
        assert value == pytest.approx(radius * (math.sin(angle) if i % 2 else math.cos(angle)), rel=1e-12, abs=1e-14)


def test_a_normal_is_bounded_by_its_smallest_uniform() -> None:
    """|normal| <= sqrt(-2 log 2^-33) < 6.8: a float32 network never meets an infinite latent."""
    assert math.sqrt(-2 * math.log(0.5 / 2**32)) < 6.8
    assert np.abs(normals(Keys.of(3, np.arange(1000)), Stream.PRIOR, 1000)).max() < 6.8


@st.composite
def some_keys(draw: st.DrawFn) -> Keys:
    n = draw(st.integers(1, 70))
    base, first, start = draw(seeds), draw(indices), draw(draws)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return Keys(
        rng.integers(0, 3, n).astype(np.uint64) + np.uint64(min(base, MAX_SEED - 4)),
        rng.permutation(n).astype(np.uint64) + np.uint64(min(first, MAX_INDEX - 70)),
        rng.integers(0, 3, n).astype(np.uint64) + np.uint64(min(start, 2**32 - 4)),
    )


def _take(keys: Keys, rows: Floats) -> Keys:
    return Keys(keys.seed[rows], keys.index[rows], keys.draw[rows])


@both
@given(
    keys=some_keys(),
    dimensions=st.integers(1, 800),
    stream=st.sampled_from(Stream),
    random=st.integers(0, 2**32),
    step=st.integers(-3, 4).filter(bool),
)
def test_a_rows_noise_depends_on_its_own_key_only(
    noise: Noise, keys: Keys, dimensions: int, stream: Stream, random: int, step: int
) -> None:
    """Any subset, order, stride, repetition, company or prefix of dimensions gives the same bits."""
    whole = noise(keys, stream, dimensions)
    rng = np.random.default_rng(random)
    n = len(keys)

    for rows in (rng.permutation(n), rng.integers(0, n, rng.integers(1, 140)), np.arange(n)[: rng.integers(1, n + 1)]):
        assert np.array_equal(noise(_take(keys, rows), stream, dimensions), whole[rows])
    strided = keys[slice(None, None, step)]
    assert strided.index.base is not None
    assert np.array_equal(noise(strided, stream, dimensions), whole[::step])

    row = int(rng.integers(0, n))
    for prefix in {1, dimensions, *map(int, rng.integers(1, dimensions + 1, 4))}:
        assert np.array_equal(noise(keys, stream, prefix), whole[:, :prefix])
        assert np.array_equal(noise(keys[slice(row, row + 1)], stream, prefix)[0], whole[row, :prefix])


@both
@given(keys=some_keys(), dimensions=st.integers(1, 40), stream=st.sampled_from(Stream), random=st.integers(0, 2**32))
def test_a_level_is_drawn_alone_as_in_its_stream(
    noise: Noise, keys: Keys, dimensions: int, stream: Stream, random: int
) -> None:
    """From block b of each row on, the noise is that of dimensions 4b ... of the whole stream."""
    first = np.random.default_rng(random).integers(0, 9, len(keys)).astype(np.uint64)
    whole = noise(keys, stream, dimensions + 4 * 8)
    expected = [row[4 * int(b) : 4 * int(b) + dimensions] for row, b in zip(whole, first, strict=True)]
    assert np.array_equal(noise(keys, stream, dimensions, first), expected)
    assert np.array_equal(noise(keys, stream, dimensions, 3), whole[:, 12 : 12 + dimensions])


@both
def test_every_length_of_a_row_agrees_with_the_longest(noise: Noise) -> None:
    """Vectorized kernels end in a remainder; no remainder of 1 ... 800 dimensions changes a bit."""
    keys = Keys.of(MAX_SEED - 1, [MAX_INDEX - 1, 0, 17], [0, 2**32 - 1, 5])
    whole = noise(keys, Stream.POSTERIOR, 800)
    for dimensions in range(1, 800):
        assert np.array_equal(noise(keys, Stream.POSTERIOR, dimensions), whole[:, :dimensions])
        assert np.array_equal(noise(keys[slice(1, 2)], Stream.POSTERIOR, dimensions), whole[1:2, :dimensions])


@both
def test_many_rows_agree_with_each_row_alone(noise: Noise) -> None:
    """The slices that keep intermediate arrays in cache leave no seam."""
    keys = Keys.of(11, np.arange(5000))
    for dimensions in (1, 2, 7, 64, 801):
        whole = noise(keys, Stream.OBSERVATION, dimensions)
        for row in range(0, 5000, 97):
            assert np.array_equal(noise(keys[slice(row, row + 1)], Stream.OBSERVATION, dimensions)[0], whole[row])


@both
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0), (2, 20001)])
def test_the_noise_has_a_row_for_each_key(noise: Noise, shape: tuple[int, int]) -> None:
    """The shape is (keys, dimensions), empty or longer than a slice too."""
    keys = Keys.of(1, np.arange(shape[0]))
    assert noise(keys, Stream.PRIOR, shape[1]).shape == shape


def test_index_and_draw_broadcast() -> None:
    """`Keys.of` pairs one index with many draws, many indices with one draw, and never loses a bit of them."""
    keys = Keys.of(MAX_SEED - 1, [MAX_INDEX - 1], [0, 1, 2**32 - 1])
    assert keys.seed.tolist() == [MAX_SEED - 1] * 3
    assert keys.index.tolist() == [MAX_INDEX - 1] * 3
    assert keys.draw.tolist() == [0, 1, 2**32 - 1]
    assert Keys.of(0, [4, 5], 7).draw.tolist() == [7, 7]
    assert len(keys) == 3


@pytest.mark.parametrize("field", ["seed", "index", "draw"])
def test_a_negative_key_is_refused(field: str) -> None:
    """A negative number has no counter: it is an error and not a wrapped-around one."""
    key = {"seed": 0, "index": [0], "draw": 0} | {field: [-1] if field == "index" else -1}
    with pytest.raises(OverflowError):
        Keys.of(**key)  # type: ignore[arg-type]


def test_every_key_field_and_dimension_changes_the_noise() -> None:
    """Neighbouring seeds, streams, indices, draws and dimensions share no noise: correlations are all but zero."""
    n, dimensions = 20_000, 4
    rows = np.arange(n)
    one = normals(Keys.of(5, rows), Stream.PRIOR, dimensions)
    others = {
        "seed": normals(Keys.of(6, rows), Stream.PRIOR, dimensions),
        "seed's high word": normals(Keys.of(5 + 2**32, rows), Stream.PRIOR, dimensions),
        "index's high word": normals(Keys.of(5, rows + 2**32), Stream.PRIOR, dimensions),
        "draw": normals(Keys.of(5, rows, 1), Stream.PRIOR, dimensions),
        "index and draw exchanged": normals(Keys.of(5, [0], rows + 2), Stream.PRIOR, dimensions),
        "next block": normals(Keys.of(5, rows), Stream.PRIOR, 2 * dimensions)[:, dimensions:],
        **{stream.name: normals(Keys.of(5, rows), stream, dimensions) for stream in Stream if stream},
    }
    values = np.concatenate([one, *others.values()], axis=1)
    correlation = np.corrcoef(values.T) - np.eye(values.shape[1])
    squares = np.corrcoef(np.square(values).T) - np.eye(values.shape[1])
    assert max(np.abs(correlation).max(), np.abs(squares).max()) < 5 / math.sqrt(n)
    assert len(np.unique(values)) == values.size


@pytest.mark.parametrize("stream", list(Stream))
@pytest.mark.parametrize(("noise", "law"), [(normals, stats.norm), (uniforms, stats.uniform)])
def test_the_noise_has_its_law(noise: Noise, law: stats.rv_continuous, stream: Stream) -> None:
    """A Kolmogorov-Smirnov test over rows, draws and dimensions; the first four moments within 4.5 standard errors."""
    index, draw = np.divmod(np.arange(6000), 3)
    values = noise(Keys.of(2**40 + 1, index, draw), stream, 17)
    assert stats.kstest(values.ravel(), law.cdf).pvalue > 1e-3
    for power in range(1, 5):
        error = math.sqrt((law.moment(2 * power) - law.moment(power) ** 2) / values.size)
        assert abs((values**power).mean() - law.moment(power)) < 4.5 * error
    # Each dimension by itself too, with Bonferroni's correction.
    assert min(stats.kstest(column, law.cdf).pvalue for column in values.T) > 1e-3 / 17


def test_words_fill_all_32_bits() -> None:
    """Every bit of a word is set in half of the words."""
    w = words(Keys.of(9, np.arange(4000)), Stream.PRIOR, 8).ravel()
    share = ((w[:, None] >> np.arange(32, dtype=np.uint64)) & np.uint64(1)).mean(0)
    assert w.max() <= ONES
    assert np.abs(share - 0.5).max() < 5 * 0.5 / math.sqrt(w.size)
