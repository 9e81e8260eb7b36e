"""What every family must keep, as a suite to inherit.

    class TestMine(GeneratorTests):
        @pytest.fixture
        def generator(self):
            return checkpoint.build(Blueprint(family="mine", ...))

        @pytest.fixture
        def rows(self):
            return torch.randn(12, 6)

Needs pytest. The family must be registered, since its models are saved and loaded. The publish check runs most of this
again on the weights that are to be served.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from elbod.generators import conformance
from elbod.generators.base import Generator
from elbod.generators.conformance import Checked


class GeneratorTests:
    """Override the fixtures `generator` and `rows`, and `label` for a conditional family."""

    @pytest.fixture
    def generator(self) -> Generator:
        """A generator with any weights, fitted or not: best far from where all posteriors are the prior."""
        raise NotImplementedError("give a fixture `generator` that returns a Generator")

    @pytest.fixture
    def rows(self) -> Tensor:
        """At least 8 different rows, (n, *event_shape), in data units."""
        raise NotImplementedError("give a fixture `rows` that returns a tensor (n, *event_shape)")

    @pytest.fixture
    def label(self) -> Tensor | None:
        """int64 class numbers (n,) of the rows, None for a family without labels."""
        return None

    @pytest.fixture
    def model(self, generator: Generator, rows: Tensor, label: Tensor | None) -> Iterator[Checked]:
        """What is checked; tests run without gradients, as models are served."""
        with torch.no_grad():
            yield Checked.of(generator.eval(), rows, label)

    def test_methods_return_what_they_declare(self, model: Checked) -> None:
        """Shapes, dtypes, devices and levels of encode, begin, advance, observe and the terms; all finite."""
        conformance.check_decoded(model)
        model.row_terms()
        model.prior_draws()

    def test_rows_stand_alone(self, model: Checked) -> None:
        conformance.check_rows_stand_alone(model)

    def test_a_posterior_is_the_same_after_being_stored(self, model: Checked) -> None:
        conformance.check_posterior_is_stored(model)

    def test_terms_are_those_of_the_z_that_is_returned(self, model: Checked) -> None:
        conformance.check_latents(model)

    def test_temperature_zero_needs_no_noise(self, model: Checked) -> None:
        conformance.check_temperature(model)

    def test_the_likelihood_is_normalised_and_that_of_its_draws(self, model: Checked) -> None:
        conformance.check_likelihood(model)

    def test_noise_grows_and_beliefs_are_distributions_at_every_level(self, model: Checked) -> None:
        conformance.check_levels(model)

    def test_kl_estimator_is_how_the_terms_are_known(self, model: Checked) -> None:
        conformance.check_kl_estimator(model)

    def test_closed_forms_are_the_means_of_their_samples(self, model: Checked) -> None:
        conformance.check_closed_forms(model)

    def test_the_two_forms_of_the_bound_agree(self, model: Checked) -> None:
        conformance.check_two_forms(model)

    def test_the_bound_does_not_exceed_the_evidence(self, model: Checked) -> None:
        conformance.check_evidence(model)

    def test_labels_have_probabilities(self, model: Checked) -> None:
        conformance.check_labels(model)

    def test_every_parameter_has_a_gradient(self, model: Checked) -> None:
        conformance.check_gradients(model)

    def test_a_saved_model_gives_the_same_numbers(self, model: Checked) -> None:
        conformance.check_saved(model)

    def test_a_model_is_outlined_before_it_is_allocated(self, model: Checked) -> None:
        conformance.check_outline(model.generator)

    def test_kept_bytes_covers_what_a_loaded_model_holds(self, model: Checked) -> None:
        conformance.check_kept_bytes(model)
