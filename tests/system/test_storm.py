"""200 sandboxes at once, and a controller that is killed again and again under them."""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import docker
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from controller.backends.container import LABEL_INSTANCE, USER
from controller.model import API_VERSION, GROUP, KIND, PLURAL, VERSION
from tests.localkube.servers import Server, ok
from tests.system.cluster import Cluster, python, until
from tests.system.conftest import Started
from tests.system.controller_process import ControllerProcess
from tests.system.kubectl import run_kubectl

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

COUNT = 200
KILLS = 20
SECONDS = 400.0
MEMORY = 200 * 10**6
WRITES = 5
CODE = """
import os
with open("ran", "a") as ran:
    ran.write(os.environ["TOKEN"])
print("token", os.environ["TOKEN"])
"""


def patches_counted_by(server: Server) -> float | None:
    """Successful writes to Sandbox objects, creations and deletions left out, as the API server that serves them counts."""
    service = server.call("GET", f"/apis/apiregistration.k8s.io/v1/apiservices/{VERSION}.{GROUP}")
    place = service.json().get("spec", {}).get("service") if service.status_code == 200 else None
    if place:  # an engine of its own behind the core
        path = f"/api/v1/namespaces/{place['namespace']}/services/{place['name']}"
        host = ok(server.call("GET", path))["spec"]["externalName"]
        answer = server.http.get(f"https://{host}:{place['port']}/metrics")
    else:
        answer = server.call("GET", "/metrics")
    if answer.status_code != 200:
        return None
    return sum(
        sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == "apiserver_request_total"
        and (sample.labels["resource"], sample.labels["code"]) == (PLURAL, "200")
        and sample.labels["verb"] in ("PATCH", "PUT")
    )


@dataclass
class Storm:
    """The sandboxes, each with a folder of the host in which it leaves a mark whenever it runs."""

    cluster: Cluster
    controller: ControllerProcess
    folder: Path
    kubectl: str
    docker: docker.DockerClient
    memory: int = 0

    def name(self, number: int) -> str:
        return f"storm-{number:03}"

    def apply(self) -> None:
        documents = []
        for number in range(COUNT):
            workspace = self.folder / self.name(number)
            workspace.mkdir()
            os.chown(workspace, *map(int, USER.split(":")))
            spec = python(CODE, timeoutSeconds=300) | {
                "workspace": {"hostPath": str(workspace)},
                "env": [{"name": "TOKEN", "value": f"t{number:03}"}],
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
            }
            metadata = {"name": self.name(number)}
            documents.append({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec})
        run_kubectl(self.kubectl, self.cluster, "apply", "-f", "-", stdin=yaml.safe_dump_all(documents), seconds=120)

    def delete(self) -> None:
        run_kubectl(self.kubectl, self.cluster, "delete", "sbx", "--all", "--wait=false", seconds=SECONDS)

    def phases(self) -> Counter[str]:
        return Counter(body.get("status", {}).get("phase", "none") for body in self.cluster.list())

    def has_ended(self) -> bool:
        self.look_at_memory()
        phases = self.phases()
        return phases["Succeeded"] + phases["Failed"] >= COUNT

    def check_nothing_is_left(self) -> None:
        """`docker ps -a` shows nothing of ours."""
        labelled = {"label": f"{LABEL_INSTANCE}={self.controller.instance}"}
        assert self.docker.containers.list(all=True, filters=labelled, ignore_removed=True) == []

    def look_at_memory(self) -> None:
        self.memory = max(self.memory, self.controller.memory())

    def check_ends(self) -> None:
        """Every one has run, once, and its status has its output."""
        for body in self.cluster.list():
            number = body["metadata"]["name"].removeprefix("storm-")
            if not number.isdigit():
                continue
            status = body["status"]
            result = {key: status["result"].get(key) for key in ("reason", "exitCode", "stdout", "stderr")}
            assert result == {"reason": "Completed", "exitCode": 0, "stdout": f"token t{number}\n", "stderr": ""}, (
                status
            )
            assert (self.folder / self.name(int(number)) / "ran").read_text() == f"t{number}", "it ran once"


@pytest.fixture
def storm(
    cluster: Cluster, kubectl: str, start_controller: Started, sandbox_image: str, docker_client: docker.DockerClient
) -> Iterator[Storm]:
    with TemporaryDirectory(prefix="sbx-storm-") as folder:
        Path(folder).chmod(0o755)
        controller = start_controller(cluster, SANDBOX__WORKSPACE_ROOTS=folder)
        yield Storm(cluster, controller, Path(folder), kubectl, docker_client)
        controller.kill()


def test_200_at_once_all_end_as_they_should(storm: Storm, capsys: pytest.CaptureFixture[str]) -> None:
    patches = patches_counted_by(storm.cluster.server)
    with storm.cluster.counted_writes() as writes:
        began = time.monotonic()
        storm.apply()
        applied = time.monotonic() - began
        until("all have ended", storm.has_ended, SECONDS)
        ended = time.monotonic() - began
        storm.check_ends()
        began = time.monotonic()
        storm.delete()
        until("all objects are gone", lambda: not storm.phases(), SECONDS)
        removed = time.monotonic() - began
        storm.look_at_memory()
    with capsys.disabled():
        print(
            f"\n{storm.cluster.server.name}: {COUNT} sandboxes applied in {applied:.1f} s, ended {ended:.1f} s after the "
            f"start, removed in {removed:.1f} s; writes an object {sorted(Counter(writes.values()).items())}; "
            f"controller {storm.memory / 10**6:.0f} MB"
        )
    storm.check_nothing_is_left()
    assert max(writes.values()) <= WRITES
    if patches is not None:
        counted = (patches_counted_by(storm.cluster.server) or 0) - patches
        assert COUNT < counted <= WRITES * (COUNT + 1)
    assert storm.memory < MEMORY


def test_killed_at_20_random_moments_it_comes_to_the_same_end(storm: Storm, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(os.environ.get("SANDBOX_TEST_SEED"))
    kills = 0
    with storm.cluster.counted_writes() as writes:
        storm.apply()
        began = time.monotonic()
        for _ in range(KILLS):
            if storm.has_ended():
                break
            until("it works again", storm.controller.is_serving)
            time.sleep(chance.uniform(0, 1.5))  # the random moment, not a wait for something
            storm.controller.kill()
            kills += 1
            storm.controller.start(and_wait=False)
        until("it works again", storm.controller.is_serving)
        until("all have ended", storm.has_ended, SECONDS)
        ended = time.monotonic() - began
        storm.check_ends()
        storm.delete()
        while kills < KILLS and storm.phases():
            until("it works again", storm.controller.is_serving)
            time.sleep(chance.uniform(0, 1.5))  # as above
            storm.controller.kill()
            kills += 1
            storm.controller.start(and_wait=False)
        until("all objects are gone", lambda: not storm.phases(), SECONDS)
    with capsys.disabled():
        print(
            f"\n{storm.cluster.server.name}: killed {kills} times, ended after {ended:.1f} s; "
            f"writes an object {sorted(Counter(writes.values()).items())}; controller {storm.memory / 10**6:.0f} MB"
        )
    assert kills >= KILLS
    storm.check_nothing_is_left()
    assert max(writes.values()) <= WRITES
