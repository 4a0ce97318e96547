"""What `docker exec` costs the controller, and what happens where it does not begin."""

import asyncio
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from controller.backends import NotRunning, OutputChunk
from controller.backends.docker.attach import DockerStream
from controller.backends.docker.exec import ExecExecutions
from tests.backends.words import bash


class Docker:
    """Execs whose programs print `frames`; those of our own print nothing. All end with 0."""

    def __init__(self, frames: bytes = b"") -> None:
        self.frames = frames
        self.executions = ExecExecutions(self.open, self.code, 4)

    async def open(self, uid: str, argv: list[str], env: dict[str, str]) -> tuple[str, DockerStream]:
        reader = asyncio.StreamReader()
        reader.feed_data(self.frames if env else b"")
        reader.feed_eof()
        return "exec", DockerStream(reader, Ignoring())  # type: ignore[arg-type]

    async def code(self, exec_id: str) -> int:
        return 0


class Ignoring:
    """A writer."""

    async def drain(self) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_: None


async def run(docker: Docker, **fields: Any) -> int:
    """How many bytes it printed."""
    items = [item async for item in docker.executions.execute("uid", bash("true", **fields))]
    return sum(len(item.data) for item in items if isinstance(item, OutputChunk))


async def test_who_asks_again_for_what_does_not_begin_is_told_so_too() -> None:
    opening = asyncio.Event()

    async def refuse(uid: str, argv: list[str], env: dict[str, str]) -> tuple[str, DockerStream]:
        await opening.wait()
        raise NotRunning("it is suspended")

    docker = Docker()
    docker.executions = ExecExecutions(refuse, docker.code, 4)
    asked = [asyncio.create_task(run(docker, id="same")) for _ in range(3)]
    await asyncio.sleep(0)
    opening.set()
    async with asyncio.timeout(5):
        for each in asked:
            with pytest.raises(NotRunning):
                await each
    docker.executions = ExecExecutions(docker.open, docker.code, 4)
    assert await run(docker, id="same") == 0


async def test_who_goes_away_while_it_begins_ends_nothing() -> None:
    docker = Docker(struct.pack("!BxxxI", 1, 2) + b"hi")
    gone = asyncio.create_task(run(docker, id="one"))
    await asyncio.sleep(0)
    gone.cancel()
    assert await run(docker, id="one") == 2


async def test_output_in_tiny_pieces_is_kept_as_its_bytes() -> None:
    pieces = 200_000
    docker = Docker(struct.pack("!BxxxI", 1, 1) + b"x")
    docker.frames *= pieces
    await run(docker)
    tracemalloc.start()
    try:
        assert await run(docker) == pieces
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * pieces


async def test_of_many_executions_a_bounded_rest_is_kept() -> None:
    megabyte = b"x" * 2**20
    docker = Docker(struct.pack("!BxxxI", 1, len(megabyte)) + megabyte)
    tracemalloc.start()
    try:
        for _ in range(40):
            await run(docker, stdin=megabyte[:], files={"x": b"y" * 2**20})
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 24 * 2**20
