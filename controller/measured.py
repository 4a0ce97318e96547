"""Metrics around any backend: every operation is timed, every failure counted by its reason."""

import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TypeVar

from controller import tracing
from controller.backends import (
    Backend,
    BackendError,
    ExecRequest,
    ExecResult,
    Health,
    Limits,
    Listing,
    Observation,
    OutputChunk,
    Usage,
)
from controller.metrics import Metrics
from controller.model import Sandbox

T = TypeVar("T")


class MeasuredBackend:
    """The port, passed on to `backend`."""

    def __init__(self, backend: Backend, metrics: Metrics) -> None:
        self._backend, self._metrics = backend, metrics
        self.name = backend.name
        self.executions = MeasuredExecutions(backend, metrics)
        metrics.reconnects[self.name] = lambda: backend.reconnects

    @property
    def reconnects(self) -> int:
        return self._backend.reconnects

    async def _timed(self, operation: str, call: Awaitable[T]) -> T:
        began = time.perf_counter()
        try:
            return await call
        except BackendError as error:
            self._metrics.backend_errors.labels(self.name, operation, error.reason).inc()
            raise
        finally:
            self._metrics.backend_seconds.labels(self.name, operation).observe(time.perf_counter() - began)

    async def probe(self) -> Health:
        return await self._timed("probe", self._backend.probe())

    async def observe(self, uid: str) -> Observation | None:
        return await self._timed("observe", self._backend.observe(uid))

    async def list(self) -> list[Observation]:
        return await self._timed("list", self._backend.list())

    async def start(self, sandbox: Sandbox) -> Observation:
        return await self._timed("start", self._backend.start(sandbox))

    async def suspend(self, uid: str) -> None:
        await self._timed("suspend", self._backend.suspend(uid))

    async def resume(self, uid: str) -> None:
        await self._timed("resume", self._backend.resume(uid))

    async def update(self, uid: str, limits: Limits) -> None:
        await self._timed("update", self._backend.update(uid, limits))

    async def usage(self, uid: str) -> Usage:
        return await self._timed("usage", self._backend.usage(uid))

    async def kill(self, uid: str) -> None:
        await self._timed("kill", self._backend.kill(uid))

    async def remove(self, uid: str) -> None:
        await self._timed("remove", self._backend.remove(uid))

    def logs(self, uid: str, follow: bool = False) -> AsyncIterator[OutputChunk]:
        return self._backend.logs(uid, follow)

    def events(self) -> AsyncIterator[str]:
        return self._backend.events()

    async def close(self) -> None:
        await self._backend.close()


class MeasuredExecutions:
    """The executions of the port, passed on."""

    def __init__(self, backend: Backend, metrics: Metrics) -> None:
        self._executions, self._metrics, self._name = backend.executions, metrics, backend.name

    async def execute(self, uid: str, request: ExecRequest) -> AsyncIterator[OutputChunk | ExecResult]:
        began, began_at = time.perf_counter(), datetime.now(UTC)
        first_at: datetime | None = None
        parent = tracing.request_context.get()
        running = self._metrics.executing.labels(self._name)
        running.inc()
        try:
            async with aclosing(self._executions.execute(uid, request)) as items:  # type: ignore[type-var]
                async for item in items:
                    if first_at is None:
                        self._observe("first_byte", began)
                        first_at = datetime.now(UTC)
                    if isinstance(item, ExecResult):
                        self._observe("total", began)
                        self._metrics.executions.labels(self._name, item.path, item.reason).inc()
                        self._metrics.dropped.labels(self._name).inc(item.dropped_stdout + item.dropped_stderr)
                        told = {"sandbox.uid": uid, "backend": self._name, "path": item.path, "reason": item.reason}
                        times, first_byte = (began_at, datetime.now(UTC)), ("first byte", (began_at, first_at))
                        tracing.record("sandbox execute", times, parent, told, [first_byte])
                    yield item
        except BackendError as error:
            self._metrics.refused.labels(error.reason).inc()
            raise
        finally:
            running.dec()

    def _observe(self, stage: str, began: float) -> None:
        self._metrics.execution_seconds.labels(self._name, stage).observe(time.perf_counter() - began)

    async def cancel(self, uid: str, execution_id: str) -> None:
        await self._executions.cancel(uid, execution_id)

    async def put_file(self, uid: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        await self._executions.put_file(uid, path, chunks)

    def get_file(self, uid: str, path: str) -> AsyncIterator[bytes]:
        return self._executions.get_file(uid, path)

    async def list_files(self, uid: str, path: str = "") -> Listing:
        return await self._executions.list_files(uid, path)
