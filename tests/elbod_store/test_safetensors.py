"""Weights are safetensors, whole, or they are refused; nothing is ever unpickled."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from elbod_store import InvalidDraft, ModelStore
from elbod_store.safetensors import check_file
from elbod_store.testing import a_draft


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(start: int, stop: int, dtype: str = "F32", shape: tuple[int, ...] = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


class Executes:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_named_safetensors_is_refused_and_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = ModelStore.open(tmp_path / "store")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / "model.safetensors"
        path.write_bytes(pickle.dumps(Executes(), protocol) + bytes(1000))
        for weights in (path, path.read_bytes()):
            with pytest.raises(InvalidDraft, match="no safetensors file"):
                store.publish(a_draft(weights=weights))
    assert store.objects.list_after("blobs") == []
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int64", "bool"])
def test_what_the_library_writes_is_accepted(tmp_path: Path, dtype: str) -> None:
    tensors = {"a": np.zeros((3, 5), dtype), "empty": np.zeros((0, 2), dtype), "scalar": np.zeros((), dtype)}
    check_file(safetensors.numpy.save(tensors, metadata={"format": "pt"}))
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    check_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\x02",
        file_of({}, length=0),
        file_of({}, length=2**63),
        file_of({}, length=3),
        file_of([]),
        file_of(b"{"),
        file_of(b"{\xff}"),
        file_of(b"[" * 100_000),
        file_of({"__metadata__": {"a": 1}}),
        file_of({"a": tensor(0, 4)}),
        file_of({"a": tensor(0, 4)}, bytes(5)),
        file_of({"a": tensor(0, 8)}, bytes(8)),
        file_of({"a": tensor(4, 8)}, bytes(8)),
        file_of({"a": tensor(4, 0)}, bytes(4)),
        file_of({"a": tensor(-4, 0)}, bytes(4)),
        file_of({"a": tensor(0, 4), "b": tensor(0, 4)}, bytes(4)),
        file_of({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)),
        file_of({"a": tensor(0, 4, dtype="OBJECT")}, bytes(4)),
        file_of({"a": tensor(0, 4, shape=(-1,))}, bytes(4)),
        file_of({"a": {**tensor(0, 4), "code": "os.system"}}, bytes(4)),
        file_of({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    ],
)
def test_a_header_that_does_not_describe_the_file_exactly_is_refused(bad: bytes) -> None:
    with pytest.raises(InvalidDraft):
        check_file(bad)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda raw: file_of(raw)))
def test_no_bytes_at_all_break_the_check(raw: bytes) -> None:
    try:
        check_file(raw)
    except InvalidDraft:
        return
    safetensors.numpy.load(raw)
