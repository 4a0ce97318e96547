"""A daemon that goes, hangs and comes back: told within seconds, and work goes on."""

import time
from collections.abc import Iterator

import pytest

from tests.daemon_proxy import DaemonProxy
from tests.system.cluster import Cluster, bash, condition, python, until
from tests.system.conftest import Started
from tests.system.controller_process import ControllerProcess

TOLD_WITHIN = 12.0
"""Seconds, on a busy machine: a question each 2, answered or given up within 1."""


@pytest.fixture(scope="module")
def controller(
    embedded: Cluster, start_controller: Started, sandbox_image: str, proxy: DaemonProxy
) -> ControllerProcess:
    return start_controller(embedded, DOCKER_HOST=proxy.url, SANDBOX__DOCKER_CONNECTION_TIMEOUT="1")


@pytest.fixture(autouse=True)
def _recovered(proxy: DaemonProxy, controller: ControllerProcess) -> Iterator[None]:
    yield
    proxy.recover()
    until("Docker is seen again", lambda: controller.metric("sandbox_docker_up") == 1)


def docker_state(controller: ControllerProcess) -> object:
    return controller.get("/sandbox/status").json()["docker_available"]


@pytest.mark.parametrize("how", ["vanish", "hang"])
def test_a_lost_daemon_is_told_within_seconds_and_its_sandboxes_are_taken_up_again(
    embedded: Cluster, controller: ControllerProcess, proxy: DaemonProxy, how: str
) -> None:
    waiting, running = embedded.create(), embedded.create(bash("sleep 3; echo done"))
    waiting.until_ready()
    running.until_phase("Running")
    getattr(proxy, how)()
    for sandbox in (waiting, running):
        status = sandbox.until_phase("Unknown", seconds=TOLD_WITHIN)
        ready = condition(status, "Ready")
        assert (ready["status"], ready["reason"]) == ("Unknown", "DockerUnavailable")
    assert waiting.status["docker_available"] is False
    assert controller.metric("sandbox_docker_up") == 0
    assert docker_state(controller) is False
    assert controller.readiness().status_code == 200, "Docker is not required here: new sandboxes run on mock"
    health = controller.get("/health")
    assert health.status_code == 200

    proxy.recover()
    waiting.until_ready()
    assert running.until_ended()["result"]["stdout"] == "done\n"
    assert waiting.status["docker_available"] is True


def test_a_sandbox_keeps_its_backend_for_life_and_new_ones_take_what_is_there(
    embedded: Cluster, controller: ControllerProcess, proxy: DaemonProxy
) -> None:
    before = embedded.create()
    before.until_ready()
    proxy.vanish()
    before.until_phase("Unknown", seconds=TOLD_WITHIN)
    until("new ones are told", lambda: controller.metric("sandbox_docker_up") == 0)
    meanwhile = embedded.create(python("print('mock')"))
    wants_docker = embedded.create(python("print('docker')") | {"backend": "docker"})
    assert meanwhile.until_ended()["backend"] == "mock"
    status = wants_docker.until("told why it waits", lambda status: status.get("conditions"))
    assert (status["phase"], condition(status, "Ready")["reason"]) == ("Pending", "DockerUnavailable")
    assert before.status["backend"] == "docker"

    proxy.recover()
    assert wants_docker.until_ended()["backend"] == "docker"
    assert embedded.create(python("pass")).until_ended()["backend"] == "docker"
    assert before.until_ready()["backend"] == "docker"


def test_a_hung_daemon_delays_no_health_answer_and_no_other_deletion(
    embedded: Cluster, controller: ControllerProcess, proxy: DaemonProxy
) -> None:
    mocks = [embedded.create({"backend": "mock"}) for _ in range(3)]
    hung = [embedded.create() for _ in range(8)]
    for sandbox in (*mocks, *hung):
        sandbox.until_ready()
    proxy.hang()
    for sandbox in hung:
        sandbox.delete()  # at once: before the controller knows that the daemon hangs
    began = time.monotonic()
    for sandbox in mocks:
        sandbox.delete()
    for path in ("/health", "/sandbox/status"):
        assert controller.get(path).elapsed.total_seconds() < 2
    for sandbox in mocks:
        sandbox.until_gone()
    assert time.monotonic() - began < 10, "as if Docker were well"
    assert not any(sandbox.is_gone for sandbox in hung), "what may still run is not told as gone"

    proxy.recover()
    for sandbox in hung:
        sandbox.until_gone()


def test_created_while_the_daemon_hangs_it_starts_when_it_is_back(
    embedded: Cluster, controller: ControllerProcess, proxy: DaemonProxy
) -> None:
    proxy.hang()
    sandbox = embedded.create(python("print('late')") | {"backend": "docker"})
    sandbox.until("told that it waits", lambda status: status.get("conditions"))
    proxy.recover()
    assert sandbox.until_ended(seconds=90)["result"]["stdout"] == "late\n"
