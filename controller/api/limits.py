"""What a slow, endless or malformed request may cost: time for its body, time to take the answer, a bounded goodbye."""

import asyncio
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.api.problems import Kind, Problem
from controller.quantity import format_bytes

HEAD_BYTES = 32 * 1024
"""Of the address and the header fields."""
BODY_SECONDS = 30.0
"""For a body to arrive; and one second more for each SLOWEST bytes of it."""
SLOWEST = 64 * 1024
SEND_SECONDS = 60.0
"""For the client to take a piece of the answer."""
LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 2**20


class Limits:
    """ASGI middleware around the whole API."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, asyncio.get_running_loop().time)
        problem = _wrong_head(scope)
        try:
            await (problem.response() if problem else self._app)(scope, exchange.receive, exchange.send)
        except _Stalled:
            return  # the server closes a connection whose answer was not completed
        except asyncio.CancelledError:
            # Only the server's stop cancels requests; nothing above this frame waits for more.
            if not exchange.answered:
                problem = Problem(Kind.UNAVAILABLE, "the controller stops; what runs in sandboxes goes on")
                await problem.response()(scope, exchange.receive, exchange.send)


def _wrong_head(scope: Scope) -> Problem | None:
    # The parser bounds what is not complete yet; a head that came in one piece may be longer.
    fields = sum(len(name) + len(value) for name, value in scope["headers"])
    if fields + len(scope["raw_path"]) + len(scope["query_string"]) > HEAD_BYTES:
        return Problem(Kind.HEAD_TOO_LARGE, f"at most {format_bytes(HEAD_BYTES)} bytes are taken")
    try:
        unquote_to_bytes(scope["raw_path"]).decode()
    except UnicodeDecodeError:
        return Problem(Kind.BAD_REQUEST, "the address is not UTF-8")
    return None


class _Stalled(Exception):
    """The client takes nothing of the answer."""


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, clock: Callable[[], float]) -> None:
        self._receive, self._send, self._clock = receive, send, clock
        names = {name for name, _ in scope["headers"]}
        self._body_done = b"content-length" not in names and b"transfer-encoding" not in names
        self._received = 0
        self._waited = 0.0
        self._lingers = False
        self.answered = False
        """The answer has begun."""

    async def receive(self) -> Message:
        """The next message; raises Problem 408 where the body comes too slowly."""
        if self._body_done:
            return await self._receive()
        began = self._clock()
        allowed = BODY_SECONDS + self._received / SLOWEST - self._waited
        try:
            async with asyncio.timeout(allowed):
                message = await self._receive()
        except TimeoutError:
            raise Problem(Kind.REQUEST_TIMEOUT, f"the body was not there after {BODY_SECONDS:g} s") from None
        self._waited += self._clock() - began
        self._received += len(message.get("body", b""))
        self._body_done = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send it; a body that was not read ends the connection, once the client had a chance to read the answer."""
        self.answered = True
        if message["type"] == "http.response.start" and not self._body_done:
            self._lingers = True
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._send({**message, "more_body": True} if last and self._lingers else message)
        except TimeoutError:
            raise _Stalled from None
        if last and self._lingers:
            await self._drain()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drain(self) -> None:
        # Closing on unread bytes makes TCP reset the connection, and the client may lose the answer.
        seen = 0
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while seen < LINGER_BYTES and not self._body_done:
                    message = await self._receive()
                    seen += len(message.get("body", b""))
                    self._body_done = not message.get("more_body", False)
        except TimeoutError:
            return
