"""The link: one session with the agent in a sandbox, over any pair of byte streams.

Everything that arrives is hostile. It is cut into bounded frames, parsed strictly, and kept only as far as this side
has granted credit for it; what is no frame of this session, or belongs to no open channel, is skipped, and a flood of
it ends the link. Nothing that arrives raises into another channel's caller.
"""

import asyncio
import json
import math
import os
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from itertools import count
from typing import Literal, Protocol, TypeVar

from pydantic import ValidationError

from controller.backends import ExecRequest, ExecResult, FileInfo, Listing, NotFound, OutputChunk, Refused, Unavailable
from controller.backends.agent.frames import (
    FRAME_BYTES,
    HELLO_TOKEN,
    MAX_PAYLOAD,
    PADDING,
    TOKEN_BYTES,
    WINDOW,
    Frame,
    FrameReader,
    Kind,
    encode,
)
from controller.backends.agent.words import (
    PROTOCOL,
    RESULT_GONE,
    Credit,
    Entry,
    Error,
    Hello,
    Listed,
    Result,
    Said,
    Started,
    execute_request,
)

ANSWER_SECONDS = 20.0
"""For the agent to answer a request, or to go on with a file."""
GRACE_SECONDS = 10.0
"""After an execution's deadline, until its result is there: the agent needs at most one."""
MAX_WASTE = 4 << 20
"""Bytes that belong to nothing, in one session: the rest of an earlier session has less."""
MAX_OUTPUT = 8 << 20
"""Bytes of each stream that an agent keeps at most."""
MAX_FILES = 10_000
MAX_LISTING = 2 << 20
"""Bytes of a listing: the agent sends at most half of it."""
_CONTENT = (Kind.DATA, Kind.STDOUT, Kind.STDERR)


class LinkLost(Unavailable):
    """The link has ended. What runs in the sandbox goes on; attach to it over a new link."""

    reason = "LinkLost"


class Stream(Protocol):
    """Bytes from and to an agent."""

    async def read(self, limit: int) -> bytes:
        """At most `limit` bytes; b"" at the end."""
        ...

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def close(self) -> None: ...


class _Channel:
    """What has arrived on one channel and was not taken yet: at most WINDOW bytes of content and a few words."""

    MAX_WORDS = 8

    def __init__(self, number: int) -> None:
        self.number = number
        self.content: dict[int, bytearray] = {kind: bytearray() for kind in _CONTENT}
        self.words: deque[Frame] = deque()
        self.heard = 0
        """How many words have arrived."""
        self.news = asyncio.Event()
        self.may_arrive = WINDOW
        """Bytes of content that the agent may still send."""
        self.taken = 0
        """Bytes of content that were taken and not granted again yet."""
        self.may_send = WINDOW
        """Bytes of content that we may still send."""
        self.over = False
        """The agent has closed it."""

    def put(self, frame: Frame) -> bool:
        """Keep it until it is taken. Returns False for what goes beyond the credit: it is dropped."""
        if frame.kind in _CONTENT:
            if len(frame.payload) > self.may_arrive:
                return False
            self.may_arrive -= len(frame.payload)
            self.content[frame.kind] += frame.payload
        else:
            if self.heard >= self.MAX_WORDS:
                return False
            self.heard += 1
            self.words.append(frame)
            self.over = self.over or frame.kind in (Kind.RESULT, Kind.ERROR)
        self.news.set()
        return True

    def take(self) -> Frame | None:
        """Content first: the last word comes after it."""
        for kind, kept in self.content.items():
            if kept:
                self.content[kind] = bytearray()
                return Frame(kind, self.number, bytes(kept))
        return self.words.popleft() if self.words else None


_Said = TypeVar("_Said", bound=Said)


