"""Likelihoods p(x|z): proper, fully normalised distributions over each element of an event.

A `Likelihood` knows the support, the measure and the parameters of one element; `Likelihood.observe` turns network
outputs into an `Observation`, the distribution itself. Elements are independent given z.
"""

from elbod.generators.likelihoods.base import Likelihood, Measure, Observation
from elbod.generators.likelihoods.bernoulli import Bernoulli, BernoulliObservation
from elbod.generators.likelihoods.categorical import Categorical, CategoricalObservation
from elbod.generators.likelihoods.continuous_bernoulli import ContinuousBernoulli, ContinuousBernoulliObservation
from elbod.generators.likelihoods.discretized_logistic import DiscretizedLogistic, DiscretizedLogisticObservation
from elbod.generators.likelihoods.discretized_logistic_mixture import (
    DiscretizedLogisticMixture,
    DiscretizedLogisticMixtureObservation,
)
from elbod.generators.likelihoods.gaussian import Gaussian, GaussianObservation

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "BernoulliObservation",
    "Categorical",
    "CategoricalObservation",
    "ContinuousBernoulli",
    "ContinuousBernoulliObservation",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "DiscretizedLogisticMixtureObservation",
    "DiscretizedLogisticObservation",
    "Gaussian",
    "GaussianObservation",
    "Likelihood",
    "Measure",
    "Observation",
    "make_likelihood",
]

LIKELIHOODS: dict[str, type[Likelihood]] = {
    kind.name: kind
    for kind in (
        Bernoulli,
        Categorical,
        ContinuousBernoulli,
        DiscretizedLogistic,
        DiscretizedLogisticMixture,
        Gaussian,
    )
}


def make_likelihood(name: str, event_shape: tuple[int, ...], levels: int | None) -> Likelihood:
    """The likelihood of that name; ValueError names the known ones."""
    try:
        kind = LIKELIHOODS[name]
    except KeyError:
        raise ValueError(f"unknown likelihood {name!r}: one of {', '.join(sorted(LIKELIHOODS))}") from None
    return kind(event_shape, levels)
