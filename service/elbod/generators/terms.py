"""What rows and draws contribute to the bound, as typed values; `evaluation` makes them.

    log p(x) >= E_q[log p(x|z)] - KL(q(z|x) || p(z)) = E_q[log p(x|z) + log p(z)] + H[q(z|x)]

The terms that do not involve x are known in one of three ways: in closed form for a row, in closed form given the
drawn groups of a hierarchy, or sampled. Each is a separate type with the same three names, so that `bounds` treats
them alike and can never mix them. Everything is float64, in nats; a value holds tensors where a model computes and
numpy arrays where bounds are reduced.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
A = TypeVar("A", Tensor, Floats)
T = TypeVar("T")


@dataclass(frozen=True)
class ClosedForm(Generic[A]):
    """Known for each row without a draw, (n,): kl = KL(q || p), log_prior = E_q[log p(z)], entropy = H[q].

    The three share no code, so that the two forms of the bound check each other. `kl_per_dimension` is (n, d), None
    where KL does not separate.
    """

    kl: A
    log_prior: A
    entropy: A
    kl_per_dimension: A | None = None


@dataclass(frozen=True)
class Conditional(Generic[A]):
    """Known for each draw given the drawn groups of a hierarchy, summed over groups.

    With p_l = p(z_l | z above) and q_l = q(z_l | z above, x): kl = sum KL(q_l || p_l), log_prior = sum E_q_l[log p_l],
    entropy = sum H[q_l]. The three share no code.
    """

    kl: A
    log_prior: A
    entropy: A


@dataclass(frozen=True)
class Sampled(Generic[A]):
    """log p(z) and log q(z|x) of each draw."""

    log_prior: A
    log_q: A

    @property
    def kl(self) -> A:
        """log q(z|x) - log p(z), whose mean estimates KL(q || p)."""
        return self.log_q - self.log_prior

    @property
    def entropy(self) -> A:
        """-log q(z|x), whose mean estimates H[q]."""
        return -self.log_q


@dataclass(frozen=True)
class Marginal(Generic[A]):
    """Averaged over the labels of a conditional model, for each draw: the label is one more latent."""

    kl: A
    log_prior: A
    entropy: A


@dataclass(frozen=True)
class KnownEntropy(Generic[A]):
    """kl = log q(z|x) - log p(z) of each draw, sampled, where H[q] is known and the same for every x.

    log_prior = -kl - H: log p(z) plus the control variate -log q(z|x) - H, whose mean is zero. So both forms of the
    bound have the variance of kl alone, which is far below that of log p(z).
    """

    kl: A
    log_prior: A
    entropy: A


LatentTerms = ClosedForm[A] | Conditional[A] | Sampled[A] | Marginal[A] | KnownEntropy[A]


@dataclass(frozen=True)
class PathTerms(Generic[A]):
    """What the latents of each draw contribute, summed over the passes that made them.

    `entropy` is H[q] where it is known and the same for every x; the bound is then of `sampled`, and `conditional`
    checks it.
    """

    sampled: Sampled[A]
    conditional: Conditional[A] | None = None
    entropy: A | None = None


@dataclass(frozen=True)
class RowTerms(Generic[A]):
    """What each row contributes without a draw; None where the family has no closed form for it.

    `expected_reconstruction` is E_q[log p(x|z)], (n,), and `expected_elements` the same by element, (n, *event_shape);
    `log_evidence` is log p(x), (n,).
    """

    latent: ClosedForm[A] | None
    expected_reconstruction: A | None
    expected_elements: A | None
    log_evidence: A | None


@dataclass(frozen=True)
class DrawTerms(Generic[A]):
    """What each draw contributes: log p(x|z) and the terms of its latents."""

    reconstruction: A
    path: PathTerms[A]


@dataclass(frozen=True)
class Terms:
    """All terms of n rows: what needs no draw is (n,), what is drawn (n, S), or (n, C, S) under each of C labels.

    `label_log_prob` is log p(y), (C,), where the labels are to be marginalized over, else None.
    """

    rows: RowTerms[Floats]
    draws: DrawTerms[Floats]
    label_log_prob: Floats | None = None


def summed(by_element: T) -> T:
    """Terms of each draw, (n,), from those by element, (n, d)."""
    total: T = mapped(lambda values: values.sum(-1), by_element)
    return total


def added(one: T, other: T) -> T:
    """Terms of two passes of each draw."""
    total: T = mapped(lambda first, second: first + second, one, other)
    return total


def leaves(terms: Any) -> list[Any]:
    """The arrays of a value of this module, in the order of its fields."""
    found: list[Any] = []
    _collect(terms, found)
    return found


def _collect(value: Any, found: list[Any]) -> None:
    kind: type = type(value)
    names = _fields(kind)
    if names is not None:
        for name in names:
            _collect(getattr(value, name), found)
    elif value is not None:
        found.append(value)


def mapped(function: Callable[..., Any], *terms: Any) -> Any:
    """A value of the same type whose arrays are `function` of the arrays at the same place in each of `terms`."""
    first = terms[0]
    if first is None:
        return None
    kind: type = type(first)
    names = _fields(kind)
    if names is None:
        return function(*terms)
    return kind(*[mapped(function, *[getattr(value, name) for value in terms]) for name in names])


@cache
def _fields(kind: type) -> tuple[str, ...] | None:
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else None
