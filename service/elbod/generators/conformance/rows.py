"""Rows stand alone, answers are repeatable, and what is stored of a posterior is all of it."""

from collections.abc import Callable

import torch
from torch import Tensor

from elbod.generators.base import Walk
from elbod.generators.conformance.checked import Checked, Nonconforming, call, first
from elbod.generators.noise import Stream
from elbod.generators.posteriors import Posterior
from elbod.generators.terms import PathTerms, leaves

# Outputs of a row in batches of one size may differ by rounding, but not more than this.
_ROUNDING = 1e-5
# Terms at one z, by two ways through the same networks.
_SAME = 1e-9


def check_rows_stand_alone(model: Checked) -> None:
    """A row's outputs are the same in other company, and the same again."""
    q = model.encode()
    noise = model.noise(Stream.POSTERIOR, q.noise_dimensions)
    # Of both kinds of latents.
    z = torch.cat([model.prior_draws().z, model.draws(1)[1].z])
    labels = None if model.label is None else torch.cat([model.label, model.label])
    # log p(x|z) of the same row for every z: a mean over 65,536 levels would take seconds.
    row = model.x[:1]

    def encode(at: Tensor) -> Tensor:
        return _flat(*model.generator.encode(model.x[at], _at(model.label, at)).parameters.values())

    def begin(at: Tensor) -> Tensor:
        walk, path = model.generator.begin(_some(model, at), noise[at, 0])
        return _flat(walk.z, *leaves(path))

    def decode(at: Tensor) -> Tensor:
        observation = model.generator.decode(z[at], _at(labels, at))
        return _flat(observation.double().log_prob(row.expand(len(at), *row.shape[1:])))

    for what, inputs, run in (("encode", len(model), encode), ("begin", len(model), begin), ("decode", len(z), decode)):
        _check_alone(what, inputs, run, model.device)
    if model.generator.levels:
        _check_passes_alone(model, q, noise)


def _check_passes_alone(model: Checked, q: Posterior, noise: Tensor) -> None:
    """A pass of a row at one level does not depend on rows at other levels: of q(z|x), and of p(z)."""
    at = _mixed_levels(model, q, noise)

    def advance(rows: Tensor) -> Tensor:
        walk, path = model.generator.advance(
            _walk(at, rows), _some(model, rows), noise[rows, 0], _at(model.label, rows)
        )
        return _flat(walk.z, *leaves(path))

    def draw(rows: Tensor) -> Tensor:
        walk, _ = model.generator.advance(_walk(at, rows), None, noise[rows, 0], _at(model.label, rows))
        return _flat(walk.z)

    for run in (advance, draw):
        _check_alone("advance", len(model), run, model.device)


