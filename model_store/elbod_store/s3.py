"""S3 and what speaks like it: how to reach it, and its errors in one line each.

Keys, region and endpoint come from the usual variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
AWS_ENDPOINT_URL), which obstore reads by itself, or keys from a file (see `credentials`).
"""

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import ObjectStore, S3Store

from elbod_store.credentials import credentials_from_file
from elbod_store.errors import Unavailable, Unsupported

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

# obstore itself tries for three minutes: here somebody waits, or asks again.
_RETRY: "Final[RetryConfig]" = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
}

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

# In this order, because one answer may hold several of these words.
_REASONS: Final = (
    ("RequestTimeTooSkewed", "this machine's clock is wrong by minutes: set it, then try again"),
    ("NoSuchBucket", "there is no such bucket: create it first, or correct the URL"),
    ("InvalidAccessKeyId", "the service does not know the access key: check AWS_ACCESS_KEY_ID"),
    ("SignatureDoesNotMatch", "the secret does not belong to the access key: check AWS_SECRET_ACCESS_KEY"),
    (
        "169.254.169.254",
        "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SHARED_CREDENTIALS_FILE",
    ),
    ("AccessDenied", "these credentials may not do that in the bucket"),
    ("error sending request", "the service cannot be reached: see AWS_ENDPOINT_URL and the network"),
    ("error trying to connect", "the service cannot be reached: see AWS_ENDPOINT_URL and the network"),
)


def connect(url: str) -> ObjectStore:
    """The prefix `s3://bucket/prefix`; no request is made. Raises Unsupported for a malformed URL, Unavailable."""
    parts = urlsplit(url)
    segments = parts.path.strip("/").split("/")
    if not _BUCKET.fullmatch(parts.netloc) or parts.query + parts.fragment or {".", ".."} & set(segments):
        raise Unsupported(f"{url!r} is no place in an S3 service: write it as s3://bucket/prefix")
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": timedelta(seconds=10),
        # Of a whole request: weights of gigabytes take their time, as long as bytes arrive.
        "timeout": timedelta(hours=1),
    }
    if endpoint.startswith("http://"):
        options["allow_http"] = True
    try:
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            client_options=options,
            retry_config=_RETRY,
            config=credentials_from_file(),  # type: ignore[arg-type]
        )
    except (BaseError, ValueError) as error:
        raise Unavailable(f"cannot open {url}: {str(error).partition(chr(10))[0]}") from error


def reason(error: Exception) -> str | None:
    """One line that says what is wrong and what to do, of an error whose text holds a known word."""
    text = str(error)
    return next((said for word, said in _REASONS if word in text), None)
