"""The dashboard and the alerts speak of metrics that a live server has."""

import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import Server

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/elbod.json").read_text())
RULES = (DEPLOY / "prometheus/rules.yml").read_text()

METRIC = re.compile(r"\belbod_[a-z0-9_]+")
RECORDED = re.compile(r"\belbod:[a-z0-9_:]+")


@pytest.fixture
def exported(server: Server) -> set[str]:
    """The names of all samples, after one request of each verb and one that is refused."""
    x = np.zeros((1, 8, 8), int).tolist()
    with httpx.Client(base_url=server.url, timeout=30) as http:
        http.post("/elbo", json={"x": x})
        http.post("/sample", json={"num_samples": 0})
        text = http.get("/metrics").text
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_metric_of_the_dashboard_exists(exported: set[str]) -> None:
    named = {name for text in expressions() for name in METRIC.findall(text)}
    named |= {name for item in DASHBOARD["templating"]["list"] for name in METRIC.findall(item["query"])}
    assert len(named) > 20
    assert named <= exported


def test_every_metric_is_on_the_dashboard(exported: set[str]) -> None:
    shown = {name for text in expressions() for name in METRIC.findall(text)}
    families = {name.removesuffix("_sum").removesuffix("_count") for name in exported if name.startswith("elbod_")}
    assert {name.removesuffix("_bucket") for name in families} == {name.removesuffix("_bucket") for name in shown}


def test_panels_have_a_place_of_their_own() -> None:
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({p["id"] for p in DASHBOARD["panels"]}) == len(places)


def test_every_metric_of_the_rules_exists(exported: set[str]) -> None:
    named = set(METRIC.findall(RULES))
    assert len(named) > 8
    assert named <= exported


def test_every_recorded_series_that_is_used_is_recorded() -> None:
    recorded = set(re.findall(r"- record: (\S+)", RULES))
    assert set(RECORDED.findall(RULES)) == recorded


def test_every_alert_has_an_expression_and_a_summary() -> None:
    alerts = re.split(r"- alert: ", RULES)[1:]
    assert len(alerts) >= 7
    for alert in alerts:
        assert "expr: " in alert
        assert 'summary: "' in alert
        # Brackets that do not match would keep Prometheus from starting.
        assert all(alert.count(a) == alert.count(b) for a, b in ("()", "[]", "{}"))


def test_the_scraper_reads_the_rules() -> None:
    assert "- rules.yml" in (DEPLOY / "prometheus/prometheus.yml").read_text()
