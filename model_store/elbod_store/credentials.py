"""Credentials of an S3 service from the file that AWS's own tools read: then none need be in the environment."""

import configparser
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from elbod_store.errors import Unavailable

_FILE: Final = "AWS_SHARED_CREDENTIALS_FILE"
_PROFILE: Final = "AWS_PROFILE"
# What the file calls a value -> what obstore does.
_REQUIRED: Final = {"aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key"}
_OPTIONAL: Final = {"aws_session_token": "session_token"}


def credentials_from_file(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """obstore's names and values of the profile in the file that AWS_SHARED_CREDENTIALS_FILE names.

    The profile is AWS_PROFILE, else `default`. Nothing without that variable, or next to AWS_ACCESS_KEY_ID, which wins
    as it does with AWS's tools. Raises Unavailable, which never repeats a value.
    """
    path = environ.get(_FILE)
    if not path or environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    # A secret may hold a %, which is no reference to another value here.
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(Path(path).read_text())
    except OSError as error:
        raise Unavailable(f"cannot read {path}, which {_FILE} names: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError):
        # Their messages quote the lines.
        raise Unavailable(f"{path}, which {_FILE} names, is no file of [profile] sections") from None
    profile = environ.get(_PROFILE) or "default"
    if not parser.has_section(profile):
        raise Unavailable(f"{path} has no profile [{profile}]: set {_PROFILE} to one of {sorted(parser.sections())}")
    found = parser[profile]
    if missing := [name for name in _REQUIRED if not found.get(name)]:
        raise Unavailable(f"[{profile}] of {path} lacks {' and '.join(missing)}")
    return {ours: found[name] for name, ours in (_REQUIRED | _OPTIONAL).items() if found.get(name)}
