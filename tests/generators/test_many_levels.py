"""Means over more levels than a byte has: not added up level by level, and the same number."""

import pytest
import torch

from elbod.generators.likelihoods import DiscretizedLogisticObservation, make_likelihood


@pytest.mark.parametrize("levels", [257, 4096, 65_536])
def test_the_mean_is_the_sum_over_all_levels_of_the_probability_to_exceed_them(levels: int) -> None:
    """At scales from a hundredth of a level to a thousand times all of them, inside the levels and far outside."""
    edges = torch.linspace(-60, 60, 25, dtype=torch.float64)
    location = torch.cat([edges, levels + edges, torch.linspace(0, levels, 20).double() + 0.3])
    scale = torch.tensor([0.01, 0.7, 3.99, 4.0, 9.0, 100.0, float(levels), 1000.0 * levels], dtype=torch.float64)
    location, scale = (values.flatten() for values in torch.meshgrid(location, scale, indexing="ij"))
    found = DiscretizedLogisticObservation(location, scale.log(), levels).mean()
    middles = torch.arange(levels - 1, dtype=torch.float64) + 0.5
    for row in range(len(location)):
        expected = torch.sigmoid((location[row] - middles) / scale[row]).sum()
        torch.testing.assert_close(found[row], expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("name", ["discretized_logistic", "discretized_logistic_mixture", "categorical"])
def test_a_likelihood_has_16_bits_of_levels_at_most(name: str) -> None:
    assert make_likelihood(name, (2,), 65_536).levels == 65_536
    with pytest.raises(ValueError, match="at most 65536 levels"):
        make_likelihood(name, (2,), 65_537)
