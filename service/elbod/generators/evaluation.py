"""From a generator, rows and noise to the terms of the bound: the engine, the publish check and training use these."""

from torch import Tensor

from elbod.generators.base import Generator
from elbod.generators.posteriors import Posterior
from elbod.generators.terms import DrawTerms, RowTerms


def row_terms(generator: Generator, x: Tensor, q: Posterior) -> RowTerms[Tensor]:
    """What rows x (n, *event_shape) with the posterior q contribute without a draw."""
    elements = generator.expected_log_likelihood(x, q)
    return RowTerms(
        latent=generator.prior().closed_form(q.double()),
        expected_reconstruction=None if elements is None else elements.flatten(1).sum(-1),
        expected_elements=elements,
        log_evidence=generator.log_evidence(x),
    )


def draw_terms(generator: Generator, q: Posterior, x: Tensor, noise: Tensor, label: Tensor | None) -> DrawTerms[Tensor]:
    """What one draw of each row contributes: z ~ q from standard normals (n, q.noise_dimensions).

    Raises NotImplementedError for a family with levels, whose draws have to be advanced first.
    """
    if generator.levels:
        raise NotImplementedError(f"family {generator.blueprint.family!r} has levels, which cannot be scored yet")
    walk, path = generator.begin(q, noise)
    assert path is not None
    return DrawTerms(generator.observe(walk, label).double().log_likelihood(x), path)
