"""S3 credentials by file."""

from pathlib import Path

import pytest

from elbod_store.credentials import credentials_from_file
from elbod_store.errors import Unavailable

FILE = """\
[default]
aws_access_key_id = reader
aws_secret_access_key = 50%/of+it==

[writer]
aws_access_key_id = writer
aws_secret_access_key = hush
aws_session_token = today
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "credentials"
    path.write_text(FILE)
    return {"AWS_SHARED_CREDENTIALS_FILE": str(path)}


def test_the_default_profile_is_read_to_the_letter(environ: dict[str, str]) -> None:
    assert credentials_from_file(environ) == {"access_key_id": "reader", "secret_access_key": "50%/of+it=="}


def test_aws_profile_chooses_another(environ: dict[str, str]) -> None:
    assert credentials_from_file(environ | {"AWS_PROFILE": "writer"}) == {
        "access_key_id": "writer",
        "secret_access_key": "hush",
        "session_token": "today",
    }


def test_keys_in_the_environment_win(environ: dict[str, str]) -> None:
    assert credentials_from_file(environ | {"AWS_ACCESS_KEY_ID": "other"}) == {}


def test_without_the_variable_no_file_is_looked_for() -> None:
    assert credentials_from_file({}) == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot read .*: No such file"),
        ("hush", "is no file of"),
        ("[default]\nhush", "is no file of"),
        ("[other]\naws_access_key_id = hush", r"no profile \[default\].*'other'"),
        ("[default]\naws_access_key_id = hush", "lacks aws_secret_access_key"),
        ("", r"no profile \[default\]"),
    ],
)
def test_a_file_that_does_not_serve_is_named_without_its_secrets(
    tmp_path: Path, text: str | None, complaint: str
) -> None:
    path = tmp_path / "credentials"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Unavailable, match=complaint) as raised:
        credentials_from_file({"AWS_SHARED_CREDENTIALS_FILE": str(path)})
    assert str(path) in str(raised.value)
    assert "hush" not in str(raised.value)
