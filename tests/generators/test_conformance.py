"""The shipped conformance suite, on every family and likelihood of this package."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from elbod.generators.base import Blueprint, Generator
from elbod.generators.likelihoods import LIKELIHOODS, make_likelihood
from elbod.generators.testing import GeneratorTests
from tests.support import (
    BITS,
    CHAIN_OF_LABELS,
    CONVOLUTIONAL,
    DIFFUSION,
    FLOW_POSTERIOR,
    FLOW_PRIOR,
    LABELS,
    LADDER,
    LEVELS,
    LINEAR,
    MIXTURE,
    VAMP,
    build_generator,
)

BLUEPRINTS = {
    "ppca": LINEAR,
    "ppca_of_images": replace(LINEAR, event_shape=(2, 3)),
    "vae": LEVELS,
    "vae_of_bits": BITS,
    "vamp": VAMP,
    "flow_prior": FLOW_PRIOR,
    "flow_posterior": FLOW_POSTERIOR,
    "two_flows": replace(FLOW_PRIOR, spec={**FLOW_PRIOR.spec, "posterior": "flow"}),
    "convolutional": CONVOLUTIONAL,
    "cvae": LABELS,
    "convolutional_cvae": replace(LABELS, spec={**CONVOLUTIONAL.spec}),
    "ladder": LADDER,
    "diffusion": DIFFUSION,
    "diffusion_of_bits": replace(DIFFUSION, likelihood="bernoulli", levels=2),
    "diffusion_of_numbers": replace(DIFFUSION, likelihood="gaussian", levels=None, event_shape=(5,)),
    "diffusion_of_images": replace(
        DIFFUSION,
        spec={**DIFFUSION.spec, "network": "conv", "channels": [4, 6], "patch": 2, "schedule": "learned"},
        likelihood="discretized_logistic_mixture",
    ),
    "diffusion_of_labels": CHAIN_OF_LABELS,
    "mixture": MIXTURE,
    "mixture_of_numbers": replace(MIXTURE, likelihood="gaussian", levels=None),
    **{
        name: Blueprint(
            family="vae",
            spec={"latent_dim": 2, "hidden": [8]},
            likelihood=name,
            event_shape=(5,),
            levels=9 if kind.measure == "pmf" else None,
        )
        for name, kind in LIKELIHOODS.items()
    },
    **{
        f"{name}-65536": Blueprint(
            family="vae", spec={"latent_dim": 2, "hidden": [8]}, likelihood=name, event_shape=(3,), levels=65_536
        )
        for name in ("categorical", "discretized_logistic", "discretized_logistic_mixture")
    },
}


@pytest.mark.parametrize("blueprint", BLUEPRINTS.values(), ids=BLUEPRINTS, scope="class")
class TestFamilies(GeneratorTests):
    @pytest.fixture
    def generator(self, blueprint: Blueprint) -> Generator:
        return build_generator(blueprint)

    @pytest.fixture
    def rows(self, blueprint: Blueprint) -> Tensor:
        u = torch.rand(12, *blueprint.event_shape, generator=torch.Generator().manual_seed(1))
        likelihood = make_likelihood(blueprint.likelihood, blueprint.event_shape, blueprint.levels)
        return (u * (likelihood.levels or 2)).floor() if likelihood.measure == "pmf" else u

    @pytest.fixture
    def label(self, blueprint: Blueprint) -> Tensor | None:
        return None if blueprint.labels is None else torch.arange(12) % len(blueprint.labels)
