"""One suite for every backend: mock, docker with the agent, docker with an image that has none (`exec`)."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from controller.backends import Backend
from controller.settings import SandboxSettings
from tests.backends.words import sandbox

NO_AGENT_IMAGE = "agent-sandbox-test:without-agent"


@dataclass
class Place:
    """A kind of backend, and one installation on it."""

    kind: str
    settings: SandboxSettings
    backends: list[Backend] = field(default_factory=list)

    def open(self, **changes: Any) -> Backend:
        """A backend as a controller has it after a start; each knows only what it finds."""
        settings = self.settings.model_copy(update=changes)
        if self.kind == "mock":
            from controller.backends.mock.backend import MockBackend

            backend: Backend = MockBackend(settings)
        else:
            from controller.backends.docker.backend import DockerBackend

            backend = DockerBackend(settings)
        self.backends.append(backend)
        return backend

    async def close(self) -> None:
        cleaner = self.open()
        await asyncio.gather(*(cleaner.remove(seen.uid) for seen in await cleaner.list()))
        for backend in self.backends:
            await backend.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Claims that `docker exec` cannot keep are not made of it; docs/execute.md has the table."""
    beyond = [
        item for item in items if item.get_closest_marker("needs_agent") and item.callspec.params.get("place") == "exec"
    ]
    if beyond:
        config.hook.pytest_deselected(items=beyond)
        items[:] = [item for item in items if item not in set(beyond)]


@pytest.fixture(params=["mock", "docker", "exec"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    kind = request.param
    state = Path(tempfile.mkdtemp(prefix="sbx-test-"))
    state.chmod(0o711)
    image = ""
    if kind != "mock":
        image = request.getfixturevalue("sandbox_image")
    if kind == "exec":
        image = request.getfixturevalue("image_without_agent")
    settings = SandboxSettings(instance=f"test-{uuid4().hex[:12]}", state_folder=state, image=image or "unused")
    place = Place(kind, settings)
    yield place
    await place.close()
    shutil.rmtree(state)


@pytest.fixture
def image_without_agent(docker_client: Any, sandbox_image: str) -> str:
    """The sandbox image as if somebody else had made it."""
    made = docker_client.images.list(NO_AGENT_IMAGE)
    if made and made[0].attrs["Parent"] == docker_client.images.get(sandbox_image).id:
        return NO_AGENT_IMAGE
    container = docker_client.containers.create(sandbox_image)
    try:
        docker_client.api.commit(
            container.id,
            *NO_AGENT_IMAGE.split(":"),
            changes='LABEL agent-platform.dev/agent=""\nCMD ["python3"]\nENTRYPOINT []',
        )
    finally:
        container.remove()
    return NO_AGENT_IMAGE


@pytest.fixture
def backend(place: Place) -> Backend:
    return place.open()


@pytest.fixture
async def up(backend: Backend) -> str:
    """The uid of a sandbox that waits for executions."""
    seen = await backend.start(wanted := sandbox())
    assert seen.ready
    return wanted.uid
