"""What a client is configured with: arguments, then `ELBOD_URL` and `ELBOD_API_KEY`, then defaults."""

import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Literal, Self, TypeAlias

import httpx

DEFAULT_URL: Final = "http://127.0.0.1:8000"
# The server answers 504 when the deadline has passed: the transport waits a little longer, to hear it.
DEADLINE_GRACE: Final = 5.0


class _Mark(Enum):
    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return self.name


# Where None means something.
UNCHANGED: Final = _Mark.UNCHANGED
Unchanged: TypeAlias = Literal[_Mark.UNCHANGED]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Checked settings of a client; `resolve` makes them."""

    base_url: str
    model: str | None
    api_key: str | None = field(repr=False)
    timeout: float | None
    max_retries: int
    chunk_rows: int | None
    concurrency: int

    @classmethod
    def resolve(
        cls,
        base_url: str | None,
        model: str | None,
        api_key: str | None,
        timeout: float | None,
        max_retries: int,
        chunk_rows: int | None,
        concurrency: int,
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
        return cls(
            base_url=url,
            model=model,
            api_key=key,
            timeout=timeout,
            max_retries=max_retries,
            chunk_rows=chunk_rows,
            concurrency=concurrency,
        )

    def __post_init__(self) -> None:
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(
                f"timeout is {self.timeout}: it must be a positive number of seconds, or None for no limit"
            )
        if self.max_retries < 0:
            raise ValueError(f"max_retries is {self.max_retries}: it must be 0 or more")
        if self.chunk_rows is not None and self.chunk_rows < 1:
            raise ValueError(f"chunk_rows is {self.chunk_rows}: it must be 1 or more, or None to let the client choose")
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}: it must be 1 or more")

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """The same with the changes that are not `UNCHANGED`. Raises ValueError."""
        return replace(self, **{name: value for name, value in changes.items() if value is not UNCHANGED})

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
