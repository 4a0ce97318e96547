"""The mock backend: sandboxes as plain processes of this machine. NO SECURITY ISOLATION; for development and tests.

What it does keep: a user of its own for each sandbox where the controller is root, a scrubbed environment, a private
folder, limits on memory and processes, deadlines, and that nothing outlives a removal. What it cannot: the network, the
rest of the file system and the processors stay open to the code, and without root so does all that our user may touch.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from controller.backends import (
    BackendError,
    Health,
    Limits,
    NotFound,
    NotRunning,
    Observation,
    OutputChunk,
    Refused,
    RunState,
    Unavailable,
    Usage,
)
from controller.backends.agent.executions import AgentExecutions
from controller.backends.agent.link import Stream
from controller.backends.container import Defaults, fixed_parts, wanted_limits
from controller.backends.mock.folder import (
    NEW,
    OLD,
    Folder,
    Record,
    delete_tree,
    discard,
    make_folder,
    make_private,
    state_folder,
)
from controller.backends.mock.launch import dial, launch, provide_agent
from controller.backends.mock.observation import look
from controller.backends.mock.processes import (
    Process,
    agent_process,
    end,
    freeze,
    open_pidfd,
    resume,
    send,
    usage_of,
    wait_gone,
)
from controller.backends.mock.users import may_use, user_for
from controller.model import MOCK_WARNING, BackendName, Sandbox
from controller.settings import SandboxSettings

log = logging.getLogger(__name__)
T = TypeVar("T")
READY_SECONDS = 30.0
"""An agent answers within 0.1 s; on a machine at its limits it may take longer."""
GENTLE_SECONDS = 1.0
"""For an agent that was asked to end, to write down what its program printed."""
LOOK_AGAIN_SECONDS = 0.1
"""Between two looks at a log that is followed."""


class MockBackend:
    """Sandboxes as processes, each with a folder below `settings.state_folder`."""

    name = BackendName.MOCK

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._home = state_folder(settings) / settings.instance
        self._preparing = threading.Lock()
        self._agent: Path | None = None
        self._lanes = {
            lane: ThreadPoolExecutor(threads, thread_name_prefix=f"mock-{lane}")
            for lane, threads in (("start", settings.start_concurrency), ("remove", 4), ("look", 4))
        }
        self._pidfds: dict[str, int] = {}
        self._listeners: set[asyncio.Queue[str]] = set()
        self.executions = AgentExecutions(self._connect, settings.max_executions)

    async def _call(self, lane: str, what: str, act: Callable[[], T]) -> T:
        """Run `act` in a thread of `lane`; trouble with disk or processes comes out as BackendError."""

        def work() -> T:
            try:
                return act()
            except OSError as error:
                raise BackendError(f"{what}: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._lanes[lane], work)

    def _folder(self, uid: str) -> Folder:
        if not uid or uid.startswith(".") or "/" in uid or "\0" in uid:
            raise NotFound(f"{uid!r} is no sandbox's uid")
        return Folder(self._home / uid)

    def _prepare(self) -> Path:
        """Make our own folder, once, and clear what a killed one left. Blocks. Returns the agent's file."""
        with self._preparing:
            if self._agent is None:
                for folder in (self._home.parent, self._home):
                    make_private(folder)
                if not may_use(user_for(""), self._home):
                    raise Refused(
                        f"SANDBOX__STATE_FOLDER: the users of sandboxes cannot reach {self._home};"
                        " let others pass through every folder above it (chmod o+x), or set another folder"
                    )
                for entry in self._home.iterdir():
                    if entry.name.startswith((NEW, OLD)):
                        delete_tree(entry)
                self._agent = provide_agent(self._home.parent)
            return self._agent

    # --- looking ---

    @property
    def reconnects(self) -> int:
        return self.executions.reconnects

    async def probe(self) -> Health:
        """Always there; whether it may be used is the planner's business."""
        return Health(
            True, "mock", MOCK_WARNING, {"state_folder": str(self._home), "own_users": user_for("") is not None}
        )

    async def observe(self, uid: str) -> Observation | None:
        folder = self._folder(uid)
        seen = await self._call("look", f"looking at sandbox {uid}", partial(look, folder, with_tail=True))
        return None if seen is None else await self._observed(*seen)

    async def list(self) -> list[Observation]:
        def look_at_all() -> list[tuple[Record, Observation]]:
            if not self._home.exists():
                return []
            self._prepare()
            folders = [
                Folder(entry)
                for entry in self._home.iterdir()
                if entry.is_dir() and not entry.name.startswith((NEW, OLD))
            ]
            return [seen for folder in folders if (seen := _seen_or_told(folder)) is not None]

        seen = await self._call("look", "listing sandboxes", look_at_all)
        for record, one in seen:
            self._adopt(record, one)
        return [one for _, one in seen]

    async def _observed(self, record: Record, seen: Observation) -> Observation:
        """With what only the agent knows."""
        self._adopt(record, seen)
        if record.has_run or seen.state is not RunState.RUNNING:
            return seen
        ready = await self.executions.ready(seen.uid)
        return replace(seen, ready=ready, idle_since=self.executions.idle_since(seen.uid))

    # --- acting ---

    async def start(self, sandbox: Sandbox) -> Observation:
        uid, folder = sandbox.uid, self._folder(sandbox.uid)
        launched = await self._call("start", f"starting sandbox {uid}", partial(self._bring_up, folder, sandbox))
        if launched is not None:
            self._watch(uid, launched)
        try:
            if sandbox.spec.run is None and launched is not None:
                await self._answered(folder)
            seen = await self.observe(uid)
            if seen is None:
                raise BackendError(f"sandbox {uid} vanished while it was started")
            return seen
        except BackendError:
            if launched is not None:
                await self.remove(uid)
            raise

    def _bring_up(self, folder: Folder, sandbox: Sandbox) -> Process | None:
        """Make it and launch its agent, unless both were done. Returns the agent if it was launched here. Blocks."""
        agent = self._prepare()
        if look(folder, with_tail=False) is None:
            make_folder(self._home, self._record(sandbox))
        with folder.locked():
            seen = look(folder, with_tail=False)
            if seen is None or seen[1].state is not RunState.CREATED:
                return None
            try:
                return launch(folder, seen[0], sandbox, agent, self._settings.timeout)
            except (BackendError, OSError):
                self._end_and_discard(folder)
                raise

    def _record(self, sandbox: Sandbox) -> Record:
        limits = wanted_limits(sandbox.spec, Defaults.of(self._settings))
        user, host_path = user_for(sandbox.uid), sandbox.spec.workspace.host_path
        if host_path and not may_use(user, Path(host_path), write=bool(sandbox.spec.files)):
            whom = f"user {user}" if user is not None else "our own user"
            raise Refused(f"spec.workspace.hostPath: the sandbox runs as {whom}, who may not use {host_path}")
        return Record(
            uid=sandbox.uid,
            namespace=sandbox.namespace,
            name=sandbox.name,
            has_run=sandbox.spec.run is not None,
            created_at=datetime.now(UTC).isoformat(),
            user=user,
            memory=limits.memory or self._settings.memory_limit,
            pids=limits.pids or self._settings.pids_limit,
            host_path=host_path,
            fixed=fixed_parts(sandbox.spec),
        )

    async def _answered(self, folder: Folder) -> None:
        """Returns when the agent answers. Raises BackendError with its own words where it ended instead."""
        uid = folder.path.name
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        while not await self.executions.ready(uid):
            seen = await self._call("look", f"looking at sandbox {uid}", partial(look, folder, with_tail=False))
            if seen is None or seen[1].state is RunState.EXITED or asyncio.get_running_loop().time() > deadline:
                said = folder.log.read_text(errors="replace")[-500:].strip() if folder.log.exists() else ""
                raise BackendError(
                    f"sandbox {uid}: its agent does not answer: {said or 'it said nothing'}", "AgentNotAnswering"
                )
            await asyncio.sleep(0.005)

    async def suspend(self, uid: str) -> None:
        folder, record = await self._existing(uid)
        self.executions.hold(uid)
        try:
            await self._call("look", f"suspending sandbox {uid}", partial(freeze, folder.identity(record)))
        except BackendError:
            self.executions.release(uid)
            raise

    async def resume(self, uid: str) -> None:
        folder, record = await self._existing(uid)
        await self._call("look", f"resuming sandbox {uid}", partial(resume, folder.identity(record)))
        self.executions.release(uid)

    async def update(self, uid: str, limits: Limits) -> None:
        await self._existing(uid)
        raise Refused(
            "spec.resources.limits: the mock backend cannot change the limits of a sandbox that lives", "LimitsRefused"
        )

    async def usage(self, uid: str) -> Usage:
        folder, record = await self._existing(uid)
        used = await self._call("look", f"measuring sandbox {uid}", partial(usage_of, folder.identity(record)))
        if not used.processes:
            raise NotRunning(f"sandbox {uid} does not run")
        return used

    async def kill(self, uid: str) -> None:
        folder, record = await self._existing(uid)

        def act() -> None:
            agent = agent_process(folder.identity(record))
            if agent is not None:
                folder.killed.touch()
                if agent.state not in "Tt":  # so that it writes down the end of the output
                    send(agent, signal.SIGTERM)
                    wait_gone(agent, GENTLE_SECONDS)
            end(folder.identity(record))

        await self._call("remove", f"killing sandbox {uid}", act)

    async def remove(self, uid: str) -> None:
        self.executions.forget(uid)
        folder = self._folder(uid)
        await self._call("remove", f"removing sandbox {uid}", partial(self._end_and_discard, folder))

    def _end_and_discard(self, folder: Folder) -> None:
        record = folder.record()
        if record is not None:
            end(folder.identity(record))
        discard(folder)

    async def _existing(self, uid: str) -> tuple[Folder, Record]:
        folder = self._folder(uid)
        record = await self._call("look", f"looking at sandbox {uid}", folder.record)
        if record is None:
            raise NotFound(f"no sandbox {uid}")
        return folder, record

    async def _connect(self, uid: str) -> Stream:
        """A new stream to the agent. Raises NotFound, NotRunning, Unavailable."""
        folder = self._folder(uid)
        seen = await self._call("look", f"looking at sandbox {uid}", partial(look, folder, with_tail=False))
        if seen is None:
            raise NotFound(f"no sandbox {uid}")
        record, now = seen
        if record.has_run or now.state is not RunState.RUNNING:
            why = "it has a program of its own" if record.has_run else f"it is {now.state}"
            raise NotRunning(f"sandbox {uid} runs no executions: {why}")
        try:
            return await dial(folder)
        except OSError as error:
            raise Unavailable(f"the agent of {uid} takes no connection: {error}", "AgentNotAnswering") from error

    # --- streams ---

    async def logs(self, uid: str, follow: bool = False) -> AsyncIterator[OutputChunk]:
        folder, record = await self._existing(uid)
        if not record.has_run:
            return
        what = f"reading the output of sandbox {uid}"
        offsets: dict[Literal["stdout", "stderr"], int] = {"stdout": 0, "stderr": 0}
        while True:
            living = await self._call("look", what, lambda: agent_process(folder.identity(record)))
            for stream in offsets:
                while data := await self._call(
                    "look", what, partial(folder.read_box, stream, 1 << 16, offsets[stream])
                ):
                    offsets[stream] += len(data)
                    yield OutputChunk(stream, data)
            if living is None or not follow:
                return
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def events(self) -> AsyncIterator[str]:
        changed: asyncio.Queue[str] = asyncio.Queue()
        self._listeners.add(changed)
        try:
            await self.list()  # watches those that another controller started
            while True:
                yield await changed.get()
        finally:
            self._listeners.discard(changed)

    def _adopt(self, record: Record, seen: Observation) -> None:
        """Watch a living sandbox that an earlier controller started."""
        if seen.uid not in self._pidfds and seen.state is not RunState.EXITED:
            agent = agent_process(self._folder(seen.uid).identity(record))
            if agent is not None:
                self._watch(seen.uid, agent)

    def _watch(self, uid: str, agent: Process) -> None:
        """Be told when this agent ends, and reap it."""
        pidfd = None if uid in self._pidfds else open_pidfd(agent)
        if pidfd is not None:
            self._pidfds[uid] = pidfd
            asyncio.get_running_loop().add_reader(pidfd, self._ended, uid)

    def _ended(self, uid: str) -> None:
        pidfd = self._pidfds.pop(uid)
        asyncio.get_running_loop().remove_reader(pidfd)
        try:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:  # started by an earlier controller: another process reaps it
            pass
        os.close(pidfd)
        self.executions.forget(uid)
        for listener in self._listeners:
            listener.put_nowait(uid)

    async def close(self) -> None:
        self.executions.close()
        for pidfd in self._pidfds.values():
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
        self._pidfds.clear()
        for lane in self._lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)


def _seen_or_told(folder: Folder) -> tuple[Record, Observation] | None:
    """For lists: one damaged folder does not hide the others."""
    try:
        return look(folder, with_tail=False)
    except (BackendError, OSError) as error:
        log.warning("sandbox %s is left out of the list: %s", folder.path.name, error)
        return None
