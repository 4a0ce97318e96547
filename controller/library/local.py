"""Sandboxes of this process, directly on a backend of this machine: no cluster, no controller, no HTTP."""

import asyncio
import logging
import os
import shutil
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from controller import executions
from controller.admission import spec_problem
from controller.backends import (
    Backend,
    BackendError,
    Health,
    NotRunning,
    Observation,
    OutputChunk,
    Refused,
    Unavailable,
)
from controller.backends.mock.folder import state_folder
from controller.choose import NO_LIBRARY, DockerUnavailableError, detect, docker_backend, mock_refusal
from controller.executions import Outcome, Program
from controller.library import last_removal, leftovers
from controller.library.outcome import Output, Result, StoredFile
from controller.library.place import Created
from controller.model import MOCK_WARNING, BackendName, Sandbox, SandboxSpec
from controller.settings import SandboxSettings, Settings

log = logging.getLogger(__name__)

LATE_SECONDS = 15.0
"""That `close` waits for starts that nobody waits for; what is not removed by then waits for the next process."""
NAMESPACE = "library"
"""What the labels of its containers say instead of a Kubernetes namespace."""


class LocalPlace:
    """Docker, or mock where the settings say so or Docker is absent; decided at the first sandbox, then kept."""

    def __init__(self, settings: Settings) -> None:
        self._settings = _of_instance(settings, leftovers.new_instance())
        self._opening = asyncio.Lock()
        self._backend: Backend | None = None
        self._mark: leftovers.Mark | None = None
        self._alive: set[str] = set()
        self._starting: set[str] = set()
        self._late: set[asyncio.Task[None]] = set()
        """Removals of sandboxes that were not ready in time."""
        self._ends: dict[str, asyncio.Task[None]] = {}
        """Of each sandbox, what removes it when its lifetime is over."""

    async def docker_info(self) -> dict[str, Any]:
        sandbox = self._settings.sandbox
        if sandbox.mock_mode and not sandbox.docker_required:
            return _told(Health(False, "mock", f"{MOCK_WARNING}: SANDBOX__MOCK_MODE is set"))
        if (docker := docker_backend(sandbox)) is None:
            return _told(NO_LIBRARY)
        try:
            return _told(await docker.probe())
        finally:
            await docker.close()

    async def create(self, name: str, spec: SandboxSpec, wait: float) -> Created:
        backend = await self._opened()
        problem = spec_problem(spec, self._settings.sandbox)
        if problem is None and backend.name is BackendName.MOCK:
            problem = mock_refusal(spec, self._settings.sandbox)
        if problem is not None:
            raise Refused(problem.message, problem.reason)
        sandbox = Sandbox(uid=str(uuid.uuid4()), name=name, namespace=NAMESPACE, spec=spec, backend=backend.name)
        self._alive.add(sandbox.uid)
        last_removal.needed(sandbox.uid, self)
        starting = asyncio.create_task(self._start(backend, sandbox))
        try:
            async with asyncio.timeout(wait):
                seen = await asyncio.shield(starting)
            if not seen.ready:
                raise NotRunning(f"sandbox {name} was started but cannot execute code")
        except BackendError:
            await self._remove_half_made(sandbox)
            raise
        except (TimeoutError, asyncio.CancelledError) as error:
            late = asyncio.create_task(self._remove_late(starting, sandbox))
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            if isinstance(error, TimeoutError):
                raise Unavailable(f"sandbox {name} was not ready after {wait:g} s; give `wait` more seconds") from None
            raise
        self._ends[sandbox.uid] = asyncio.create_task(self._end_later(sandbox.uid, name, spec.lifetime.max_seconds))
        warnings = (MOCK_WARNING,) if backend.name is BackendName.MOCK else ()
        return Created(sandbox.uid, name, NAMESPACE, backend.name, seen.isolation, warnings)

    async def execute(self, sandbox_id: str, key: str, program: Program) -> Result:
        backend = await self._opened()
        request = executions.request_for(sandbox_id, program, self._settings.sandbox, key)
        return _result(await executions.run(backend.executions, sandbox_id, request))

    async def stream(self, sandbox_id: str, key: str, program: Program) -> AsyncGenerator[Output | Result, None]:
        backend = await self._opened()
        request = executions.request_for(sandbox_id, program, self._settings.sandbox, key)
        async with aclosing(executions.stream(backend.executions, sandbox_id, request)) as items:
            async for item in items:
                if isinstance(item, OutputChunk):
                    yield Output(item.stream, item.data)
                else:
                    yield _result(Outcome(item, b"", b""))

    async def cancel(self, sandbox_id: str, key: str) -> None:
        backend = await self._opened()
        await backend.executions.cancel(sandbox_id, executions.keyed_id(sandbox_id, key))

    async def write(self, sandbox_id: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        backend = await self._opened()
        await backend.executions.put_file(sandbox_id, path, chunks)

    async def read(self, sandbox_id: str, path: str) -> AsyncGenerator[bytes, None]:
        backend = await self._opened()
        async for chunk in backend.executions.get_file(sandbox_id, path):
            yield chunk

    async def files(self, sandbox_id: str, folder: str) -> list[StoredFile]:
        backend = await self._opened()
        listing = await backend.executions.list_files(sandbox_id, folder)
        return [StoredFile(file.path, file.size) for file in listing.files]

    async def remove(self, sandbox_id: str) -> None:
        backend = await self._opened()
        await backend.remove(sandbox_id)
        self._alive.discard(sandbox_id)
        last_removal.not_needed(sandbox_id)
        if (ending := self._ends.pop(sandbox_id, None)) is not None and ending is not asyncio.current_task():
            ending.cancel()

    def reopened(self) -> "LocalPlace":
        twin = LocalPlace(self._settings)
        twin._settings = self._settings
        twin._mark, twin._alive, twin._starting = self._mark, self._alive, self._starting
        if self._backend is not None:
            twin._backend = backend_of(self._backend.name, self._settings.sandbox)
        return twin

    async def close(self) -> None:
        if self._late:
            await asyncio.wait(self._late, timeout=LATE_SECONDS)
        if self._backend is not None:
            await self._backend.close()
            if self._mark is not None and not self._alive and not self._starting:
                await asyncio.to_thread(_forget, self._settings.sandbox)
                self._mark.gone()

    async def _opened(self) -> Backend:
        """The backend; at the first call it is chosen, and what dead processes left there is removed."""
        if self._backend is None:
            async with self._opening:
                if self._backend is None:
                    self._backend = await self._open()
        return self._backend

    async def _open(self) -> Backend:
        sandbox = self._settings.sandbox
        if not sandbox.enabled:
            raise Refused("sandboxes are switched off: SANDBOX__ENABLED is false", "Disabled")
        chosen = await detect(self._settings)
        folder = leftovers.folder_in(sandbox.state_folder)
        where = f"{chosen.name} {os.environ.get('DOCKER_HOST', '')}"
        self._mark = leftovers.take(folder, sandbox.instance, where)
        for mark in leftovers.dead(folder, where):
            await self._sweep(chosen.name, mark)
        return backend_of(chosen.name, sandbox)

    async def _sweep(self, name: BackendName, mark: leftovers.Mark) -> None:
        settings = _of_instance(self._settings, mark.instance).sandbox
        backend = backend_of(name, settings)
        try:
            for left in await backend.list():
                log.info("removing sandbox %s, left by a library process that ended", left.name)
                await backend.remove(left.uid)
            await asyncio.to_thread(_forget, settings)
            mark.gone()
        except BackendError as error:
            log.warning("what %s left was not removed, the next start tries again: %s", mark.instance, error)
        finally:
            await backend.close()

    async def _end_later(self, uid: str, name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        log.info("removing sandbox %s: its %g s are over", name, seconds)
        try:
            await self.remove(uid)
        except BackendError as error:
            log.warning("sandbox %s was not removed at the end of its life: %s", name, error)

    async def _start(self, backend: Backend, sandbox: Sandbox) -> Observation:
        self._starting.add(sandbox.uid)  # stays, where this is cancelled: the backend's thread goes on
        try:
            seen = await backend.start(sandbox)
        except BackendError:
            self._starting.discard(sandbox.uid)
            raise
        self._starting.discard(sandbox.uid)
        return seen

    async def _remove_late(self, starting: "asyncio.Task[Observation]", sandbox: Sandbox) -> None:
        """Nobody waits for this start any more: what it brings is removed."""
        await asyncio.wait({starting})
        await self._remove_half_made(sandbox)

    async def _remove_half_made(self, sandbox: Sandbox) -> None:
        try:
            await self.remove(sandbox.uid)
        except BackendError as error:
            log.warning("sandbox %s failed to start and was not removed, the exit tries again: %s", sandbox.name, error)


def backend_of(name: BackendName, settings: SandboxSettings) -> Backend:
    """A backend for the instance that the settings name; connects at first use."""
    if name is BackendName.MOCK:
        from controller.backends.mock.backend import MockBackend

        return MockBackend(settings)
    docker = docker_backend(settings)
    if docker is None:
        raise DockerUnavailableError(NO_LIBRARY.message)
    return docker


def _forget(settings: SandboxSettings) -> None:
    """Nothing of this instance is left: neither shall its folder be, where it was on mock."""
    shutil.rmtree(state_folder(settings) / settings.instance, ignore_errors=True)


def _of_instance(settings: Settings, instance: str) -> Settings:
    sandbox = settings.sandbox.model_copy(update={"instance": instance})
    return settings.model_copy(update={"sandbox": sandbox})


def _told(health: Health) -> dict[str, Any]:
    return {**health.info, "available": health.available, "status": health.status, "message": health.message}


def _result(outcome: Outcome) -> Result:
    result = outcome.result
    return Result(
        exit_code=result.exit_code,
        reason=result.reason.value,
        stdout_bytes=outcome.stdout,
        stderr_bytes=outcome.stderr,
        truncated=outcome.truncated,
        duration_ms=result.duration_ms,
        execution_id=result.id,
        path=result.path,
        dropped_stdout=result.dropped_stdout,
        dropped_stderr=result.dropped_stderr,
        signal=result.signal,
        peak_memory=result.peak_memory,
        cpu_seconds=result.cpu_seconds,
    )
