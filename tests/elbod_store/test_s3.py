"""What goes wrong with an S3 service, in one line that says what to do; and a service that is away for a while."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from elbod_store import ModelStore, Unavailable, Unsupported
from elbod_store.testing import WHO, a_draft
from tests.seaweed import Seaweed, running
from tests.support import HANG, LEVELS, Server, publish, wait_for


@pytest.mark.parametrize(
    ("variables", "url", "reason"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, None, "check AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, None, "check AWS_ACCESS_KEY_ID"),
        ({}, "s3://absent/models", "there is no such bucket: create it first"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, None, "the service cannot be reached"),
    ],
)
def test_a_service_that_refuses_is_named_with_the_reason(
    s3_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    url: str | None,
    reason: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    store = ModelStore.open(url or s3_url, cache_dir=tmp_path)
    for use in (lambda: store.publish(a_draft()), store.names, lambda: store.resolve("digits")):
        with pytest.raises(Unavailable, match=reason) as refused:
            use()
        assert "\n" not in str(refused.value)
        assert "wrong" not in str(refused.value)
    # Each use is tried again for ten seconds; the default would be three minutes.
    assert time.monotonic() - began < HANG


@pytest.mark.parametrize("url", ["s3://", "s3:/bucket", "s3:bucket", "s3://key:secret@bucket/x", "s3://bucket/x?y=1"])
def test_what_names_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(Unsupported, match=r"write it as s3://bucket/prefix"):
        ModelStore.open(url)


def test_credentials_of_a_file_do_as_well(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.seaweed import ACCESS_KEY, SECRET_KEY

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert ModelStore.open(s3_url, cache_dir=tmp_path).publish(a_draft()).version == 1


def test_a_service_that_is_away_costs_no_answer_and_a_publication_can_be_tried_again(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    start_server: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(tmp_path_factory.mktemp("w")) as seaweed:
        for name, value in seaweed.environment.items():
            monkeypatch.setenv(name, value)
        url = seaweed.prefix()
        store = ModelStore.open(url, cache_dir=tmp_path / "cache")
        publish(store, "levels", LEVELS)
        server = start_server(url, "--model", "levels")

        def version() -> int:
            answer = httpx.post(f"{server.url}/sample", json={"seed": 1}, timeout=30).raise_for_status().json()
            found: int = answer["model"]["version"]
            return found

        assert version() == 1
        seaweed.stop()
        wait_for(lambda: "levels" in httpx.get(f"{server.url}/readyz").text and version() == 1)
        with pytest.raises(Unavailable):
            publish(store, "levels", LEVELS, seed=1)
        assert version() == 1
        seaweed.start()
        assert publish(store, "levels", LEVELS, seed=1).version == 2
        store.promote("levels", "production", 2, **WHO)
        wait_for(lambda: version() == 2)


class Skewed(BaseHTTPRequestHandler):
    """An S3 server in whose eyes the caller's clock is wrong."""

    def do_GET(self) -> None:
        body = b"<Error><Code>RequestTimeTooSkewed</Code><Message>too far apart</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_clock_that_is_wrong_is_said_to_be(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Skewed) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        try:
            with pytest.raises(Unavailable, match="this machine's clock is wrong"):
                ModelStore.open(s3_url, cache_dir=tmp_path).names()
        finally:
            server.shutdown()
            thread.join()


def test_the_server_of_the_tests_is_the_real_one(seaweed: Seaweed) -> None:
    assert "SeaweedFS" in httpx.get(f"{seaweed.endpoint}/").headers.get("server", "")
