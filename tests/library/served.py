"""The whole controller on mock, with an API server of its own, on a thread: what a remote library and the CLI speak to."""

import asyncio
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from controller.backends.mock.backend import MockBackend
from controller.dev import dev
from controller.settings import Settings

SECONDS = 60
NAMESPACE = "team"


@contextmanager
def served(key: str = "") -> Iterator[str]:
    """Gives the URL of the HTTP API; the namespace `team` is there. What is left in the end is removed."""
    folder = Path(tempfile.mkdtemp(prefix="sbx-served-"))
    folder.chmod(0o711)  # on mock each sandbox has a user of its own
    settings = Settings.model_validate(
        {
            "sandbox": {"mock_mode": True, "state_folder": folder, "instance": f"test-{uuid.uuid4().hex[:12]}"},
            "api": {"port": 0, "metrics_port": 0, "metrics_host": "127.0.0.1"},
            "security": {"secret_key": key or None},
        }
    )
    loop = asyncio.new_event_loop()
    address: list[str] = []
    started = threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        async with dev(settings, kubeconfig=folder / "kubeconfig") as urls:
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
            async with httpx.AsyncClient() as client:
                (await client.post(f"{urls['kubernetes']}/api/v1/namespaces", json=namespace)).raise_for_status()
            address.append(urls["api"])
            started.set()
            await stop.wait()
        backend = MockBackend(settings.sandbox)
        for seen in await backend.list():
            await backend.remove(seen.uid)
        await backend.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(SECONDS), "the controller did not start"
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(SECONDS)
        assert not thread.is_alive(), "the controller did not stop"
        loop.close()
        shutil.rmtree(folder)
