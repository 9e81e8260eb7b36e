"""What is sent, byte by byte, and the safetensors reader against the reference implementation."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from elbod_client import Client
from elbod_client._arrays import as_wire
from elbod_client._json import Malformed
from elbod_client._safetensors import read, write
from tests.elbod_client.scripted import ORIGIN, SAFETENSORS, SAMPLES, Reply, answering
from tests.elbod_client.scripted import safetensors as by_hand

WIRE_DTYPES = ("uint8", "int64", "float32", "float64")
ARRAYS = hnp.arrays(
    st.sampled_from(["|u1", "<i8", "<f4", "<f8", "|b1", "<i2", "<f2"]), hnp.array_shapes(min_dims=0, min_side=0)
)


def request_of(body: bytes) -> dict[str, Any]:
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    request: dict[str, Any] = json.loads(header["__metadata__"]["request"])
    return request


def test_a_request_says_its_fields_deadline_key_and_formats() -> None:
    with (
        answering(Reply(200, SAMPLES, SAFETENSORS)) as script,
        Client(script.url + "/prefix/", model="m@3", api_key="secret", timeout=12.5) as client,
    ):
        client.sample(3, seed=7, first_index=2, temperature=0.5, output="mean")
    asked = script.asked[0]
    assert (asked.method, asked.path) == ("POST", "/prefix/sample")
    assert request_of(asked.body) == {
        "model": "m@3",
        "seed": 7,
        "first_index": 2,
        "num_samples": 3,
        "temperature": 0.5,
        "output": "mean",
    }
    assert asked.headers["content-type"] == asked.headers["accept"] == SAFETENSORS
    assert asked.headers["request-timeout"] == "12.5"
    assert asked.headers["authorization"] == "Bearer secret"
    assert len(asked.headers["x-request-id"]) == 32


def test_no_timeout_and_no_key_send_no_header() -> None:
    with (
        answering(Reply(200, SAMPLES, SAFETENSORS)) as script,
        Client(script.url, timeout=None) as client,
    ):
        client.sample()
    assert script.asked[0].headers["request-timeout"] is None
    assert script.asked[0].headers["authorization"] is None


def test_url_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(Reply(200, SAMPLES, SAFETENSORS)) as script:
        monkeypatch.setenv("ELBOD_URL", script.url)
        monkeypatch.setenv("ELBOD_API_KEY", "from-environment")
        with Client() as client:
            client.sample()
    assert script.asked[0].headers["authorization"] == "Bearer from-environment"


def test_a_given_http_client_is_used_and_stays_open() -> None:
    with (
        answering(Reply(200, SAMPLES, SAFETENSORS)) as script,
        httpx.Client(headers={"X-Team": "vision"}) as http,
    ):
        with Client(script.url, http_client=http) as client:
            client.sample()
        assert not http.is_closed
    assert script.asked[0].headers["x-team"] == "vision"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_url": "localhost:8000"}, "http://"),
        ({"base_url": "http://"}, "http://"),
        ({"api_key": "two words"}, "api_key"),
        ({"api_key": "key\n"}, "api_key"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"max_retries": -1}, "max_retries"),
    ],
)
def test_settings_that_can_never_work_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Client(**arguments)
    assert "two words" not in str(caught.value)


def test_the_key_and_passwords_are_not_shown() -> None:
    with Client("http://user:hunter2@127.0.0.1:1", api_key="secret") as client:
        assert repr(client) == "Client('http://127.0.0.1:1', model=None)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_samples": 2.0}, "num_samples is a float"), ({"seed": "7"}, "seed is a str")],
)
def test_numbers_that_are_no_integers_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with Client() as client, pytest.raises(TypeError, match=message):
        client.sample(**arguments)


def test_include_as_one_word_is_refused() -> None:
    with Client() as client, pytest.raises(TypeError, match="sequence of names"):
        client.elbo([[0]], include="reconstruction_map")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">i4", ">f8"])
def test_every_boolean_integer_and_float_dtype_is_sent_without_loss(dtype: str) -> None:
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else None
    extremes = [info.min, min(info.max, 2**63 - 1)] if info else [0, 1]
    array = np.array([[1, *extremes]], dtype=dtype)
    sent = as_wire("x", array)
    assert sent.dtype.name in WIRE_DTYPES
    assert sent.tolist() == array.tolist()
    assert sent.flags.c_contiguous


@pytest.mark.parametrize(
    "value", [1.5 + 2j, "text", [None], ["a"], np.array(["2020-01-01"], "M8[D]"), [2**70], object()]
)
def test_other_dtypes_are_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match="x has dtype"):
        as_wire("x", value)


def test_integers_beyond_int64_are_refused_and_not_wrapped() -> None:
    with pytest.raises(TypeError, match="18446744073709551615"):
        as_wire("x", np.array([2**64 - 1], dtype=np.uint64))


def test_a_masked_array_is_refused_since_its_mask_would_be_lost() -> None:
    with pytest.raises(TypeError, match="masked"):
        as_wire("x", np.ma.masked_array([1, 2], [True, False]))


def test_ragged_lists_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="x cannot be read as an array"):
        as_wire("x", [[1], [1, 2]])


def test_an_array_that_is_ready_to_send_is_not_copied() -> None:
    array = np.zeros((2, 3), np.float32)
    assert as_wire("x", array) is array


@given(arrays=st.dictionaries(st.text(max_size=5).filter(lambda name: name != "__metadata__"), ARRAYS, max_size=4))
def test_the_reference_implementation_reads_what_is_written(arrays: dict[str, Any]) -> None:
    body = write({"model": "täst"}, arrays)
    assert request_of(body) == {"model": "täst"}
    assert int.from_bytes(body[:8], "little") % 8 == 0
    loaded = safetensors.numpy.load(body)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes()


@given(arrays=st.dictionaries(st.text("abc.", min_size=1, max_size=5), ARRAYS, max_size=4))
def test_what_the_reference_implementation_writes_is_read(arrays: dict[str, Any]) -> None:
    fields, tensors = read(safetensors.numpy.save(arrays, metadata={"response": '{"a": 1}'}))
    assert fields == {"a": 1}
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (tensors[name].dtype, tensors[name].shape) == (array.dtype, array.shape)
        assert tensors[name].tobytes() == array.tobytes()
        assert tensors[name].flags.aligned
        assert not tensors[name].flags.writeable


def test_a_tensor_is_a_view_of_the_body() -> None:
    body = safetensors.numpy.save({"x": np.arange(1000.0)}, metadata={"response": "{}"})
    assert np.shares_memory(read(body)[1]["x"], np.frombuffer(body, np.uint8))


@given(st.binary(max_size=200))
def test_noise_is_malformed_and_nothing_worse(body: bytes) -> None:
    with pytest.raises(Malformed):
        read(body)


@given(st.data())
def test_a_damaged_body_is_read_or_malformed_and_nothing_worse(data: st.DataObject) -> None:
    body = bytearray(SAMPLES)
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
        body[place] = data.draw(st.integers(0, 255))
    try:
        _, tensors = read(bytes(body))
    except Malformed:
        return
    assert sum(tensor.nbytes for tensor in tensors.values()) <= len(body)


def packed(header: object, data: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


METADATA = {"__metadata__": {"response": "{}"}}


@pytest.mark.parametrize(
    "body",
    [
        (2**63).to_bytes(8, "little") + b"{}",
        packed(b"[" * 100_000, b""),
        packed({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"a"),
        packed({"__metadata__": {"response": 5}}, b""),
        packed({"__metadata__": [], "x": 1}, b""),
        packed(METADATA | {"x": {"dtype": "U8", "shape": [2], "data_offsets": [0, 1]}}, b"a"),
        packed(METADATA | {"x": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}, b"ab"),
        packed(METADATA | {"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"ab"),
        packed(METADATA | {"x": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}}, b"a"),
        packed(METADATA | {"x": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, b"a"),
        packed(METADATA | {"x": {"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}}, b"a"),
        packed(METADATA | {"x": {"dtype": "U8", "shape": [1.0], "data_offsets": [0, 1]}}, b"a"),
        packed(METADATA | {"x": {"dtype": ["U8"], "shape": [1], "data_offsets": [0, 1]}}, b"a"),
        packed(METADATA | {"x": {"dtype": "U8", "shape": [0, 2**40, 2**40], "data_offsets": [0, 1]}}, b"a"),
        packed(METADATA | {"x": {"dtype": "U8", "shape": [1] * 17, "data_offsets": [0, 1]}}, b"a"),
        packed(
            METADATA
            | {
                "x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
                "y": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            },
            b"a",
        ),
    ],
)
def test_a_header_that_does_not_fit_its_bytes_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        read(body)


def test_an_empty_tensor_of_any_shape_is_read() -> None:
    body = by_hand(ORIGIN, {"x": ("F32", [0, 3], b"")})
    assert read(body)[1]["x"].shape == (0, 3)
