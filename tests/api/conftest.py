"""The API over real HTTP, on a port of this machine."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from controller.api import Authenticator, build_app, serving
from controller.backends import Backend
from controller.settings import ApiSettings, SandboxSettings, Settings
from tests.api.memory import MemoryDirectory
from tests.api.tiny import TinyBackend


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
async def backend() -> AsyncIterator[Backend]:
    tiny = TinyBackend()
    yield tiny
    await tiny.close()


@pytest.fixture
def settings() -> Settings:
    # Nothing of this machine's environment or .env counts.
    return Settings.model_construct(sandbox=SandboxSettings(), api=ApiSettings(port=0), watch_namespaces=())


@pytest.fixture
def serve(backend: Backend, settings: Settings) -> Serve:
    @asynccontextmanager
    async def serve(
        authenticator: Authenticator | None = None, headers: dict[str, str] | None = None, **api: Any
    ) -> AsyncIterator[Api]:
        changed = settings.model_copy(update={"api": settings.api.model_copy(update=api)})
        directory = MemoryDirectory(backend)
        app = build_app(directory, changed, authenticator or Authenticator())
        async with (
            serving(app, changed.api) as url,
            httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False) as client,
        ):
            yield Api(url, client, directory)
            for each in directory.list():
                await backend.remove(each.uid)

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
