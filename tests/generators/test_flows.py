"""Flows as priors and posteriors: densities of what they draw, in two precisions, from the identity on."""

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from elbod.generators import checkpoint
from elbod.generators.base import Blueprint, Generator
from elbod.generators.checkpoint import InvalidCheckpoint
from elbod.generators.evaluation import draw_terms
from elbod.generators.flows import FlowPosterior, FlowPrior, Precisions, coupling_flow
from elbod.generators.posteriors import DiagonalNormal
from elbod.generators.priors import StandardNormal
from elbod.generators.terms import Sampled
from tests.support import FLOW_POSTERIOR, FLOW_PRIOR, build_generator


def _flow(features: int, context: int = 0, *, bent: bool = True) -> Precisions:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        flow = coupling_flow(features, context, transforms=3, hidden=(16,)).double()
        if bent:
            for coupling in flow.transform.transforms:
                for parameter in coupling.hyper[-1].parameters():
                    torch.nn.init.normal_(parameter, std=0.3)
    return Precisions(flow.requires_grad_(False))


def _posterior(n: int, d: int = 2, **flow: Any) -> FlowPosterior:
    rows = torch.linspace(-1, 1, n, dtype=torch.float64)[:, None]
    context = torch.cat([rows, rows**2, -rows], dim=1)
    return FlowPosterior(_flow(d, 3, **flow), rows.expand(n, d), (0.3 * rows).exp().expand(n, d), context)


