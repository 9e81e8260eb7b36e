"""The publish check: a version whose numbers cannot be right is refused, with the reason.

No likelihood, no ELBO: a model must have a proper p(x|z), densities that belong to what it draws, closed forms that
agree with those densities, and rows that do not see each other.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from elbod.generators import noise
from elbod.generators.base import Generator, mistaken_kl_estimator
from elbod.generators.bounds import Elbo
from elbod.generators.likelihoods import Observation
from elbod.generators.noise import Keys, Stream
from elbod.generators.posteriors import Posterior
from elbod.training.errors import RefusedModel

# The two forms of the bound are computed by separate code in float64; they may differ by rounding alone.
_FORMS_TOLERANCE = 1e-9

# Rows that are looked at, draws a row where a mean is compared, and the seed of their noise. Where every draw walks
# through networks (a hierarchy, a flow) there are fewer.
_ROWS = 8
_DRAWS = 512
_NETWORK_DRAWS = 32
_SEED = 1

# How far from one the sum over all levels may be, and about how many probabilities are added up for it: many levels
# are summed for fewer draws, and beyond a byte's many at a time.
_SUM_TOLERANCE = 1e-9
_PROBABILITIES = 500_000
_ONE_BY_ONE = 256
_BLOCK = 100_000

# Probabilities between which a density is integrated, points of the rule, and how far the two may differ.
_QUANTILES = (0.2, 0.8)
_QUADRATURE_POINTS = 64
_INTEGRAL_TOLERANCE = 1e-4

# A mean of draws may miss what it estimates by so many standard errors.
_STANDARD_ERRORS = 6.0

# A row's outputs in batches of one size may differ by rounding, but not more than this.
_ROUNDING = 1e-5


def check_bounds(found: Elbo) -> None:
    """Every held-out ELBO is finite and its two forms agree: |(r - k) - ((r + c) + h)| <= 1e-9 max(1, |r|, ...).

    Raises RefusedModel, naming the first test row at fault.
    """
    if (row := _first(~np.isfinite(found.elbo))) is not None:
        raise RefusedModel(f"not published: the held-out ELBO of test row {row} is {found.elbo[row]}")
    scale = np.maximum.reduce(
        [np.ones_like(found.elbo), *(np.abs(part) for part in (found.reconstruction, found.log_joint, found.entropy))]
    )
    difference = np.abs(found.elbo - (found.log_joint + found.entropy))
    if (row := _first(~(difference <= _FORMS_TOLERANCE * scale))) is not None:
        raise RefusedModel(
            f"not published: the two forms of the ELBO of test row {row} differ by {difference[row]:.3g} nats: "
            "the family's closed forms (KL, E[log p(z)], entropy) contradict each other"
        )


@torch.inference_mode()
def check_model(generator: Generator, rows: Tensor, label: Tensor | None = None) -> None:
    """What must hold at any weights, tried on a few test rows (n, *event_shape), of a conditional model with their
    labels (n,). Raises RefusedModel."""
    generator.prepare()
    rows, label = rows[:_ROWS], None if label is None else label[:_ROWS]
    q = generator.encode(rows, label)
    # Of both kinds of latents.
    labels = None if label is None else torch.cat([label, label])
    z = torch.cat([_prior_draws(generator, len(rows)), _posterior_draws(generator, q, len(rows), 1)])
    # Half of them from the prior, half from q(z|x).
    middle = slice(len(rows) // 2, len(rows) // 2 + len(rows))
    latents, latent_labels = z[middle], _at(labels, middle)
    observation = generator.decode(latents, latent_labels)
    if not isinstance(observation, Observation):
        raise RefusedModel(
            f"not published: decode returns a {type(observation).__name__}, no distribution: without p(x|z) there is "
            "no ELBO. A codec trained with L1, perceptual or adversarial losses needs a likelihood of its decoder"
        )
    _check_scores(generator.decode(z[len(rows) :], label), rows)
    _check_rows_stand_alone(generator, rows, label, z, labels)
    if generator.likelihood.measure == "pmf":
        _check_sums(generator, latents, latent_labels)
    else:
        _check_integrals(observation.double())
    _check_terms(generator, q, len(rows))


def _check_scores(observation: Observation, rows: Tensor) -> None:
    """log p(x|z) is finite: said first, because weights that diverged fail everything else as well."""
    scores = observation.double().log_prob(rows).flatten(1).sum(1)
    if (row := _first(~torch.isfinite(scores).cpu().numpy())) is not None:
        value = float(scores[row])
        raise RefusedModel(f"not published: the held-out ELBO of test row {row} is {value}: log p(x|z) is not finite")


def _check_sums(generator: Generator, latents: Tensor, labels: Tensor | None) -> None:
    """The sum over all levels of P(x_i | z) is 1, at latents of the prior and of q(z|x)."""
    levels, dims = generator.likelihood.levels or 2, generator.likelihood.event_dims
    # From the middle, where draws from the prior end and those from q(z|x) begin.
    count = min(len(latents), max(2, _PROBABILITIES // (levels * dims)))
    first = (len(latents) - count) // 2
    step = 1 if levels <= _ONE_BY_ONE else max(1, _BLOCK // dims)
    for draw in range(first, first + count):
        # One row of parameters for all levels: a network rounds equal rows of a batch differently.
        one = slice(draw, draw + 1)
        observation = generator.decode(latents[one], _at(labels, one)).double()
        total = torch.zeros(generator.event_shape, dtype=torch.float64, device=latents.device)
        for start in range(0, levels, step):
            level = torch.arange(start, min(start + step, levels), dtype=torch.float64, device=latents.device)
            x = level.reshape(-1, *[1] * total.ndim).expand(-1, *total.shape)
            total += observation.log_prob(x).exp().sum(0)
        wrong = ~((total - 1).abs() <= _SUM_TOLERANCE)
        what = f"the probabilities of all levels of x[{{place}}] of draw {draw}"
        _refuse_element(wrong, total, f"{what} sum to {{value:.12g}}, not to 1")


def _check_integrals(observation: Observation) -> None:
    """The probability between two quantiles is the integral of the density between them.

    This needs neither the scale nor the support of x, and ties the density to the sampler: a constant that is missing
    in `log_prob`, or a quantile function of another distribution, fails it.
    """
    like = observation.mean()
    low, high = (observation.icdf(torch.full_like(like, u)) for u in _QUANTILES)
    # Gauss-Legendre: exact for polynomials of degree 127, and densities are smooth between their quartiles.
    nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE_POINTS)
    total = torch.zeros_like(like)
    for node, weight in zip(nodes, weights, strict=True):
        x = low + (high - low) * (node + 1) / 2
        total += weight * observation.log_prob(x).exp() * (high - low) / 2
    expected = _QUANTILES[1] - _QUANTILES[0]
    for draw, wrong in enumerate(~((total - expected).abs() <= _INTEGRAL_TOLERANCE)):
        what = f"the density of x[{{place}}] of draw {draw}"
        _refuse_element(wrong, total[draw], f"{what} integrates to {{value:.6g}} between quantiles {expected:g} apart")


def _refuse_element(wrong: Tensor, values: Tensor, message: str) -> None:
    if wrong.any():
        place = tuple(int(i) for i in np.unravel_index(int(wrong.int().argmax()), wrong.shape))
        shown = ", ".join(map(str, place))
        raise RefusedModel(f"not published: {message.format(place=shown, value=float(values[place]))}")


def _check_rows_stand_alone(
    generator: Generator, rows: Tensor, label: Tensor | None, z: Tensor, labels: Tensor | None
) -> None:
    """A row's outputs are the same beside other rows, and the same again."""

    def encode(x: Tensor, label: Tensor | None) -> Tensor:
        return _flat(generator.encode(x, label).parameters)

    def decode(z: Tensor, label: Tensor | None) -> Tensor:
        # log p(x|z) of one and the same row: a mean over 65,536 levels would take seconds.
        x = rows[:1].expand(len(z), *rows.shape[1:])
        return generator.decode(z, label).double().log_prob(x).flatten(1)

    stages: list[tuple[str, Tensor, Tensor | None, Callable[[Tensor, Tensor | None], Tensor]]] = [
        ("encode", rows, label, encode),
        ("decode", z, labels, decode),
    ]
    for what, inputs, given, run in stages:
        whole = run(inputs, given)
        if not torch.equal(whole, run(inputs, given)):
            raise RefusedModel(f"not published: {what} of the same rows gives other numbers again: is dropout left on?")
        half = len(inputs) // 2
        # Other rows in the second half; a batch of another size would be rounded otherwise.
        order = torch.cat([torch.arange(half), torch.arange(len(inputs) - half)]).to(inputs.device)
        beside = run(inputs[order], None if given is None else given[order])[:half]
        wrong = (beside - whole[:half]).abs() > _ROUNDING * (1 + whole[:half].abs())
        if (row := _first(wrong.any(1).cpu().numpy())) is not None:
            raise RefusedModel(
                f"not published: {what} of row {row} depends on the rows beside it: is there a batch normalization?"
            )


