"""The terms of the bound belong to one model: closed forms are means of what is sampled, and no bound is too high."""

import math

import numpy as np
import torch
from torch import Tensor

from elbod.generators import bounds
from elbod.generators.base import mistaken_kl_estimator
from elbod.generators.bounds import Elbo
from elbod.generators.conformance.checked import Checked, Nonconforming, call, first
from elbod.generators.posteriors import CategoricalPosterior
from elbod.generators.terms import DrawTerms, RowTerms, Terms, mapped

# The two forms of the bound are computed by separate code in float64; they may differ by rounding alone.
_FORMS_TOLERANCE = 1e-9

# Draws a row where a mean is compared: fewer where every draw runs through networks.
_DRAWS = 512
_DECODED_DRAWS = 256
_NETWORK_DRAWS = 32

# A mean of draws may miss what it estimates by this number of standard errors.
_STANDARD_ERRORS = 6.0
# Where draws have no spread at all, rounding is all that may be left: of a mean, and of an importance weight.
_ROUNDING = 1e-4
_EXACT = 1e-6

_SHOWN = {
    "kl": ("KL(q || p)", "log q - log p"),
    "log_prior": ("E_q[log p(z)]", "log p"),
    "entropy": ("H[q]", "-log q"),
}


def check_kl_estimator(model: Checked) -> None:
    """`kl_estimator` is how the terms are known."""
    q, _, path = model.draws(1)
    if (mistake := call("closed_form of the prior", mistaken_kl_estimator, model.generator, q, path)) is not None:
        raise Nonconforming(mistake)


def check_closed_forms(model: Checked) -> None:
    """Closed forms, given the drawn groups or not, are the means of the log-densities that they belong to."""
    n, rows = len(model), model.row_terms()
    if isinstance(model.encode(), CategoricalPosterior):
        _check_sums_over_components(model, rows)
        return
    draws = _NETWORK_DRAWS if rows.latent is None else _DRAWS
    _, _, path = model.draws(draws)
    exact = path.conditional if rows.latent is None else rows.latent
    for name, (shown, mean_of) in _SHOWN.items() if exact is not None else ():
        known = getattr(exact, name).reshape(n, -1)
        _check_mean(f"{shown} of row", getattr(path.sampled, name).reshape(n, draws) - known, mean_of)
    if rows.latent is not None:
        _check_other_kl(model, rows.latent.kl, rows.latent.kl_per_dimension)
    if (expected := rows.expected_reconstruction) is not None:
        drawn = model.draw_terms(_DECODED_DRAWS).reconstruction.reshape(n, -1)
        _check_mean("E_q[log p(x|z)] of row", drawn - expected[:, None], "log p(x|z)")


def _check_sums_over_components(model: Checked, rows: RowTerms[Tensor]) -> None:
    """Closed forms of a posterior over a few components are sums over them: draws would miss those that are rare."""
    q, n = model.encode(), len(model)
    log_weights = q.double().parameters["log_probs"]
    totals = {"reconstruction": torch.zeros_like(log_weights[:, 0])} | {
        name: torch.zeros_like(log_weights[:, 0]) for name in _SHOWN
    }
    for component, weight in enumerate(log_weights.exp().unbind(1)):
        z = torch.full((n, 1), float(component), device=model.device)
        sampled = model.latent_terms(q, z).sampled
        parts = {name: getattr(sampled, name) for name in _SHOWN}
        parts["reconstruction"] = model.log_likelihood("decode", model.decode(z, model.label))
        for name, values in parts.items():
            totals[name] += torch.where(weight > 0, weight * values, 0.0)
    known = {name: getattr(rows.latent, name) for name in _SHOWN} if rows.latent is not None else {}
    if rows.expected_reconstruction is not None:
        known["reconstruction"] = rows.expected_reconstruction
    for name, value in known.items():
        if (row := first(~((value - totals[name]).abs() <= _EXACT * (1 + totals[name].abs())))) is not None:
            shown = _SHOWN[name][0] if name in _SHOWN else "E_q[log p(x|z)]"
            raise Nonconforming(
                f"{shown} of row {row} in closed form is {float(value[row]):.9g} nats, "
                f"the sum over components is {float(totals[name][row]):.9g}"
            )


def _check_mean(what: str, differences: Tensor, mean_of: str) -> None:
    draws = differences.shape[1]
    mean, error = differences.mean(1), differences.std(1) / math.sqrt(draws)
    if (row := first(~(mean.abs() <= _STANDARD_ERRORS * error + _ROUNDING))) is not None:
        raise Nonconforming(
            f"{what} {row} in closed form differs from the mean of {mean_of} over {draws} draws by "
            f"{float(mean[row]):.3g} nats, {_STANDARD_ERRORS:g} standard errors being "
            f"{_STANDARD_ERRORS * float(error[row]):.3g}"
        )


