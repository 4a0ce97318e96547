"""The whole: a real controller process, against the embedded API server and against a real one."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import docker
import pytest

from controller.backends.mock.backend import MockBackend
from controller.localkube import LocalKube
from controller.settings import SandboxSettings
from tests.conftest import IMAGE
from tests.daemon_proxy import DaemonProxy
from tests.localkube.servers import Server
from tests.model.conftest import crd
from tests.system.cluster import Cluster
from tests.system.controller_process import ControllerProcess

Started = Callable[..., ControllerProcess]


@pytest.fixture(scope="session")
def embedded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    kube, kubeconfig = LocalKube(crds=[crd()]), tmp_path_factory.mktemp("embedded") / "kubeconfig"
    with kube.running():
        kube.write_kubeconfig(kubeconfig)
        yield Server.of("embedded", kubeconfig)


@pytest.fixture(scope="session")
def real_server(real_kubeconfig: Path) -> Server:
    server = Server.of("real", real_kubeconfig)
    server.install(crd())
    return server


def _cluster(server: Server) -> Iterator[Cluster]:
    cluster = Cluster(server)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module", params=["embedded", "real"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A namespace of each kind of API server."""
    yield from _cluster(request.getfixturevalue(f"{request.param}_server"))


@pytest.fixture(scope="module")
def embedded(embedded_server: Server) -> Iterator[Cluster]:
    """A namespace of the embedded API server, for claims in which the server has no part."""
    yield from _cluster(embedded_server)


@pytest.fixture(scope="module")
def start_controller() -> Iterator[Started]:
    """Starts controllers, each an installation of its own; they and their containers are gone after the tests."""
    with ExitStack() as stack:

        def start(cluster: Cluster, *, and_wait: bool = True, **env: str) -> ControllerProcess:
            instance = f"system-{uuid4().hex[:12]}"
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="sbx-system-")))
            folder.chmod(0o711)  # sandboxes on mock have users of their own
            process = ControllerProcess(
                cluster.server.kubeconfig, cluster.namespace, instance, folder, {"SANDBOX__IMAGE": IMAGE, **env}
            )
            stack.callback(_remove_containers, instance)
            stack.callback(lambda: asyncio.run(_remove_mock_sandboxes(instance, folder / "state")))
            stack.callback(process.kill)
            return process.start(and_wait=and_wait)

        yield start


async def _remove_mock_sandboxes(instance: str, state: Path) -> None:
    backend = MockBackend(SandboxSettings(instance=instance, state_folder=state))
    for seen in await backend.list():
        await backend.remove(seen.uid)
    await backend.close()


def _remove_containers(instance: str) -> None:
    try:
        client = docker.from_env(timeout=60)
    except (docker.errors.DockerException, OSError):
        return
    for container in client.containers.list(all=True, filters={"label": f"agent-platform.dev/instance={instance}"}):
        container.remove(force=True)
    client.close()


@pytest.fixture(scope="module")
def controller(cluster: Cluster, sandbox_image: str, start_controller: Started) -> ControllerProcess:
    """A controller on Docker."""
    assert sandbox_image
    return start_controller(cluster)


@pytest.fixture(scope="module")
def proxy(docker_client: docker.DockerClient) -> Iterator[DaemonProxy]:
    """In front of the daemon, for a controller whose daemon comes and goes."""
    with TemporaryDirectory(prefix="sbx-") as folder, DaemonProxy(Path(folder)) as proxy:
        yield proxy
