"""Waiting for a server that starts: when to look again, and what to say in the end. Pure: the caller has the clock."""

from typing import Final

from elbod_client._errors import ElbodError, NotReady

FIRST_PAUSE: Final = 0.05
MAX_PAUSE: Final = 1.0
GROWTH: Final = 1.5
# One look may take this long: a server that hangs is looked at again.
LOOK_TIMEOUT: Final = 5.0


class Wait:
    """One wait until `deadline`, on any clock that never goes back."""

    def __init__(self, shown_url: str, timeout: float, now: float) -> None:
        self._shown_url, self._timeout = shown_url, timeout
        self._deadline = now + timeout
        self._pause = FIRST_PAUSE

    def look_timeout(self, now: float) -> float:
        """Seconds that the next look may take."""
        return min(LOOK_TIMEOUT, max(self._deadline - now, FIRST_PAUSE))

    def pause(self, now: float, last: ElbodError) -> float:
        """Seconds until the next look, after one that ended with `last`. Raises NotReady at the deadline."""
        if now >= self._deadline:
            raise NotReady(
                f"{self._shown_url} is not ready after {self._timeout:g} s; /readyz last said: {last}",
                status_code=last.status_code,
                request_id=last.request_id,
                problem=last.problem,
            ) from last
        pause, self._pause = self._pause, min(MAX_PAUSE, self._pause * GROWTH)
        return min(pause, self._deadline - now)
