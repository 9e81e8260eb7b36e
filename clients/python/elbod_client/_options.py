"""What a client is configured with: arguments, then `ELBOD_URL` and `ELBOD_API_KEY`, then defaults."""

import math
import os
import uuid
from dataclasses import dataclass, field
from typing import Final, Self

import httpx

DEFAULT_URL: Final = "http://127.0.0.1:8000"
# The server answers 504 when the deadline has passed: the transport waits a little longer, to hear it.
DEADLINE_GRACE: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """Checked settings of a client; `resolve` makes them."""

    base_url: str
    model: str | None
    api_key: str | None = field(repr=False)
    timeout: float | None
    max_retries: int

    @classmethod
    def resolve(
        cls, base_url: str | None, model: str | None, api_key: str | None, timeout: float | None, max_retries: int
    ) -> Self:
        """Raises ValueError for what can never work. The key is in no message."""
        url = (base_url or os.environ.get("ELBOD_URL") or DEFAULT_URL).rstrip("/")
        key = api_key or os.environ.get("ELBOD_API_KEY") or None
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"base_url is not a URL: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError("base_url must begin with http:// or https:// and a host, as http://127.0.0.1:8000 does")
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError("api_key has blanks or characters that a header cannot carry")
        if timeout is not None and not 0 < timeout < math.inf:
            raise ValueError(f"timeout is {timeout}: it must be a positive number of seconds, or None for no limit")
        if max_retries < 0:
            raise ValueError(f"max_retries is {max_retries}: it must be 0 or more")
        return cls(base_url=url, model=model, api_key=key, timeout=timeout, max_retries=max_retries)

    @property
    def shown_url(self) -> str:
        """The base URL for messages, without user and password."""
        return str(httpx.URL(self.base_url).copy_with(userinfo=b""))

    def headers(self) -> dict[str, str]:
        """Headers of one request, with a fresh request id."""
        headers = {"X-Request-Id": uuid.uuid4().hex}
        if self.timeout is not None:
            headers["Request-Timeout"] = f"{self.timeout:.6g}"
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers

    def transport_timeout(self) -> httpx.Timeout:
        read = None if self.timeout is None else self.timeout + DEADLINE_GRACE
        return httpx.Timeout(self.timeout, read=read)
