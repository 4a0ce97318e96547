"""An API server that goes and comes back: sandboxes run on, and what was missed is told."""

import socket
from pathlib import Path

import docker
import httpx

from controller.localkube import LocalKube
from tests.localkube.servers import Server
from tests.model.conftest import crd
from tests.system.cluster import Cluster, bash, python, until
from tests.system.conftest import Started


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_while_the_api_server_is_away_sandboxes_run_on_and_what_was_missed_is_told(
    tmp_path: Path, start_controller: Started, sandbox_image: str, docker_client: docker.DockerClient
) -> None:
    folder, kubeconfig, port = tmp_path / "objects", tmp_path / "kubeconfig", free_port()
    first = LocalKube(crds=[crd()], folder=folder)
    with first.running(port=port):
        first.write_kubeconfig(kubeconfig)
        cluster = Cluster(Server.of("embedded", kubeconfig))
        controller = start_controller(cluster)
        waiting = cluster.create()
        running = cluster.create(bash("while [ ! -e /tmp/go ]; do sleep 0.1; done; echo done"))
        waiting.until_ready()
        running.until_phase("Running")

    container = docker_client.containers.get(running.container)
    container.exec_run("touch /tmp/go")
    until("it has ended", lambda: container.reload() or container.status == "exited")
    assert docker_client.containers.get(waiting.container).status == "running"
    assert controller.get("/health").status_code == 200

    second = LocalKube(crds=[crd()], folder=folder)
    with second.running(port=port):
        assert running.until_ended()["result"]["stdout"] == "done\n"
        assert cluster.create(python("print('new')")).until_ended()["result"]["stdout"] == "new\n"

    controller.kill()
    controller.start(and_wait=False)
    until("it serves", controller.is_serving)
    path = f"/sandbox/{waiting.uid}"
    for method, asked in (("GET", path), ("GET", "/sandbox"), ("POST", f"{path}/execute"), ("DELETE", path)):
        answer = httpx.request(method, f"{controller.api}{asked}", json={"code": "print(1)"}, timeout=5)
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True), "it does not know what there is"

    third = LocalKube(crds=[crd()], folder=folder)
    with third.running(port=port):
        until("it is ready", controller.is_ready)
        assert controller.get(path).status_code == 200
        waiting.delete()
        waiting.until_gone()
        cluster.clear()
        controller.stop()
