"""Sandboxes behind the HTTP API: objects in a namespace, made and deleted by this process."""

import asyncio
import base64
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from controller import backends
from controller.client import ApiClient, ApiError
from controller.executions import Program, keyed_id
from controller.library import last_removal
from controller.library.outcome import Output, Result, StoredFile
from controller.library.place import Created
from controller.model import SandboxSpec

ERRORS = {
    "not-found": backends.NotFound,
    "not-running": backends.NotRunning,
    "busy": backends.Busy,
    "idempotency-key-reused": backends.Conflict,
    "unavailable": backends.Unavailable,
    "unreachable": backends.Unavailable,
}
"""Kinds of the API's problems; what is not here is Refused: it would be refused again."""
MAX_WAIT = 300.0
"""Seconds; the API waits no longer."""
LATE_SECONDS = 15.0
"""That `close` waits for creations that nobody waits for."""

log = logging.getLogger(__name__)


class RemotePlace:
    """The API at `url`, spoken to as `token`."""

    def __init__(self, url: str, token: str | None, namespace: str) -> None:
        self._arguments = (url, token, namespace)
        self._namespace = namespace
        self._client = ApiClient(url, token)
        self._late: set[asyncio.Task[None]] = set()
        """Removals of sandboxes whose creation was cancelled."""

    async def docker_info(self) -> dict[str, Any]:
        with _translated():
            return await self._client.docker_info()

    async def create(self, name: str, spec: SandboxSpec, wait: float) -> Created:
        body = spec.model_dump(mode="json", exclude_defaults=True)
        body |= {"name": name, "namespace": self._namespace}
        making = asyncio.create_task(self._client.create(body, min(wait, MAX_WAIT)))
        try:
            with _translated():
                made = await asyncio.shield(making)
        except asyncio.CancelledError:
            late = asyncio.create_task(self._remove_late(making, name))
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            raise
        last_removal.needed(made["id"], self)
        if not made["ready"]:
            await self.remove(made["id"])
            raise backends.NotRunning(f"sandbox {name} cannot execute code after {wait:g} s: {made['message']}")
        return Created(made["id"], name, self._namespace, made["backend"], made["isolation"], tuple(made["warnings"]))

    async def _remove_late(self, making: "asyncio.Task[dict[str, Any]]", name: str) -> None:
        """Nobody waits for this creation any more: what it brings is removed."""
        try:
            await self._client.delete((await making)["id"])
        except ApiError as error:
            log.warning("sandbox %s was not made, or not removed: %s", name, error)

    async def execute(self, sandbox_id: str, key: str, program: Program) -> Result:
        with _translated():
            return _result(await self._client.execute(sandbox_id, _body(program), key))

    async def stream(self, sandbox_id: str, key: str, program: Program) -> AsyncGenerator[Output | Result, None]:
        with _translated():
            async with aclosing(self._client.stream(sandbox_id, _body(program), key)) as events:
                async for event, data in events:
                    if event == "result":
                        yield _result({**data, "stdout": "", "stderr": "", "stdout_base64": "", "stderr_base64": ""})
                    elif event != "progress":
                        yield Output("stdout" if event == "stdout" else "stderr", data)

    async def cancel(self, sandbox_id: str, key: str) -> None:
        with _translated():
            await self._client.cancel(sandbox_id, keyed_id(sandbox_id, key))

    async def write(self, sandbox_id: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        with _translated():
            await self._client.write_file(sandbox_id, path, chunks)

    async def read(self, sandbox_id: str, path: str) -> AsyncGenerator[bytes, None]:
        with _translated():
            async for chunk in self._client.read_file(sandbox_id, path):
                yield chunk

    async def files(self, sandbox_id: str, folder: str) -> list[StoredFile]:
        with _translated():
            files, _ = await self._client.list_files(sandbox_id, folder)
        return [StoredFile(file["path"], file["size"]) for file in files]

    async def remove(self, sandbox_id: str) -> None:
        with _translated():
            await self._client.delete(sandbox_id)
        last_removal.not_needed(sandbox_id)

    def reopened(self) -> "RemotePlace":
        return RemotePlace(*self._arguments)

    async def close(self) -> None:
        if self._late:
            await asyncio.wait(self._late, timeout=LATE_SECONDS)
        await self._client.close()


@contextmanager
def _translated() -> Iterator[None]:
    """The API's problems as the port's errors, so that programs need not care where their sandboxes are."""
    try:
        yield
    except ApiError as error:
        raise ERRORS.get(error.kind, backends.Refused)(str(error)) from None


def _body(program: Program) -> dict[str, Any]:
    return program.model_dump(mode="json", exclude_defaults=True)


def _result(body: dict[str, Any]) -> Result:
    stdout, stderr = (_bytes(body, stream) for stream in ("stdout", "stderr"))
    known: dict[str, Any] = {name: body[name] for name in Result.__dataclass_fields__ if name in body}
    return Result(**{**known, "stdout_bytes": stdout, "stderr_bytes": stderr})


def _bytes(body: dict[str, Any], stream: str) -> bytes:
    exact = body.get(f"{stream}_base64")
    return base64.b64decode(exact) if exact else str(body[stream]).encode()
