"""Errors that name a row of a part, as errors that name it in the whole."""

import re
from typing import Any

from elbod_client._errors import ElbodError

# How the server writes a row: x[3], /x/3 in a pointer, `row 3` of what has no rows given.
_NAMED = re.compile(r"\b(x|z|label)\[(\d+)\]|\brow (\d+)\b")
_POINTER = re.compile(r"/(x|z|label)/(\d+)")


def moved(error: ElbodError, start: int) -> ElbodError:
    """The same error with `start` added to the rows that it names."""
    if start == 0 or not error.args:
        return error
    kind = type(error)
    new = kind(
        _shift(str(error), start),
        status_code=error.status_code,
        request_id=error.request_id,
        problem=_shift_problem(error.problem, start),
        retry_after=error.retry_after,
    )
    new.__cause__ = error.__cause__
    return new


def _shift(text: str, start: int) -> str:
    def later(found: re.Match[str]) -> str:
        name, row, bare = found.groups()
        return f"{name}[{int(row) + start}]" if name else f"row {int(bare) + start}"

    return _NAMED.sub(later, text)


def _shift_problem(problem: dict[str, Any] | None, start: int) -> dict[str, Any] | None:
    if problem is None:
        return None
    new = dict(problem)
    if isinstance(detail := new.get("detail"), str):
        new["detail"] = _shift(detail, start)
    if isinstance(places := new.get("errors"), list):
        new["errors"] = [_shift_place(place, start) if isinstance(place, dict) else place for place in places]
    return new


def _shift_place(place: dict[str, Any], start: int) -> dict[str, Any]:
    new = dict(place)
    if isinstance(pointer := new.get("pointer"), str):
        new["pointer"] = _POINTER.sub(lambda found: f"/{found[1]}/{int(found[2]) + start}", pointer)
    if isinstance(detail := new.get("detail"), str):
        new["detail"] = _shift(detail, start)
    return new