def _normals(n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def _sampled(generator: Generator, x: Tensor, noise: Tensor) -> Sampled[Tensor]:
    _, path = generator.begin(generator.encode(x), noise)
    assert path is not None
    return path.sampled


def _plane(points: int = 301, half_width: float = 8.0) -> tuple[Tensor, float]:
    line = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    return torch.cartesian_prod(line, line), 2 * math.log(2 * half_width / (points - 1))


def test_densities_integrate_to_one() -> None:
    z, log_area = _plane()
    q = _posterior(1)
    wide = FlowPosterior(q.flow, *(value.expand(len(z), -1) for value in (q.mean, q.stddev, q.context)))
    for log_density in (FlowPrior(_flow(2), 2).log_prob(z), wide.log_prob(z)):
        # Splines have kinks: the trapezoid rule is exact to its square only.
        assert float(torch.logsumexp(log_density, 0)) + log_area == pytest.approx(0, abs=1e-3)
        assert log_density.std() > 0.5


@pytest.mark.parametrize("d", [2, 5])
def test_a_draw_has_the_density_of_its_noise_over_the_jacobian(d: int) -> None:
    """log q(z) = log N(eps; 0, I) - log |det dz/d eps|, the determinant by automatic differentiation."""
    q, noise = _posterior(4, d), _normals(4, d)
    z = q.draw(noise)
    base = -0.5 * (noise**2 + math.log(2 * math.pi)).sum(1)
    for i in range(4):
        one = FlowPosterior(q.flow, q.mean[i : i + 1], q.stddev[i : i + 1], q.context[i : i + 1])
        jacobian = torch.autograd.functional.jacobian(lambda e, one=one: one.draw(e[None])[0], noise[i])
        assert isinstance(jacobian, Tensor)
        expected = base[i] - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(q.log_prob(z)[i], expected, rtol=0, atol=1e-9)


def test_flows_begin_as_the_identity() -> None:
    """Then q is the normal of the encoder and p is N(0, I)."""
    q, noise = _posterior(6, bent=False), _normals(6, 2)
    normal, z = DiagonalNormal(q.mean, q.stddev), q.draw(noise)
    torch.testing.assert_close(z, normal.draw(noise), rtol=0, atol=1e-12)
    torch.testing.assert_close(q.log_prob(z), normal.log_prob(z), rtol=0, atol=1e-10)
    prior = FlowPrior(_flow(2, bent=False), 2)
    torch.testing.assert_close(prior.log_prob(z), StandardNormal(2).log_prob(z), rtol=0, atol=1e-10)


def test_sampled_terms_of_a_normal_in_flows_clothing_agree_with_the_closed_form_kl() -> None:
    """E[log p(z) - log q(z|x)] = -KL within four standard errors."""
    row, n = _posterior(3, bent=False), 20_000
    parts = (value[2:].expand(n, -1) for value in (row.mean, row.stddev, row.context))
    q = FlowPosterior(row.flow, *parts)
    z = q.draw(_normals(n, 2))
    sampled = StandardNormal(2).log_prob(z) - q.log_prob(z)
    kl = StandardNormal(2).kl(DiagonalNormal(row.mean[2:], row.stddev[2:]))
    assert float(kl) > 0.1
    assert (sampled.mean() + kl).abs() < 4 * sampled.std() / n**0.5


def test_temperature_scales_the_base_noise() -> None:
    q, noise = _posterior(3), _normals(3, 2)
    assert torch.equal(q.draw(noise, 0.0), q.draw(-noise, 0.0))
    torch.testing.assert_close(q.draw(noise, 0.5), q.draw(0.5 * noise))
    prior = FlowPrior(_flow(2), 2)
    torch.testing.assert_close(prior.draw(noise, 2.0), prior.draw(2 * noise))


@pytest.mark.parametrize("blueprint", [FLOW_PRIOR, FLOW_POSTERIOR], ids=["prior", "posterior"])
def test_densities_are_evaluated_in_float64_at_the_float32_draw(blueprint: Blueprint) -> None:
    """They differ from a model that is float64 throughout by the encoder's rounding alone."""
    single, double = build_generator(blueprint), build_generator(blueprint).double()
    single.prepare()
    x = torch.randint(0, 17, (20, 8, 8), generator=torch.Generator().manual_seed(3)).float()
    walk, path = single.begin(single.encode(x), _normals(20, 3).float())
    assert path is not None
    expected = double.latent_terms(double.encode(x), walk.z).sampled
    torch.testing.assert_close(path.sampled.log_prior, expected.log_prior, rtol=0, atol=1e-12)
    torch.testing.assert_close(path.sampled.log_q, expected.log_q, rtol=1e-4, atol=1e-4)


def test_layers_in_bfloat16_leave_flows_alone() -> None:
    """Training may run layers so; a posterior's density must still be that of its draws."""
    generator = build_generator(FLOW_POSTERIOR)
    q, noise = generator.encode(torch.full((8, 8, 8), 9.0)), _normals(8, 3).float()
    with torch.autocast("cpu", torch.bfloat16):
        z = q.draw(noise)
        log_prob = q.log_prob(z)
    torch.testing.assert_close(z, q.draw(noise), rtol=0, atol=0)
    torch.testing.assert_close(log_prob.double(), q.double().log_prob(z.double()), rtol=0, atol=1e-4)


def test_a_float64_copy_made_in_inference_mode_may_be_differentiated_later() -> None:
    prior = build_generator(FLOW_PRIOR).prior()
    z = _normals(4, 3)
    with torch.inference_mode():
        expected = prior.log_prob(z)
    log_prob = prior.log_prob(z.requires_grad_())
    log_prob.sum().backward()
    assert torch.equal(log_prob, expected)
    assert z.grad is not None
    assert (z.grad != 0).all()


def test_a_copied_generator_takes_other_weights() -> None:
    """As the training loop takes its best weights: nothing of the original's densities is left."""
    one, other, z = build_generator(FLOW_PRIOR), build_generator(FLOW_PRIOR, seed=5), _normals(4, 3)
    before = one.prior().log_prob(z)
    copied = copy.deepcopy(one)
    copied.load_state_dict(other.state_dict())
    assert torch.equal(copied.prior().log_prob(z), other.prior().log_prob(z))
    assert torch.equal(one.prior().log_prob(z), before)
    one.load_state_dict(other.state_dict())
    assert torch.equal(one.prior().log_prob(z), other.prior().log_prob(z))


@pytest.mark.parametrize("blueprint", [FLOW_PRIOR, FLOW_POSTERIOR], ids=["prior", "posterior"])
def test_weights_that_change_change_the_float64_densities(blueprint: Blueprint) -> None:
    """The copy in float64 follows the weights, and is no part of them when they are saved."""
    generator = build_generator(blueprint)
    x = torch.randint(0, 17, (5, 8, 8), generator=torch.Generator().manual_seed(3)).float()
    noise = _normals(5, 3).float()
    generator.prepare()
    names = set(generator.state_dict())
    before = _sampled(generator, x, noise)
    assert set(generator.state_dict()) == names
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "flow" in name:
                parameter.mul_(1.5)
    after = _sampled(generator, x, noise)
    assert not torch.allclose(before.log_prior + before.log_q, after.log_prior + after.log_q)
    loaded = checkpoint.load(blueprint, checkpoint.save(generator))
    loaded.prepare()
    assert torch.equal(_sampled(loaded, x, noise).log_q, after.log_q)


@pytest.mark.parametrize("change", [{"prior": "flow"}, {"posterior": "flow"}, {"prior": "flow", "posterior": "flow"}])
def test_weights_are_unbiased_for_the_evidence_of_a_tiny_model(change: dict[str, str]) -> None:
    """E[w] = p(x) by a grid, within four standard errors, and probabilities of all images sum to one."""
    spec = {"latent_dim": 2, "hidden": [6], "flow_transforms": 2, "flow_hidden": [6], **change}
    generator = build_generator(
        Blueprint(family="vae", spec=spec, likelihood="bernoulli", event_shape=(3,), levels=2), seed=2
    ).double()
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    evidence = torch.stack([_log_evidence(generator, x) for x in images])
    assert float(evidence.exp().sum()) == pytest.approx(1, abs=1e-3)
    n = 10_000
    for x, log_evidence in zip(images[[1, 6]], evidence[[1, 6]], strict=True):
        q = generator.encode(x[None])
        repeated = generator.posterior({name: value.expand(n, -1) for name, value in q.parameters.items()})
        drawn = draw_terms(generator, repeated, x.expand(n, 3), lambda _: _normals(n, 2))
        log_weights = drawn.reconstruction - drawn.path.sampled.kl
        weights = (log_weights - log_evidence).exp()
        assert (weights.mean() - 1).abs() < 4 * weights.std() / n**0.5 + 1e-3
        # Jensen: the mean log weight, which is the bound, lies below the evidence.
        assert log_weights.mean() < log_evidence


def _log_evidence(generator: Generator, x: Tensor) -> Tensor:
    z, log_area = _plane(161, 8.0)
    log_joint = generator.decode(z).log_prob(x.expand(len(z), 3)).sum(1) + generator.prior().log_prob(z)
    return torch.logsumexp(log_joint, 0) + log_area


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dim": 1}, "latent_dim must be at least 2"),
        ({"flow_transforms": 0}, "flow_transforms must be positive"),
        ({"flow_hidden": []}, "flow_hidden must be positive sizes"),
        ({"prior": "vamp"}, "mixture of normal posteriors"),
    ],
)
def test_flows_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=message):
        checkpoint.build(replace(FLOW_POSTERIOR, spec={**FLOW_POSTERIOR.spec, **change}))
