"""The backstop: objects and containers compared in full, now and then. It finds what the watch missed, and orphans."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.backends import Backend, BackendError, Observation
from controller.cluster.store import Store
from controller.directory import DirectoryError
from controller.fleet import Fleet
from controller.metrics import Metrics
from controller.model import BackendName, sandbox_from_object
from controller.reconcile import Reconciler

log = logging.getLogger(__name__)

EVERY = 30.0
"""Seconds between two sweeps."""
GRACE = timedelta(seconds=60)
"""A container younger than this may belong to an object that the list did not have yet."""


def orphans(
    have: Iterable[Observation],
    wanted: Mapping[str, BackendName | None],
    namespaces: tuple[str, ...],
    now: datetime,
    grace: timedelta = GRACE,
) -> list[Observation]:
    """Sandboxes without an object, or whose object lives on another backend; in our namespaces, and older than `grace`."""
    return [
        seen
        for seen in have
        if (seen.uid not in wanted or wanted[seen.uid] not in (None, seen.backend))
        and (not namespaces or seen.namespace in namespaces)
        and (seen.created_at is None or now - seen.created_at > grace)
    ]


class Sweeper:
    """Sweeps again and again."""

    def __init__(
        self,
        reconciler: Reconciler,
        store: Store,
        fleet: Fleet,
        metrics: Metrics,
        namespaces: tuple[str, ...],
        every: float = EVERY,
    ) -> None:
        self._reconciler, self._store, self._fleet, self._metrics = reconciler, store, fleet, metrics
        self._namespaces, self._every = namespaces, every
        self.swept = asyncio.Event()
        """Set once objects were listed successfully."""
        self._missing: dict[str, int] = {}
        """uid -> version that a list showed and the watch has not brought yet."""
        self._behind_since: datetime | None = None

    async def run(self) -> None:
        """Until cancelled. Nothing is swept unless objects were listed successfully."""
        while True:
            try:
                await self.sweep(datetime.now(UTC))
            except DirectoryError as error:
                log.warning("objects were not listed, nothing is swept: %s", error)
            await asyncio.sleep(self._every if self.swept.is_set() else 2)

    async def sweep(self, now: datetime) -> None:
        """One sweep. Raises DirectoryError where objects cannot be listed."""
        known = {uid: life.sandbox.resource_version for uid, life in self._reconciler.lives.items()}
        bodies = await self._store.objects()
        listed = {body["metadata"]["uid"]: body for body in bodies}
        self._note_lag(known, {uid: str(body["metadata"]["resourceVersion"]) for uid, body in listed.items()}, now)
        for uid, body in listed.items():
            if uid not in known or uid in self._reconciler.lives:  # else it went while the list was under way
                self._reconciler.see(body)
        for uid in known.keys() - listed.keys():
            self._reconciler.forget(uid)  # deleted while nobody watched
        self.swept.set()
        wanted = {uid: sandbox_from_object(body).backend for uid, body in listed.items()}
        for backend in self._fleet.available():
            try:
                found = orphans(await backend.list(), wanted, self._namespaces, now)
            except BackendError as error:
                log.warning("orphans on %s were not looked for: %s", backend.name, error)
                continue
            for orphan in found:
                await self._remove(orphan, backend)
        self._reconciler.wake_all()
        self._metrics.last_sweep.set(now.timestamp())

    async def _remove(self, orphan: Observation, backend: Backend) -> None:
        """One that cannot be removed keeps none of the others."""
        try:
            await backend.remove(orphan.uid)
        except BackendError as error:
            log.warning("the orphan %s on %s is tried again: %s", orphan.container_name, backend.name, error)
            return
        self._metrics.orphans.labels(backend.name).inc()
        log.warning("removed the orphan %s on %s: its object is gone", orphan.container_name, backend.name)

    def brought(self, body: Mapping[str, Any]) -> None:
        """The watch brought this object."""
        uid = body["metadata"]["uid"]
        if int(body["metadata"]["resourceVersion"]) >= self._missing.get(uid, 0):
            self._missing.pop(uid, None)

    def _note_lag(self, known: Mapping[str, str], listed: Mapping[str, str], now: datetime) -> None:
        """The watch is behind while it has not brought what an earlier list showed."""
        still = {uid: version for uid, version in self._missing.items() if uid in listed}
        if not still:
            self._behind_since = now
        self._metrics.watch_lag.set((now - (self._behind_since or now)).total_seconds())
        news = (
            {uid: int(version) for uid, version in listed.items() if known.get(uid) != version}
            if self.swept.is_set()
            else {}
        )
        self._missing = news | still
