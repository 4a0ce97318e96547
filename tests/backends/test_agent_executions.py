"""Executions over links that break, hang or lie, with the agent of a real mock sandbox behind them."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from controller.backends import Busy, NotFound, NotRunning, OutputChunk, Unavailable
from controller.backends.agent.executions import AgentExecutions
from controller.backends.agent.link import Stream
from controller.backends.mock.backend import MockBackend
from controller.backends.mock.folder import Folder
from controller.backends.mock.launch import SocketStream, dial
from controller.model import Reason
from tests.backends.conftest import Place
from tests.backends.words import bash, execute, living, new_mark, request, sandbox, true, until

pytestmark = pytest.mark.parametrize("place", ["mock"], indirect=True)


class Wire:
    """Connects to the agents of one installation, and breaks."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.streams: list[SocketStream] = []
        self.cut_after: int | None = None
        """Bytes after which each new connection breaks."""

    async def connect(self, uid: str) -> Stream:
        assert self._place.settings.state_folder is not None
        stream = await dial(Folder(self._place.settings.state_folder / self._place.settings.instance / uid))
        self.streams.append(stream)
        if self.cut_after is not None:
            read, left = stream.read, self.cut_after

            async def read_some(limit: int) -> bytes:
                nonlocal left
                data = await read(min(limit, left)) if left else b""
                left -= len(data)
                return data

            stream.read = read_some  # type: ignore[method-assign]
        return stream

    def cut(self) -> None:
        for stream in self.streams:
            stream.close()
        self.streams.clear()


class Face:
    """Executions alone, as `words.execute` wants them."""

    def __init__(self, executions: AgentExecutions) -> None:
        self.executions = executions


@pytest.fixture
def wire(place: Place) -> Wire:
    return Wire(place)


@pytest.fixture
async def face(wire: Wire) -> AsyncIterator[Face]:
    executions = AgentExecutions(wire.connect, 4)
    yield Face(executions)
    executions.close()


@pytest.fixture
async def uid(place: Place) -> str:
    backend = place.open()
    await backend.start(wanted := sandbox())
    await backend.close()
    return wanted.uid


async def test_a_link_that_breaks_loses_and_repeats_no_output(wire: Wire, face: Face, uid: str) -> None:
    asked = bash("echo run >>runs; for i in $(seq 20); do echo $i; sleep 0.05; done; cat runs")
    running = asyncio.create_task(execute(face, uid, asked))  # type: ignore[arg-type]
    for _ in range(3):
        await asyncio.sleep(0.25)
        wire.cut()
    ended = await running
    assert ended.stdout.decode().split() == [*map(str, range(1, 21)), "run"]
    assert ended.result.reason is Reason.COMPLETED
    assert face.executions.reconnects == 3


async def test_a_link_that_breaks_again_and_again_ends_as_lost(wire: Wire, face: Face, uid: str) -> None:
    wire.cut_after = 20_000
    asked = request("print('x' * 1_000_000)")
    ended = await execute(face, uid, asked)  # type: ignore[arg-type]
    assert ended.result.reason is Reason.LOST
    assert ended.stdout == b"x" * len(ended.stdout)
    wire.cut_after = None
    wire.cut()
    retried = await execute(face, uid, asked)  # type: ignore[arg-type]
    assert (retried.result.reason, len(retried.stdout)) == (Reason.COMPLETED, 1_000_001), "its result was kept"


async def test_an_execution_that_nobody_follows_counts_until_it_ends(face: Face, uid: str) -> None:
    mark = new_mark()
    for _ in range(4):
        stream = face.executions.execute(uid, bash(f"echo begun; sleep {mark}", timeout=1.0))
        assert await anext(stream) == OutputChunk("stdout", b"begun\n")
        await stream.aclose()
    assert len(living(mark)) >= 4, "closing does not cancel"
    with pytest.raises(Busy):
        await execute(face, uid, bash("true"))  # type: ignore[arg-type]
    assert face.executions.idle_since(uid) is None
    await until("they timed out", lambda: true(face.executions.idle_since(uid)), 5)
    assert (await execute(face, uid, bash("echo free"))).stdout == b"free\n"  # type: ignore[arg-type]


async def test_what_an_earlier_controller_began_counts_until_it_ends(wire: Wire, face: Face, uid: str) -> None:
    stream = face.executions.execute(uid, bash("echo begun; sleep 1"))
    await anext(stream)
    face.executions.close()
    await stream.aclose()
    new = AgentExecutions(wire.connect, 1)
    assert await new.ready(uid)
    assert new.idle_since(uid) is None
    with pytest.raises(Busy):
        await execute(Face(new), uid, bash("true"))  # type: ignore[arg-type]
    await until("it ended", lambda: true(new.idle_since(uid)), 5)
    new.close()


async def test_an_agent_that_never_speaks_is_not_ready_and_delays_no_other(face: Face, uid: str, wire: Wire) -> None:
    class Silent:
        async def read(self, limit: int) -> bytes:
            await asyncio.Event().wait()
            return b""

        def write(self, data: bytes) -> None: ...

        async def drain(self) -> None: ...

        def close(self) -> None: ...

    async def connect(which: str) -> Stream:
        return Silent() if which == "silent" else await wire.connect(which)

    executions = AgentExecutions(connect, 4)
    began = time.monotonic()
    silent = asyncio.create_task(executions.ready("silent"))
    assert (await execute(Face(executions), uid, bash("echo fast"))).stdout == b"fast\n"  # type: ignore[arg-type]
    assert time.monotonic() - began < 2
    assert not await silent
    assert time.monotonic() - began < 7
    executions.close()


async def test_an_agent_that_talks_nonsense_is_not_ready(face: Face) -> None:
    class Nonsense:
        async def read(self, limit: int) -> bytes:
            await asyncio.sleep(0)
            return b"nonsense " * (limit // 9)

        def write(self, data: bytes) -> None: ...

        async def drain(self) -> None: ...

        def close(self) -> None: ...

    async def connect(uid: str) -> Stream:
        return Nonsense()

    executions = AgentExecutions(connect, 4)
    assert not await executions.ready("any")
    with pytest.raises(Unavailable):
        await execute(Face(executions), "any", bash("true"))  # type: ignore[arg-type]
    executions.close()


async def test_asking_in_vain_leaves_nothing_in_memory(place: Place) -> None:
    async def connect(uid: str) -> Stream:
        raise NotFound(uid)

    executions = AgentExecutions(connect, 4)
    for number in range(1000):
        with pytest.raises(NotFound):
            await execute(Face(executions), f"u{number}", bash("true"))  # type: ignore[arg-type]
        with pytest.raises(NotFound):
            await executions.list_files(f"u{number}")
        assert not await executions.ready(f"u{number}")
    assert len(vars(executions)["_sessions"]) == 0


async def test_while_it_is_suspended_new_executions_are_refused_and_old_ones_wait(place: Place, uid: str) -> None:
    backend = place.open()
    assert isinstance(backend, MockBackend)
    running = asyncio.create_task(execute(backend, uid, bash("echo begun; sleep 0.5; echo ended")))
    await until("it runs", lambda: true(backend.executions.idle_since(uid) is None))
    await asyncio.sleep(0.2)
    await backend.suspend(uid)
    with pytest.raises(NotRunning):
        await execute(backend, uid, bash("true"))
    with pytest.raises(NotRunning):
        await backend.executions.list_files(uid)
    await asyncio.sleep(1)
    assert not running.done()
    await backend.resume(uid)
    assert (await running).stdout == b"begun\nended\n"
