"""What every family keeps, as functions that raise `Nonconforming` with a sentence if it does not.

The publish check runs those of `PUBLICATION` on the weights that are to be served; `elbod.generators.testing` runs all
of them on a family under test.
"""

from collections.abc import Callable

from elbod.generators.conformance.checked import Checked, Nonconforming
from elbod.generators.conformance.likelihood import check_decoded, check_levels, check_likelihood
from elbod.generators.conformance.rows import (
    check_latents,
    check_posterior_is_stored,
    check_rows_stand_alone,
    check_temperature,
)
from elbod.generators.conformance.storage import check_gradients, check_kept_bytes, check_outline, check_saved
from elbod.generators.conformance.terms import (
    check_closed_forms,
    check_evidence,
    check_forms,
    check_kl_estimator,
    check_labels,
    check_two_forms,
)

__all__ = [
    "PUBLICATION",
    "Checked",
    "Nonconforming",
    "check_closed_forms",
    "check_decoded",
    "check_evidence",
    "check_forms",
    "check_gradients",
    "check_kept_bytes",
    "check_kl_estimator",
    "check_labels",
    "check_latents",
    "check_levels",
    "check_likelihood",
    "check_outline",
    "check_posterior_is_stored",
    "check_rows_stand_alone",
    "check_saved",
    "check_temperature",
    "check_two_forms",
]

# What must hold at any weights. The first ones say best what is wrong with a family that fails several.
PUBLICATION: tuple[Callable[[Checked], None], ...] = (
    check_decoded,
    check_labels,
    check_rows_stand_alone,
    check_latents,
    check_posterior_is_stored,
    check_temperature,
    check_likelihood,
    check_levels,
    check_kl_estimator,
    check_closed_forms,
    check_two_forms,
    check_evidence,
)
