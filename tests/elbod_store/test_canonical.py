"""One value, one sequence of bytes; what decides the numbers decides the digest."""

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbod_store import InvalidDraft, ModelStore, model_digest
from elbod_store.canonical import canonical
from elbod_store.testing import a_draft

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
IDENTITY = {
    "family": "vae",
    "spec": {"latent_dim": 8},
    "likelihood": "bernoulli",
    "event_shape": (8, 8),
    "levels": None,
    "binarization": None,
    "labels": None,
    "weights": "0" * 64,
}


@given(JSON)
def test_canonical_json_survives_both_parsers_byte_for_byte(value: object) -> None:
    raw = canonical(value)
    assert canonical(json.loads(raw)) == raw
    assert canonical(msgspec.json.decode(raw)) == raw


@given(st.dictionaries(TEXT, JSON, max_size=5), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, object], random: object) -> None:
    keys = list(value)
    random.shuffle(keys)
    assert canonical({key: value[key] for key in keys}) == canonical(value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 2**64, -(2**63) - 1, b"x", {1: 2}, "\udfff", {1, 2}, 1j])
def test_what_json_cannot_hold_is_refused(bad: object) -> None:
    with pytest.raises(InvalidDraft, match=r"value\.a\[1\]"):
        canonical({"a": [0, bad]})


def test_the_model_digest_is_the_documented_hash() -> None:
    written_out = (
        '{"binarization":null,"event_shape":[8,8],"family":"vae","labels":null,"levels":null,'
        '"likelihood":"bernoulli","schema":1,"spec":{"latent_dim":8},"weights.digest":"' + "0" * 64 + '"}'
    )
    assert model_digest(**IDENTITY) == hashlib.sha256(written_out.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"family": "ppca"},
        {"spec": {"latent_dim": 9}},
        {"likelihood": "normal"},
        {"event_shape": (64,)},
        {"levels": 2},
        {"binarization": "stochastic"},
        {"labels": ("0", "1")},
        {"weights": "1" * 64},
    ],
)
def test_whatever_decides_the_numbers_changes_the_digest(change: dict[str, object]) -> None:
    assert model_digest(**{**IDENTITY, **change}) != model_digest(**IDENTITY)


def test_nothing_else_changes_the_digest() -> None:
    store = ModelStore.open("memory://")
    first = store.publish(a_draft())
    second = store.publish(a_draft("other", card="", metrics={}, training={}, reference=None, calibration=None))
    assert first.digest == second.digest
    assert first.checksum != second.checksum
