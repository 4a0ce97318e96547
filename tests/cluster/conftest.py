"""A real cluster with a node, on which the chart's Pods run from the controller image."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import docker
import pytest

from tests.chart.conftest import control_plane as control_plane
from tests.chart.conftest import helm as helm
from tests.cluster.node import Node
from tests.conftest import missing

CONTROLLER_IMAGE = os.environ.get("SANDBOX_TEST_CONTROLLER_IMAGE", "sandbox-controller:latest")


@pytest.fixture(scope="session")
def controller_image(docker_client: docker.DockerClient) -> str:
    try:
        docker_client.images.get(CONTROLLER_IMAGE)
    except docker.errors.ImageNotFound:
        missing(f"the image {CONTROLLER_IMAGE} is not there", "make controller-image")
    return CONTROLLER_IMAGE


@pytest.fixture(scope="session")
def node(control_plane: Path, controller_image: str) -> Iterator[Node]:
    """The cluster, with the controller image on its node. SANDBOX_TEST_NODE: the folder of one that is up already."""
    if os.geteuid() != 0:
        missing("a node is started by root only", "run the tests as root")
    with ExitStack() as stack:
        folder = os.environ.get("SANDBOX_TEST_NODE")
        if folder is None:
            folder = stack.enter_context(TemporaryDirectory(prefix="sbx-node-"))
            stack.callback(subprocess.run, [control_plane / "node-down", folder], timeout=120, check=True)
            subprocess.run([control_plane / "node-up", folder], timeout=300, check=True, stdout=subprocess.DEVNULL)
        node = Node(Path(folder))
        node.bring(controller_image)
        stack.enter_context(node.services())
        yield node
