"""The server as a part of the controller: it starts with a clear error or serves, and stops in time."""

import asyncio
import socket
import subprocess
import sys
import time

import httpx
import pytest

from controller.api import Authenticator, ServeError, build_app, server, serving
from controller.backends import Backend
from controller.settings import Settings
from tests.api.conftest import Api, Serve, problem
from tests.api.memory import MemoryDirectory


async def test_a_port_that_is_taken_is_told_with_the_setting(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"127.0.0.1:{port}.*API__PORT"):
            async with serve(port=port):
                pass


async def test_it_serves_ipv6_loopback(backend: Backend, settings: Settings) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    at = settings.api.model_copy(update={"host": "::1"})
    app = build_app(MemoryDirectory(backend), settings.model_copy(update={"api": at}), Authenticator())
    async with serving(app, at) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        assert url.startswith("http://[::1]:")
        assert (await client.get("/sandbox")).status_code == 200


async def test_a_stop_waits_for_no_idle_connection(serve: Serve) -> None:
    async with serve() as api:
        await api.client.get("/health")
        host, _, port = api.url.removeprefix("http://").partition(":")
        _, silent = await asyncio.open_connection(host, int(port))
        began = time.monotonic()
    assert time.monotonic() - began < 2
    silent.close()


async def started(api: Api, client: httpx.AsyncClient, seconds: float) -> asyncio.Task[httpx.Response]:
    """An execution that is under way; `client` outlives the server."""
    uid = await api.create()
    body = {"code": f"open('started', 'w').close(); import time; time.sleep({seconds}); print(1)"}
    running = asyncio.create_task(client.post(f"{api.url}/sandbox/{uid}/execute", json=body))
    async with asyncio.timeout(10):
        while (await api.client.get(f"/sandbox/{uid}/files/started")).status_code != 200:
            await asyncio.sleep(0.02)
    return running


async def test_a_stop_lets_a_request_finish(serve: Serve) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        async with serve() as api:
            running = await started(api, client, 1)
        assert (await running).json()["stdout"] == "1\n"


async def test_a_stop_does_not_wait_for_ever_and_says_to_come_back(
    monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    monkeypatch.setattr(server, "STOP_SECONDS", 1)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        async with serve() as api:
            running = await started(api, client, 60)
            began = time.monotonic()
        assert time.monotonic() - began < 10
        answer = await running
        problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"]


def test_a_shells_limit_of_open_files_is_raised() -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096)); "
    code += "from controller.api.server import _allow_descriptors; _allow_descriptors(); "
    code += "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout == "(4096, 4096)\n"
