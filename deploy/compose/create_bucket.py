"""Create the bucket of a store, unless it is there: `create_bucket.py s3://bucket/prefix [SECONDS]`.

A store that does not answer, or fails, is asked again for so many seconds, 120 by default. Service and credentials are
those of elbod itself: AWS_ENDPOINT_URL, AWS_REGION, AWS_SHARED_CREDENTIALS_FILE.
"""

import sys
import time
import urllib.error
import urllib.request
from datetime import timedelta
from urllib.parse import urlsplit

import obstore
from obstore.store import S3Store

from elbod_store.credentials import credentials_from_file
from elbod_store.errors import StoreError


class _Refused(Exception):
    """By the store, which would say the same again."""


def create(url: str, patience: float = 120.0) -> str:
    """What was done, in a sentence. Raises StoreError, OSError when `patience` seconds are over, and _Refused."""
    bucket = urlsplit(url).netloc
    store = S3Store(bucket, client_options={"allow_http": True}, config=credentials_from_file())  # type: ignore[arg-type]
    deadline = time.monotonic() + patience
    while True:
        try:
            return _put(store, bucket)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def _put(store: S3Store, bucket: str) -> str:
    # To put the empty key of a bucket is to create the bucket.
    request = urllib.request.Request(obstore.sign(store, "PUT", "", timedelta(minutes=1)), method="PUT")
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        answer = error.read().decode(errors="replace")
        if "BucketAlreadyOwnedByYou" in answer:
            return f"bucket {bucket} is there"
        what = f"bucket {bucket} cannot be created: {error.code} {answer}"
        raise (OSError(what) if error.code >= 500 else _Refused(what)) from None
    return f"created bucket {bucket}"


if __name__ == "__main__":
    try:
        sys.stdout.write(create(sys.argv[1], *map(float, sys.argv[2:])) + "\n")
    except (StoreError, OSError, _Refused) as failure:
        sys.exit(f"create_bucket: {failure}")
