"""Which values the configuration accepts."""

import contextlib

import pytest

from elbod.errors import StartupError
from elbod.settings import load_settings

DAY = 24 * 3600


@pytest.fixture(autouse=True)
def nowhere(tmp_path):
    """A working folder without elbod.toml."""
    with contextlib.chdir(tmp_path):
        yield


@pytest.mark.parametrize("name", ["request_timeout", "poll_interval", "drain_timeout"])
def test_a_time_is_positive_and_at_most_a_day(name):
    assert getattr(load_settings(**{name: DAY}), name) == DAY
    for wrong in (0, -1, DAY + 1, float("inf"), float("nan"), "inf"):
        with pytest.raises(StartupError, match=name):
            load_settings(**{name: wrong})


@pytest.mark.parametrize("store", ["", "  "])
def test_a_store_has_an_address(store):
    with pytest.raises(StartupError, match="store must not be empty"):
        load_settings(store=store)


@pytest.mark.parametrize(("given", "kept"), [("", ""), ("/", ""), ("/elbod", "/elbod"), ("/a/b/", "/a/b")])
def test_a_path_prefix_has_no_slash_at_its_end(given, kept):
    assert load_settings(root_path=given).root_path == kept


def test_a_path_prefix_begins_with_a_slash():
    with pytest.raises(StartupError, match="root_path must begin with '/'"):
        load_settings(root_path="elbod/")