def _mixed_levels(model: Checked, q: Posterior, noise: Tensor) -> Walk:
    """Draws from q at the top, the middle and the last level but one: a third of the rows each."""
    levels, found = model.generator.levels, []
    walk, _ = model.begin(q, noise[:, levels])
    for level in reversed(range(1, levels + 1)):
        found.append(walk)
        walk, _ = model.advance(walk, q, noise[:, level - 1])
    places = torch.tensor([0, levels // 2, levels - 1], device=model.device)
    which = places[torch.arange(len(model), device=model.device) % len(places)]
    z = torch.stack([walk.z for walk in found])[which, torch.arange(len(model), device=model.device)]
    return Walk(z, levels - which, levels - which - 1)


def _walk(walk: Walk, at: Tensor) -> Walk:
    assert walk.level is not None
    assert walk.below is not None
    return Walk(walk.z[at], walk.level[at], walk.below[at])


def _some(model: Checked, at: Tensor) -> Posterior:
    """q(z|x) of these rows."""
    return model.posterior({name: value[at] for name, value in model.encode().parameters.items()})


def _check_alone(what: str, count: int, run: Callable[[Tensor], Tensor], device: torch.device) -> None:
    every = torch.arange(count, device=device)
    whole = call(what, run, every)
    if not torch.equal(whole, call(what, run, every)):
        raise Nonconforming(f"{what} of the same rows gives other numbers again: is dropout left on?")
    half = count // 2
    # Other rows in the second half; a batch of another size would be rounded otherwise.
    beside = call(what, run, torch.cat([every[:half], every[: count - half]]))[:half]
    wrong = (beside - whole[:half]).abs() > _ROUNDING * (1 + whole[:half].abs())
    if (row := first(wrong.any(1))) is not None:
        raise Nonconforming(f"{what} of row {row} depends on the rows beside it: is there a batch normalization?")


def check_posterior_is_stored(model: Checked) -> None:
    """posterior(q.parameters) draws and scores what q does: an engine keeps no more of q than its parameters."""
    q = model.encode()
    stored = model.posterior({name: value.clone() for name, value in q.parameters.items()})
    noise = model.noise(Stream.POSTERIOR, q.noise_dimensions)
    if (stored.family, stored.noise_dimensions) != (q.family, q.noise_dimensions):
        raise Nonconforming(f"posterior(q.parameters) is a {stored.family} posterior, encode gives a {q.family} one")
    before, after = (_flat(walk.z, *leaves(path)) for walk, path in (model.descend(p, noise) for p in (q, stored)))
    if (row := first((before != after).any(1))) is not None:
        raise Nonconforming(f"posterior(q.parameters) draws or scores row {row} otherwise than q: what is missing?")


def check_latents(model: Checked) -> None:
    """The terms of a draw are those of the very z that callers see, and `observe` gives p(x|z) of that z."""
    q, walk, path = model.draws(1)
    if model.generator.levels == 0:
        _check_same_terms(path, model.latent_terms(q, walk.z))
    else:
        top, begun = model.begin(q, model.noise(Stream.POSTERIOR, q.noise_dimensions)[:, -1])
        assert begun is not None
        _check_same_terms(PathTerms(begun.sampled), PathTerms(model.latent_terms(q, top.z).sampled))
    if (levels := model.generator.latent_levels) is not None:
        wrong = (walk.z != walk.z.round()) | (walk.z < 0) | (walk.z >= levels)
        if (row := first(wrong.any(1))) is not None:
            raise Nonconforming(
                f"begin draws a z of row {row} that is none of the integers below latent_levels = {levels}"
            )
    for drawn in (walk, model.prior_draws()):
        _check_same_likelihood(model, drawn)


def _check_same_terms(path: PathTerms[Tensor], again: PathTerms[Tensor]) -> None:
    if (path.conditional is None) != (again.conditional is None):
        raise Nonconforming("begin and latent_terms do not both give conditional terms")
    for ours, theirs in zip(leaves(path), leaves(again), strict=True):
        if (row := first((ours - theirs).abs() > _SAME * (1 + ours.abs()))) is not None:
            raise Nonconforming(
                f"begin gives terms of row {row} that are not those of the z it returns: they differ by "
                f"{float((ours - theirs)[row]):.3g} nats. Evaluate densities at z as a float32"
            )


def _check_same_likelihood(model: Checked, walk: Walk) -> None:
    observed = model.log_likelihood("observe", model.observe(walk))
    decoded = model.log_likelihood("decode", model.decode(walk.z, model.label))
    if (row := first((observed - decoded).abs() > _ROUNDING * (1 + decoded.abs()))) is not None:
        raise Nonconforming(f"observe gives row {row} another p(x|z) than decode of its z")


def check_temperature(model: Checked) -> None:
    """At temperature 0 a draw from q does not depend on its noise; one temperature a row is one for all.

    Families with levels take no temperature.
    """
    if model.generator.levels:
        return
    q = model.encode()
    noise = model.noise(Stream.POSTERIOR, q.noise_dimensions)
    cold, other = (model.descend(q, n, 0.0)[0].z for n in (noise, -noise))
    if (row := first((cold != other).any(1))) is not None:
        raise Nonconforming(f"begin at temperature 0 gives row {row} other latents with other noise")
    single = 0.7
    each = torch.full((len(model), 1), single, device=model.device)
    pairs = [(model.draws(1, t)[1].z, model.prior_draws(t).z) for t in (single, each)]
    for what, one, many in zip(("q(z|x)", "p(z)"), *pairs, strict=True):
        if (row := first(((one - many).abs() > _ROUNDING * (1 + one.abs())).any(1))) is not None:
            raise Nonconforming(f"begin draws row {row} from {what} otherwise at a temperature a row, (n, 1)")


def _at(labels: Tensor | None, places: Tensor) -> Tensor | None:
    return None if labels is None else labels[places]


def _flat(*values: Tensor) -> Tensor:
    return torch.cat([value.double().reshape(len(value), -1) for value in values], dim=1)
