"""The HTTP server, inside the controller's own event loop."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from typing import cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from controller.api.auth import is_loopback
from controller.api.limits import HEAD_BYTES
from controller.api.problems import MEDIA_TYPE, Kind, Problem
from controller.settings import ApiSettings

HEAD_SECONDS = 10.0
"""For the head of a request to arrive, from its first byte or from the connection."""
IDLE_SECONDS = 65
"""A connection may wait for its next request; longer than the 60 s of common proxies, so that those close first."""
CONNECTIONS = 512
"""At once; one more ends the one that has waited longest for a request."""
DESCRIPTORS = 16384
STOP_SECONDS = 10
"""For requests that run when the controller stops. Their executions go on in the sandboxes."""


class ServeError(Exception):
    """The API cannot be served like that; the text says what to change."""


class _GuardedProtocol(H11Protocol):
    """uvicorn's protocol with a deadline for the head of a request and a bound on connections."""

    _head_deadline: asyncio.TimerHandle | None = None
    _waits_since: float | None = None
    """On the loop's clock; None while a request is answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does it only for sockets that name their protocol, and accepted ones here do not: 40 ms an answer.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._waits_since = self.loop.time()
        self._head_deadline = self.loop.call_later(HEAD_SECONDS, transport.abort)
        if len(self.connections) > CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._waits_since = None
            self._end_head_deadline()
        elif self._head_deadline is None:
            self._head_deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        self._waits_since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._end_head_deadline()

    def send_400_response(self, msg: str) -> None:
        body = bytes(Problem(Kind.BAD_REQUEST, "this is not HTTP/1.1").response().body)
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        self.transport.close()

    def _end_head_deadline(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _make_room(self) -> None:
        waiting = [
            (each._waits_since, each.transport)
            for each in cast("set[_GuardedProtocol]", self.connections)
            if each._waits_since is not None and not each.transport.is_closing()
        ]
        if waiting:
            _, longest = min(waiting, key=lambda each: each[0])
            longest.abort()


class _Server(uvicorn.Server):
    """uvicorn's server as a part of a program: it is told to stop and leaves signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told = asyncio.Event()

    def stop(self) -> None:
        """Stop serving as soon as what is asked was answered."""
        self.should_exit = True
        self._told.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # renews the Date header
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._told.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, settings: ApiSettings) -> AsyncIterator[str]:
    """Serve while the block runs; gives the URL, with the real port where API__PORT is 0. Raises ServeError."""
    _allow_descriptors()
    listener = _listen(settings.host, settings.port)
    config = uvicorn.Config(
        app,
        http=_GuardedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        headers=[("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")],
        backlog=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http-api")
    host, port = listener.getsockname()[:2]
    try:
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        server.stop()
        await task
        listener.close()


def _allow_descriptors() -> None:
    # A shell's usual 1024 could be used up by connections to two servers, and containers need some, too.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
        enough = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=CONNECTIONS)
    except OSError as error:
        raise ServeError(f"cannot listen on {host}:{port}: {error.strerror}; set API__HOST and API__PORT") from error


def demand_safe_host(host: str, *, open_to_loopback: bool) -> None:
    """Raises ServeError where an API without credentials would be reachable from other machines."""
    if open_to_loopback and not is_loopback(host):
        raise ServeError(
            f"API__HOST={host} would let anyone on the network run code here: set SECURITY__SECRET_KEY to a secret of "
            "your own (a well-known placeholder does not count), or API__HOST to 127.0.0.1"
        )
