"""`cvae`: what a label changes, and what it never does."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save

from elbod.generators import checkpoint
from elbod.generators.base import Blueprint
from elbod.generators.checkpoint import InvalidCheckpoint
from elbod.generators.cvae import CVAE
from elbod.training.scoring import score
from tests.support import CHAIN_OF_LABELS, LABELS, LEVELS, build_generator

TINY = Blueprint(
    family="cvae",
    spec={"latent_dim": 1, "hidden": [6], "activation": "tanh"},
    likelihood="bernoulli",
    event_shape=(4,),
    levels=2,
    labels=("a", "b", "c"),
)


def tiny() -> CVAE:
    generator = build_generator(TINY, seed=3).double()
    assert isinstance(generator, CVAE)
    return generator


def evidence_given_label(model: CVAE, x: torch.Tensor, label: int, nodes: int) -> torch.Tensor:
    """p(x|y), (n,), by Gauss-Hermite quadrature over z."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    z = torch.from_numpy(points)[:, None]
    observation = model.decode(z, torch.full((nodes,), label))
    log_p = torch.stack([observation.log_prob(row.expand(nodes, -1)).sum(-1) for row in x])
    return log_p.exp() @ torch.from_numpy(weights / np.sqrt(2 * np.pi))


def every_row() -> torch.Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)


def test_the_importance_weighted_marginal_estimates_the_sum_over_labels_of_the_quadrature() -> None:
    model, x = tiny(), every_row()
    evidence, finer = (
        sum(model.label_log_prob()[y].exp() * evidence_given_label(model, x, y, nodes) for y in range(3))
        for nodes in (40, 80)
    )
    torch.testing.assert_close(evidence, finer, rtol=0, atol=1e-8)
    assert float(evidence.sum()) == pytest.approx(1, abs=1e-8)
    found = score(model, x, seed=1, num_samples=1, num_importance_samples=20_000)
    assert found.importance is not None
    error = found.importance.iwae_standard_error
    # Where the tail of the weights is heavy no error is given.
    tolerance = np.where(np.isnan(error), 0.1, 5 * np.fmax(error, 1e-3))
    assert (abs(found.importance.iwae - evidence.log().numpy()) < tolerance).all()


def test_a_score_given_the_label_estimates_log_p_of_x_given_it() -> None:
    model, x = tiny(), every_row()
    for label in range(3):
        given = torch.full((len(x),), label)
        found = score(model, x, seed=1, num_samples=500, num_importance_samples=5_000, label=given)
        exact = evidence_given_label(model, x, label, 80).log().numpy()
        assert found.importance is not None
        assert (abs(found.importance.iwae - exact) < 5 * np.maximum(found.importance.iwae_standard_error, 1e-3)).all()
        assert (found.elbo.elbo < exact + 5 * found.elbo.standard_error).all()


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_the_label_reaches_encoder_and_decoder(network: str) -> None:
    spec = {"latent_dim": 3, "network": network, "hidden": [8], "channels": [4, 6], "blocks": 1}
    model = build_generator(Blueprint(**{**vars(LABELS), "spec": spec}))
    x = torch.randint(0, 17, (5, 8, 8), generator=torch.Generator().manual_seed(1))
    zero, one = torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.int64)
    assert not torch.equal(model.encode(x, zero).parameters["mean"], model.encode(x, one).parameters["mean"])
    z = torch.zeros(5, 3)
    assert not torch.equal(model.decode(z, zero).mean(), model.decode(z, one).mean())


def test_the_frequencies_of_the_training_labels_are_kept_with_the_weights() -> None:
    model = checkpoint.build(LABELS)
    model.initialize(torch.zeros(4, 8, 8), torch.tensor([0, 2, 1, 2]))
    again = checkpoint.load(LABELS, checkpoint.save(model))
    log_prob = again.label_log_prob()
    assert log_prob is not None
    torch.testing.assert_close(log_prob.exp(), torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("blueprint", [LABELS, CHAIN_OF_LABELS], ids=["cvae", "diffusion"])
def test_a_checkpoint_whose_labels_are_no_distribution_is_refused(blueprint: Blueprint) -> None:
    """p(y) that sums to 3 would put the sum over labels 1.1 nats above log p(x), and no error."""
    tensors = build_generator(blueprint).state_dict() | {"label_log_probs": torch.zeros(3, dtype=torch.float64)}
    with pytest.raises(InvalidCheckpoint, match="label_log_probs sum to 3 as probabilities, not to 1"):
        checkpoint.load(blueprint, save(tensors))


def test_a_class_without_training_rows_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="label 'owl' has no training row"):
        checkpoint.build(LABELS).initialize(torch.zeros(2, 8, 8), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("blueprint", "message"),
    [
        (Blueprint(**{**vars(LABELS), "labels": None}), "needs at least two labels"),
        (Blueprint(**{**vars(LABELS), "labels": ("a",)}), "needs at least two labels"),
        (Blueprint(**{**vars(LABELS), "labels": ("a", "a")}), "all different"),
        (Blueprint(**{**vars(LEVELS), "labels": ("a", "b")}), "'vae' is not conditional"),
    ],
)
def test_labels_belong_to_conditional_families_alone(blueprint: Blueprint, message: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=message):
        checkpoint.build(blueprint)
