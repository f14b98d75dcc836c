"""docs/metrics.rst, the dashboard and the alert rules name only what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from django_resilient_pg.metrics.measures import MEASURES, Measure, series
from tests.unit.pages import page, section, table

pytestmark = pytest.mark.once

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = "docs/metrics.rst"
PREFIX = "django_resilient_pg_"
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana_dashboard.json").read_text("utf-8"))


def scraped_name(measure: Measure) -> str:
    return f"{PREFIX}{measure.name}{'_total' if measure.seconds is None else '_seconds'}"


BY_NAME = {scraped_name(one): one for one in MEASURES}
#: Every name that a query may use, with what it belongs to.
QUERYABLE = {
    **BY_NAME,
    **{
        f"{name}{end}": one
        for (name, one), end in product(BY_NAME.items(), ("_bucket", "_sum", "_count"))
        if one.seconds is not None
    },
}


def rules() -> list[dict[str, Any]]:
    yaml: Any = pytest.importorskip("yaml")
    loaded = yaml.safe_load((DOCS / "prometheus_alerts.yml").read_text("utf-8"))
    assert set(loaded) == {"groups"}
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def wrong_in(query: str) -> list[str]:
    """What a query names that there is not: a metric, a label, a value of a label."""
    found = list(re.finditer(rf"({PREFIX}\w+)(?:\{{([^}}]*)\}})?", query))
    assert found, query
    measures = [QUERYABLE.get(one[1]) for one in found]
    wrong = [one[1] for one, measure in zip(found, measures, strict=True) if measure is None]
    for one, measure in zip(found, measures, strict=True):
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', one[2] or ""):
            if measure is not None and not _knows(measure, label, value):
                wrong.append(f'{label}="{value}"')
    grouped = {name for by in re.findall(r"by \(([^)]*)\)", query) for name in by.split(", ")}
    known = {name for measure in measures if measure is not None for name in measure.values}
    return wrong + sorted(grouped - known - {"le"})


def _knows(measure: Measure, label: str, value: str) -> bool:
    values = measure.values.get(label)
    return values is not None and (label == "alias" or value in values)


def test_wrong_names_are_found() -> None:
    assert wrong_in(f"rate({PREFIX}lost_total[5m])") == [f"{PREFIX}lost_total"]
    query = f'sum by (host) ({PREFIX}connections_lost_total{{outcome="gone", port="1"}})'
    assert wrong_in(query) == ['outcome="gone"', 'port="1"', "host"]


# -- the page -----------------------------------------------------------------------------------


def test_every_metric_is_documented() -> None:
    rows = table(section(PAGE, "All metrics"), "Prometheus")
    assert rows == [
        [scraped_name(one), one.event, ", ".join(one.values), one.text] for one in MEASURES
    ]


def test_every_label_is_documented() -> None:
    rows = table(section(PAGE, "All metrics"), "Label")
    assert {row[0] for row in rows} == {name for one in MEASURES for name in one.values}


def test_the_attributes_are_those_of_opentelemetry() -> None:
    pytest.importorskip("opentelemetry.metrics")
    module = import_module("django_resilient_pg.metrics.opentelemetry")
    rows = table(section(PAGE, "All metrics"), "Label")
    assert {row[0]: row[1] for row in rows} == module.ATTRIBUTES
    text = page(PAGE).astext()
    assert [name for name in module.EVENTS if name not in text] == []


def test_names_of_the_semantic_conventions() -> None:
    conventions: Any = pytest.importorskip("opentelemetry.semconv._incubating.metrics.db_metrics")
    attributes: Any = import_module("opentelemetry.semconv._incubating.attributes.db_attributes")
    names = {one.event for one in MEASURES if not one.event.startswith("resilient_pg.")}
    assert names == {conventions.DB_CLIENT_CONNECTION_CREATE_TIME}
    module = import_module("django_resilient_pg.metrics.opentelemetry")
    assert module.ATTRIBUTES["alias"] == attributes.DB_CLIENT_CONNECTION_POOL_NAME


def test_labels_are_bounded() -> None:
    for measure in MEASURES:
        assert len(list(series(measure, ["default"]))) < 40, measure.name


# -- the dashboard ------------------------------------------------------------------------------


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_the_dashboard_has_what_grafana_needs() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(DASHBOARD)
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 8
    for panel in panels:
        assert {"type", "title", "gridPos", "targets", "datasource"} <= set(panel)
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert panel["datasource"]["uid"] == "${datasource}"
    variables = {one["name"] for one in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(panels))) - {"__rate_interval"}
    assert variables == used == {"datasource", "alias"}


@pytest.mark.parametrize(("title", "query"), list(queries()))
def test_a_panel_asks_for_what_there_is(title: str, query: str) -> None:
    assert wrong_in(query.replace('=~"$alias"', '="$alias"')) == []


def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join(query for _, query in queries())
    assert [name for name in BY_NAME if name not in shown] == []


# -- the alerts ---------------------------------------------------------------------------------


def test_the_rules_are_complete_and_documented() -> None:
    found = rules()
    for rule in found:
        assert {"alert", "expr", "labels", "annotations"} <= set(rule)
        assert set(rule["annotations"]) == {"summary", "description"}
        assert set(rule["labels"]) == {"severity"}
    rows = table(section(PAGE, "Alerts"), "Alert")
    assert [row[0] for row in rows] == [rule["alert"] for rule in found]


def test_an_alert_asks_for_what_there_is() -> None:
    for rule in rules():
        assert wrong_in(rule["expr"]) == [], rule["alert"]
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        (by,) = set(re.findall(r"by \(([^)]*)\)", rule["expr"]))
        assert used <= set(by.split(", ")), rule["alert"]
