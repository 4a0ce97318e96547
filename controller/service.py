"""The running controller as the HTTP API sees it: Sandbox objects from memory, writes through the store."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from controller.backends import Backend, Unavailable
from controller.cluster.connection import Gone, Stale
from controller.cluster.store import Store
from controller.directory import Invalid, StoreUnavailable
from controller.fleet import Fleet
from controller.model import MOCK_WARNING, Phase, Sandbox, sandbox_from_object
from controller.plan import TERMINAL
from controller.reconcile import Reconciler

ACTIVE = frozenset({Phase.STARTING, Phase.RUNNING, Phase.SUSPENDED})


class Service:
    """Implements `controller.directory.SandboxDirectory`."""

    def __init__(self, reconciler: Reconciler, store: Store, fleet: Fleet, listed: Callable[[], bool]) -> None:
        """`listed` says whether all objects were listed once: until then, what is not known may be there."""
        self._reconciler, self._store, self._fleet, self._listed = reconciler, store, fleet, listed

    def get(self, uid: str) -> Sandbox | None:
        life = self._reconciler.lives.get(uid)
        if life is None:
            self._demand_listed()
            return None
        return life.sandbox

    def list(self, namespace: str | None = None) -> list[Sandbox]:
        self._demand_listed()
        return [each for each in self._reconciler.sandboxes() if namespace in (None, each.namespace)]

    def _demand_listed(self) -> None:
        if not self._listed():
            raise StoreUnavailable("objects were not listed since the controller started")

    async def create(self, namespace: str, name: str, spec: Mapping[str, Any]) -> Sandbox:
        try:
            body = await self._store.create(namespace, name, spec)
        except Gone as error:
            if f'namespaces "{namespace}"' not in str(error):  # then the CRD is missing
                raise
            raise Invalid(f"namespace {namespace} does not exist: kubectl create namespace {namespace}") from error
        self._reconciler.see(body)
        return sandbox_from_object(body)

    async def wait_ready(self, uid: str, timeout: float) -> Sandbox:
        async with asyncio.timeout(timeout):
            while True:
                life = self._reconciler.lives[uid]
                changed = life.changed
                if life.sandbox.deleted_at is not None:
                    raise KeyError(uid)
                if _is_settled(life.sandbox):
                    return life.sandbox
                await changed.wait()

    async def wait_gone(self, uid: str, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            while (life := self._reconciler.lives.get(uid)) is not None:
                await life.changed.wait()

    async def delete(self, uid: str) -> None:
        sandbox = self.get(uid)
        if sandbox is None:
            return
        try:
            left = await self._store.delete(sandbox)
        except (Gone, Stale):
            return  # deleted before; an object of the same name that came since is not meant
        if left is not None:
            self._reconciler.see(left)  # what is asked for after the answer comes too late, before the watch tells it

    def backend(self, sandbox: Sandbox) -> Backend:
        if sandbox.backend is None:
            raise Unavailable(f"sandbox {sandbox.name} has no backend yet", "NotStarted")
        return self._fleet.get(sandbox.backend)

    def service_state(self) -> dict[str, Any]:
        choice = self._fleet.choice
        active = sum(sandbox.status.get("phase") in ACTIVE for sandbox in self._reconciler.sandboxes())
        state = {
            "status": choice.status,
            "docker_available": self._fleet.docker_health.available,
            "active_sandboxes": active,
        }
        return state | ({"warning": MOCK_WARNING} if choice.status == "mock" else {})

    def docker_info(self) -> dict[str, Any]:
        health = self._fleet.docker_health
        info = {"available": health.available, "status": health.status, **health.info}
        return info if health.available else info | {"message": health.message}

    def health(self) -> dict[str, Any]:
        docker = self._fleet.docker_health
        return {"docker": docker.status, "backend": self._fleet.choice.status}


def _is_settled(sandbox: Sandbox) -> bool:
    """It can run code, has ended, or will do nothing more by itself."""
    conditions = {each["type"]: each["status"] for each in sandbox.status.get("conditions", ())}
    if sandbox.status.get("phase") in TERMINAL or conditions.get("Ready") == "True":
        return True
    return sandbox.spec.run is not None and sandbox.status.get("phase") == Phase.RUNNING
