"""The page: one HTML file that needs nothing else."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from markdown_it import MarkdownIt

from elbod.engine import comparison
from elbod.engine.description import largest_up_to
from elbod.report import figures, pictures
from elbod.report.coverage import LEVELS
from elbod.report.findings import Findings
from elbod.report.level_sections import RATE_DISTORTION, RECONSTRUCTIONS, level_sections, spent, whose_bound
from elbod.report.markup import named_rows, number, pair, section, table, text

_STYLE: Final = (Path(__file__).parent / "page.css").read_text()

# What a card says must not run, and must not fetch anything.
_MARKDOWN: Final = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def page(found: Findings) -> str:
    """The HTML document."""
    resident = found.resident
    body = "\n".join(_sections(found))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{text(resident)}: report</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _sections(found: Findings) -> Iterator[str]:
    resident, manifest, by_level = found.resident, found.resident.manifest, found.by_level
    yield f"<header><h1>{text(resident)}</h1>\n{_facts(found)}</header>"
    yield section(
        "Numbers",
        _numbers(found),
        "Means over the held-out rows with the standard error of the mean. The ELBO is a lower bound on log p(x), the "
        "importance-weighted bound a tighter one; both are in nats, higher is better. They compare models of the same "
        "data, likelihood and binarisation. A likelihood is no probability of anomaly: a model may find simpler data "
        "more likely than its own.",
        *([] if by_level is None else [whose_bound(by_level.levels.count), spent(found)]),
    )
    yield section("Samples", _samples(found), _SAMPLES)
    words = _RECONSTRUCTIONS if by_level is None else RECONSTRUCTIONS
    yield _or_why(found, "reconstructions", "Reconstructions", _reconstructions, words)
    if by_level is None:
        yield _or_why(found, "traversals", "Latent traversals", _traversals, _TRAVERSALS)
        yield _or_why(found, "kl_per_dimension", "Information in each latent dimension", _divergences, _DIVERGENCES)
    else:
        yield from level_sections(found, by_level)
    yield section("Scores of held-out rows", _scores(found), _SCORES)
    words = _RATE_DISTORTION if by_level is None else RATE_DISTORTION
    rate = f"rate: KL divergence {'to the prior' if by_level is None else 'of paths'}, nats"
    yield section("Rate and distortion", figures.rate_distortion(found.scores, rate), words)
    points = manifest.training.get("curve")
    if isinstance(points, list) and len(points) > 1:
        yield section("Training", figures.curve(points), _TRAINING)
    else:
        why = "its weights were evaluated once" if points else "this model was not trained by steps"
        yield section("Training", "", f"There is no curve: {why}.")
    yield _or_why(found, "coverage", "Are the standard errors honest?", _coverage, _COVERAGE)
    yield section("Card", f'<div class="card">{_MARKDOWN.render(manifest.card)}</div>', "")


_SAMPLES = "Draws x ~ p(x|z) with z ~ p(z), not selected. Noise in them is that of the likelihood."
_RECONSTRUCTIONS = (
    "Held-out rows and E[x|z] at the mode of q(z|x). What is lost between them is what the latent does not carry."
)
_TRAVERSALS = (
    "E[x|z] while one latent moves from the 2 % to the 98 % quantile of what held-out rows are encoded to and the "
    "others stay where the first row is."
)
_DIVERGENCES = (
    "The mean KL divergence of q(z|x) to the prior, by dimension, in nats: how much a dimension says about a row. One "
    "near 0 is not used."
)
_SCORES = (
    "The ELBO is the reconstruction less the KL divergence. Calibration rows took part in nothing but this comparison: "
    "a held-out row is typical if its score lies among theirs."
)
_RATE_DISTORTION = (
    "Every row is a point: the nats that its latent carries against the nats that are then still missing. Rows on a "
    "dotted line have equal ELBO; the diamond is the mean."
)
_TRAINING = (
    "The bound of validation rows (weights averaged, as they serve) with its standard error, and the objective of the "
    "training rows, which may contain a warm-up weight and dropout."
)
_COVERAGE = (
    "Some rows are scored again and again with other noise. An interval of so many standard errors around an estimate "
    "(by Student's t) should hold the mean of the others as often as its level says. Points below the line mean errors "
    "that are too small: the draws of a row are then far from normal, and more draws help."
)


def _facts(found: Findings) -> str:
    resident, manifest = found.resident, found.resident.manifest
    generator, training, model = resident.generator, manifest.training, resident.description
    recipe = training.get("recipe")
    data = training.get("data")
    facts = {
        "digest": f"<code>{manifest.digest}</code>",
        "family": f"{text(manifest.family)}, latent {text(generator.latent_structure)}",
        "likelihood": f"{text(manifest.likelihood)} over {text(generator.likelihood.support)}"
        + (f", {manifest.levels} levels" if manifest.levels else ""),
        "event shape": text(tuple(manifest.event_shape)),
        "published": text(f"{manifest.created:%Y-%m-%d %H:%M} UTC"),
        "trained on": text(f"{data['name']}, {data['rows']:,} rows, digest {data['digest'][:12]}")
        if isinstance(data, dict)
        else "not recorded",
        "recipe": text(f"{recipe['name']}, seed {training.get('seed')}, {training.get('steps'):,} steps")
        if isinstance(recipe, dict) and isinstance(training.get("steps"), int)
        else "not recorded",
        "command": f"<code>{text(training['command'])}</code>" if "command" in training else "not recorded",
        "scored here": text(f"{len(found.x):,} rows of {found.origin}, seed {found.seed}"),
        "same seed, same bytes": text(f"{'yes' if model.reproducible else 'no'}, on {model.fingerprint}"),
    }
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items()) + "</dl>"


def _numbers(found: Findings) -> str:
    report = comparison.overview(found.scores, found.resident.generator.likelihood, found.effort.num_importance_samples)
    rows = [
        (f"ELBO, {found.effort.num_samples} draws", report["elbo"], report["standard_error"], report["bits_per_dim"]),
        ("reconstruction", report["reconstruction"], None, None),
        ("KL divergence", report["kl"], None, None),
    ]
    if "iwae" in report:
        rows.insert(
            1,
            (
                f"importance-weighted, {found.effort.num_importance_samples} draws",
                report["iwae"],
                report["iwae_standard_error"],
                report["iwae_bits_per_dim"],
            ),
        )
        gap = found.scores["gap"]
        rows.append(("gap to it, at least", float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(len(gap))), None))
    if "log_evidence" in report:
        rows.insert(0, ("exact log p(x)", report["log_evidence"], report["log_evidence_standard_error"], None))
    discrete = report["bits_per_dim"] is not None
    head = ("mean of", "nats", "± standard error", *(("bits/dim",) if discrete else ()))
    return table(
        head,
        (
            (name, number(value, 2), number(error, 2), *((number(bits, 4),) if discrete else ()))
            for name, value, error, bits in rows
        ),
    )


def _samples(found: Findings) -> str:
    likelihood, shape = found.resident.generator.likelihood, found.resident.generator.event_shape
    if not pictures.is_image(shape):
        return pictures.marginals(found.x, found.samples, "Quantiles of every element of held-out rows and of samples")
    names = found.resident.generator.blueprint.labels
    if found.sample_labels is None or names is None:
        return pictures.image_grid(found.samples, likelihood, 16, "Samples from the prior")
    rows = []
    for label in dict.fromkeys(found.sample_labels.tolist()):
        drawn = found.samples[found.sample_labels == label]
        rows.append(
            (names[label], pictures.image_grid(drawn, likelihood, len(drawn), f"Samples of {text(names[label])}"))
        )
    return named_rows(rows)


def _reconstructions(found: Findings) -> str:
    generator, named = found.resident.generator, found.reconstructions
    assert named is not None
    first = next(iter(named.values()))
    if not pictures.is_image(generator.event_shape):
        return pictures.against(found.x, first, "Elements of held-out rows against their reconstructions")
    likelihood, columns = generator.likelihood, len(first)
    rows = pictures.image_grid(found.x[:columns], likelihood, columns, "Held-out rows")
    again = (
        (name, pictures.image_grid(means, likelihood, columns, f"Their reconstructions, {text(name)}"))
        for name, means in named.items()
    )
    return named_rows([("rows", rows), *again])


def _traversals(found: Findings) -> str:
    generator, traversals = found.resident.generator, found.traversals
    assert traversals is not None
    names = [f"z[{i}]" for i in traversals.dimensions]
    if not pictures.is_image(generator.event_shape):
        return pictures.lines(found.x, traversals.means, names, "Means of the likelihood while one latent moves")
    return named_rows(
        [
            (name, pictures.image_grid(means, generator.likelihood, min(16, len(means)), f"Traversal of {name}"))
            for name, means in zip(names, traversals.means, strict=True)
        ]
    )


def _divergences(found: Findings) -> str:
    assert found.kl_per_dimension is not None
    return figures.divergences(found.kl_per_dimension.mean(axis=0))


def _scores(found: Findings) -> str:
    calibration = largest_up_to(found.resident.description.calibration, found.effort.num_samples)
    return figures.scores(found.scores, None if calibration is None else calibration.scores)


def _coverage(found: Findings) -> str:
    covered = found.coverage
    assert covered is not None
    rows = (
        (f"{level:.0%}", f"{observed:.1%}", f"{error:.1%}")
        for level, observed, error in zip(LEVELS, covered.observed, covered.errors, strict=True)
    )
    count = f"<p>{covered.intervals:,} intervals of {covered.num_samples} draws each.</p>"
    return pair(figures.reliability(covered), table(("interval", "holds it", "± of chance"), rows), count)


def _or_why(found: Findings, what: str, title: str, shown: Any, words: str) -> str:
    if getattr(found, what) is None:
        return section(title, "", f"Left out: {found.missing[what]}.")
    if what == "traversals" and found.traversals is not None:
        words = f"{words} Ordered by {found.traversals.order}." if len(found.traversals.dimensions) > 1 else words
    return section(title, shown(found), words)
