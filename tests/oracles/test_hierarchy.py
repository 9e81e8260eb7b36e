"""A two-group ladder with one latent each, whose integrals a grid gives exactly."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from elbod.generators.base import Blueprint, Generator
from elbod.generators.evaluation import draw_terms
from elbod.generators.posteriors import Posterior
from tests.support import build_generator

TINY = Blueprint(
    family="ladder",
    spec={"channels": [5], "groups": [2], "latent_channels": [1]},
    likelihood="bernoulli",
    event_shape=(2, 2),
    levels=2,
)
IMAGES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64).reshape(16, 2, 2)


def _tiny() -> Generator:
    generator = build_generator(TINY, seed=3).double()
    with torch.no_grad():
        for parameter in generator.parameters():
            # Far from where training begins: conditionals that depend on what is above them.
            parameter.mul_(1.7)
    return generator


@dataclass(frozen=True)
class Grid:
    """Points of the latent plane and the area that each stands for."""

    z: Tensor
    log_area: float

    @classmethod
    def of(cls, points: int, half_width: float = 12.0) -> "Grid":
        line = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
        return cls(torch.cartesian_prod(line, line), 2 * math.log(2 * half_width / (points - 1)))


def _log_joint(generator: Generator, grid: Grid, images: Tensor) -> Tensor:
    """log p(x, z) of each image at every point, (images, points)."""
    observation, log_prior = generator.decode(grid.z), generator.prior().log_prob(grid.z)
    log_likelihood = [observation.log_prob(x.expand(len(grid.z), 2, 2)).flatten(1).sum(1) for x in images]
    return torch.stack(log_likelihood) + log_prior


def _log_evidence(generator: Generator, grid: Grid, images: Tensor) -> Tensor:
    return torch.logsumexp(_log_joint(generator, grid, images), 1) + grid.log_area


def _repeated(generator: Generator, x: Tensor, n: int) -> Posterior:
    parameters = generator.encode(x[None]).parameters
    return generator.posterior({name: value.expand(n, *value.shape[1:]) for name, value in parameters.items()})


def test_the_prior_and_the_posterior_integrate_to_one() -> None:
    generator, grid = _tiny(), Grid.of(401)
    q = generator.posterior(
        {
            name: value.expand(len(grid.z), *value.shape[1:])
            for name, value in generator.encode(IMAGES[:1]).parameters.items()
        }
    )
    sampled = generator.latent_terms(q, grid.z).sampled
    for log_density in (sampled.log_prior, sampled.log_q, generator.prior().log_prob(grid.z)):
        assert float(torch.logsumexp(log_density, 0)) + grid.log_area == pytest.approx(0, abs=1e-8)


def test_the_probabilities_of_all_images_sum_to_one_on_two_grids_that_agree() -> None:
    generator = _tiny()
    fine, coarse = (_log_evidence(generator, Grid.of(n), IMAGES).tolist() for n in (401, 301))
    assert fine == pytest.approx(coarse, abs=1e-8)
    assert sum(math.exp(value) for value in fine) == pytest.approx(1, abs=1e-8)
    # The images differ in probability: a decoder that ignores z and x would not.
    assert max(fine) - min(fine) > 0.5


@pytest.mark.parametrize("image", [0, 6, 15])
def test_the_bound_is_the_evidence_less_the_divergence_of_the_posteriors(image: int) -> None:
    """elbo = E_q[r - k] by draws and conditional KL; log p(x) - KL(q || p(z|x)) by the grid."""
    generator, grid, x = _tiny(), Grid.of(401), IMAGES[image]
    n = 40_000
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(image), dtype=torch.float64)
    drawn = draw_terms(generator, _repeated(generator, x, n), x.expand(n, 2, 2), lambda _: noise)
    assert drawn.path.conditional is not None
    per_draw = drawn.reconstruction - drawn.path.conditional.kl
    q = _repeated(generator, x, len(grid.z))
    log_q = generator.latent_terms(q, grid.z).sampled.log_q
    log_joint = _log_joint(generator, grid, x[None])[0]
    log_evidence = float(torch.logsumexp(log_joint, 0)) + grid.log_area
    divergence = float((log_q.exp() * (log_q - log_joint)).sum() * math.exp(grid.log_area)) + log_evidence
    assert divergence > 0.01
    assert float(per_draw.mean()) == pytest.approx(log_evidence - divergence, abs=4 * float(per_draw.std()) / n**0.5)
    # Its own draws weigh the evidence without bias, whatever q is.
    weights = (drawn.reconstruction - drawn.path.sampled.kl - log_evidence).exp()
    assert float(weights.mean()) == pytest.approx(1, abs=4 * float(weights.std()) / n**0.5)
