"""A generator whose every answer is checked: what raises, or has another shape, dtype or device, is named by its
method."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import ParamSpec, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from elbod.generators.base import Generator, Walk
from elbod.generators.evaluation import row_terms
from elbod.generators.likelihoods import Observation
from elbod.generators.noise import Keys, Stream, normals
from elbod.generators.posteriors import Posterior
from elbod.generators.priors import Prior
from elbod.generators.terms import Conditional, DrawTerms, PathTerms, RowTerms, Sampled, added

# Rows that are tried, and the seed of their noise.
_ROWS = 8
_SEED = 1

# Each term as messages call it.
_SAMPLED = {"log_prior": "log p(z)", "log_q": "log q(z|x)"}
_KNOWN = {"kl": "KL(q || p)", "log_prior": "E_q[log p(z)]", "entropy": "H[q]"}

P = ParamSpec("P")
T = TypeVar("T")


class Nonconforming(AssertionError):
    """What a family gets wrong, in one sentence that names the method."""


@dataclass(frozen=True)
class Checked:
    """A prepared generator, a few rows x (n, *event_shape) and, of conditional families, their labels (n,).

    Methods are the generator's. Each raises Nonconforming where that one raises, or returns what it must not. Units
    are (row, draw) pairs, all draws of a row one after the other; `draws` says how many there are.
    """

    generator: Generator
    x: Tensor
    label: Tensor | None = None

    @classmethod
    def of(cls, generator: Generator, x: Tensor, label: Tensor | None = None) -> Self:
        """The first rows; the generator is prepared, and has to be in `eval` mode."""
        if generator.training:
            raise ValueError("the generator is in training mode: call eval()")
        call("prepare", generator.prepare)
        return cls(generator, x[:_ROWS], None if label is None else label[:_ROWS])

    def __len__(self) -> int:
        return len(self.x)

    @property
    def device(self) -> torch.device:
        return next(itertools.chain(self.generator.parameters(), self.generator.buffers())).device

    def labels(self, draws: int = 1) -> Tensor | None:
        """The label of each unit."""
        return None if self.label is None else self.label.repeat_interleave(draws, 0)

    def noise(self, stream: Stream, dimensions: int, draws: int = 1) -> Tensor:
        """Standard normals of every unit and level, (n draws, 1 + levels, dimensions)."""
        n, passes = len(self), 1 + self.generator.levels
        keys = Keys.of(_SEED, np.repeat(np.arange(n), draws), np.tile(np.arange(draws), n))
        # Philox gives four dimensions a block, and no two levels share one.
        aligned = dimensions + -dimensions % 4
        values = normals(keys, stream, passes * aligned).reshape(n * draws, passes, aligned)
        return torch.from_numpy(values[..., :dimensions].copy()).to(self.device)

    def encode(self, draws: int = 1) -> Posterior:
        """q(z|x) of every unit."""
        q = call("encode", self.generator.encode, self.x, self.label)
        self._check_posterior("encode", q)
        if draws == 1:
            return q
        return self.posterior({name: value.repeat_interleave(draws, 0) for name, value in q.parameters.items()})

    def posterior(self, parameters: Mapping[str, Tensor]) -> Posterior:
        q = call("posterior", self.generator.posterior, parameters)
        if not isinstance(q, Posterior):
            raise Nonconforming(f"posterior returns a {type(q).__name__}, no Posterior")
        return q

    def prior(self) -> Prior:
        p = call("prior", self.generator.prior)
        if not isinstance(p, Prior):
            raise Nonconforming(f"prior returns a {type(p).__name__}, no Prior")
        return p

    def draws(self, draws: int, temperature: Tensor | float = 1.0) -> tuple[Posterior, Walk, PathTerms[Tensor]]:
        """q(z|x) of every unit, z_0 ~ q and the terms of the path to it."""
        q = self.encode(draws)
        noise = self.noise(Stream.POSTERIOR, q.noise_dimensions, draws)
        walk, path = self.descend(q, noise, temperature, draws)
        assert path is not None
        return q, walk, path

    def prior_draws(self, temperature: Tensor | float = 1.0) -> Walk:
        """z_0 ~ p(z), one for every row."""
        noise = self.noise(Stream.PRIOR, self.prior().noise_dimensions)
        return self.descend(None, noise, temperature)[0]

    def descend(
        self, q: Posterior | None, noise: Tensor, temperature: Tensor | float = 1.0, draws: int = 1
    ) -> tuple[Walk, PathTerms[Tensor] | None]:
        """`begin`, and `advance` until every unit is at level 0; the terms of all passes added up."""
        levels = self.generator.levels
        walk, path = self.begin(q, noise[:, levels], temperature, draws)
        for below in reversed(range(levels)):
            before = walk.level
            walk, more = self.advance(walk, q, noise[:, below], draws)
            assert before is not None
            assert walk.level is not None
            if (unit := first((walk.level >= before) & (before > 0))) is not None:
                raise Nonconforming(f"advance leaves row {unit // draws} at level {int(walk.level[unit])}")
            if path is not None:
                path = added(path, more)
        return walk, path

    def begin(
        self, q: Posterior | None, noise: Tensor, temperature: Tensor | float = 1.0, draws: int = 1
    ) -> tuple[Walk, PathTerms[Tensor] | None]:
        found = call("begin", self.generator.begin, q, noise, temperature)
        return self._check_pass("begin", found, q, len(noise), draws)

    def advance(
        self, walk: Walk, q: Posterior | None, noise: Tensor, draws: int = 1
    ) -> tuple[Walk, PathTerms[Tensor] | None]:
        found = call("advance", self.generator.advance, walk, q, noise, self.labels(draws))
        return self._check_pass("advance", found, q, len(noise), draws)

    def latent_terms(self, q: Posterior, z: Tensor, draws: int = 1) -> PathTerms[Tensor]:
        path = call("latent_terms", self.generator.latent_terms, q, z)
        return self._check_path("latent_terms", path, len(z), draws)

    def decode(self, z: Tensor, label: Tensor | None) -> Observation:
        return _observation("decode", call("decode", self.generator.decode, z, label))

    def observe(self, walk: Walk, draws: int = 1) -> Observation:
        return _observation("observe", call("observe", self.generator.observe, walk, self.labels(draws)))

    def log_likelihood(self, what: str, observation: Observation, draws: int = 1) -> Tensor:
        """log p(x|z) of every unit, (n draws,), float64, finite."""
        x = self.x.repeat_interleave(draws, 0)
        double = call(f"double of the distribution of {what}", observation.double)
        maps = call(f"log_prob of the distribution of {what}", double.log_prob, x)
        self.tensor(f"{what}: log p(x_i|z)", maps, tuple(x.shape), torch.float64, draws)
        values = call(f"log_likelihood of the distribution of {what}", double.log_likelihood, x)
        return self.tensor(f"{what}: log p(x|z)", values, (len(x),), torch.float64, draws)

    def draw_terms(self, draws: int) -> DrawTerms[Tensor]:
        """What each draw of each row contributes to the bound."""
        _, walk, path = self.draws(draws)
        return DrawTerms(self.log_likelihood("observe", self.observe(walk, draws), draws), path)

    def row_terms(self) -> RowTerms[Tensor]:
        """What each row contributes without a draw, float64 and finite."""
        what = "closed_form, expected_log_likelihood or log_evidence"
        rows = call(what, row_terms, self.generator, self.x, self.encode())
        n = len(self)
        if (latent := rows.latent) is not None:
            for name, shown in _KNOWN.items():
                self.tensor(f"closed_form of the prior: {shown}", getattr(latent, name), (n,), torch.float64)
            if (parts := latent.kl_per_dimension) is not None:
                self.tensor("closed_form of the prior: kl_per_dimension", parts, (n, parts.shape[-1]), torch.float64)
        if (expected := rows.expected_elements) is not None:
            self.tensor("expected_log_likelihood", expected, tuple(self.x.shape), torch.float64)
        if (evidence := rows.log_evidence) is not None:
            self.tensor("log_evidence", evidence, (n,), torch.float64)
        return rows

    def tensor(
        self, what: str, value: object, shape: tuple[int, ...], dtype: torch.dtype | None, draws: int = 1
    ) -> Tensor:
        """`value` as a finite tensor of that shape and dtype on the generator's device; Nonconforming if it is none."""
        if not isinstance(value, Tensor):
            raise Nonconforming(f"{what} is a {type(value).__name__}, no tensor")
        if tuple(value.shape) != shape:
            raise Nonconforming(f"{what} has shape {tuple(value.shape)}, not {shape}")
        if dtype is not None and value.dtype != dtype:
            raise Nonconforming(f"{what} is {value.dtype}, not {dtype}")
        if value.device != self.device:
            raise Nonconforming(f"{what} is on {value.device}, the model on {self.device}")
        if (unit := first(~value.isfinite().reshape(len(value), -1).all(1))) is not None:
            wrong = value[unit].flatten()
            worst = float(wrong[~wrong.isfinite()][0])
            raise Nonconforming(f"{what} of {'a draw of ' if draws > 1 else ''}row {unit // draws} is {worst}")
        return value

    def _check_posterior(self, what: str, q: object) -> None:
        if not isinstance(q, Posterior):
            raise Nonconforming(f"{what} returns a {type(q).__name__}, no Posterior")
        for name, value in q.parameters.items():
            shape = (len(self), *value.shape[1:]) if isinstance(value, Tensor) else ()
            self.tensor(f"{what}: {name}", value, shape, None)

    def _check_pass(
        self, what: str, found: object, q: Posterior | None, units: int, draws: int
    ) -> tuple[Walk, PathTerms[Tensor] | None]:
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Walk)):
            raise Nonconforming(f"{what} returns a {type(found).__name__}, no pair of a Walk and its terms")
        walk, path = found
        self.tensor(f"{what}: z", walk.z, (units, self.generator.latent_dim), torch.float32, draws)
        self._check_level(what, walk, units)
        if q is None:
            if path is not None:
                raise Nonconforming(f"{what} gives terms for a draw from the prior, which has none")
            return walk, None
        return walk, self._check_path(what, path, units, draws)

    def _check_level(self, what: str, walk: Walk, units: int) -> None:
        """Families with levels say where each draw stands; the others do not."""
        levels = self.generator.levels
        if levels == 0:
            if walk.level is not None or walk.below is not None:
                raise Nonconforming(f"{what} gives levels, but the family has levels = 0")
            return
        for name in ("level", "below"):
            if getattr(walk, name) is None:
                raise Nonconforming(f"the family has levels = {levels}, but {what} gives no {name}")
            value = self.tensor(f"{what}: {name}", getattr(walk, name), (units,), torch.int64)
            if (unit := first((value > levels) | (value < (0 if name == "level" else -1)))) is not None:
                raise Nonconforming(f"{what}: {name} of draw {unit} is {int(value[unit])}, of levels = {levels}")

    def _check_path(self, what: str, path: object, units: int, draws: int) -> PathTerms[Tensor]:
        if not isinstance(path, PathTerms) or not isinstance(path.sampled, Sampled):
            raise Nonconforming(f"{what} gives a {type(path).__name__} as terms of a draw from q(z|x), no PathTerms")
        for name, shown in _SAMPLED.items():
            self.tensor(f"{what}: {shown}", getattr(path.sampled, name), (units,), torch.float64, draws)
        if path.conditional is not None:
            for field in fields(Conditional):
                value = getattr(path.conditional, field.name)
                self.tensor(f"{what}: conditional {field.name}", value, (units,), torch.float64, draws)
        if path.entropy is not None:
            self.tensor(f"{what}: entropy", path.entropy, (units,), torch.float64, draws)
        return path


def call(what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the function returns; Nonconforming with its name if it raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise Nonconforming(f"{what} raises {type(error).__name__}: {error}") from error


def first(wrong: Tensor) -> int | None:
    """The number of the first true value, None if there is none."""
    return int(wrong.int().argmax()) if wrong.any() else None


def _observation(what: str, found: object) -> Observation:
    if not isinstance(found, Observation):
        raise Nonconforming(
            f"{what} returns a {type(found).__name__}, no distribution: without p(x|z) there is no ELBO. A codec "
            "trained with L1, perceptual or adversarial losses needs a likelihood of its decoder"
        )
    return found
