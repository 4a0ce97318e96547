"""The API over real HTTP, on a port of this machine."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from controller.api import Authenticator, build_app, serving
from controller.backends import Backend
from controller.backends.mock.backend import MockBackend
from controller.settings import ApiSettings, SandboxSettings, Settings
from tests.api.memory import MemoryDirectory


@dataclass
class Api:
    """The API as it is served, and what is behind it."""

    url: str
    client: httpx.AsyncClient
    directory: MemoryDirectory

    async def create(self, **body: Any) -> str:
        """The id of a new sandbox."""
        answer = await self.client.post("/sandbox/create", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def execute(self, uid: str, key: str | None = None, **body: Any) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key is not None else {}
        return await self.client.post(f"/sandbox/{uid}/execute", json=body, headers=headers)


Serve = Callable[..., AbstractAsyncContextManager[Api]]


@pytest.fixture
def settings() -> Iterator[Settings]:
    state = Path(tempfile.mkdtemp(prefix="sbx-test-"))
    state.chmod(0o711)
    sandbox = SandboxSettings(instance=f"test-{uuid4().hex[:12]}", state_folder=state, max_executions=4)
    # Nothing of this machine's environment or .env counts.
    yield Settings.model_construct(sandbox=sandbox, api=ApiSettings(port=0), watch_namespaces=())
    shutil.rmtree(state)


@pytest.fixture
async def backend(settings: Settings) -> AsyncIterator[Backend]:
    backend = MockBackend(settings.sandbox)
    yield backend
    await backend.close()
    cleaner = MockBackend(settings.sandbox)
    for each in await cleaner.list():
        await cleaner.remove(each.uid)
    await cleaner.close()


@pytest.fixture
def serve(backend: Backend, settings: Settings) -> Serve:
    @asynccontextmanager
    async def serve(
        authenticator: Authenticator | None = None,
        headers: dict[str, str] | None = None,
        directory: MemoryDirectory | None = None,
        **api: Any,
    ) -> AsyncIterator[Api]:
        changed = settings.model_copy(update={"api": settings.api.model_copy(update=api)})
        directory = directory or MemoryDirectory(backend)
        app = build_app(directory, changed, authenticator or Authenticator())
        async with (
            serving(app, changed.api) as url,
            httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False) as client,
        ):
            yield Api(url, client, directory)

    return serve


@pytest.fixture
async def api(serve: Serve) -> AsyncIterator[Api]:
    """Without credentials, on loopback."""
    async with serve() as api:
        yield api


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The problem document of an answer, checked to be one of this kind."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert (document["type"], document["status"]) == (f"urn:agent-platform:problem:{kind}", status)
    assert document["title"]
    return document
