"""The closed-form fit of probabilistic principal components."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from elbod.generators.base import Blueprint
from elbod.generators.checkpoint import build
from elbod.generators.ppca import PPCA


def _ppca(features: int, latent_dim: int) -> PPCA:
    blueprint = Blueprint(
        family="ppca", spec={"latent_dim": latent_dim}, likelihood="gaussian", event_shape=(features,)
    )
    generator = build(blueprint)
    assert isinstance(generator, PPCA)
    return generator


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _true_model(features: int, latent_dim: int) -> PPCA:
    model = _ppca(features, latent_dim)
    model.loadings = 2 * _randn(features, latent_dim, seed=1)
    model.location = 10 * _randn(features, seed=2)
    model.noise = torch.tensor(0.3, dtype=torch.float64)
    return model


def _simulate(model: PPCA, rows: int) -> Tensor:
    z = _randn(rows, model.latent_dim, seed=3)
    return z @ model.loadings.mT + model.location + model.noise * _randn(rows, model.event_shape[0], seed=4)


def _fit(x: Tensor, latent_dim: int) -> PPCA:
    model = _ppca(x.shape[1], latent_dim)
    model.initialize(x)
    return model


@pytest.mark.parametrize(("features", "latent_dim", "rows"), [(2, 1, 50), (6, 2, 400), (10, 9, 400), (30, 3, 100)])
def test_the_fit_is_at_least_as_likely_as_the_truth(features: int, latent_dim: int, rows: int) -> None:
    """The maximum of the likelihood lies above the parameters that simulated the data, by about half their number."""
    truth = _true_model(features, latent_dim)
    x = _simulate(truth, rows)
    excess = float((_fit(x, latent_dim).log_evidence(x) - truth.log_evidence(x)).sum())
    free = features * (latent_dim + 1) + 1 - latent_dim * (latent_dim - 1) / 2
    assert 0 <= excess < free


def test_no_step_away_from_the_fit_is_more_likely() -> None:
    """The gradient of the log-likelihood vanishes at the fit, and 100 random steps go down."""
    x = _simulate(_true_model(6, 2), 200)
    model = _fit(x, 2)
    best = float(model.log_evidence(x).sum())
    fitted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in fitted.items()}
    for name, leaf in leaves.items():
        setattr(model, name, leaf)
    model.log_evidence(x).sum().backward()
    for leaf in leaves.values():
        assert leaf.grad is not None
        assert float(leaf.grad.abs().max()) < 1e-6 * abs(best)
    for seed in range(100):
        for name, tensor in fitted.items():
            setattr(model, name, tensor + 0.01 * _randn(*tensor.shape, seed=seed))
        assert float(model.log_evidence(x).sum()) < best


def test_the_fitted_covariance_keeps_the_leading_eigenvectors() -> None:
    """WW' + sigma^2 I has the sample covariance's d largest eigenvalues, and the mean of the others."""
    x = _simulate(_true_model(6, 2), 200)
    model = _fit(x, 2)
    sample = torch.linalg.eigvalsh(x.mT.cov(correction=0)).flip(0)
    fitted = torch.linalg.eigvalsh(model.loadings @ model.loadings.mT + (model.noise**2).expand(6).diag()).flip(0)
    torch.testing.assert_close(fitted[:2], sample[:2])
    torch.testing.assert_close(fitted[2:], sample[2:].mean().expand(4))
    torch.testing.assert_close(model.location, x.mean(0))


def test_the_truth_is_recovered_from_many_rows() -> None:
    """With 100,000 rows the marginal covariance and sigma are the true ones within 3 %."""
    truth = _true_model(5, 2)
    model = _fit(_simulate(truth, 100_000), 2)
    expected = truth.loadings @ truth.loadings.mT
    fitted = model.loadings @ model.loadings.mT
    assert float((fitted - expected).norm() / expected.norm()) < 0.03
    assert float(model.noise) == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize(("features", "latent_dim", "rank"), [(6, 3, 1), (6, 2, 2), (6, 4, 2)])
def test_rank_deficient_data_have_a_density(features: int, latent_dim: int, rank: int) -> None:
    """Data on a plane leave no residual noise; its floor keeps log p(x) finite and equal to the marginal's."""
    x = _randn(100, rank) @ _randn(rank, features, seed=1) + 3
    model = _fit(x, latent_dim)
    assert float(model.noise) > 0
    marginal = model.loadings @ model.loadings.mT + (model.noise**2).expand(features).diag()
    expected = MultivariateNormal(model.location, marginal).log_prob(x)
    torch.testing.assert_close(model.log_evidence(x), expected, rtol=1e-8, atol=1e-6)
    # Off the plane the density falls.
    assert (model.log_evidence(x + _randn(features, seed=9)) < model.log_evidence(x)).all()


def test_fewer_rows_than_dimensions_have_a_density() -> None:
    """Three rows in ten dimensions span two directions; the other loadings are zero."""
    x = _randn(3, 10)
    model = _fit(x, 5)
    assert torch.isfinite(model.log_evidence(x)).all()
    assert (model.loadings.norm(dim=0) > 1e-6).sum() == 2
    assert (model.encode(x).parameters["stddev"] <= 1 + 1e-12).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1234.567, -1e30])
@pytest.mark.parametrize("rows", [1, 3, 7, 100, 1001])
def test_constant_data_are_refused(value: float, rows: int) -> None:
    """Rows without any variance have no density, also where their mean is not exact in floating point."""
    with pytest.raises(ValueError, match="ppca cannot be fitted to constant data"):
        _fit(torch.full((rows, 3), value, dtype=torch.float64), 1)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_fit_has_no_unit(scale: float) -> None:
    """Data in other units have the same model in those units: log p(x) moves by -D log(scale)."""
    x = _simulate(_true_model(6, 2), 200)
    expected = _fit(x, 2).log_evidence(x) - 6 * math.log(scale)
    torch.testing.assert_close(_fit(scale * x, 2).log_evidence(scale * x), expected, rtol=1e-8, atol=1e-8)


def test_one_constant_dimension_is_fitted() -> None:
    """A dead pixel has the residual noise of all, and a density."""
    x = _randn(100, 4)
    x[:, 2] = 0.1
    assert torch.isfinite(_fit(x, 2).log_evidence(x)).all()


def test_events_of_any_shape_are_flattened() -> None:
    """A (2, 3) event is fitted, encoded and decoded like six numbers, and decoded to its own shape."""
    x = _simulate(_true_model(6, 2), 50)
    blueprint = Blueprint(family="ppca", spec={"latent_dim": 2}, likelihood="gaussian", event_shape=(2, 3))
    model, flat = build(blueprint), _fit(x, 2)
    model.initialize(x.unflatten(1, (2, 3)))
    q = model.encode(x.unflatten(1, (2, 3)))
    assert torch.equal(q.parameters["mean"], flat.encode(x).parameters["mean"])
    assert model.decode(q.parameters["mean"]).mean().shape == (50, 2, 3)
