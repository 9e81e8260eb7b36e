"""A diffusion that is told a class, or that there is none."""

import math

import pytest
import torch
from torch import Tensor

from elbod.generators import checkpoint
from elbod.generators.base import Blueprint
from elbod.generators.checkpoint import InvalidCheckpoint
from elbod.generators.diffusion import Diffusion
from tests.support import CHAIN_OF_LABELS, build_generator

CLASSES = 3


def trained(seed: int = 0) -> Diffusion:
    """A model whose classes differ."""
    generator = build_generator(CHAIN_OF_LABELS, seed)
    assert isinstance(generator, Diffusion)
    return generator


def rows(n: int) -> Tensor:
    return torch.from_numpy(torch.randint(0, 17, (n, 8, 8), generator=torch.Generator().manual_seed(1)).numpy())


@pytest.fixture(scope="module")
def generator() -> Diffusion:
    return trained()


@pytest.fixture(scope="module")
def z() -> Tensor:
    return torch.randn(6, 64, generator=torch.Generator().manual_seed(2))


def test_no_label_is_the_null_label(generator: Diffusion, z: Tensor) -> None:
    level = torch.arange(6) % (generator.levels + 1)
    assert generator.null_label == CLASSES
    null = torch.full((6,), CLASSES)
    assert torch.equal(generator.denoise(z, level)[0], generator.denoise(z, level, null)[0])


def test_every_class_and_none_has_beliefs_of_its_own(generator: Diffusion, z: Tensor) -> None:
    level = torch.ones(6, dtype=torch.int64)
    means = [generator.denoise(z, level, torch.full((6,), y))[0] for y in range(CLASSES + 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(means) for b in means[:i])


def test_a_row_of_a_class_does_not_see_the_others(generator: Diffusion, z: Tensor) -> None:
    level, label = torch.arange(6) % (generator.levels + 1), torch.arange(6) % (CLASSES + 1)
    together, _ = generator.denoise(z, level, label)
    for y in range(CLASSES + 1):
        chosen = label == y
        alone, _ = generator.denoise(z, level, torch.full((6,), y))
        torch.testing.assert_close(alone[chosen], together[chosen], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_guidance_goes_on_from_the_null_label_to_the_label(generator: Diffusion, z: Tensor, weight: float) -> None:
    level = torch.full((6,), 2)
    walk = generator._at_top(z)
    walk = type(walk)(z, level, level - 1)
    label = torch.arange(6) % CLASSES
    with_label, v = generator.denoise(z, level, label)
    without, _ = generator.denoise(z, level)
    m = without + (1 + weight) * (with_label - without)
    step = generator.chain.step(level, level - 1)
    noise = torch.randn(6, 64, generator=torch.Generator().manual_seed(3)).double()
    expected = step.mean(z.double(), m) + (step.variance + step.pull**2 * v).sqrt() * noise
    guidance = torch.full((6, 1), weight).double()
    after, terms = generator.advance(walk, None, noise, label, guidance)
    assert terms is None
    torch.testing.assert_close(after.z, expected.float())
    share = (generator.chain.noise_variance(level - 1) / generator.chain.noise_variance(level)).sqrt()
    signal = generator.chain.signal
    followed = signal(level - 1) * m + share * (z.double() - signal(level) * m)
    torch.testing.assert_close(generator.follow(walk, label, guidance).z, followed.float())


def test_guidance_of_zero_draws_from_the_label(generator: Diffusion, z: Tensor) -> None:
    level, label = torch.full((6,), 2), torch.arange(6) % CLASSES
    walk = type(generator._at_top(z))(z, level, level - 1)
    noise = torch.zeros(6, 64).double()
    plain, _ = generator.advance(walk, None, noise, label)
    guided, _ = generator.advance(walk, None, noise, label, torch.zeros(6, 1).double())
    torch.testing.assert_close(plain.z, guided.z, rtol=1e-6, atol=1e-6)


def test_a_share_of_training_rows_has_the_null_label() -> None:
    told: list[Tensor] = []
    generator = trained().train()
    generator.network.register_forward_pre_hook(lambda _, inputs: told.append(inputs[2]))
    n = 4000
    label = torch.arange(n) % CLASSES
    noise = torch.randn(n, generator.objective_noise_dimensions, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        generator.objective(rows(n), noise, 1.0, label)
    hidden = told[0] == CLASSES
    # 0.1 of the rows, within four standard errors.
    assert abs(hidden.double().mean().item() - 0.1) < 4 * math.sqrt(0.09 / n)
    assert torch.equal(told[0][~hidden], label[~hidden])


def test_the_objective_without_dropout_is_the_bound_given_the_label() -> None:
    generator = trained()
    noise = torch.randn(5, generator.objective_noise_dimensions, generator=torch.Generator().manual_seed(5))
    told: list[Tensor] = []
    generator.network.register_forward_pre_hook(lambda _, inputs: told.append(inputs[2]))
    label = torch.arange(5) % CLASSES
    generator.objective(rows(5), noise, 1.0, label)
    assert torch.equal(told[0], label)


def test_frequencies_of_labels_are_those_of_the_training_rows() -> None:
    generator = checkpoint.build(CHAIN_OF_LABELS)
    generator.initialize(rows(6), torch.tensor([0, 0, 0, 1, 1, 2]))
    log_prob = generator.label_log_prob()
    assert log_prob is not None
    torch.testing.assert_close(log_prob.exp(), torch.tensor([3.0, 2.0, 1.0]).double() / 6)
    with pytest.raises(ValueError, match="'owl' has no training row"):
        generator.initialize(rows(4), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="the data have none"):
        generator.initialize(rows(4))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": None}, "needs at least two labels"),
        ({"labels": ("cat",)}, "needs at least two labels"),
        ({"spec": {"num_levels": 4, "width": 16, "blocks": 1}}, "is not conditional: it takes no labels"),
        ({"spec": {"label_dropout": 0.0}}, "label_dropout must be between 0 and 1, got 0.0: rows without label"),
        ({"spec": {"label_dropout": 1.0}}, "label_dropout must be between 0 and 1"),
    ],
)
def test_what_is_no_model_of_labels_is_refused(changes: dict[str, object], reason: str) -> None:
    fields = {**vars(CHAIN_OF_LABELS), **changes}
    with pytest.raises(InvalidCheckpoint, match=reason):
        checkpoint.build(Blueprint(**fields))


def test_a_model_without_labels_has_the_tensors_that_it_always_had() -> None:
    plain = Blueprint(**{**vars(CHAIN_OF_LABELS), "labels": None, "spec": {"num_levels": 4, "width": 16, "blocks": 1}})
    generator = checkpoint.build(plain)
    assert generator.null_label is None
    assert generator.label_log_prob() is None
    new = {"label_log_probs", "network.time.classes"}
    assert generator.state_dict().keys() == checkpoint.build(CHAIN_OF_LABELS).state_dict().keys() - new