class AgentLink:
    """One session with an agent. Many executions and transfers may use it at once, from one event loop."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._token = os.urandom(TOKEN_BYTES)
        self._frames = FrameReader(self._token)
        self._channels: dict[int, _Channel] = {}
        self._numbers = count(1)
        self._waste = MAX_WASTE
        self._lost: LinkLost | None = None
        self._reading: asyncio.Task[None] | None = None
        self.hello: Hello

    @classmethod
    async def open(cls, stream: Stream, deadline: float = ANSWER_SECONDS) -> "AgentLink":
        """Take the stream over and exchange hellos within `deadline` seconds. Raises LinkLost, Refused (protocol)."""
        link = cls(stream)
        link._reading = asyncio.create_task(link._read(), name="agent link")
        try:
            with link._channel(0) as channel:
                hello = json.dumps({"protocol": PROTOCOL, "token": link._token.hex()}).encode()
                stream.write(PADDING + encode(HELLO_TOKEN, Kind.HELLO, 0, hello))
                answer = await link._next(channel, deadline)
                channel.over = True
            try:
                link.hello = Hello.model_validate_json(answer.payload)
            except ValidationError as error:
                message = f"the agent does not speak protocol {PROTOCOL}: build the image anew (make image)"
                raise Refused(message, "AgentProtocol") from error
        except BaseException:
            link.close()
            raise
        return link

    @property
    def lost(self) -> bool:
        """Whether the link has ended."""
        return self._lost is not None

    def close(self) -> None:
        """End the link; what runs in the sandbox goes on."""
        self._lose("it was closed")
        if self._reading is not None:
            self._reading.cancel()

    async def execute(
        self, request: ExecRequest, seen: Mapping[str, int] | None = None
    ) -> AsyncGenerator[OutputChunk | ExecResult]:
        """Run it, or attach to it if its id is known: chunks, then one ExecResult. Closing does not cancel it.

        `seen` says how many bytes of "stdout" and "stderr" the caller has from an earlier link: they are left out.
        Raises Busy, Conflict, NotFound (its result is no longer kept), Refused, BackendError, and LinkLost at any time.
        """
        until = asyncio.get_running_loop().time() + request.timeout + GRACE_SECONDS
        frames = self._exchange(execute_request(request), request.stdin, until)
        async for item in self._items(frames, request.id, request.output_limit, Counter(seen or {})):
            yield item

    async def attach(self, execution_id: str) -> AsyncGenerator[OutputChunk | ExecResult]:
        """Follow an execution that an earlier link began, from its first byte. Raises as `execute`."""
        frames = self._exchange({"op": "attach", "id": execution_id}, until=math.inf)
        async for item in self._items(frames, execution_id, MAX_OUTPUT, Counter()):
            yield item

    async def _items(
        self, frames: AsyncGenerator[Frame], execution_id: str, limit: int, skip: Counter[str]
    ) -> AsyncGenerator[OutputChunk | ExecResult]:
        arrived: Counter[str] = Counter()
        async with aclosing(frames):
            async for frame in frames:
                if frame.kind == Kind.RESULT:
                    yield self._parse(Result, frame.payload).of(execution_id)
                elif frame.kind in (Kind.STDOUT, Kind.STDERR):
                    name: Literal["stdout", "stderr"] = "stdout" if frame.kind == Kind.STDOUT else "stderr"
                    arrived[name] += len(frame.payload)
                    if arrived[name] > limit:
                        raise self._lose(f"the agent sent more than {limit} bytes of {name}")
                    data = frame.payload[skip[name] :]
                    skip[name] -= len(frame.payload) - len(data)
                    if data:
                        yield OutputChunk(name, data)

    async def cancel(self, execution_id: str) -> None:
        """End every process of an execution; over already is fine. Raises NotFound, LinkLost."""
        try:
            async with aclosing(self._exchange({"op": "cancel", "id": execution_id})) as frames:
                async for _ in frames:
                    pass
        except NotFound as error:
            if error.reason != RESULT_GONE:
                raise

    async def put_file(self, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Write a file below the workspace; it appears whole or not at all. Raises Refused, BackendError, LinkLost."""
        with self._channel() as channel:
            self._request(channel, {"op": "put", "path": path})
            async for chunk in chunks:
                await self._send_content(channel, chunk, ANSWER_SECONDS)
            self._send(Kind.EOF, channel.number)
            await self._drain()
            await self._next(channel, ANSWER_SECONDS)

    async def get_file(self, path: str) -> AsyncGenerator[bytes]:
        """Read a regular file below the workspace. Raises NotFound, Refused, BackendError, LinkLost."""
        async with aclosing(self._exchange({"op": "get", "path": path})) as frames:
            async for frame in frames:
                if frame.kind == Kind.DATA:
                    yield frame.payload

    async def list_files(self, path: str = "") -> Listing:
        """The regular files in a folder of the workspace and below it. Raises as `get_file`."""
        listing, truncated = bytearray(), False
        async with aclosing(self._exchange({"op": "list", "path": path})) as frames:
            async for frame in frames:
                if frame.kind == Kind.DATA and len(listing) < MAX_LISTING:
                    listing += frame.payload
                elif frame.kind == Kind.RESULT:
                    truncated = self._parse(Listed, frame.payload).truncated
        entries = [self._parse(Entry, line) for line in bytes(listing).splitlines()[:MAX_FILES]]
        return Listing([FileInfo(entry.path, entry.bytes) for entry in entries], truncated)

    # --- channels ---

    @contextmanager
    def _channel(self, number: int | None = None) -> Iterator[_Channel]:
        """An open channel. One that is left before its end is closed on the agent's side, too."""
        channel = _Channel(next(self._numbers) if number is None else number)
        self._channels[channel.number] = channel
        try:
            yield channel
        finally:
            del self._channels[channel.number]
            if not channel.over:
                self._waste += 2 * WINDOW  # what is under way
                self._send(Kind.CLOSE, channel.number)

    async def _exchange(
        self, request: dict[str, object], stdin: bytes = b"", until: float | None = None
    ) -> AsyncGenerator[Frame]:
        """Send a request and yield the frames that answer it, the last a RESULT.

        All of them are waited for until a time of the event loop, or else each for ANSWER_SECONDS.
        """
        now = asyncio.get_running_loop().time
        feeding: asyncio.Task[None] | None = None
        with self._channel() as channel:
            self._request(channel, request)
            try:
                await self._drain()
                while True:
                    frame = await self._next(channel, ANSWER_SECONDS if until is None else until - now())
                    if frame.kind == Kind.STARTED and stdin and feeding is None:
                        received = self._parse(Started, frame.payload).stdin_received
                        if received is not None:
                            feeding = asyncio.create_task(self._feed(channel, stdin[received:]))
                    yield frame
                    if frame.kind == Kind.RESULT:
                        return
            finally:
                if feeding is not None:
                    feeding.cancel()

    async def _feed(self, channel: _Channel, stdin: bytes) -> None:
        with suppress(LinkLost):  # the exchange raises it
            await self._send_content(channel, stdin, None)
            self._send(Kind.EOF, channel.number)

    async def _send_content(self, channel: _Channel, content: bytes, patience: float | None) -> None:
        """Send bytes as the agent grants credit, for which it is waited at most `patience` seconds; stop at an ERROR."""
        rest = memoryview(content)
        while rest and not channel.over:
            if channel.may_send:
                block = rest[: min(MAX_PAYLOAD, channel.may_send)]
                channel.may_send -= len(block)
                self._send(Kind.DATA, channel.number, bytes(block))
                rest = rest[len(block) :]
                await self._drain()
            else:
                await self._news(channel, patience)

    async def _next(self, channel: _Channel, patience: float) -> Frame:
        """The channel's next frame. Raises what an ERROR says; LinkLost if none comes within `patience` seconds."""
        while (frame := channel.take()) is None:
            await self._news(channel, patience)
        if frame.kind == Kind.ERROR:
            raise self._parse(Error, frame.payload).as_raised()
        if frame.kind in _CONTENT:
            self._grant(channel, len(frame.payload))
        return frame

    def _grant(self, channel: _Channel, taken: int) -> None:
        """Let the agent send as much again, once it is worth a frame."""
        channel.taken += taken
        if channel.taken >= WINDOW // 4 and not channel.over:
            self._send(Kind.CREDIT, channel.number, json.dumps({"bytes": channel.taken}).encode())
            channel.may_arrive += channel.taken
            channel.taken = 0

    async def _news(self, channel: _Channel, patience: float | None) -> None:
        """Wait until something arrived on the channel. Raises LinkLost, also after `patience` seconds."""
        channel.news.clear()
        if self._lost is not None:
            raise LinkLost(str(self._lost))
        try:
            async with asyncio.timeout(patience):
                await channel.news.wait()
        except TimeoutError:
            raise self._lose("the agent does not answer") from None

    # --- the stream ---

    def _request(self, channel: _Channel, request: dict[str, object]) -> None:
        """Send a request; its parts must not be mixed with those of another, so nothing is waited for between them."""
        document = json.dumps(request).encode()
        *parts, last = (document[start : start + MAX_PAYLOAD] for start in range(0, len(document), MAX_PAYLOAD))
        for part in parts:
            self._send(Kind.PART, channel.number, part)
        self._send(Kind.REQUEST, channel.number, last)

    def _send(self, kind: Kind, number: int, payload: bytes = b"") -> None:
        if self._lost is None:
            self._stream.write(encode(self._token, kind, number, payload))

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._stream.drain()
        except (OSError, TimeoutError) as error:
            raise self._lose(f"the agent takes nothing: {type(error).__name__}") from error

    async def _read(self) -> None:
        """Take what arrives and hand it to its channels, until the stream ends or a flood ends it."""
        try:
            while data := await self._stream.read(65536):
                for frame in self._frames.feed(data):
                    self._take(frame)
                if self._frames.skipped > self._waste:
                    self._lose("the sandbox floods it")
                    return
            self._lose("the sandbox's end was closed")
        except OSError as error:
            self._lose(f"{type(error).__name__}: {error}")
        except LinkLost:  # it said why
            pass

    def _take(self, frame: Frame) -> None:
        channel = self._channels.get(frame.channel)
        if channel is not None and frame.kind == Kind.CREDIT:
            channel.may_send = min(WINDOW, channel.may_send + self._parse(Credit, frame.payload).bytes)
            channel.news.set()
        elif channel is None or not channel.put(frame):
            self._waste -= FRAME_BYTES + len(frame.payload)

    def _parse(self, said: type[_Said], payload: bytes) -> _Said:
        """Raises LinkLost for nonsense."""
        try:
            return said.model_validate_json(payload)
        except ValidationError as error:
            raise self._lose(f"the agent sent a {said.__name__} that is none") from error

    def _lose(self, why: str) -> LinkLost:
        """End the link, once; every wait on it ends with LinkLost. Returns that error."""
        if self._lost is None:
            self._lost = LinkLost(f"the link to the agent has ended: {why}")
            self._stream.close()
            for channel in self._channels.values():
                channel.news.set()
        return self._lost
