"""Executions through agents: the port's `Executions` over one link for each sandbox, for every backend that has agents.

A link that breaks is opened again, and the execution attached to by its id: the agent runs it once and keeps its
output.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from controller.backends import (
    BackendError,
    Busy,
    ExecRequest,
    ExecResult,
    Listing,
    NotRunning,
    OutputChunk,
    Unavailable,
)
from controller.backends.agent.link import AgentLink, LinkLost, Stream
from controller.model import Reason

OPEN_SECONDS = 5.0
"""For an agent to say hello."""
REOPEN_SECONDS = 10.0
"""After a broken link, until the executions on it count as lost."""
REOPEN_EVERY = 0.1
MAX_BREAKS = 5
"""Of the link during one execution; two controllers that take it from each other stop at that."""
Item = OutputChunk | ExecResult


@dataclass
class Session:
    """What is known of one sandbox's agent."""

    link: AgentLink | None = None
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    running: Counter[str] = field(default_factory=Counter)
    """Execution id -> how many follow it."""
    idle_since: datetime | None = None
    held: bool = False
    """The sandbox is suspended: its agent is not asked for anything."""


class AgentExecutions:
    """`connect` opens a byte stream to a sandbox's agent; it raises NotFound, NotRunning or Unavailable.

    At most `max_executions` run at once in each sandbox.
    """

    def __init__(self, connect: Callable[[str], Awaitable[Stream]], max_executions: int) -> None:
        self._connect = connect
        self._max = max_executions
        self._sessions: dict[str, Session] = {}
        self._followers: set[asyncio.Task[None]] = set()
        self._closed = False
        self.reconnects = 0
        """Links that were lost and opened again."""

    # --- links ---

    async def ready(self, uid: str) -> bool:
        """Whether the agent of a sandbox that was seen running answers."""
        self.release(uid)
        try:
            await self._link(uid)
        except BackendError:
            return False
        return True

    def idle_since(self, uid: str) -> datetime | None:
        """When the last execution ended; None while one runs."""
        session = self._sessions.get(uid)
        return None if session is None or session.running else session.idle_since

    def hold(self, uid: str) -> None:
        """The sandbox is being suspended: new executions are refused, running ones stay attached."""
        self._session(uid).held = True

    def release(self, uid: str) -> None:
        """The sandbox goes on, or was not suspended."""
        if uid in self._sessions:
            self._sessions[uid].held = False

    def forget(self, uid: str) -> None:
        """The sandbox is being removed."""
        session = self._sessions.pop(uid, None)
        if session is not None and session.link is not None:
            session.link.close()

    def close(self) -> None:
        """Let go of all links. What runs in the sandboxes goes on."""
        self._closed = True
        for task in self._followers:
            task.cancel()
        for uid in list(self._sessions):
            self.forget(uid)

    def _session(self, uid: str) -> Session:
        return self._sessions.setdefault(uid, Session())

    async def _link(self, uid: str) -> AgentLink:
        """The living link to a sandbox's agent, opened where there is none.

        Raises NotFound, NotRunning, Unavailable, Refused (an agent of another time).
        """
        session = self._session(uid)
        if session.held:
            raise NotRunning(f"sandbox {uid} is suspended; resume it first")
        async with session.opening:
            if session.link is None or session.link.lost:
                try:
                    link = await AgentLink.open(await self._connect(uid), OPEN_SECONDS)
                except BackendError:
                    self._drop_unused(uid, session)
                    raise
                self.reconnects += session.link is not None
                session.link = link
                hello = session.link.hello
                session.idle_since = datetime.now(UTC) - timedelta(seconds=hello.idle_seconds)
                for execution_id in set(hello.running) - session.running.keys():  # began under an earlier controller
                    session.running[execution_id] += 1
                    self._in_background(self._follow(session, execution_id, session.link.attach(execution_id)))
            return session.link

    def _drop_unused(self, uid: str, session: Session) -> None:
        """What was asked for in vain, perhaps for a sandbox that never was, is not remembered."""
        never_linked = session.link is None and not session.running and not session.held
        if never_linked and self._sessions.get(uid) is session:
            del self._sessions[uid]

    # --- executions ---

    async def execute(self, uid: str, request: ExecRequest) -> AsyncGenerator[Item]:
        """As the port has it."""
        session = self._session(uid)
        if request.id not in session.running and len(session.running) >= self._max:
            raise Busy(f"sandbox {uid} runs {self._max} executions, the most at once (SANDBOX__MAX_EXECUTIONS)")
        session.running[request.id] += 1
        link, over = None, False
        try:
            link = await self._link(uid)
            async with aclosing(self._items(uid, link, request)) as items:
                async for item in items:
                    over = isinstance(item, ExecResult)
                    yield item
        except BackendError:
            over = True  # it was refused
            raise
        finally:
            if link is None or over or self._closed:
                self._ended(session, request.id)
                self._drop_unused(uid, session)
            else:  # nobody listens any more, and it still counts until it ends
                self._in_background(self._follow(session, request.id, self._items(uid, link, request)))

    async def _items(self, uid: str, link: AgentLink, request: ExecRequest) -> AsyncGenerator[Item]:
        """Everything of one execution, across broken links."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        told = {"stdout": 0, "stderr": 0}
        for broken in range(MAX_BREAKS):
            try:
                async with aclosing(link.execute(request, told)) as items:
                    async for item in items:
                        if isinstance(item, OutputChunk):
                            told[item.stream] += len(item.data)
                        yield item
                return
            except LinkLost:
                pass
            except BackendError:
                if not broken and not any(told.values()):
                    raise
                break  # of no use to who saw it begin
            fresh = await self._reopened(uid)
            if fresh is None:
                break
            link = fresh
        yield ExecResult(request.id, None, Reason.LOST, round((loop.time() - began) * 1000), "agent")

    async def _reopened(self, uid: str) -> AgentLink | None:
        """A new link in place of one that broke; None where the agent is gone or does not answer in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + REOPEN_SECONDS
        while uid in self._sessions and loop.time() < until:
            try:
                return await self._link(uid)
            except Unavailable:
                await asyncio.sleep(REOPEN_EVERY)
            except BackendError:
                return None
        return None

    async def _follow(self, session: Session, execution_id: str, items: AsyncGenerator[Item]) -> None:
        """Wait for the end of an execution that nobody listens to."""
        try:
            async with aclosing(items):
                async for _ in items:
                    pass
        except BackendError:
            pass  # its agent is gone or has forgotten it: it runs no more
        finally:
            self._ended(session, execution_id)

    def _ended(self, session: Session, execution_id: str) -> None:
        session.running[execution_id] -= 1
        if session.running[execution_id] <= 0:
            del session.running[execution_id]
        session.idle_since = datetime.now(UTC)

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)

    async def cancel(self, uid: str, execution_id: str) -> None:
        await (await self._link(uid)).cancel(execution_id)

    # --- files ---

    async def put_file(self, uid: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        await (await self._link(uid)).put_file(path, chunks)

    async def get_file(self, uid: str, path: str) -> AsyncGenerator[bytes]:
        async with aclosing((await self._link(uid)).get_file(path)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def list_files(self, uid: str, path: str = "") -> Listing:
        return await (await self._link(uid)).list_files(path)
