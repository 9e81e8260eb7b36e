"""When to try again, and after how long. Pure: time and chance come from the caller.

Every request is a pure function of its body (the seed is in it), so sending it twice is safe.
"""

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from elbod_client._errors import ElbodError, NotReady, QueueFull

# Seconds before the first retry; doubled for each later one, up to MAX_DELAY.
INITIAL_DELAY: Final = 0.5
MAX_DELAY: Final = 8.0
# A delay is shortened (back-off) or lengthened (Retry-After) by up to this share, so that callers do not march in step.
JITTER: Final = 0.25
# Who is asked to wait longer than this gets the error instead, with its `retry_after`.
MAX_RETRY_AFTER: Final = 60.0

RETRIED_ERRORS: Final = (QueueFull, NotReady)
# Without a problem document: of a proxy, which lost the server it had asked. A server's own 500 would come again.
RETRIED_OF_PROXIES: Final = frozenset({500, 502})
# Not the timeouts of an answer: the work would be begun again while the server is at its slowest.
RETRIED_TRANSPORT_ERRORS: Final = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)


def delay_before_retry(error: ElbodError, retry: int, max_retries: int, chance: float) -> float | None:
    """Seconds to wait before retry number `retry` (1, 2, ...), or None to give up; `chance` is uniform in [0, 1)."""
    transient = (
        isinstance(error, RETRIED_ERRORS)
        or isinstance(error.__cause__, RETRIED_TRANSPORT_ERRORS)
        or (error.problem is None and error.status_code in RETRIED_OF_PROXIES)
    )
    if not transient or retry > max_retries:
        return None
    if error.retry_after is None:
        return back_off(retry) * (1 - JITTER * chance)
    # Never earlier than the server asked for.
    return error.retry_after * (1 + JITTER * chance) if error.retry_after <= MAX_RETRY_AFTER else None


def back_off(retry: int) -> float:
    """INITIAL_DELAY, twice that, and so on, at most MAX_DELAY."""
    return min(MAX_DELAY, INITIAL_DELAY * 2.0 ** min(retry - 1, 32))


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `Retry-After` asks to wait (RFC 9110, section 10.2.3); None if it is absent or makes no sense.

    A date is compared with the answer's own `Date` where it has one, since clocks differ; else with `now`.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    moment = _timestamp(value)
    if moment is None:
        return None
    sent = _timestamp(headers.get("date", ""))
    return max(0.0, moment - (now if sent is None else sent))


def _timestamp(value: str) -> float | None:
    try:
        moment = parsedate_to_datetime(value)
        timestamp = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return timestamp if math.isfinite(timestamp) else None
