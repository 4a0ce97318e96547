"""Sandbox objects in memory over a real backend: what the reconciler and the cluster are to the API."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from controller.backends import Backend, BackendError, Observation
from controller.directory import Exists
from controller.model import MOCK_WARNING, Sandbox, parse_spec


class MemoryDirectory:
    """Each object is acted on at once; nothing watches what happens to it later."""

    def __init__(self, backend: Backend, objects: Mapping[str, Sandbox] | None = None) -> None:
        self._backend = backend
        self.objects = dict(objects or {})

    def get(self, uid: str) -> Sandbox | None:
        return self.objects.get(uid)

    def list(self, namespace: str | None = None) -> list[Sandbox]:
        return [each for each in self.objects.values() if namespace in (None, each.namespace)]

    async def create(self, namespace: str, name: str, spec: Mapping[str, Any]) -> Sandbox:
        if any((each.namespace, each.name) == (namespace, name) for each in self.objects.values()):
            raise Exists(f"sandbox {namespace}/{name} exists already")
        made = Sandbox(str(uuid4()), name, namespace, parse_spec(spec), created_at=datetime.now(UTC))
        self.objects[made.uid] = made
        return made

    async def wait_ready(self, uid: str, timeout: float) -> Sandbox:
        async with asyncio.timeout(timeout):
            try:
                seen = await self._backend.start(self.objects[uid])
            except BackendError as error:
                self.change(uid, status=_failed(error))
            else:
                self.change(uid, backend=self._backend.name, status=_running(seen))
        return self.objects[uid]

    async def delete(self, uid: str) -> None:
        self.change(uid, deleted_at=datetime.now(UTC))

    async def wait_gone(self, uid: str, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            await self._backend.remove(uid)
        del self.objects[uid]

    def backend(self, sandbox: Sandbox) -> Backend:
        return self._backend

    def service_state(self) -> Mapping[str, Any]:
        active = len(self.objects)
        return {"status": "mock", "docker_available": False, "active_sandboxes": active, "warning": MOCK_WARNING}

    def docker_info(self) -> Mapping[str, Any]:
        return {"available": False, "status": "mock"}

    def health(self) -> Mapping[str, Any]:
        return {"backend": {"status": "mock"}}

    def change(self, uid: str, **changes: Any) -> None:
        """As a watch event would."""
        self.objects[uid] = replace(self.objects[uid], **changes)


def _running(seen: Observation) -> dict[str, Any]:
    return {
        "phase": "Running",
        "docker_available": False,
        "backend": "mock",
        "isolation": "none",
        "warnings": [MOCK_WARNING],
        "conditions": [
            {"type": "Ready", "status": "True" if seen.ready else "False", "reason": "Ready", "message": ""}
        ],
        "startedAt": datetime.now(UTC).isoformat(),
    }


def _failed(error: BackendError) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "False", "reason": error.reason, "message": str(error)}
    return {"phase": "Failed", "backend": "none", "docker_available": False, "conditions": [condition]}
