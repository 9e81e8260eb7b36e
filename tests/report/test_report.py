"""`elbod report`: one page for every kind of model, from the numbers of the service, that needs nothing else."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from elbod.cli.scoring import Session
from elbod.engine.jobs import Job
from elbod.report.coverage import LEVELS, coverage, student_quantile
from elbod.report.effort import effort
from elbod.report.findings import Findings, find
from elbod.report.page import page
from elbod.settings import load_settings
from elbod_store import ModelStore
from tests.support import ELBOD, HANG

_VOID = {"meta", "img", "link", "br", "hr", "th", "td", "tr", "path", "use", "rect"}


class Checked(HTMLParser):
    """Collects text, addresses and scripts, and insists on tags that match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        addresses = [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "srcset"}]
        # A link is followed by a reader, all else by the browser.
        self.addresses += addresses if tag != "a" else [each for each in addresses if not each.startswith("http")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(document: str) -> Checked:
    parser = Checked()
    parser.feed(document)
    parser.close()
    assert parser.open == []
    assert "script" not in parser.seen
    assert [address for address in parser.addresses if not address.startswith(("data:image/png;base64,", "#"))] == []
    return parser


@pytest.fixture(scope="module")
def session(served_store: ModelStore) -> Iterator[Session]:
    with Session.open(load_settings(store=served_store.objects.url, device="cpu"), quiet=True) as opened:
        yield opened


def rows_of(event_shape: tuple[int, ...], levels: int | None) -> Any:
    rng = np.random.default_rng(3)
    drawn = rng.normal(size=(20, *event_shape)) if levels is None else rng.integers(0, levels, (20, *event_shape))
    return drawn if levels is None else drawn.astype(np.uint8)


def found(session: Session, name: str, *, labelled: bool = True) -> Findings:
    resident = session.load(name)
    blueprint = resident.generator.blueprint
    label = None
    if blueprint.labels is not None and labelled:
        label = np.arange(20) % len(blueprint.labels)
    x = rows_of(blueprint.event_shape, blueprint.levels)

    def run(job: Job, title: str) -> dict[str, Any]:
        return session.run(job, resident, title)

    spent = effort(resident.levels, len(x), num_samples=4, num_importance_samples=8)
    return find(resident, x, label, "rows of a test", run, seed=5, effort=spent)


def test_an_image_model_has_every_section(session: Session) -> None:
    findings = found(session, "levels")
    shown = checked(page(findings))
    assert findings.missing == {}
    for words in ("levels@1", "Samples", "Reconstructions", "Latent traversals", "Rate and distortion", "honest?"):
        assert words in shown.text
    assert f"{findings.scores['elbo'].mean():.2f}" in shown.text
    assert f"{findings.scores['iwae'].mean():.2f}" in shown.text
    assert findings.resident.description.digest in shown.text


def test_the_numbers_are_those_of_elbod_score(session: Session, tmp_path: Path) -> None:
    findings = found(session, "levels")
    np.save(tmp_path / "rows.npy", findings.x)
    flags = ["--num-samples", "4", "--importance-samples", "8", "--seed", "5", "--json"]
    command = [ELBOD, "score", "--model", "levels", "--data", "rows.npy", "--store", session.store.objects.url, *flags]
    scored = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=HANG).stdout)
    assert scored["elbo"] == findings.scores["elbo"].mean()
    assert scored["iwae"] == findings.scores["iwae"].mean()


def test_traversals_go_along_the_most_informative_dimensions_first(session: Session) -> None:
    findings = found(session, "levels")
    assert findings.kl_per_dimension is not None
    assert findings.traversals is not None
    informative = findings.kl_per_dimension.mean(axis=0)[list(findings.traversals.dimensions)]
    assert (np.diff(informative) <= 0).all()
    assert (np.diff(findings.traversals.values, axis=1) > 0).all()


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("linear", {"kl_per_dimension"}),
        ("bits", set()),
        ("vamp", {"kl_per_dimension"}),
        ("flow_posterior", {"kl_per_dimension"}),
        ("mixture", {"coverage"}),
        ("convolutional", set()),
        ("ladder", {"kl_per_dimension"}),
        ("labels", set()),
    ],
)
def test_every_kind_of_model_has_a_page_that_says_what_it_lacks(session: Session, name: str, missing: set[str]) -> None:
    findings = found(session, name)
    shown = checked(page(findings))
    assert set(findings.missing) == missing
    assert shown.text.count("Left out:") == len(missing)
    assert ("bits/dim" in shown.text) == (findings.resident.generator.likelihood.measure == "pmf")


