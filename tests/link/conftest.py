"""Links to real agents, and to a hostile one that a test plays itself."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from controller.backends import ExecRequest, ExecResult, OutputChunk
from controller.backends.agent.frames import PADDING, FrameReader, Kind, encode
from controller.backends.agent.link import AgentLink
from tests.agent.conftest import start_process

HELLO = {
    "protocol": 1,
    "version": "x",
    "pid1": True,
    "python": "3",
    "running": [],
    "contexts": [],
    "idle_seconds": 0,
    "kept": 0,
    "forgotten": 0,
    "max_executions": 9,
}


class SocketStream:
    """Asyncio's streams in the shape that the link takes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.read, self.write, self.drain, self.close = reader.read, writer.write, writer.drain, writer.close


Open = Callable[[], Awaitable[AgentLink]]


@pytest.fixture
async def agent_socket(tmp_path: Path) -> AsyncIterator[Path]:
    """The socket of a real agent."""
    (tmp_path / "workspace").mkdir()
    agent = start_process(tmp_path / "workspace", "--socket", str(tmp_path / "link"))
    async with asyncio.timeout(10):
        while not (tmp_path / "link").exists():
            await asyncio.sleep(0.01)
    yield tmp_path / "link"
    agent.stop()


@pytest.fixture
async def open_link(agent_socket: Path) -> AsyncIterator[Open]:
    """Opens links to one real agent."""
    links: list[AgentLink] = []

    async def begin() -> AgentLink:
        links.append(await AgentLink.open(SocketStream(*await asyncio.open_unix_connection(agent_socket)), 10))
        return links[-1]

    yield begin
    for link in links:
        link.close()


class HostileAgent:
    """The other end of a link. It knows the session's token, as an agent does that was taken over."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.token = reader, writer, b""

    async def greet(self, **hello: object) -> None:
        greeting = await self.reader.readexactly(len(PADDING) + 21)
        length = int.from_bytes(greeting[-8:-4])
        self.token = bytes.fromhex(json.loads(await self.reader.readexactly(length))["token"])
        self.say(Kind.HELLO, 0, HELLO | hello)

    def say(self, kind: Kind, channel: int, what: object) -> None:
        self.write(encode(self.token, kind, channel, what if isinstance(what, bytes) else json.dumps(what).encode()))

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def next_channel(self) -> int:
        """Wait for a request; returns its channel."""
        frames = FrameReader(self.token)
        while True:
            for frame in frames.feed(await self.reader.read(65536)):
                if frame.kind == Kind.REQUEST:
                    return frame.channel


@pytest.fixture
async def hostile() -> AsyncIterator[tuple[SocketStream, HostileAgent]]:
    """A stream for a link, and who sits at its other end."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    agent = HostileAgent(*await asyncio.open_connection(sock=theirs))
    yield SocketStream(reader, writer), agent
    agent.writer.close()
    writer.close()


async def collect(items: AsyncIterator[OutputChunk | ExecResult]) -> tuple[bytes, bytes, ExecResult]:
    """stdout, stderr and the result of an execution."""
    streams = {"stdout": b"", "stderr": b""}
    async for item in items:
        if isinstance(item, ExecResult):
            return streams["stdout"], streams["stderr"], item
        streams[item.stream] += item.data
    raise AssertionError("no result")


def request(code: str = "print(1+1)", execution_id: str = "x", **more: object) -> ExecRequest:
    return ExecRequest(**{"id": execution_id, "digest": "d", "kind": "python", "code": code, **more})  # type: ignore[arg-type]
