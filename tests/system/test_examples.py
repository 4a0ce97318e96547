"""Every file of examples/, applied with kubectl, ends as its comment says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.system.cluster import Applied, Cluster
from tests.system.conftest import Started
from tests.system.controller_process import ControllerProcess
from tests.system.kubectl import run_kubectl

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCKER = {
    # name: phase, reason, exit code, standard output
    "hello": ("Succeeded", "Completed", 0, "hello\n"),
    "files-and-env": ("Succeeded", "Completed", 0, "6 apples for Ада, she says: thanks\n"),
    "fails": ("Failed", "Error", 3, ""),
    "times-out": ("Failed", "Timeout", 137, "counting\n"),
    "out-of-memory": ("Failed", "OOMKilled", 137, ""),
    "isolation-required": ("Succeeded", "Completed", 0, "isolated\n"),
}
MOCK = {name: end for name, end in DOCKER.items() if name != "isolation-required"}


@pytest.fixture(scope="module")
def applied(kubectl: str, cluster: Cluster, controller: ControllerProcess) -> Cluster:
    run_kubectl(kubectl, cluster, "apply", "-f", str(EXAMPLES))
    return cluster


def test_every_example_has_a_claim() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.yaml")}
    assert names == {*DOCKER, "long-lived", "gvisor"}
    assert all(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())["metadata"]["name"] == name for name in names)


def _ends_as_told(sandbox: Applied, expected: tuple[str, str, int, str]) -> None:
    status = sandbox.until_ended()
    result = status["result"]
    assert (status["phase"], result["reason"], result["exitCode"], result["stdout"]) == expected
    assert status["observedGeneration"] == 1
    assert status["startedAt"] <= status["finishedAt"] < status["expiresAt"]


@pytest.mark.parametrize("name", DOCKER)
def test_an_example_ends_as_told(applied: Cluster, name: str) -> None:
    sandbox = applied.find(name)
    _ends_as_told(sandbox, DOCKER[name])
    status = sandbox.status
    assert (status["backend"], status["isolation"], status["warnings"]) == ("docker", "container", [])
    assert status["docker_available"] is True
    if name == "fails":
        assert status["result"]["stderr"] == "no such fruit\n"


def test_the_long_lived_example_is_ready(applied: Cluster) -> None:
    status = applied.find("long-lived").until_ready()
    assert (status["phase"], status["limits"]) == (
        "Running",
        {"cpu": "1", "memory": "512Mi", "pids": 128, "network": "none"},
    )


def test_the_gvisor_example_runs_on_another_kernel(applied: Cluster, runsc: str) -> None:
    status = applied.find("gvisor").until_ended()
    assert status["isolation"] == "gvisor"
    assert status["result"]["stdout"].startswith("Linux version 4.4.0")


def test_kubectl_shows_what_people_want_to_know(applied: Cluster, kubectl: str) -> None:
    applied.find("fails").until_ended()
    rows = [line.split() for line in run_kubectl(kubectl, applied, "get", "sbx", "fails").splitlines()]
    assert rows[0] == ["NAME", "PHASE", "READY", "BACKEND", "DOCKER", "AGE"]
    assert rows[1][:5] == ["fails", "Failed", "False", "docker", "true"]
    header, row = run_kubectl(kubectl, applied, "get", "sbx", "fails", "-o", "wide").splitlines()
    assert header.split() == [*rows[0], "IMAGE", "ISOLATION", "REASON", "EXIT"]
    assert row.split()[-3:] == ["container", "Error", "3"]
    path = "jsonpath={.status.result.stderr}"
    assert run_kubectl(kubectl, applied, "get", "sbx", "fails", "-o", path) == "no such fruit\n"
    described = run_kubectl(kubectl, applied, "describe", "sbx", "fails")
    assert "Its program ended with exit code 3" in described


@pytest.fixture(scope="module")
def on_mock(embedded: Cluster, start_controller: Started) -> Iterator[Cluster]:
    start_controller(embedded, SANDBOX__MOCK_MODE="true")
    for path in EXAMPLES.glob("*.yaml"):
        document = yaml.safe_load(path.read_text())
        embedded.create(document["spec"], document["metadata"]["name"])
    yield embedded


@pytest.mark.parametrize("name", MOCK)
def test_on_mock_it_ends_the_same_way_and_says_that_nothing_is_isolated(on_mock: Cluster, name: str) -> None:
    sandbox = on_mock.find(name)
    _ends_as_told(sandbox, MOCK[name])
    status = sandbox.status
    assert (status["backend"], status["isolation"]) == ("mock", "none")
    assert status["warnings"] == ["Running in MOCK mode - NO SECURITY ISOLATION"]


@pytest.mark.parametrize("name", ["isolation-required", "gvisor"])
def test_what_asks_for_isolation_waits_while_only_mock_is_there(on_mock: Cluster, name: str) -> None:
    sandbox = on_mock.find(name)
    status = sandbox.until("told why it waits", lambda status: status.get("conditions"))
    assert (status["phase"], status["backend"]) == ("Pending", "none")
    assert sandbox.condition("Ready")["reason"] == "IsolationUnavailable"
    assert "start Docker" in sandbox.condition("Ready")["message"]
