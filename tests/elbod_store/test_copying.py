"""The digest of a copied file is that of what was written."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elbod_store import InvalidDraft, Unavailable
from elbod_store.copying import copy_and_hash


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 5_000_000) | st.sampled_from([2**20 - 1, 2**20, 2**20 + 1, 2**21]))
def test_a_copy_is_the_file_and_its_sha256_and_size(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    target = tmp_path / "new folder" / "target"
    assert copy_and_hash(tmp_path / "source", target) == (hashlib.sha256(content).hexdigest(), size)
    assert target.read_bytes() == content
    target.unlink()


def test_what_cannot_be_read_and_what_cannot_be_written_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InvalidDraft, match=r"cannot read .*none"):
        copy_and_hash(tmp_path / "none", tmp_path / "target")
    with pytest.raises(Unavailable, match=r"cannot write .*below: File exists"):
        copy_and_hash(tmp_path / "file", tmp_path / "file" / "below")
    with pytest.raises(Unavailable, match=r"cannot write .*file: File exists"):
        copy_and_hash(tmp_path / "file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"x"
