"""Bytes to arrays and back."""

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from elbod.api import wire
from elbod.errors import ElbodError, InvalidInput, Malformed

dtypes = st.sampled_from(["uint8", "int64", "float32", "float64"])
any_arrays = hnp.arrays(dtype=dtypes, shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))


@given(any_arrays)
def test_base64_keeps_every_byte(array: Any) -> None:
    body = wire.encode_json({"seed": 1}, {"x": array}, as_base64=True)
    fields, arrays = wire.decode_json(body, ("x",))
    assert fields == {"seed": 1}
    assert arrays["x"].dtype == array.dtype
    assert arrays["x"].shape == array.shape
    assert arrays["x"].tobytes() == array.tobytes()


@given(any_arrays)
def test_safetensors_are_what_the_reference_library_reads_and_writes(array: Any) -> None:
    body = wire.encode_safetensors({"seed": 2**62}, {"x": array, "z": None})
    assert load_safetensors(body)["x"].tobytes() == array.tobytes()
    length = int.from_bytes(body[:8], "little")
    assert (8 + length) % 8 == 0
    assert json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["response"]) == {"seed": 2**62}
    raw = bytearray(save_safetensors({"x": array}, metadata={"request": '{"seed": 3}'}))
    fields, arrays = wire.decode_safetensors(raw, ("x",))
    assert fields == {"seed": 3}
    assert arrays["x"].tobytes() == array.tobytes()
    assert arrays["x"].shape == array.shape


