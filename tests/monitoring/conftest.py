"""A real Prometheus that scrapes a controller which has something to tell."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.chart.release import CHART
from tests.conftest import missing
from tests.system.cluster import Cluster, bash, python, until
from tests.system.conftest import Started
from tests.system.conftest import embedded as embedded
from tests.system.conftest import embedded_server as embedded_server
from tests.system.conftest import start_controller as start_controller
from tests.system.controller_process import ControllerProcess

WINDOW = "1m"
"""Stands for Grafana's $__rate_interval."""


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(f"no {name}", "apt-get install -y prometheus")
    return str(found)


@pytest.fixture(scope="session")
def promtool() -> str:
    return program("promtool")


@dataclass(frozen=True)
class Prometheus:
    url: str

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def ask_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The series between two times."""
        wanted: dict[str, str | float] = {"query": expression, "start": start, "end": end, "step": step}
        answer = httpx.get(f"{self.url}/api/v1/query_range", params=wanted, timeout=10).json()
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=10).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def controller(embedded: Cluster, sandbox_image: str, start_controller: Started) -> ControllerProcess:
    assert sandbox_image
    return start_controller(embedded)


@pytest.fixture(scope="module")
def prometheus(controller: ControllerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes the controller each second and evaluates the alerts."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(CHART / "files" / "alerts.yaml")],
        "scrape_configs": [
            {
                "job_name": "sandbox-controller",
                "static_configs": [{"targets": [controller.operations.removeprefix("http://")]}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        program("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with subprocess.Popen(command) as process:
        prometheus = Prometheus(f"http://{address}")
        try:
            until("Prometheus is ready", lambda: is_ready(prometheus))
            yield prometheus
        finally:
            process.terminate()
            process.wait(20)


def is_ready(prometheus: Prometheus) -> bool:
    try:
        return httpx.get(f"{prometheus.url}/-/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def busy(embedded: Cluster, controller: ControllerProcess, prometheus: Prometheus) -> Prometheus:
    """Prometheus, after everything that is measured has happened while it looked."""
    until("the controller was scraped", lambda: prometheus.ask("sandbox_docker_up"))
    use_sandboxes(embedded, controller)
    return prometheus


def use_sandboxes(cluster: Cluster, controller: ControllerProcess) -> None:
    """Good ends and bad ones, of sandboxes and of executions."""
    ended = [
        cluster.create(python("print(1)")),
        cluster.create(bash("exit 3")),
        cluster.create(python("import time; time.sleep(60)", timeoutSeconds=1)),
        cluster.create({"image": "nobody/has-this:1", **python("print(1)")}),
    ]
    stays = cluster.create()
    until("it takes code", lambda: stays.status.get("phase") == "Running", 60)
    with httpx.Client(base_url=f"{controller.api}/sandbox/{stays.uid}", timeout=60) as api:
        for _ in range(20):
            assert api.post("/execute", json={"code": "print(1)"}).json()["reason"] == "Completed"
        assert api.post("/execute", json={"code": "while True: pass", "timeout": 1}).json()["reason"] == "Timeout"
        assert api.post("/execute", json={"code": "print('x' * 2_000_000)"}).json()["truncated"]
        key = {"Idempotency-Key": "once"}
        api.post("/execute", json={"code": "print(1)"}, headers=key).raise_for_status()
        assert api.post("/execute", json={"code": "print(2)"}, headers=key).is_client_error
    for sandbox in ended:
        until(f"{sandbox.name} has ended", lambda sandbox=sandbox: sandbox.status.get("result"), 60)


def panels() -> list[dict[str, Any]]:
    """Those of the dashboard that ask something."""
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"].replace("$__rate_interval", WINDOW) for target in panel["targets"]]


def runbooks() -> Path:
    return CHART.parents[1] / "docs" / "runbooks"
