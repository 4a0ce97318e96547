"""The HTTP API over a backend, on a thread: what a remote library and the CLI speak to in tests."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr

from controller.api.app import build_app
from controller.api.auth import Authenticator
from controller.api.server import serving
from controller.backends import Backend
from controller.backends.mock import MockBackend
from controller.settings import ApiSettings, SandboxSettings, Settings
from tests.api.memory import MemoryDirectory

SECONDS = 20


@contextmanager
def served(sandbox: SandboxSettings, key: str = "") -> Iterator[str]:
    """Gives the URL; everything that was made there is removed at the end."""
    settings = Settings(sandbox=sandbox, api=ApiSettings(port=0))
    loop = asyncio.new_event_loop()
    address: list[str] = []
    started = threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        backend: Backend = MockBackend(sandbox)
        directory = MemoryDirectory(backend)
        app = build_app(directory, settings, Authenticator(SecretStr(key) if key else None))
        async with serving(app, settings.api) as url:
            address.append(url)
            started.set()
            await stop.wait()
        for uid in list(directory.objects):
            await backend.remove(uid)
        await backend.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(SECONDS), "the API did not start"
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(SECONDS)
        assert not thread.is_alive(), "the API did not stop"
        loop.close()