@given(hnp.arrays(np.float64, (3, 2), elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_nested_lists_keep_every_bit_of_a_float64(array: Any) -> None:
    _, arrays = wire.decode_json(wire.encode_json({}, {"x": array}, as_base64=False), ("x",))
    assert arrays["x"].tobytes() == array.tobytes()


numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
leaves = numbers | st.sampled_from([0, 1, 0.5, None, True, "[", "1"])


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists of what is alike and of what is not."""
    return st.lists(inner, max_size=3) | st.lists(st.lists(inner, min_size=2, max_size=2), min_size=1, max_size=3)


def rectangle(value: Any) -> tuple[int, ...] | None:
    """The shape of nested lists of numbers, None where they have none."""
    if not isinstance(value, list):
        return () if type(value) in (int, float) else None
    shapes = {rectangle(item) for item in value} or {()}
    return (len(value), *shape) if len(shapes) == 1 and (shape := shapes.pop()) is not None else None


@given(
    st.lists(st.recursive(leaves, nested, max_leaves=12), max_size=4),
    st.fixed_dictionaries(
        {}, optional={"t": st.sampled_from(["[", "]", "\\[", "a"]), "u": st.lists(numbers, max_size=2)}
    ),
)
def test_lists_are_arrays_if_and_only_if_they_are_rectangles_of_numbers(
    value: list[Any], other: dict[str, Any]
) -> None:
    body = json.dumps(other | {"x": value}).encode()
    shape = rectangle(value)
    if shape is None:
        with pytest.raises(InvalidInput):
            wire.decode_json(body, ("x",))
        return
    fields, arrays = wire.decode_json(body, ("x",))
    assert fields == other
    assert arrays["x"].shape == shape
    assert arrays["x"].dtype in (np.int64, np.float64)
    assert arrays["x"].tolist() == np.asarray(value, arrays["x"].dtype).tolist()


@pytest.mark.parametrize("text", ["[[1,[2,3]],[4,[]]]", "[[3,[],[1,2]],[1,2,3]]", "[[1,2],[true,0]]", "[1,[2]]"])
@pytest.mark.parametrize("other", ["", ',"t":"\\u005b\\u005b\\u005b"', ',"t":"[[["'])
def test_a_list_hidden_among_numbers_is_no_number(text: str, other: str) -> None:
    with pytest.raises(InvalidInput, match=r"ragged|numbers"):
        wire.decode_json(f'{{"x":{text}{other}}}'.encode(), ("x",))


@pytest.mark.parametrize(
    "body", ['{"label":1,"x":[2],"label":0}', '{"label":1,"x":[2],"label":[0]}', '{"x":[1],"t":"\\n","x":[1]}']
)
def test_a_name_given_twice_is_refused(body: str) -> None:
    for text in (body, body.replace("[2]", str([2] * 70_000))):
        with pytest.raises(InvalidInput, match=r"(label|x) is given twice"):
            wire.decode_json(text.encode(), ("x", "label"))


def test_a_byte_order_mark_is_skipped() -> None:
    for x in ("[1,2]", "[" + "1," * 70_000 + "1]", '{"dtype":"uint8","shape":[1],"data":"AQ=="}'):
        _, arrays = wire.decode_json(f'\ufeff{{"x":{x},"seed":"\\n"}}'.encode(), ("x",))
        assert arrays["x"][0] == 1


def test_what_is_undefined_is_null() -> None:
    body = orjson.loads(wire.encode_json({}, {"a": np.array([1.0, np.nan]), "b": None}, as_base64=False))
    assert body == {"a": [1.0, None], "b": None}


@pytest.mark.parametrize(
    "value", ["1", True, None, "x", 3, [], {}, [[1], [2, 3]], [None], [True], ["1"], {"dtype": "float32"}]
)
def test_what_is_no_array_is_refused_with_its_name(value: Any) -> None:
    body = json.dumps({"x": value}).encode()
    if value is None or value == []:
        # null is absent; an empty list is an array, without rows.
        assert wire.decode_json(body, ("x",))
        return
    with pytest.raises(InvalidInput) as refused:
        wire.decode_json(body, ("x",))
    assert refused.value.places[0].pointer.startswith("/x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"dtype": "object"}, "dtype must be one of"),
        ({"shape": [-1, 4]}, "shape"),
        ({"shape": [2**60, 2**60]}, "shape"),
        ({"shape": "2"}, "shape"),
        ({"shape": [3]}, "8 bytes"),
        ({"data": "****"}, "not base64"),
        ({"data": 5}, "not base64"),
        ({"more": 1}, "exactly the keys"),
    ],
)
def test_bad_base64_arrays_are_refused(changes: dict[str, Any], message: str) -> None:
    good = {"dtype": "float32", "shape": [2], "data": "AAAAAAAAAAA="}
    wire.decode_json(json.dumps({"x": good}).encode(), ("x",))
    with pytest.raises(InvalidInput, match=message):
        wire.decode_json(json.dumps({"x": good | changes}).encode(), ("x",))


@given(st.data())
def test_any_prefix_of_a_safetensors_body_is_malformed(data: st.DataObject) -> None:
    raw = save_safetensors({"x": np.arange(6, dtype=np.float32), "z": np.ones(3)}, metadata={"request": "{}"})
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(Malformed):
        wire.decode_safetensors(bytearray(raw[:cut]), ("x", "z"))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_never_crash(raw: bytes) -> None:
    for decode in (wire.decode_json, wire.decode_safetensors):
        with pytest.raises(ElbodError):
            decode(bytearray(b"\x01" + raw), ("x",))


def _safetensors(header: dict[str, Any], data: bytes) -> bytearray:
    raw = json.dumps(header).encode()
    return bytearray(len(raw).to_bytes(8, "little") + raw + data)


@pytest.mark.parametrize(
    "header",
    [
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
        {"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "extra": 1}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {
            "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "z": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        },
        {"__metadata__": {"request": 5}, "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"__metadata__": {"request": "[]"}, "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"y": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"x": 5},
    ],
)
def test_headers_that_do_not_describe_the_body_are_refused(header: dict[str, Any]) -> None:
    with pytest.raises((Malformed, InvalidInput)):
        wire.decode_safetensors(_safetensors(header, bytes(8)), ("x", "z"))


def test_an_unaligned_tensor_is_read_right() -> None:
    header = {
        "x": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "z": {"dtype": "F64", "shape": [2], "data_offsets": [3, 19]},
    }
    _, arrays = wire.decode_safetensors(_safetensors(header, b"abc" + np.array([1.5, -2.0]).tobytes()), ("x", "z"))
    assert arrays["z"].tolist() == [1.5, -2.0]
    assert arrays["z"].flags.aligned


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("application/*", "application/json"),
        ("application/x-safetensors, application/json;q=0.5", "application/x-safetensors"),
        ("application/json;q=0, */*", "application/x-safetensors"),
        ("image/*;q=0.2, application/json;q=0.1", "image/png"),
        ("text/html", None),
        ("*/*;q=0", None),
        ("application/json;q=high", None),
    ],
)
def test_accept_picks_the_offer_that_the_caller_likes_best(accept: str | None, expected: str | None) -> None:
    offers = ("application/json", "application/x-safetensors", "image/png")
    assert wire.best_media_type(accept, offers) == expected