def _check_other_kl(model: Checked, kl: Tensor, per_dimension: Tensor | None) -> None:
    """`closed_kl`, which training uses, and the parts by dimension are the same KL."""
    others = {"closed_kl of the prior": call("closed_kl", model.prior().closed_kl, model.encode().double())}
    if per_dimension is not None:
        others["the sum of kl_per_dimension"] = per_dimension.sum(-1)
    for what, other in others.items():
        if other is None or first((other - kl).abs() > _FORMS_TOLERANCE * (1 + kl.abs())) is not None:
            raise Nonconforming(f"{what} is not the KL(q || p) of closed_form")


def check_two_forms(model: Checked) -> None:
    """The ELBO of every row is finite and has one value in both forms, with conditional terms too."""
    rows, drawn = model.row_terms(), model.draw_terms(3)
    draws: DrawTerms[bounds.Floats] = mapped(lambda value: _array(value).reshape(len(model), -1), drawn)
    terms = Terms(mapped(_array, rows), draws)
    check_forms(bounds.bound(terms, 3))
    if (entropy := draws.path.entropy) is None:
        return
    if (known := draws.path.conditional) is None:
        raise Nonconforming("the terms of a path have an entropy that is known, and no conditional terms to check it")
    check_forms(bounds.elbo(draws.reconstruction, known))
    differs = np.abs(entropy - known.entropy) > _FORMS_TOLERANCE * (1 + np.abs(entropy))
    if (row := _first(differs[:, 0])) is not None:
        raise Nonconforming(f"the entropy of row {row} is not that of its conditional terms")


def check_forms(found: Elbo) -> None:
    """Every ELBO is finite and its two forms agree: |(r - k) - ((r + c) + h)| <= 1e-9 max(1, |r|, ...)."""
    if (row := _first(~np.isfinite(found.elbo))) is not None:
        raise Nonconforming(f"the held-out ELBO of test row {row} is {found.elbo[row]}")
    scale = np.maximum.reduce(
        [np.ones_like(found.elbo), *(np.abs(part) for part in (found.reconstruction, found.log_joint, found.entropy))]
    )
    difference = np.abs(found.elbo - (found.log_joint + found.entropy))
    if (row := _first(~(difference <= _FORMS_TOLERANCE * scale))) is not None:
        raise Nonconforming(
            f"the two forms of the ELBO of test row {row} differ by {difference[row]:.3g} nats: "
            "the family's closed forms (KL, E[log p(z)], entropy) contradict each other"
        )


def check_evidence(model: Checked) -> None:
    """E_q[log w] <= log p(x) with w = p(x, z)/q(z|x), and every w is p(x) where none differs from another."""
    evidence = model.row_terms().log_evidence
    if evidence is None:
        return
    drawn = model.draw_terms(_NETWORK_DRAWS)
    excess = (drawn.reconstruction - drawn.path.sampled.kl).reshape(len(model), -1) - evidence[:, None]
    mean, spread = excess.mean(1), excess.std(1)
    scale = 1 + evidence.abs()
    exact = (spread <= _EXACT * scale) & (mean.abs() > _EXACT * scale)
    above = mean > _STANDARD_ERRORS * spread / math.sqrt(_NETWORK_DRAWS) + _EXACT * scale
    if (row := first(exact | above)) is not None:
        raise Nonconforming(
            f"log_evidence of row {row} is {float(evidence[row]):.6g} nats, "
            f"but log p(x, z) - log q(z|x) is {float(evidence[row] + mean[row]):.6g} on average"
        )


def check_labels(model: Checked) -> None:
    """p(y) of conditional families is a distribution over the labels; other families have none."""
    log_prob = call("label_log_prob", model.generator.label_log_prob)
    if not model.generator.conditional:
        if log_prob is not None:
            raise Nonconforming("label_log_prob gives probabilities, but the family is not conditional")
        return
    names = model.generator.blueprint.labels or ()
    found = model.tensor("label_log_prob", log_prob, (len(names),), torch.float64)
    if abs(total := float(torch.logsumexp(found, 0))) > _FORMS_TOLERANCE:
        raise Nonconforming(f"the probabilities of label_log_prob sum to {math.exp(total):.12g}, not to 1")


def _array(values: Tensor) -> bounds.Floats:
    array: bounds.Floats = values.cpu().numpy()
    return array


def _first(wrong: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> int | None:
    return int(wrong.argmax()) if wrong.any() else None