def _check_terms(generator: Generator, q: Posterior, rows: int) -> None:
    """log p(z) and log q(z|x) are finite at draws, and closed forms are where the family has them, and their means."""
    if (mistake := mistaken_kl_estimator(generator, q, _posterior_draws(generator, q, rows, 1))) is not None:
        raise RefusedModel(f"not published: {mistake}")
    closed = generator.prior().closed_form(q.double())
    draws = _NETWORK_DRAWS if closed is None else _DRAWS
    repeated = generator.posterior({name: v.repeat_interleave(draws, 0) for name, v in q.parameters.items()})
    z = _posterior_draws(generator, repeated, rows, draws)
    terms = generator.latent_terms(repeated, z)
    for name, values in (("log p(z)", terms.sampled.log_prior), ("log q(z|x)", terms.sampled.log_q)):
        if (unit := _first(~torch.isfinite(values).cpu().numpy())) is not None:
            raise RefusedModel(f"not published: {name} of a draw of test row {unit // draws} is {float(values[unit])}")
    sampled = terms.sampled.kl.reshape(rows, draws)
    if closed is not None:
        differences = sampled - closed.kl[:, None]
    elif terms.conditional is not None:
        differences = sampled - terms.conditional.kl.reshape(rows, draws)
    else:
        return
    error = differences.std(1) / math.sqrt(draws)
    # Posteriors that are the prior have no spread at all: rounding is all that may be left.
    wrong = differences.mean(1).abs() > _STANDARD_ERRORS * error + 1e-4
    if (row := _first(wrong.cpu().numpy())) is not None:
        raise RefusedModel(
            f"not published: KL(q || p) of test row {row} in closed form differs from the mean of log q - log p over "
            f"{draws} draws by {float(differences.mean(1)[row]):.3g} nats, {_STANDARD_ERRORS:g} standard errors being "
            f"{_STANDARD_ERRORS * float(error[row]):.3g}"
        )


def _at(labels: Tensor | None, places: slice) -> Tensor | None:
    return None if labels is None else labels[places]


def _posterior_draws(generator: Generator, q: Posterior, rows: int, draws: int) -> Tensor:
    keys = Keys.of(_SEED, np.repeat(np.arange(rows), draws), np.tile(np.arange(draws), rows))
    return q.draw(_normals(generator, keys, Stream.POSTERIOR, q.noise_dimensions)).float()


def _prior_draws(generator: Generator, rows: int) -> Tensor:
    prior = generator.prior()
    return prior.draw(
        _normals(generator, Keys.of(_SEED, np.arange(rows)), Stream.PRIOR, prior.noise_dimensions)
    ).float()


def _normals(generator: Generator, keys: Keys, stream: Stream, dimensions: int) -> Tensor:
    return torch.from_numpy(noise.normals(keys, stream, dimensions)).to(_device(generator))


def _device(generator: Generator) -> torch.device:
    return next(itertools.chain(generator.parameters(), generator.buffers())).device


def _flat(parameters: dict[str, Tensor]) -> Tensor:
    return torch.cat([values.flatten(1).double() for values in parameters.values()], dim=1)


def _first(wrong: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> int | None:
    return int(wrong.argmax()) if wrong.any() else None
