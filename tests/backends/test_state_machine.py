"""Any order of creating, executing, cancelling, suspending, removing and crashing, against a model of what should be.

On mock, which starts fast enough for hundreds of steps; the claims one by one are held by docker, too.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from controller.backends import ExecRequest, NotFound, NotRunning, RunState
from controller.backends.mock.backend import MockBackend
from controller.model import Reason
from controller.settings import SandboxSettings
from tests.backends.words import Ended, bash, execute, living, new_mark, sandbox, until

T = TypeVar("T")


@dataclass
class Expected:
    """What the model knows of one sandbox."""

    uid: str
    state: RunState = RunState.RUNNING
    runs: int = 0
    """Executions that wrote their line."""
    results: list[tuple[ExecRequest, Ended]] = field(default_factory=list)
    sleeping: dict[str, tuple[str, asyncio.Task[Ended]]] = field(default_factory=dict)
    """Execution id -> its mark, and who follows it."""


class Sandboxes(RuleBasedStateMachine):
    """The steps."""

    sandboxes: Bundle[Expected] = Bundle("sandboxes")

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._state = Path(tempfile.mkdtemp(prefix="sbx-test-"))
        self._state.chmod(0o711)
        self._settings = SandboxSettings(instance=f"test-{uuid4().hex[:12]}", state_folder=self._state)
        self._expected: dict[str, Expected] = {}
        self._backend = self._run(self._open())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(60):
                return await work

        return self._runner.run(bounded())

    async def _open(self) -> MockBackend:
        return MockBackend(self._settings)

    @rule(target=sandboxes)
    def create(self) -> Expected:
        wanted = sandbox()
        seen = self._run(self._backend.start(wanted))
        assert seen.ready
        self._expected[wanted.uid] = Expected(wanted.uid)
        return self._expected[wanted.uid]

    @rule(box=sandboxes)
    def execute(self, box: Expected) -> None:
        asked = bash("echo line >>journal; wc -l <journal")
        if box.state is not RunState.RUNNING:
            with pytest.raises(NotRunning):
                self._run(execute(self._backend, box.uid, asked))
            return
        ended = self._run(execute(self._backend, box.uid, asked))
        box.runs += 1
        assert int(ended.stdout) == box.runs
        box.results.append((asked, ended))

    @rule(box=sandboxes)
    def retry(self, box: Expected) -> None:
        if box.state is RunState.RUNNING and box.results:
            asked, first = box.results[-1]
            again = self._run(execute(self._backend, box.uid, asked))
            assert (again.stdout, again.result) == (first.stdout, first.result)

    @rule(box=sandboxes)
    def begin_to_sleep(self, box: Expected) -> None:
        if box.state is not RunState.RUNNING or len(box.sleeping) >= 3:
            return

        async def begin() -> None:
            mark = new_mark()
            asked = bash(f"echo line >>journal; setsid -f sleep {mark}; sleep {mark}", timeout=300)
            following = asyncio.create_task(execute(self._backend, box.uid, asked))
            await until("it sleeps", lambda: _both(mark))
            box.sleeping[asked.id] = (mark, following)

        self._run(begin())
        box.runs += 1

    @rule(box=sandboxes)
    def cancel(self, box: Expected) -> None:
        if box.state is not RunState.RUNNING or not box.sleeping:
            return
        execution_id, (mark, following) = box.sleeping.popitem()

        async def end() -> None:
            await self._backend.executions.cancel(box.uid, execution_id)
            if not following.cancelled():
                assert (await following).result.reason is Reason.CANCELLED
            await until("nothing of it is left", lambda: _none(mark), 2)

        self._run(end())

    @rule(box=sandboxes)
    def suspend(self, box: Expected) -> None:
        if box.state in (RunState.RUNNING, RunState.PAUSED):
            self._run(self._backend.suspend(box.uid))
            box.state = RunState.PAUSED

    @rule(box=sandboxes)
    def resume(self, box: Expected) -> None:
        if box.state in (RunState.RUNNING, RunState.PAUSED):
            self._run(self._backend.resume(box.uid))
            box.state = RunState.RUNNING

    @rule(box=sandboxes)
    def kill(self, box: Expected) -> None:
        async def kill() -> None:
            await self._backend.kill(box.uid)
            await self._nothing_is_left(box)

        self._run(kill())
        box.state = RunState.EXITED

    @rule(box=consumes(sandboxes))
    def remove(self, box: Expected) -> None:
        async def remove() -> None:
            await self._backend.remove(box.uid)
            await self._nothing_is_left(box)
            with pytest.raises(NotFound):
                await execute(self._backend, box.uid, bash("true"))

        self._run(remove())
        del self._expected[box.uid]

    @rule()
    def crash(self) -> None:
        """Nothing is told to the old one; a new one knows what it finds."""

        async def crash() -> MockBackend:
            for box in self._expected.values():
                for _, following in box.sleeping.values():
                    following.cancel()
                    await asyncio.wait([following])
            await self._backend.close()
            return await self._open()

        self._backend = self._run(crash())

    @invariant()
    def it_sees_what_there_is(self) -> None:
        async def look() -> dict[str, RunState]:
            return {seen.uid: seen.state for seen in await self._backend.list()}

        assert self._run(look()) == {uid: box.state for uid, box in self._expected.items()}
        for box in self._expected.values():
            assert all(len(living(mark)) == 2 for mark, _ in box.sleeping.values())

    async def _nothing_is_left(self, box: Expected) -> None:
        for mark, following in box.sleeping.values():
            assert living(mark) == []
            if not following.cancelled():
                assert (await following).result.reason is Reason.LOST
        box.sleeping.clear()

    def teardown(self) -> None:
        async def clear() -> None:
            for uid in self._expected:
                await self._backend.remove(uid)
            await asyncio.gather(
                *(following for box in self._expected.values() for _, following in box.sleeping.values()),
                return_exceptions=True,
            )
            await self._backend.close()

        self._run(clear())
        self._runner.close()
        shutil.rmtree(self._state)


async def _both(mark: str) -> bool:
    return len(living(mark)) == 2


async def _none(mark: str) -> bool:
    return living(mark) == []


Sandboxes.TestCase.settings = settings(
    max_examples=10, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


class TestSandboxes(Sandboxes.TestCase):  # type: ignore[misc, name-defined]
    """What pytest collects."""


@pytest.mark.long
@pytest.mark.timeout(900)
class TestManyMoreSteps(Sandboxes.TestCase):  # type: ignore[misc, name-defined]
    """The same for longer."""

    settings = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
