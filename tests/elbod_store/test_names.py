"""No path escapes the prefix; no name is ambiguous."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elbod_store import InvalidName, Reference, parse_reference
from elbod_store.names import alias_prefix, blob_key, check_alias, check_name, version_key

HOSTILE = st.text() | st.text("ab019-_./@\\\0\n\r\t %~éа", max_size=12) | st.integers().map(str)
GOOD_NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)
GOOD_ALIASES = st.from_regex(r"[a-z][a-z0-9_-]{0,63}", fullmatch=True).filter(lambda alias: alias != "latest")
KEY = re.compile(r"models/[a-z0-9][a-z0-9_-]*/(versions/[0-9]{10}\.json|aliases/[a-z][a-z0-9_-]*)")


@given(HOSTILE, HOSTILE)
@example("..", "..")
@example("digits\n", "production\n")
@example("digits\0", "a\0")
@example("a" * 10_000, "a" * 10_000)
@example("d\N{CYRILLIC SMALL LETTER I}gits", "\N{CYRILLIC SMALL LETTER ER}roduction")
@example("1\N{ARABIC-INDIC DIGIT TWO}", "latest")
def test_whatever_becomes_a_key_stays_under_its_prefix(name: str, alias: str) -> None:
    for build in (lambda: version_key(name, 1), lambda: alias_prefix(name, alias)):
        try:
            key = build()
        except InvalidName:
            continue
        assert KEY.fullmatch(key)
        assert len(key) < 160


def test_a_hostile_name_makes_no_long_message() -> None:
    with pytest.raises(InvalidName) as refusal:
        check_name("a" * 10_000)
    assert len(str(refusal.value)) < 300


@given(HOSTILE)
@example("digits@012")
@example("digits@0")
@example("digits@1\n")
@example("digits@")
@example("digits@a@b")
@example("@")
@example("digits@99999999999")
def test_a_reference_has_one_spelling_or_none(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidName:
        return
    assert str(reference) == text
    assert text.isascii()


@given(GOOD_NAMES, st.none() | GOOD_ALIASES | st.just("latest"), st.integers(1, 9_999_999_999))
def test_a_reference_that_was_written_is_parsed_back(name: str, alias: str | None, version: int) -> None:
    assert parse_reference(str(Reference(name, alias=alias))) == Reference(name, alias=alias)
    assert parse_reference(str(Reference(name, version=version))) == Reference(name, version=version)


@given(st.one_of(st.none(), st.integers(), st.binary(), st.booleans(), st.lists(st.text())))
def test_what_is_no_text_is_no_name(value: object) -> None:
    for check in (check_name, check_alias, parse_reference, blob_key):
        with pytest.raises(InvalidName):
            check(value)


def test_the_alias_latest_is_reserved() -> None:
    assert parse_reference("digits@latest") == Reference("digits", alias="latest")
    with pytest.raises(InvalidName, match="reserved"):
        check_alias("latest")


@given(st.text())
def test_a_digest_is_64_lower_case_hexadecimal_digits(text: str) -> None:
    with pytest.raises(InvalidName):
        blob_key(text)
