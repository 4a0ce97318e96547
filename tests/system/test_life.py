"""From apply to the end: every turn that the life of a sandbox can take, as its status and Docker tell it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import docker
import pytest

from tests.system.cluster import Applied, Cluster, bash, condition, python, until
from tests.system.controller_process import ControllerProcess

pytestmark = pytest.mark.usefixtures("controller", "early")

NOWHERE = "localhost:1/no/such:image"


def has_container(client: docker.DockerClient, sandbox: Applied) -> bool:
    return bool(client.containers.list(all=True, filters={"name": sandbox.container}, ignore_removed=True))


def seconds_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


@pytest.fixture(scope="module")
def waiting(cluster: Cluster, controller: ControllerProcess) -> Applied:
    """A sandbox that waits for executions; whoever changes it changes it back."""
    sandbox = cluster.create()
    sandbox.until_ready()
    return sandbox


@pytest.fixture(scope="module")
def early(cluster: Cluster, controller: ControllerProcess) -> dict[str, Applied]:
    """Those whose end takes its time: all begun at once, so that their waits overlap."""
    soon = (datetime.now(UTC) + timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    program = bash("echo here; sleep 100")
    retained = {"ttlSecondsAfterFinished": 1, "shutdownPolicy": "Retain"}
    specs: dict[str, dict[str, Any]] = {
        "expires": {"lifetime": {"maxSeconds": 1}},
        "idles": {"lifetime": {"idleSeconds": 1}},
        "shuts down": {"lifetime": {"shutdownTime": soon}},
        "is cut short": program | {"lifetime": {"maxSeconds": 1}},
        "goes away": python("pass") | {"lifetime": {"ttlSecondsAfterFinished": 1}},
        "stays": python("print('kept')") | {"lifetime": retained},
        "has no image": python("pass") | {"image": NOWHERE},
    }
    return {what: cluster.create(spec) for what, spec in specs.items()}


def test_the_status_of_a_ready_sandbox_tells_what_docker_has(
    waiting: Applied, docker_client: docker.DockerClient
) -> None:
    status = waiting.status
    inspected = docker_client.api.inspect_container(waiting.container)
    assert status["container"]["id"] == inspected["Id"]
    assert status["container"]["name"] == waiting.container
    assert status["container"]["image"] == inspected["Image"]
    assert status["container"]["node"]
    assert seconds_between(status["startedAt"], status["expiresAt"]) == 3600
    ready = condition(status, "Ready")
    assert (ready["status"], ready["reason"], ready["observedGeneration"]) == ("True", "TakesCode", 1)
    assert status["warnings"] == []


def test_suspended_nothing_runs_and_resumed_it_goes_on(waiting: Applied, docker_client: docker.DockerClient) -> None:
    started = waiting.status["startedAt"]
    assert waiting.patch(operatingMode="Suspended").status_code == 200
    status = waiting.until_phase("Suspended")
    assert condition(status, "Ready")["status"] == "False"
    assert docker_client.containers.get(waiting.container).status == "paused"
    assert waiting.patch(operatingMode="Running").status_code == 200
    status = waiting.until_ready()
    assert docker_client.containers.get(waiting.container).status == "running"
    assert (status["startedAt"], status["observedGeneration"]) == (started, waiting.body["metadata"]["generation"])


def test_created_suspended_it_is_started_when_resumed(cluster: Cluster, docker_client: docker.DockerClient) -> None:
    sandbox = cluster.create(python("print('now')") | {"operatingMode": "Suspended"})
    assert "startedAt" not in sandbox.until_phase("Suspended")
    assert not has_container(docker_client, sandbox)
    sandbox.patch(operatingMode="Running")
    assert sandbox.until_ended()["result"]["stdout"] == "now\n"


def test_changed_limits_are_applied_to_the_living_and_read_back(
    waiting: Applied, docker_client: docker.DockerClient
) -> None:
    wanted = {"cpu": "500m", "memory": "256Mi", "pids": 64}
    waiting.patch(resources={"limits": wanted})
    status = waiting.until("limited anew", lambda status: status["limits"] == wanted | {"network": "none"})
    assert status["phase"] == "Running"
    host = docker_client.api.inspect_container(waiting.container)["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (
        500_000_000,
        256 * 2**20,
        256 * 2**20,
        64,
    )
    waiting.patch(resources={"limits": {"cpu": "1", "memory": "512Mi", "pids": 128}})
    waiting.until("limited as before", lambda status: status["limits"]["memory"] == "512Mi")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"env": [{"name": "A", "value": "b"}]}, "spec.env"),
        ({"files": [{"path": "a", "content": "b"}]}, "spec.files"),
        ({"image": "debian:stable"}, "spec.image"),
        ({"network": "bridge"}, "spec.network"),
        ({"runtime": "runsc"}, "spec.runtime"),
        ({"isolation": "required"}, "spec.isolation"),
        ({"workspace": {"size": "1Mi"}}, "spec.workspace"),
    ],
)
def test_a_change_that_the_living_cannot_take_is_refused_by_name(
    waiting: Applied, change: dict[str, object], field: str
) -> None:
    before = waiting.body
    assert waiting.patch(**change).status_code == 200
    status = waiting.until("refused", lambda status: condition(status, "SpecApplied").get("status") == "False")
    refused = condition(status, "SpecApplied")
    assert (refused["reason"], field in refused["message"]) == ("ChangeRefused", True)
    assert status["phase"] == "Running" and condition(status, "Ready")["status"] == "True"
    assert status["container"]["id"] == before["status"]["container"]["id"]
    waiting.patch(**{name: before["spec"].get(name) for name in change})
    waiting.until("accepted", lambda status: not condition(status, "SpecApplied"))


def test_what_the_schema_can_refuse_is_refused_at_once(waiting: Applied) -> None:
    answer = waiting.patch(run={"language": "python", "code": "pass"})
    assert answer.status_code == 422
    assert "run cannot be added or removed" in answer.text


@pytest.mark.parametrize(("what", "word"), [("expires", "Expired"), ("idles", "Idle"), ("shuts down", "Expired")])
def test_a_waiting_sandbox_is_completed_by_the_end_of_its_time(
    early: dict[str, Applied], docker_client: docker.DockerClient, what: str, word: str
) -> None:
    sandbox = early[what]
    status = sandbox.until_ended()
    assert (status["phase"], status["result"]["reason"]) == ("Succeeded", "Completed")
    assert condition(status, "Finished")["reason"] == word
    until("its container does not run", lambda: docker_client.containers.get(sandbox.container).status == "exited")


def test_the_end_of_its_time_cancels_a_program(early: dict[str, Applied]) -> None:
    status = early["is cut short"].until_ended()
    assert (status["phase"], status["result"]["reason"], status["result"]["stdout"]) == (
        "Failed",
        "Cancelled",
        "here\n",
    )


def test_a_shutdown_time_that_is_over_lets_nothing_start(cluster: Cluster, docker_client: docker.DockerClient) -> None:
    sandbox = cluster.create(python("pass") | {"lifetime": {"shutdownTime": "2020-01-01T00:00:00Z"}})
    status = sandbox.until_ended()
    assert (status["phase"], status["result"]["reason"], "startedAt" in status) == ("Failed", "Cancelled", False)
    assert not has_container(docker_client, sandbox)


def test_some_time_after_its_end_it_is_deleted_with_its_container(
    early: dict[str, Applied], docker_client: docker.DockerClient
) -> None:
    sandbox = early["goes away"]
    sandbox.until_gone()
    assert not has_container(docker_client, sandbox)


def test_with_retain_the_object_stays_and_its_container_goes(
    early: dict[str, Applied], docker_client: docker.DockerClient
) -> None:
    sandbox = early["stays"]
    sandbox.until_ended()
    until("its container is gone", lambda: not has_container(docker_client, sandbox))
    assert sandbox.status["result"]["stdout"] == "kept\n"


@pytest.mark.parametrize("after", ["Pending", "Running"])
def test_deleted_at_any_time_it_leaves_nothing(
    cluster: Cluster, docker_client: docker.DockerClient, after: str
) -> None:
    sandbox = cluster.create(bash("sleep 100"))
    if after == "Running":
        sandbox.until_phase("Running")
    sandbox.delete()
    sandbox.until_gone()
    assert not has_container(docker_client, sandbox)


def test_deleted_while_suspended_it_leaves_nothing(cluster: Cluster, docker_client: docker.DockerClient) -> None:
    sandbox = cluster.create({"operatingMode": "Running"})
    sandbox.until_ready()
    sandbox.patch(operatingMode="Suspended")
    sandbox.until_phase("Suspended")
    sandbox.delete()
    sandbox.until_gone()
    assert not has_container(docker_client, sandbox)


def test_an_image_that_is_nowhere_fails_with_what_to_do(early: dict[str, Applied]) -> None:
    status = early["has no image"].until_ended()
    finished = condition(status, "Finished")
    assert (status["phase"], finished["reason"]) == ("Failed", "ImageNotFound")
    assert NOWHERE in finished["message"] and "docker load" in finished["message"]


def test_a_program_that_kills_its_own_container_fails(cluster: Cluster) -> None:
    status = cluster.create(python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")).until_ended()
    assert (status["phase"], status["result"]["reason"], status["result"]["exitCode"]) == ("Failed", "Error", 137)


def test_the_tail_of_a_flood_is_kept_and_told_as_cut(cluster: Cluster) -> None:
    result = cluster.create(python("print('y\\n' * 100_000); print('end')")).until_ended()["result"]
    assert result["truncated"] and result["stdout"].endswith("y\n\nend\n")
    assert len(result["stdout"]) <= 16 * 1024


def test_a_life_takes_few_writes_and_tells_its_turns_in_events(cluster: Cluster) -> None:
    with cluster.counted_writes() as writes:
        finished, waiting = cluster.create(python("print(1)")), cluster.create()
        finished.until_ended()
        waiting.until_ready()
        to_ready = dict(writes)
        for sandbox in (finished, waiting):
            sandbox.delete()
            sandbox.until_gone()
    assert to_ready[waiting.uid] <= 3
    assert writes[finished.uid] <= 5 and writes[waiting.uid] <= 5
    told = until("Events tell its end", lambda: {"Started", "Completed"} <= {e["reason"] for e in finished.events()})
    assert told
    assert all(event["type"] == "Normal" for event in finished.events())
