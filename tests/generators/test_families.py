"""What families have in common beyond the conformance suite: units, evidence, bounded deviations."""

import math

import pytest
import torch
from torch import Tensor

from elbod.generators.base import Blueprint, Generator
from elbod.generators.checkpoint import build

BLUEPRINTS = {
    "ppca": Blueprint(family="ppca", spec={"latent_dim": 2}, likelihood="gaussian", event_shape=(2, 3)),
    **{
        f"vae-{likelihood}": Blueprint(
            family="vae",
            spec={"latent_dim": 2, "hidden": [7]},
            likelihood=likelihood,
            event_shape=(2, 3),
            levels=levels,
        )
        for likelihood, levels in (("bernoulli", None), ("discretized_logistic", 17), ("gaussian", None))
    },
}

families = pytest.mark.parametrize("blueprint", BLUEPRINTS.values(), ids=BLUEPRINTS)


def _rows(n: int) -> Tensor:
    return torch.randint(0, 2, (n, 2, 3), generator=torch.Generator().manual_seed(0)).double()


def _generator(blueprint: Blueprint) -> Generator:
    generator = build(blueprint).double().eval().requires_grad_(False)
    generator.initialize(_rows(50))
    return generator.double()


@pytest.mark.parametrize("name", ["ppca", "vae-gaussian"])
def test_the_units_of_a_density_are_a_convention(name: str) -> None:
    """Initialized on 1000 x - 70 the same weights encode those rows alike, and log p(x|z) moves by -log 1000."""
    x = torch.linspace(-3, 5, 54, dtype=torch.float64).sin().unflatten(0, (9, 2, 3))
    one, other = _generator(BLUEPRINTS[name]), _generator(BLUEPRINTS[name])
    other.load_state_dict(one.state_dict())
    one.initialize(x)
    other.initialize(1000 * x - 70)
    q, p = one.double().encode(x), other.double().encode(1000 * x - 70)
    # Principal directions have no sign of their own.
    torch.testing.assert_close(p.parameters["mean"].abs(), q.parameters["mean"].abs(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(p.parameters["stddev"], q.parameters["stddev"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        other.decode(p.parameters["mean"]).log_prob(1000 * x - 70),
        one.decode(q.parameters["mean"]).log_prob(x) - math.log(1000),
        rtol=1e-4,
        atol=1e-4,
    )


@families
def test_evidence_is_reported_by_exact_families_only(blueprint: Blueprint) -> None:
    """log_evidence is (n,) for ppca, and None where only bounds are known."""
    evidence = _generator(blueprint).log_evidence(_rows(9))
    assert (evidence is not None) == (blueprint.family == "ppca")
    assert evidence is None or evidence.shape == (9,)


@pytest.mark.parametrize("bias", [-1e4, 1e4])
def test_the_deviation_of_a_vae_posterior_is_bounded(bias: float) -> None:
    """exp(-7) ... exp(3), whatever the encoder says: its density and entropy stay finite."""
    generator = _generator(BLUEPRINTS["vae-bernoulli"])
    last = list(generator.encoder.children())[-1]  # type: ignore[union-attr, operator]
    last.bias.fill_(bias)  # type: ignore[union-attr, operator]
    q = generator.encode(_rows(3))
    expected = torch.tensor(3.0 if bias > 0 else -7.0).double().exp()
    torch.testing.assert_close(q.parameters["stddev"], expected.expand(3, 2))
    assert torch.isfinite(q.entropy()).all()
