"""The Docker backend on the real daemon, or on something that only looks like one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import docker
import pytest

from controller.backends import Observation
from controller.backends.docker.backend import DockerBackend
from controller.settings import SandboxSettings
from tests.backends.words import finished, sandbox

Opened = Callable[..., DockerBackend]
Ran = Callable[..., Awaitable[Observation]]


@pytest.fixture
def instance() -> str:
    return f"docker-{uuid4().hex[:12]}"


@pytest.fixture
async def open_backend(instance: str) -> AsyncIterator[Opened]:
    """Opens backends of one installation, on whatever DOCKER_HOST says then; it is empty after the test."""
    opened: list[DockerBackend] = []

    def open_one(**changes: Any) -> DockerBackend:
        backend = DockerBackend(SandboxSettings(**({"instance": instance} | changes)))
        opened.append(backend)
        return backend

    yield open_one
    for backend in opened:
        await backend.close()


@pytest.fixture
async def backend(
    open_backend: Opened, instance: str, sandbox_image: str, docker_client: docker.DockerClient
) -> AsyncIterator[DockerBackend]:
    yield open_backend(image=sandbox_image)
    labelled = {"label": f"agent-platform.dev/instance={instance}"}
    for container in docker_client.containers.list(all=True, filters=labelled, ignore_removed=True):
        await asyncio.to_thread(container.remove, force=True)


@pytest.fixture
def ran(backend: DockerBackend) -> Ran:
    """Runs Python code in a sandbox of its own to the end."""

    async def run(code: str, **spec: Any) -> Observation:
        wanted = sandbox(run={"language": "python", "code": code, "timeout_seconds": 60}, **spec)
        await backend.start(wanted)
        return await finished(backend, wanted.uid)

    return run
