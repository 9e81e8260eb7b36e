"""Models without the memory of their weights: what a spec asks for is known before anything is allocated for it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Elements of a tensor that is made as it is: masks and indices, from whose values a constructor may compute sizes.
_SMALL = 2**16
# Of all small tensors together, and of tensors of any size. A ladder of 100 groups makes some 1,500.
_MAX_ELEMENTS, _MAX_TENSORS = 2**24, 5_000

_FACTORIES = frozenset(
    {
        torch.arange,
        torch.empty,
        torch.empty_strided,
        torch.eye,
        torch.full,
        torch.linspace,
        torch.normal,
        torch.ones,
        torch.rand,
        torch.randint,
        torch.randn,
        torch.randperm,
        torch.zeros,
    }
)


class Outline(TorchFunctionMode):
    """A context in which a tensor of more than 65,536 elements is made on the `meta` device: shape and dtype alone.

    A constructor may compute with all tensors, and read the values of small ones. One that reads those of a large one
    fails there: that belongs in `Generator.prepare`, or under an explicit device (`torch.zeros(n, device="cpu")`),
    which this context leaves alone. Raises ValueError for more tensors than any model has.
    """

    def __init__(self) -> None:
        super().__init__()
        self._elements = self._tensors = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func not in _FACTORIES or given.get("device") is not None:
            return func(*args, **given)
        self._tensors += 1
        if self._tensors > _MAX_TENSORS:
            raise ValueError(f"it has more than {_MAX_TENSORS} tensors")
        outlined = func(*args, **given | {"device": "meta"})
        if outlined.numel() > _SMALL or self._elements + outlined.numel() > _MAX_ELEMENTS:
            return outlined
        self._elements += outlined.numel()
        return func(*args, **given)
