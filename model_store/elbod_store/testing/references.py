"""Names, aliases and what they mean."""

from collections.abc import Callable
from typing import Any

import pytest

from elbod_store import (
    Conflict,
    InvalidName,
    ModelStore,
    NotFound,
    Retired,
    UnknownAlias,
    UnknownModel,
    UnknownVersion,
)
from elbod_store.names import alias_prefix, trash_key, versions_prefix
from elbod_store.testing.drafts import WHO, a_draft
from elbod_store.testing.fixture import StoreFixture

OUTSIDE = (
    *("..", "", "a/b", "a\0", "digits\n", "Digits", "-a", "a" * 65, "a" * 10_000),
    "\N{FULLWIDTH LATIN SMALL LETTER D}igits",
)


class ReferenceTests(StoreFixture):
    def test_a_bare_name_is_production_if_set_else_the_newest(self, store: ModelStore) -> None:
        store.publish(a_draft(fill=1))
        store.publish(a_draft(fill=2))
        assert store.resolve("digits").version == 2
        store.promote("digits", "production", 1, **WHO)
        assert store.resolve("digits").version == 1
        assert store.resolve("digits@production").version == 1
        assert store.resolve("digits@latest").version == 2
        assert store.resolve("digits@2").version == 2
        store.unalias("digits", "production", **WHO)
        assert store.resolve("digits").version == 2

    def test_what_is_unknown_says_so_and_suggests_close_names(self, store: ModelStore) -> None:
        store.publish(a_draft())
        store.promote("digits", "production", 1, **WHO)
        with pytest.raises(UnknownModel, match="did you mean 'digits'") as model:
            store.resolve("digit")
        assert model.value.suggestions == ("digits",)
        with pytest.raises(UnknownVersion, match="its newest is digits@1"):
            store.resolve("digits@2")
        with pytest.raises(UnknownAlias, match="did you mean 'production'"):
            store.resolve("digits@prodution")
        for unknown in (store.versions, store.aliases):
            with pytest.raises(UnknownModel):
                unknown("nothing")
        with pytest.raises(UnknownModel):
            store.manifest("nothing", 1)
        assert issubclass(UnknownAlias, NotFound)

    def test_hints_are_never_trusted(self, store: ModelStore) -> None:
        for fill in range(3):
            store.publish(a_draft(fill=fill))
        hint = f"{versions_prefix('digits')}/_last"
        for number, lie in enumerate((b"1", b"9999999999", b"2", b"", b"-1", b"0", b"\xff", b"9" * 100), start=4):
            store.objects.put(hint, lie)
            assert store.publish(a_draft(fill=number)).version == number
        store.objects.delete(hint)
        assert store.publish(a_draft()).version == 12
        hint = f"{alias_prefix('digits', 'production')}/_last"
        for number, lie in enumerate((b"1", b"9999999999", b"2", b"", b"x"), start=1):
            store.objects.put(hint, lie)
            assert store.promote("digits", "production", 1, **WHO).number == number

    def test_foreign_files_are_passed_over(self, store: ModelStore) -> None:
        store.publish(a_draft())
        store.promote("digits", "production", 1, **WHO)
        versions = versions_prefix("digits")
        for stray in ("0000000012.json~", "12.json", "0000000000.json", "00000000012.json", "sub/0000000012.json", "x"):
            store.objects.put(f"{versions}/{stray}", b"?")
            store.objects.put(f"{alias_prefix('digits', 'production')}/{stray}", b"?")
        store.objects.put("models/UPPER/versions/0000000001.json", b"?")
        assert store.versions("digits") == [1]
        assert store.aliases("digits") == {"production": 1}
        assert store.names() == ["digits"]
        assert store.publish(a_draft()).version == 2
        assert store.promote("digits", "production", 2, **WHO).number == 2

    def test_an_alias_is_a_log_whose_newest_entry_wins(self, store: ModelStore) -> None:
        for fill in range(3):
            store.publish(a_draft(fill=fill))
        store.promote("digits", "production", 1, who="ada", why="first")
        store.promote("digits", "production", 3, who="bob", why="better")
        store.rollback("digits", "production", who="eve", why="worse")
        store.unalias("digits", "production", who="ada", why="over")
        log = store.history("digits", "production")
        assert [entry.number for entry in log] == [1, 2, 3, 4]
        assert [entry.version for entry in log] == [1, 3, 1, None]
        assert [(entry.who, entry.why) for entry in log] == [
            ("ada", "first"),
            ("bob", "better"),
            ("eve", "worse"),
            ("ada", "over"),
        ]
        assert store.aliases("digits") == {}
        assert store.promote("digits", "production", 2, **WHO).number == 5

    def test_a_second_rollback_undoes_the_first(self, store: ModelStore) -> None:
        for fill in range(2):
            store.publish(a_draft(fill=fill))
            store.promote("digits", "production", fill + 1, **WHO)
        assert store.rollback("digits", "production", **WHO).version == 1
        assert store.rollback("digits", "production", **WHO).version == 2

    def test_of_two_rollbacks_that_saw_the_same_entry_one_conflicts(self, store: ModelStore) -> None:
        for fill in range(2):
            store.publish(a_draft(fill=fill))
            store.promote("digits", "production", fill + 1, **WHO)
        assert store.rollback("digits", "production", expected=2, **WHO).version == 1
        with pytest.raises(Conflict):
            store.rollback("digits", "production", expected=2, **WHO)
        assert store.aliases("digits") == {"production": 1}

    def test_a_rollback_needs_somewhere_to_go(self, store: ModelStore) -> None:
        store.publish(a_draft())
        with pytest.raises(UnknownAlias):
            store.rollback("digits", "production", **WHO)
        store.promote("digits", "production", 1, **WHO)
        with pytest.raises(UnknownVersion, match="no earlier version"):
            store.rollback("digits", "production", **WHO)

    def test_a_rollback_to_a_retired_version_is_refused(self, store: ModelStore) -> None:
        for fill in range(2):
            store.publish(a_draft(fill=fill))
            store.promote("digits", "production", fill + 1, **WHO)
        store.retire("digits", 1)
        with pytest.raises(Retired):
            store.rollback("digits", "production", **WHO)
        assert store.aliases("digits") == {"production": 2}

    def test_a_promotion_that_expected_another_entry_conflicts(self, store: ModelStore) -> None:
        store.publish(a_draft())
        first = store.promote("digits", "production", 1, expected=0, **WHO)
        with pytest.raises(Conflict, match="moved by someone else"):
            store.promote("digits", "production", 1, expected=0, **WHO)
        assert store.promote("digits", "production", 1, expected=first.number, **WHO).number == 2
        with pytest.raises(Conflict):
            store.promote("digits", "production", 1, expected=7, **WHO)

    def test_only_a_live_version_can_be_promoted(self, store: ModelStore) -> None:
        with pytest.raises(UnknownModel):
            store.promote("digits", "production", 1, **WHO)
        store.publish(a_draft())
        with pytest.raises(UnknownVersion):
            store.promote("digits", "production", 2, **WHO)
        store.retire("digits", 1)
        with pytest.raises(Retired):
            store.promote("digits", "production", 1, **WHO)
        with pytest.raises(InvalidName, match="reserved"):
            store.promote("digits", "latest", 1, **WHO)
        with pytest.raises(UnknownAlias):
            store.history("digits", "production")

    def test_an_alias_that_is_not_set_cannot_be_removed(self, store: ModelStore) -> None:
        store.publish(a_draft())
        with pytest.raises(UnknownAlias):
            store.unalias("digits", "production", **WHO)

    @pytest.mark.parametrize("name", OUTSIDE)
    def test_a_name_outside_the_grammar_reaches_no_store(self, store: ModelStore, name: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.publish(a_draft(name)),
            lambda: store.versions(name),
            lambda: store.manifest(name, 1),
            lambda: store.resolve(name),
            lambda: store.resolve(f"digits@{name}"),
            lambda: store.promote(name, "production", 1, **WHO),
            lambda: store.promote("digits", name, 1, **WHO),
            lambda: store.rollback("digits", name, **WHO),
            lambda: store.unalias(name, "production", **WHO),
            lambda: store.history("digits", name),
            lambda: store.aliases(name),
            lambda: store.retire(name, 1),
            lambda: store.watch(name),
        ]
        for call in calls:
            with pytest.raises(InvalidName):
                call()
        assert store.objects.list_after("models") == []

    @pytest.mark.parametrize("version", [0, -1, True, 10**10, "1", 1.0, None])
    def test_a_version_is_a_positive_integer_of_at_most_ten_digits(self, store: ModelStore, version: Any) -> None:
        store.publish(a_draft())
        for call in (store.manifest, store.retire):
            with pytest.raises(InvalidName):
                call("digits", version)
        with pytest.raises(InvalidName):
            store.promote("digits", "production", version, **WHO)

    def test_the_probe_finds_put_if_absent_and_leaves_nothing_behind(self, store: ModelStore) -> None:
        store.probe()
        assert store.objects.list_after("probe") == []

    def test_a_retired_version_stays_retired_if_its_trash_entry_is_damaged(self, store: ModelStore) -> None:
        store.publish(a_draft())
        store.retire("digits", 1)
        store.objects.put(trash_key("digits", 1), b"")
        assert store.versions("digits") == []
