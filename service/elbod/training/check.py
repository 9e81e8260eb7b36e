"""The publish check: a version whose numbers cannot be right is refused, with the reason.

No likelihood, no ELBO: a model must have a proper p(x|z), densities that belong to what it draws, closed forms that
agree with those densities, and rows that do not see each other. The mathematics is in `elbod.generators.conformance`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from elbod.generators.base import Generator
from elbod.generators.bounds import Elbo
from elbod.generators.conformance import PUBLICATION, Checked, Nonconforming, check_forms, check_outline
from elbod.training.errors import RefusedModel


def check_bounds(found: Elbo) -> None:
    """Every held-out ELBO is finite and its two forms agree. Raises RefusedModel with the first test row at fault."""
    with _refusing():
        check_forms(found)


@torch.inference_mode()
def check_model(generator: Generator, rows: Tensor, label: Tensor | None = None) -> None:
    """What must hold at any weights, tried on a few test rows (n, *event_shape), of a conditional model with their
    labels (n,). Raises RefusedModel."""
    with _refusing():
        model = Checked.of(generator, rows, label)
        for check in PUBLICATION:
            check(model)


def check_loadable(generator: Generator) -> None:
    """A service can load what is published. Raises RefusedModel."""
    with _refusing():
        check_outline(generator)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except Nonconforming as wrong:
        raise RefusedModel(f"not published: {wrong}") from wrong