def test_a_discrete_latent_is_traversed_through_all_its_values(session: Session) -> None:
    traversals = found(session, "mixture").traversals
    assert traversals is not None
    assert traversals.values.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_conditional_model_without_labels_of_the_rows_says_so(session: Session) -> None:
    findings = found(session, "labels", labelled=False)
    assert "the rows have no labels" in checked(page(findings)).text


def test_what_a_card_says_neither_runs_nor_fetches(session: Session) -> None:
    findings = found(session, "levels")
    card = "<script>alert(1)</script>\n\n![x](http://example.org/x.png) [y](javascript:alert(2)) <img src=http://z>"
    resident = replace(findings.resident, manifest=msgspec.structs.replace(findings.resident.manifest, card=card))
    shown = checked(page(replace(findings, resident=resident)))
    assert "<script>alert(1)</script>" in shown.text


def test_a_version_that_was_evaluated_once_has_no_curve(session: Session) -> None:
    findings = found(session, "bits")
    training = {"curve": [{"epoch": 1, "elbo": -1.0, "standard_error": 0.1, "objective": -1.0}]}
    manifest = msgspec.structs.replace(findings.resident.manifest, training=training)
    once = replace(findings, resident=replace(findings.resident, manifest=manifest))
    assert "There is no curve: its weights were evaluated once." in checked(page(once)).text
    assert "There is no curve: this model was not trained by steps." in checked(page(findings)).text


def test_the_same_seed_gives_the_same_page(session: Session) -> None:
    assert page(found(session, "bits")) == page(found(session, "bits"))


def test_intervals_of_honest_errors_hold_what_they_should_and_those_of_small_ones_do_not() -> None:
    draws = np.random.default_rng(0).normal(size=(40, 100, 8))
    elbo, error = draws.mean(axis=2), draws.std(axis=2, ddof=1) / 8**0.5
    honest, boastful = coverage(elbo, error, 8), coverage(elbo, error / 2, 8)
    assert honest is not None
    assert boastful is not None
    for level, observed, chance in zip(LEVELS, honest.observed, honest.errors, strict=True):
        assert observed == pytest.approx(level, abs=4 * chance + 0.005)
    assert boastful.observed[3] < 0.8
    assert coverage(elbo, np.zeros_like(error), 8) is None


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [(0.975, 15, 2.131450), (0.95, 3, 2.353363), (0.995, 7, 3.499483), (0.75, 1, 1.0), (0.5, 9, 0.0)],
)
def test_quantiles_of_students_t_are_those_of_the_tables(probability: float, freedom: int, quantile: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(quantile, abs=2e-4)


def report(folder: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([ELBOD, "report", *flags], cwd=folder, capture_output=True, text=True, timeout=HANG)


def test_the_command_writes_one_whole_page_in_place_of_an_older_one(served_store: ModelStore, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows_of((8, 8), 17))
    (tmp_path / "levels-1.html").write_text("older")
    done = report(tmp_path, "--model", "levels", "--data", "rows.npy", "--store", served_store.objects.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "levels-1.html: levels@1, 20 rows; open it in a browser\n"
    assert "all 20 rows of rows" in checked((tmp_path / "levels-1.html").read_text()).text
    assert {path.name for path in tmp_path.iterdir()} == {"rows.npy", "levels-1.html"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "level"], "did you mean"),
        (["--model", "levels", "--output", "page.pdf"], "the ending must be .html"),
        (["--model", "levels", "--output", "nowhere/page.html"], "there is no folder nowhere"),
        (["--model", "levels", "--data", "none.npy"], "none.npy"),
    ],
)
def test_what_cannot_be_reported_is_one_line(
    served_store: ModelStore, tmp_path: Path, flags: list[str], message: str
) -> None:
    done = report(tmp_path, *flags, "--store", served_store.objects.url)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []
