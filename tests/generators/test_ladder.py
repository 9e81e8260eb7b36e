"""The top-down hierarchy: its terms given the groups above, one walk or several, temperature, structure."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from elbod.generators.base import Blueprint
from elbod.generators.checkpoint import InvalidCheckpoint, build
from elbod.generators.evaluation import draw_terms
from elbod.generators.ladder import Ladder
from elbod.generators.posteriors import Posterior
from elbod.generators.terms import Conditional, Sampled
from tests.support import build_generator

# An image of odd size: 7 x 9 becomes 4 x 5 and then 2 x 3.
LADDER = Blueprint(
    family="ladder",
    spec={"channels": [4, 6], "groups": [1, 2], "latent_channels": [1, 2]},
    likelihood="bernoulli",
    event_shape=(7, 9),
    levels=2,
)


def _ladder(blueprint: Blueprint = LADDER) -> Ladder:
    generator = build_generator(blueprint).double()
    assert isinstance(generator, Ladder)
    return generator


def _rows(n: int) -> Tensor:
    return torch.randint(0, 2, (n, 7, 9), generator=torch.Generator().manual_seed(1)).double()


def _noise(n: int, ladder: Ladder, seed: int = 2) -> Tensor:
    return torch.randn(n, ladder.latent_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _drawn(ladder: Ladder, q: Posterior, noise: Tensor) -> tuple[Sampled[Tensor], Conditional[Tensor]]:
    _, path = ladder.begin(q, noise)
    assert path is not None
    assert path.conditional is not None
    return path.sampled, path.conditional


def test_z_holds_the_groups_one_after_the_other_the_coarsest_first() -> None:
    """Two groups of 2 x 2 x 3 above one of 1 x 4 x 5."""
    ladder = _ladder()
    assert [at.stop - at.start for at in ladder.places] == [12, 12, 20]
    groups = "2 of 2 x 2 x 3, then 1 of 1 x 4 x 5"
    assert ladder.latent_structure == f"44 numbers, in groups drawn one after the other: {groups}"


def test_what_comes_below_does_not_decide_what_is_above() -> None:
    """Changing a group of z leaves the conditionals of the groups above it alone, and moves those below."""
    ladder = _ladder()
    z = _noise(3, ladder)
    changed = z.clone()
    changed[:, ladder.places[1]] += 1
    before = ladder.descend(3, ladder.given(z)).groups
    after = ladder.descend(3, ladder.given(changed)).groups
    assert torch.equal(before[0].mean, after[0].mean)
    assert torch.equal(before[1].mean, after[1].mean)
    assert not torch.allclose(before[2].mean, after[2].mean)


@pytest.mark.parametrize("part", ["kl", "log_prior", "entropy"])
def test_conditional_terms_are_the_expectations_of_the_sampled_ones(part: str) -> None:
    """E[log q - log p], E[log p] and E[-log q] over draws, within 4 standard errors of their difference."""
    ladder = _ladder()
    n = 4000
    q = ladder.posterior(
        {name: value.expand(n, *value.shape[1:]) for name, value in ladder.encode(_rows(1)).parameters.items()}
    )
    sampled, conditional = _drawn(ladder, q, _noise(n, ladder))
    difference = getattr(sampled, part) - getattr(conditional, part)
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(n)


def test_a_posterior_that_ignores_the_data_is_the_prior() -> None:
    """As training begins, q = p in every group: KL = 0 and log q = log p."""
    ladder = build(LADDER).double().eval()
    sampled, conditional = _drawn(ladder, ladder.encode(_rows(9)), torch.randn(9, ladder.latent_dim).double())
    assert torch.equal(conditional.kl, torch.zeros(9).double())
    torch.testing.assert_close(sampled.log_q, sampled.log_prior)


def test_one_descent_says_what_prior_and_posterior_say() -> None:
    ladder = _ladder()
    q, noise = ladder.encode(_rows(6)), _noise(6, ladder)
    walk, path = ladder.begin(q, noise)
    torch.testing.assert_close(walk.z.double(), q.draw(noise), rtol=1e-6, atol=1e-6)
    assert path is not None
    torch.testing.assert_close(path.sampled.log_q, q.log_prob(walk.z), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(path.sampled.log_prior, ladder.prior().log_prob(walk.z), rtol=1e-9, atol=1e-9)


def test_temperature_scales_every_conditional() -> None:
    """At T = 0 the noise does not matter; at T = 2 the first group, whose mean is given, lies twice as far off."""
    ladder = _ladder()
    prior, noise = ladder.prior(), _noise(4, ladder)
    cold = prior.draw(noise, 0.0)
    assert torch.equal(cold, prior.draw(_noise(4, ladder, seed=9), 0.0))
    assert torch.equal(cold, cold[:1].expand(4, -1))
    first = ladder.places[0]
    torch.testing.assert_close((prior.draw(noise, 2.0) - cold)[:, first], 2 * (prior.draw(noise) - cold)[:, first])
    q = ladder.encode(_rows(4))
    assert torch.equal(q.draw(noise, 0.0), q.draw(-noise, 0.0))


def test_the_training_objective_at_beta_one_is_a_draw_of_the_bound() -> None:
    ladder, x = _ladder(), _rows(5)
    noise = _noise(5, ladder)
    drawn = draw_terms(ladder, ladder.encode(x), x, lambda _: noise)
    assert drawn.path.conditional is not None
    kl = drawn.path.conditional.kl
    # The bound scores z as a float32, which is what callers see.
    torch.testing.assert_close(ladder.objective(x, noise, 1.0), drawn.reconstruction - kl, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ladder.objective(x, noise, 0.5), drawn.reconstruction - 0.5 * kl, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [1]}, "one entry a stage"),
        ({"groups": [1, 0]}, "the coarsest stage"),
        ({"channels": [4, 0]}, "must be positive"),
        ({"channels": [4] * 4, "groups": [1] * 4, "latent_channels": [1] * 4}, "cannot be halved 4 times"),
    ],
)
def test_a_structure_that_cannot_be_is_refused(change: dict[str, list[int]], message: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=message):
        build(replace(LADDER, spec={**LADDER.spec, **change}))


def test_rows_that_are_no_images_are_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match=r"events of shape \(h, w\) or \(c, h, w\)"):
        build(replace(LADDER, event_shape=(6,)))
