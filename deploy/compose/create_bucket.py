"""Create the bucket of a store, unless it is there: `create_bucket.py s3://bucket/prefix`.

The service and the credentials are those of elbod itself: AWS_ENDPOINT_URL, AWS_REGION, AWS_SHARED_CREDENTIALS_FILE.
"""

import sys
import urllib.error
import urllib.request
from datetime import timedelta
from urllib.parse import urlsplit

import obstore
from obstore.store import S3Store

from elbod_store.credentials import credentials_from_file
from elbod_store.errors import StoreError


def create(url: str) -> str:
    """What was done, in a sentence. Raises StoreError, OSError."""
    bucket = urlsplit(url).netloc
    store = S3Store(bucket, client_options={"allow_http": True}, config=credentials_from_file())  # type: ignore[arg-type]
    # To put the empty key of a bucket is to create the bucket.
    request = urllib.request.Request(obstore.sign(store, "PUT", "", timedelta(minutes=1)), method="PUT")
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        answer = error.read().decode(errors="replace")
        if "BucketAlreadyOwnedByYou" in answer:
            return f"bucket {bucket} is there"
        raise OSError(f"bucket {bucket} cannot be created: {error.code} {answer}") from None
    return f"created bucket {bucket}"


if __name__ == "__main__":
    try:
        sys.stdout.write(create(sys.argv[1]) + "\n")
    except (StoreError, OSError) as failure:
        sys.exit(f"create_bucket: {failure}")
