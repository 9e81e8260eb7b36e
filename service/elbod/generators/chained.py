"""What a family with levels offers beyond `begin`, `advance` and `observe`: passes by element, and each level alone.

Levels are 0 (ready to be observed) ... T = `levels`; z of every level is (n, latent_dim), one number an element of x.
Rows may stand at different levels: every method is one pass at most, and row i of it depends on row i alone.
"""

from abc import abstractmethod

from torch import Tensor

from elbod.generators.base import Generator, Walk
from elbod.generators.posteriors import DiagonalNormal, Posterior
from elbod.generators.terms import Conditional, PathTerms


class Chained(Generator):
    """A generator whose latents are a chain z_T ... z_0 with an encoder that is known at every level."""

    @property
    @abstractmethod
    def log_snr(self) -> Tensor:
        """The log signal-to-noise ratio of levels 0 ... T, (T + 1,) float64, descending."""

    @abstractmethod
    def marginal(self, q: Posterior, level: Tensor) -> DiagonalNormal:
        """q(z_level|x) at a level a row, (n,) int64; no pass."""

    @property
    @abstractmethod
    def entropy(self) -> Tensor:
        """H[q(z_0 ... z_T|x)], a float64 scalar that is the same for every x."""

    @abstractmethod
    def first_kl(self, q: Posterior) -> Tensor:
        """KL(q(z_T|x) || p(z_T)), (n,), float64."""

    @abstractmethod
    def begin_by_element(self, q: Posterior, noise: Tensor) -> tuple[Walk, PathTerms[Tensor]]:
        """`begin` with terms by element, (n, latent_dim), which `begin` sums."""

    @abstractmethod
    def advance_by_element(
        self, walk: Walk, q: Posterior, noise: Tensor, label: Tensor | None = None
    ) -> tuple[Walk, PathTerms[Tensor]]:
        """`advance` likewise."""

    @abstractmethod
    def descend(self, walk: Walk, q: Posterior, noise: Tensor) -> Walk:
        """z_below ~ q(z_below|z_level, x), the draw that `advance` makes; no pass."""

    @abstractmethod
    def visit(self, q: Posterior, level: Tensor, noise: Tensor) -> Walk:
        """z_level ~ q(z_level|x) at a level a row, (n,) int64, without the path to it; no pass."""

    @abstractmethod
    def level_terms(self, walk: Walk, q: Posterior, label: Tensor | None = None) -> Conditional[Tensor]:
        """KL(q(z_below|z_level, x) || p(z_below|z_level)) of each row with its other forms, (n,)."""

    @abstractmethod
    def advance(
        self,
        walk: Walk,
        q: Posterior | None,
        noise: Tensor,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> tuple[Walk, PathTerms[Tensor] | None]:
        """As in every family; draws from p are drawn towards their label by `guidance` w >= 0, (n, 1) float64.

        Models with a null label alone have it. What it draws has no bound.
        """

    @abstractmethod
    def follow(self, walk: Walk, label: Tensor | None = None, guidance: Tensor | None = None) -> Walk:
        """z_below of the deterministic sampler, which has no bound."""

    @property
    @abstractmethod
    def level_weights(self) -> Tensor:
        """w of levels 1 ... T, (T,) float64, by which `strata` samples them."""

    @abstractmethod
    def keep_profile(self, reconstruction: Tensor, kl: Tensor) -> None:
        """Weigh levels by their terms on held-out rows: log p(x|z_0), (n,), and the KL from levels 1 ... T, (n, T)."""
