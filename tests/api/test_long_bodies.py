"""Long JSON is read in blocks: what is accepted, and as what, does not depend on the length."""

import base64
import json
import random
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbod.api import wire
from elbod.errors import ElbodError, InvalidInput

# Longer than what is read in one piece.
LONG = 70_000

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
shapes = st.lists(st.integers(1, 4), max_size=4)


def rows_of(data: st.DataObject, shape: list[int]) -> Any:
    if not shape:
        return data.draw(numbers)
    return [rows_of(data, shape[1:]) for _ in range(shape[0])]


def long_text(row: Any, separators: tuple[str, str]) -> str:
    text = json.dumps(row, separators=separators)
    return f"[{separators[0].join([text] * (1 + LONG // len(text)))}]"


@given(st.data(), shapes, st.sampled_from([(",", ":"), (", ", ": "), (" ,\n ", " : ")]))
def test_long_lists_are_the_arrays_that_short_ones_are(
    data: st.DataObject, shape: list[int], separators: tuple[str, str]
) -> None:
    row = rows_of(data, shape)
    text = long_text(row, separators)
    body = f'{{"seed":3,"z":[[1],[2]],"x":{text},"t":["a"]}}'
    fields, arrays = wire.decode_json(body.encode(), ("x", "z"))
    assert arrays["z"].tolist() == [[1], [2]]
    _, short = wire.decode_json(json.dumps({"x": [row]}).encode(), ("x",))
    assert fields == {"seed": 3, "t": ["a"]}
    assert arrays["x"].dtype == short["x"].dtype
    assert arrays["x"].shape[1:] == tuple(shape)
    assert (arrays["x"] == short["x"]).all()


def is_rectangle(value: Any, shape: tuple[int, ...]) -> bool:
    if not shape:
        return type(value) in (int, float)
    return isinstance(value, list) and len(value) == shape[0] and all(is_rectangle(v, shape[1:]) for v in value)


def reference(text: str) -> Any:
    """The array by the standard library and numpy, or None."""
    try:
        value = json.loads(text)["x"]
        orjson.loads(text)  # stricter with numbers
    except (ValueError, KeyError, TypeError):
        return None
    shape, first = [], value
    while isinstance(first, list) and first:
        shape.append(len(first))
        first = first[0]
    return np.asarray(value) if shape and is_rectangle(value, tuple(shape)) else None


@pytest.mark.parametrize("row", ["1", "[1.5,-2]", "[[1,20],[3,4e1]]", "[ [ 1 ] , [ 2 ] ]"])
def test_a_change_of_any_character_is_refused_or_read_as_it_stands(row: str) -> None:
    rng = random.Random(7)
    text = f'{{"x":[{",".join([row] * (1 + LONG // len(row)))}]}}'
    accepted = 0
    for _ in range(60):
        place, length = rng.randrange(5, len(text)), rng.randrange(3)
        edit = "".join(rng.choices('[],01.e- "\\{}t', k=rng.randrange(3)))
        changed = text[:place] + edit + text[place + length :]
        expected = reference(changed)
        if expected is None:
            with pytest.raises(ElbodError):
                wire.decode_json(changed.encode(), ("x",))
        else:
            accepted += 1
            _, arrays = wire.decode_json(changed.encode(), ("x",))
            assert arrays["x"].tolist() == expected.tolist()
    assert accepted


@pytest.mark.parametrize("escape", [lambda text: text, lambda text: text.replace("/", "\\/").replace("+", "\\u002B")])
@pytest.mark.parametrize("order", [("dtype", "shape", "data"), ("data", "shape", "dtype")])
def test_long_base64_keeps_every_byte(escape: Any, order: tuple[str, ...]) -> None:
    x = np.random.default_rng(1).integers(0, 256, (5, 20_011), dtype=np.uint8)
    parts = {
        "dtype": '"uint8"',
        "shape": "[5, 20011]",
        "data": f'"{escape(base64.b64encode(x.tobytes()).decode())}"',
    }
    described = ",".join(f'"{name}": {parts[name]}' for name in order)
    _, arrays = wire.decode_json(f'{{"x": {{{described}}}, "seed": 1}}'.encode(), ("x",))
    assert arrays["x"].tobytes() == x.tobytes()
    for wrong in ("=", "*", "\\q", "\\u00e9", "A==="):
        broken = described.replace('"data": "', f'"data": "{wrong}')
        with pytest.raises(ElbodError):
            wire.decode_json(f'{{"x": {{{broken}}}, "seed": 1}}'.encode(), ("x",))


@pytest.mark.parametrize(
    "body",
    [
        "{" + ",".join(f'"k{i}":0' for i in range(300_000)) + "}",
        '{"x":[1],"seed":{' + ",".join(f'"k{i}":0' for i in range(300_000)) + "}}",
        '{"include":[' + "1," * 300_000 + "1]}",
        '{"include":[' + "1," * 1000 + "1]}",
        '{"x":[' + "{}," * 300_000 + "1]}",
        '{"x":[' + "[]," * 300_000 + "1]}",
        '{"x":{"data":[' + "1," * 300_000 + "1]}}",
        '{"model":"' + "m" * 300_000 + '"}',
        '{"' + "k" * 300_000 + '":1}',
        "{" + '"x":[],' * 300_000 + '"x":[]}',
        '{"x":' + "[" * 300_000 + "]" * 300_000 + "}",
        '{"x":[' + "7" * 300_000 + "]}",
    ],
)
def test_long_nonsense_is_refused_in_few_words(body: str) -> None:
    with pytest.raises(ElbodError) as refused:
        wire.decode_json(body.encode(), ("x",))
    assert len(str(refused.value)) < 500


def test_what_is_written_in_blocks_is_what_is_written_at_once() -> None:
    rng = np.random.default_rng(2)
    arrays = {
        "x": rng.random((70, 3, 40, 41)),
        "posterior.mean": np.where(rng.random((30_000, 2)) < 0.1, np.nan, 1.5).astype(np.float32),
        "image": rng.integers(0, 256, (3, 256, 257), np.uint8),
        "met": rng.random(50_000) < 0.5,
        "none": None,
        "empty": np.zeros((0, 3)),
    }
    fields = {"seed": 1, "posterior.family": "normal", "mean": np.float64(0.5)}
    nested = fields | arrays
    nested["posterior"] = {"family": nested.pop("posterior.family"), "mean": nested.pop("posterior.mean")}
    text = bytes(wire.encode_json(fields, arrays, as_base64=False))
    assert orjson.loads(text) == orjson.loads(orjson.dumps(nested, option=orjson.OPT_SERIALIZE_NUMPY))
    assert b" " not in text
    found = orjson.loads(wire.encode_json(fields, arrays, as_base64=True))
    assert base64.b64decode(found["x"]["data"]) == arrays["x"].tobytes()  # type: ignore[union-attr]
    assert found["image"]["shape"] == [3, 256, 257]
    assert found["none"] is None


def test_no_other_value_may_be_long() -> None:
    body = '{"x":[1],"t":"' + "a" * LONG + '"}'
    with pytest.raises(InvalidInput, match="no other field is long"):
        wire.decode_json(body.encode(), ("x",))
