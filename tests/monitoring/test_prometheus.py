"""Claims about what Prometheus gets, made with a real one."""

import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.chart.release import CHART
from tests.monitoring.conftest import Prometheus, panels, queries, runbooks
from tests.system.cluster import Cluster, until
from tests.system.controller_process import ControllerProcess

ALERTS = CHART / "files" / "alerts.yaml"
TABLE = CHART.parents[1] / "docs" / "metrics.md"


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def test_the_alerts_are_valid_and_fire_when_they_should(promtool: str) -> None:
    subprocess.run([promtool, "check", "rules", ALERTS], check=True, timeout=60)
    subprocess.run([promtool, "test", "rules", Path(__file__).with_name("alerts_test.yaml")], check=True, timeout=60)


def test_every_alert_has_a_unit_test_and_a_runbook() -> None:
    names = {alert["alert"] for alert in alerts()}
    tested = set(re.findall(r"alertname: (\w+)\n", Path(__file__).with_name("alerts_test.yaml").read_text()))
    assert tested == names
    assert {page.stem for page in runbooks().glob("Sandbox*.md")} == names


def test_alerts_and_dashboard_ask_only_for_documented_metrics() -> None:
    documented = set(re.findall(r"^\| `(\w+)`", TABLE.read_text(), re.MULTILINE))
    asked = " ".join(
        [*(alert["expr"] for alert in alerts()), *(query for panel in panels() for query in queries(panel))]
    )
    names = {re.sub("_bucket$", "", name) for name in re.findall(r"\b(?:sandbox_|process_)\w+\b", asked)}
    assert names - {"sandbox_namespace"} <= documented


def test_what_is_scraped_keeps_prometheus_conventions(
    busy: Prometheus, controller: ControllerProcess, promtool: str
) -> None:
    text = httpx.get(f"{controller.operations}/metrics", timeout=10).text
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_every_query_of_the_dashboard_has_an_answer(busy: Prometheus, panel: dict[str, Any]) -> None:
    for query in queries(panel):
        until(f"an answer to {query}", lambda query=query: busy.ask(query))


def test_prometheus_evaluates_every_alert(busy: Prometheus) -> None:
    until("all alerts were evaluated", lambda: {rule["health"] for rule in busy.rules()} == {"ok"})
    assert {rule["name"] for rule in busy.rules()} == {alert["alert"] for alert in alerts()}


def test_metrics_name_no_object_and_show_no_code(
    busy: Prometheus, embedded: Cluster, controller: ControllerProcess
) -> None:
    text = httpx.get(f"{controller.operations}/metrics", timeout=10).text
    for body in embedded.list():
        assert body["metadata"]["name"] not in text
        assert body["metadata"]["uid"] not in text
    assert "print" not in text


def test_every_query_of_the_runbooks_has_an_answer(busy: Prometheus) -> None:
    text = "\n".join(page.read_text() for page in runbooks().glob("*.md"))
    asked = re.findall(r"^ +((?:sum|histogram_quantile)\b.*)$", text, re.MULTILINE)
    asked += re.findall(r"`((?:sum|rate|time)\([^`]*)`", text)
    assert len(asked) >= 6
    for query in asked:
        until(f"an answer to {query}", lambda query=query: busy.ask(query))
