"""A bar for calls of many requests: tqdm's, which draws itself in terminals and notebooks."""

from contextlib import nullcontext
from typing import Any, Protocol


class Bar(Protocol):
    """Hears of every finished part."""

    def update(self, rows: int) -> object: ...


class _Silence:
    def update(self, rows: int) -> None:
        pass


def bar(show: bool, title: str, total: int | None) -> Any:
    """A context manager that gives a Bar over `total` rows. Raises ImportError without tqdm."""
    if not show:
        return nullcontext(_Silence())
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: pip install 'elbod-client[progress]'") from None
    return tqdm(desc=title, total=total, unit="rows", unit_scale=True)
