"""Objects and containers tell all there is to know: after a kill, after others meddled, after whatever was missed."""

from uuid import uuid4

import docker
import pytest

from controller.backends.container import LABEL_INSTANCE, LABEL_NAME, LABEL_NAMESPACE, LABEL_UID
from tests.system.cluster import Cluster, bash, condition, python, until
from tests.system.controller_process import ControllerProcess

SWEPT_WITHIN = 105.0
"""Seconds: a container counts as an orphan after 60, and a sweep comes each 30."""
UNTIL_TOLD = "while [ ! -e /tmp/go ]; do sleep 0.1; done; "
TELL = "touch /tmp/go"


def test_after_a_kill_everything_is_taken_up_where_it_was(
    cluster: Cluster, controller: ControllerProcess, docker_client: docker.DockerClient
) -> None:
    waiting, running = cluster.create(), cluster.create(bash(UNTIL_TOLD + "echo done"))
    suspended, finishing = cluster.create(), cluster.create(bash(UNTIL_TOLD + "echo while away"))
    deleted, untouched = cluster.create(), cluster.create(bash("echo before"))
    too_long = cluster.create(bash("echo began; sleep 100", timeoutSeconds=2))
    for sandbox in (waiting, suspended, deleted):
        sandbox.until_ready()
    for sandbox in (running, finishing):
        sandbox.until_phase("Running")
    too_long.until("started", lambda status: "startedAt" in status)
    ended = untouched.until_ended()
    suspended.patch(operatingMode="Suspended")
    suspended.until_phase("Suspended")
    ids = {each.name: each.status["container"]["id"] for each in (waiting, running, suspended)}

    controller.kill()
    deleted.delete()
    finishing_container = docker_client.containers.get(finishing.container)
    finishing_container.exec_run(TELL)
    until(
        "it ended while nobody looked", lambda: finishing_container.reload() or finishing_container.status == "exited"
    )
    missed = cluster.create(python("print('missed')"))
    controller.start()
    docker_client.containers.get(running.container).exec_run(TELL)

    deleted.until_gone()
    assert finishing.until_ended()["result"]["stdout"] == "while away\n"
    assert running.until_ended()["result"]["stdout"] == "done\n"
    assert too_long.until_ended()["result"]["reason"] == "Timeout"
    assert missed.until_ended()["result"]["stdout"] == "missed\n"
    assert waiting.until_ready()["container"]["id"] == ids[waiting.name]
    suspended.patch(operatingMode="Running")
    assert suspended.until_ready()["container"]["id"] == ids[suspended.name]
    assert running.status["container"]["id"] == ids[running.name]
    assert untouched.status == ended, "an end is written once"
    assert not docker_client.containers.list(all=True, filters={"name": deleted.container}, ignore_removed=True)


@pytest.mark.parametrize("away", [False, True])
def test_a_container_removed_by_others_is_lost_and_never_run_again(
    cluster: Cluster, controller: ControllerProcess, docker_client: docker.DockerClient, away: bool
) -> None:
    sandboxes = [cluster.create(bash("echo began; sleep 100")), cluster.create()]
    for sandbox in sandboxes:
        sandbox.until_phase("Running")
    if away:
        controller.kill()
    for sandbox in sandboxes:
        docker_client.containers.get(sandbox.container).remove(force=True)
    if away:
        controller.start()
    for sandbox in sandboxes:
        status = sandbox.until_ended()
        # who looks on may see that it was killed before it was removed
        assert status["result"]["reason"] == "Lost" or (not away and status["result"]["exitCode"] == 137)
        assert status["phase"] == "Failed"
        sandbox.patch(lifetime={"ttlSecondsAfterFinished": 299})  # a reason to look again
        cluster.create(python("pass")).until_ended()
        assert sandbox.status == status
        assert not docker_client.containers.list(all=True, filters={"name": sandbox.container}, ignore_removed=True)


def test_a_container_killed_by_others_has_failed(
    cluster: Cluster, controller: ControllerProcess, docker_client: docker.DockerClient
) -> None:
    running, waiting = cluster.create(bash("echo began; sleep 100")), cluster.create()
    running.until_phase("Running")
    waiting.until_ready()
    for sandbox in (running, waiting):
        docker_client.containers.get(sandbox.container).kill()
    status = running.until_ended()
    assert (status["result"]["reason"], status["result"]["exitCode"], status["result"]["stdout"]) == (
        "Error",
        137,
        "began\n",
    )
    status = waiting.until_ended()
    assert (status["phase"], condition(status, "Finished")["reason"]) == ("Failed", "Stopped")


def test_a_container_paused_by_others_goes_on(
    cluster: Cluster, controller: ControllerProcess, docker_client: docker.DockerClient
) -> None:
    sandbox = cluster.create()
    sandbox.until_ready()
    container = docker_client.containers.get(sandbox.container)
    container.pause()
    until("it goes on", lambda: container.reload() or container.status == "running")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_orphans_are_swept_and_nothing_else(
    cluster: Cluster, controller: ControllerProcess, docker_client: docker.DockerClient, sandbox_image: str
) -> None:
    def leave(instance: str, **labels: str) -> str:
        uid = str(uuid4())
        marks = {LABEL_INSTANCE: instance, LABEL_UID: uid, LABEL_NAME: "x", LABEL_NAMESPACE: cluster.namespace}
        name = f"sbx-{uid}"
        docker_client.containers.create(sandbox_image, name=name, labels=marks | labels)
        return name

    def is_there(name: str) -> bool:
        return bool(docker_client.containers.list(all=True, filters={"name": name}, ignore_removed=True))

    mine, others = leave(controller.instance), leave("somebody-elses")
    elsewhere = leave(controller.instance, **{LABEL_NAMESPACE: "not-watched"})
    kept = cluster.create()
    kept.until_ready()
    try:
        until("the orphan is gone", lambda: not is_there(mine), SWEPT_WITHIN)
        assert is_there(others) and is_there(elsewhere) and is_there(kept.container)
        assert controller.metric("sandbox_orphans_total") == 1
    finally:
        for name in (others, elsewhere):
            docker_client.containers.get(name).remove(force=True)


def test_stopped_politely_it_leaves_sandboxes_running(
    cluster: Cluster, controller: ControllerProcess, docker_client: docker.DockerClient
) -> None:
    sandbox = cluster.create()
    sandbox.until_ready()
    controller.stop()
    assert docker_client.containers.get(sandbox.container).status == "running"
    controller.start()
    sandbox.until_ready()
