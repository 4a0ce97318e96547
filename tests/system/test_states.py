"""The states of the service: disabled, Docker required, mock, and what each says of itself."""

import subprocess

import pytest

from tests.daemon_proxy import DaemonProxy
from tests.system.cluster import Cluster, condition, python, until
from tests.system.conftest import Started
from tests.system.controller_process import COMMAND, START_SECONDS
from tests.system.test_daemon import TOLD_WITHIN

NOWHERE = "unix:///no/such/docker.sock"


def test_disabled_objects_stay_pending_and_say_so(embedded: Cluster, start_controller: Started) -> None:
    controller = start_controller(embedded, SANDBOX__ENABLED="false")
    sandbox = embedded.create(python("pass"))
    status = sandbox.until("told", lambda status: status.get("conditions"))
    ready = condition(status, "Ready")
    assert (status["phase"], ready["reason"], "SANDBOX__ENABLED" in ready["message"]) == ("Pending", "Disabled", True)
    assert controller.get("/sandbox/status").json() == {
        "status": "disabled",
        "docker_available": False,
        "active_sandboxes": 0,
    }
    sandbox.delete()
    sandbox.until_gone()
    controller.stop()


def test_without_docker_it_falls_back_to_mock_and_says_so_loudly(embedded: Cluster, start_controller: Started) -> None:
    controller = start_controller(embedded, DOCKER_HOST=NOWHERE)
    for line in (
        "Checking mock mode preference",
        "Docker daemon not available or not running",
        "/no/such/docker.sock does not exist: install and start Docker",
        "Falling back to mock sandbox manager",
        "Using mock sandbox manager",
    ):
        assert line in controller.said
    assert controller.get("/sandbox/status").json() == {
        "status": "mock",
        "docker_available": False,
        "active_sandboxes": 0,
        "warning": "Running in MOCK mode - NO SECURITY ISOLATION",
    }
    assert controller.metric("sandbox_mock_mode") == 1
    assert controller.readiness().status_code == 200
    controller.stop()


def test_docker_required_and_absent_a_start_fails_with_what_to_do(embedded: Cluster, start_controller: Started) -> None:
    controller = start_controller(embedded, and_wait=False, DOCKER_HOST=NOWHERE, SANDBOX__DOCKER_REQUIRED="true")
    assert controller.wait_for_end() != 0
    last = controller.said.strip().splitlines()[-1]
    assert "SANDBOX__DOCKER_REQUIRED=true" in last and "does not exist: install and start Docker" in last
    assert "Traceback" not in controller.said


def test_docker_required_and_lost_it_is_not_ready_and_never_falls_to_mock(
    embedded: Cluster, start_controller: Started, sandbox_image: str, proxy: DaemonProxy
) -> None:
    controller = start_controller(
        embedded,
        DOCKER_HOST=proxy.url,
        SANDBOX__DOCKER_REQUIRED="true",
        SANDBOX__DOCKER_CONNECTION_TIMEOUT="1",
    )
    proxy.vanish()
    until("it is not ready", lambda: controller.readiness().status_code == 503, TOLD_WITHIN)
    assert controller.readiness().json()["backend"] is False
    sandbox = embedded.create(python("print('docker')"))
    status = sandbox.until("told why it waits", lambda status: status.get("conditions"))
    assert (status["phase"], condition(status, "Ready")["reason"]) == ("Pending", "DockerUnavailable")
    assert controller.get("/sandbox/status").json()["status"] == "docker"
    proxy.recover()
    until("it is ready", lambda: controller.readiness().status_code == 200)
    assert sandbox.until_ended()["backend"] == "docker"
    controller.stop()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SANDBOX__MEMORY_LIMIT", "lots"),
        ("SANDBOX__TIMEOUT", "0"),
        ("API__PORT", "70000"),
        ("SANDBOX__NO_SUCH_SETTING", "1"),
    ],
)
def test_a_wrong_setting_is_told_by_the_name_of_its_variable(variable: str, value: str) -> None:
    done = subprocess.run(
        COMMAND, env={variable: value, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=START_SECONDS
    )
    assert done.returncode == 125
    assert variable in done.stderr and "Traceback" not in done.stderr
