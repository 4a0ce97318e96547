"""Answers that come piece by piece: executions and logs as Server-Sent Events (WHATWG HTML, section 9.2), and files."""

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

from pydantic_core import to_json
from starlette.datastructures import Headers

from controller.api.problems import problem_of
from controller.api.schemas import execution_body
from controller.backends import BackendError, ExecResult, OutputChunk
from controller.executions import Collected

EVENT_STREAM = "text/event-stream"
HEARTBEAT = 3.0
"""Seconds of silence before a `progress` event: shows proxies and clients that the connection lives."""
FIRST_WORD = 0.5
"""Seconds that a backend has to refuse an execution before the stream begins; later it is an `error` event."""


def wants_events(headers: Headers) -> bool:
    """Whether the client names the type of events in `Accept`."""
    return EVENT_STREAM in headers.get("accept", "").lower()


async def begun(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The same pieces, with the first one fetched: an error before it is raised here and gets a status of its own."""
    try:
        first = await anext(pieces)
    except StopAsyncIteration:
        first = b""

    async def all_pieces() -> AsyncGenerator[bytes]:
        async with contextlib.aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    return all_pieces()


async def execution_events(execution_id: str, items: AsyncGenerator[OutputChunk | ExecResult]) -> AsyncGenerator[bytes]:
    """`progress` at once and in silence, `stdout` and `stderr` as they come, at last `result`, or `error`.

    Raises what `items` raises within FIRST_WORD seconds.
    """
    began = time.monotonic()
    output, collected = _OutputEvents(), Collected()
    coming = asyncio.ensure_future(anext(items))
    started = False
    try:
        await asyncio.wait({coming}, timeout=FIRST_WORD)
        if coming.done():
            coming.result()
        started = True
        yield _progress(execution_id, began)
        while True:
            await asyncio.wait({coming}, timeout=HEARTBEAT)
            if not coming.done():
                yield _progress(execution_id, began)
                continue
            item = coming.result()
            if isinstance(item, ExecResult):
                yield output.rest() + _event("result", execution_body(collected.outcome(item)))
                return
            collected.add(item)
            if piece := output.of(item):
                yield piece
            coming = asyncio.ensure_future(anext(items))
    except BackendError as error:
        if not started:
            raise
        yield _event("error", problem_of(error).document())
    finally:
        await asyncio.shield(asyncio.ensure_future(_let_go(coming, items)))


async def output_events(chunks: AsyncGenerator[OutputChunk]) -> AsyncGenerator[bytes]:
    """`stdout` and `stderr` events, then `end`. Raises what `chunks` raises."""
    output = _OutputEvents()
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            if piece := output.of(chunk):
                yield piece
    yield output.rest() + _event("end", {})


async def _let_go(coming: asyncio.Future[Any], items: AsyncGenerator[Any]) -> None:
    coming.cancel()
    await asyncio.wait({coming})
    await items.aclose()


def _progress(execution_id: str, began: float) -> bytes:
    elapsed = round((time.monotonic() - began) * 1000)
    return _event("progress", {"execution_id": execution_id, "elapsed_ms": elapsed})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), to_json(data))  # JSON has no line breaks


class _OutputEvents:
    """Chunks as events: text where a piece is UTF-8, else base64. Joined they are exactly what was printed."""

    def __init__(self) -> None:
        self._cut = {"stdout": b"", "stderr": b""}
        """The beginning of a character whose rest is in the next chunk."""

    def of(self, chunk: OutputChunk) -> bytes:
        data = self._cut[chunk.stream] + chunk.data
        whole = _whole_characters(data)
        self._cut[chunk.stream] = data[whole:]
        return _output(chunk.stream, data[:whole]) if whole else b""

    def rest(self) -> bytes:
        return b"".join(_output(stream, data) for stream, data in self._cut.items() if data)


def _whole_characters(data: bytes) -> int:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return error.start
    return len(data)


def _output(stream: str, data: bytes) -> bytes:
    try:
        return _event(stream, {"data": data.decode(), "encoding": "utf-8"})
    except UnicodeDecodeError:
        return _event(stream, {"data": base64.b64encode(data).decode(), "encoding": "base64"})
