"""What tests need from outside, found once: a Docker daemon, the sandbox image, a real API server, kubectl.

A test that lacks one of them skips with a line that says how to get it; with SANDBOX_TEST_REQUIRE_ALL=1 (as in CI) it fails.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

# A shell has it ignored by what it runs in the background, and the programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

IMAGE = os.environ.get("SANDBOX_TEST_IMAGE", "agent-sandbox:latest")


def missing(what: str, how: str) -> None:
    """Skip, or fail where everything must be there."""
    text = f"{what}: {how}"
    if os.environ.get("SANDBOX_TEST_REQUIRE_ALL") == "1":
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="session")
def _docker_client() -> Iterator[docker.DockerClient | None]:
    try:
        client = docker.from_env(timeout=60)
        client.ping()
    except (docker.errors.DockerException, OSError):
        yield None
        return
    yield client
    client.close()


@pytest.fixture(scope="session")
def docker_client(_docker_client: docker.DockerClient | None) -> docker.DockerClient:
    """A client of a daemon that answers."""
    if _docker_client is None:
        missing("no Docker daemon answers", "start one (apt-get install -y docker.io; dockerd), or set DOCKER_HOST")
        raise AssertionError
    return _docker_client


@pytest.fixture(scope="session")
def sandbox_image(docker_client: docker.DockerClient) -> str:
    """The name of the sandbox image, built on the daemon."""
    try:
        docker_client.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        missing(f"the image {IMAGE} is not there", "make image")
    return IMAGE


@pytest.fixture(scope="session")
def runsc(docker_client: docker.DockerClient) -> str:
    """The name of the gVisor runtime, registered in the daemon."""
    if "runsc" not in docker_client.info().get("Runtimes", {}):
        missing(
            "the daemon has no runtime runsc",
            "apt-get install -y runsc and register it in /etc/docker/daemon.json, see docs/gvisor.md",
        )
    return "runsc"


@pytest.fixture(scope="session")
def real_kubeconfig() -> Path:
    """The kubeconfig of a real API server with the CRD's group free for this test run."""
    path = os.environ.get("SANDBOX_TEST_KUBECONFIG")
    if not path:
        missing("no real API server", "set SANDBOX_TEST_KUBECONFIG to the kubeconfig of a cluster for tests")
    return Path(str(path))


@pytest.fixture(scope="session")
def kubectl() -> str:
    """The path of kubectl."""
    path = shutil.which("kubectl")
    if path is None:
        missing("no kubectl", "install kubectl 1.30 or newer and put it on PATH")
    return str(path)
