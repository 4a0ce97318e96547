"""observe -> plan -> perform -> report: one pass per sandbox at a time, woken by the watch, by backends and by time.

It remembers nothing that matters: after a SIGKILL at any moment objects and containers tell all of it again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from controller import tracing
from controller.admission import spec_problem
from controller.backends import BackendError, Observation, Unavailable
from controller.backends.container import Defaults, wanted_limits
from controller.choose import mock_refusal, offer
from controller.cluster.connection import Gone, Stale
from controller.directory import DirectoryError
from controller.fleet import Fleet
from controller.metrics import Metrics
from controller.model import BackendName, Phase, Sandbox, sandbox_from_object
from controller.plan import (
    TERMINAL,
    Cause,
    Claim,
    Delete,
    Facts,
    Have,
    Kill,
    Problem,
    Release,
    Remove,
    Resume,
    Start,
    Step,
    Suspend,
    Unreachable,
    Update,
    Wait,
    plan,
)
from controller.settings import SandboxSettings
from controller.status import patch_of, report

log = logging.getLogger(__name__)

STEPS = 12
"""Steps in one pass; a longer chain is a mistake of ours, and is broken off."""
ATTEMPTS = 5
"""Starts, or changes of limits, that may fail before it is given up for good; all else is tried on."""
SLOW_START = timedelta(seconds=1.5)
"""A start that takes longer is told in the status; a shorter one saves that write."""
STORE_RETRY = timedelta(seconds=2)
WRITES, WRITES_WITHIN = 30, timedelta(seconds=30)
"""Of one status; a whole life takes five. More of them is a fight with whoever writes it, too."""


class Contested(DirectoryError):
    """Somebody else writes the same status again and again."""


class ObjectWriter(Protocol):
    """Writing Sandbox objects; `controller.cluster.store.Store` does it."""

    async def claim(self, sandbox: Sandbox, backend: BackendName) -> dict[str, Any]: ...
    async def release(self, sandbox: Sandbox) -> dict[str, Any]: ...
    async def write_status(self, sandbox: Sandbox, patch: Mapping[str, Any]) -> dict[str, Any]: ...
    async def delete(self, sandbox: Sandbox) -> dict[str, Any] | None: ...


class EventWriter(Protocol):
    """Telling a person; `controller.cluster.recorder.Recorder` does it."""

    def record(self, sandbox: Sandbox, kind: Any, reason: str, message: str, now: datetime) -> None: ...


@dataclass
class Life:
    """One sandbox as this process knows it."""

    sandbox: Sandbox
    seen_at: datetime
    problem: Problem | None = None
    problem_of: int = 0
    """Generation of the spec that met the problem: another one starts afresh."""
    cause: Cause | None = None
    task: asyncio.Task[None] | None = None
    woken: bool = False
    timer: asyncio.TimerHandle | None = None
    writes: deque[datetime] = field(default_factory=lambda: deque(maxlen=WRITES))
    """When its status was written last."""
    stages: list[tuple[str, datetime]] = field(default_factory=list)
    """What its start has reached, and when."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and made anew, whenever the object changes."""


class Reconciler:
    """All sandboxes of this controller."""

    def __init__(
        self,
        settings: SandboxSettings,
        fleet: Fleet,
        store: ObjectWriter,
        events: EventWriter,
        metrics: Metrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings, self._fleet, self._store, self._events, self._metrics = settings, fleet, store, events, metrics
        self._clock = clock
        self._defaults = Defaults.of(settings)
        self.lives: dict[str, Life] = {}
        self._stops = False

    def sandboxes(self) -> list[Sandbox]:
        """All objects, as last seen."""
        return [life.sandbox for life in self.lives.values()]

    # --- what wakes it ---

    def see(self, body: Mapping[str, Any]) -> None:
        """An object, from the watch, a list or the answer to a write; an older one than is known changes nothing."""
        sandbox = sandbox_from_object(body)
        life = self.lives.get(sandbox.uid)
        if life is None:
            if sandbox.deleted_at is not None and not sandbox.finalizers:
                return
            self.lives[sandbox.uid] = Life(sandbox, self._clock())
        elif _version(sandbox) <= _version(life.sandbox):
            return
        else:
            life.sandbox = sandbox
            life.changed.set()
            life.changed = asyncio.Event()
        self.wake(sandbox.uid)

    def forget(self, uid: str) -> None:
        """The object is gone."""
        life = self.lives.pop(uid, None)
        if life is not None:
            life.changed.set()
            if life.timer is not None:
                life.timer.cancel()

    def wake(self, uid: str) -> None:
        """Look at it now, or once more after the pass that is under way."""
        life = self.lives.get(uid)
        if life is None or self._stops:
            return
        life.woken = True
        if life.task is None:
            life.task = asyncio.create_task(self._passes(life), name=f"sandbox {uid}")

    def wake_all(self) -> None:
        for uid in list(self.lives):
            self.wake(uid)

    async def drain(self, seconds: float) -> None:
        """Let passes that are under way end, for so long at most, and begin no other: the end of all work."""
        self._stops = True
        tasks = [life.task for life in self.lives.values() if life.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()

    # --- one sandbox ---

    async def _passes(self, life: Life) -> None:
        uid = life.sandbox.uid
        try:
            while life.woken and self.lives.get(uid) is life and not self._stops:
                life.woken = False
                if life.timer is not None:
                    life.timer.cancel()
                until = await self._guarded_pass(life)
                if until is not None and self.lives.get(uid) is life:
                    delay = max(0.0, (until - self._clock()).total_seconds())
                    life.timer = asyncio.get_running_loop().call_later(delay, self.wake, uid)
        finally:
            life.task = None

    async def _guarded_pass(self, life: Life) -> datetime | None:
        where = _where(life.sandbox)
        try:
            until = await self._pass(life)
            self._metrics.reconciles.labels("done").inc()
            return until
        except Gone:
            self.forget(life.sandbox.uid)
            return None
        except Contested as error:
            self._metrics.reconciles.labels("contested").inc()
            log.warning("%s", error, extra=where)
            self._events.record(life.sandbox, "Warning", "StatusContested", str(error), self._clock())
            return life.writes[0] + WRITES_WITHIN
        except Stale:  # the watch brings the newer one
            self._metrics.reconciles.labels("stale").inc()
            return self._clock() + STORE_RETRY
        except DirectoryError as error:
            self._metrics.reconciles.labels("store_error").inc()
            log.warning("the object was not written, it is tried again: %s", error, extra=where)
            return self._clock() + STORE_RETRY
        except Exception:
            self._metrics.reconciles.labels("bug").inc()
            log.exception("a pass failed, it is tried again in 30 s", extra=where)
            return self._clock() + timedelta(seconds=30)

    async def _pass(self, life: Life) -> datetime | None:
        have = await self._look(life)
        for _ in range(STEPS):
            now = self._clock()
            facts = self._facts(life)
            step = plan(life.sandbox, have, now, facts)
            if isinstance(step, Wait):
                if await self._report(life, have, facts) and _is_final(life.sandbox):
                    continue  # its end is recorded: what comes after?
                return step.until
            if isinstance(step, Release):
                await self._store.release(life.sandbox)
                self.forget(life.sandbox.uid)
                return None
            if isinstance(step, Delete):
                await self._store.delete(life.sandbox)
                return now + timedelta(seconds=30)  # the watch is quicker
            try:
                have = await self._perform(life, step)
                if not isinstance(step, Claim | Kill):
                    life.problem = None
            except Unavailable as error:
                have = Unreachable(error.reason, str(error))
            except BackendError as error:
                life.problem = self._problem(life, step, error, now)
                have = await self._look(life)
                if isinstance(step, Remove | Kill):
                    await self._report(life, have, self._facts(life))
                    return life.problem.retry_at or now + timedelta(seconds=30)
        raise RuntimeError(f"the plan for {life.sandbox.uid} does not come to an end")

    async def _look(self, life: Life) -> Have:
        sandbox = life.sandbox
        if sandbox.backend is None or (
            _is_final(sandbox) and sandbox.deleted_at is None and not self._ttl_over(sandbox)
        ):
            return None
        try:
            return await self._fleet.get(sandbox.backend).observe(sandbox.uid)
        except BackendError as error:
            return Unreachable(error.reason, str(error))

    def _ttl_over(self, sandbox: Sandbox) -> bool:
        step = plan(sandbox, None, self._clock(), self._facts_of(sandbox, None))
        return not isinstance(step, Wait) or step.until is None

    def _facts(self, life: Life) -> Facts:
        if life.problem is not None and life.problem_of != life.sandbox.generation:
            life.problem = None
        problem = life.problem
        if problem is not None and problem.retry_at is not None and problem.retry_at <= self._clock():
            problem = None  # its next try is due
        if problem is None and life.sandbox.backend is BackendName.MOCK and not life.sandbox.status.get("startedAt"):
            problem = mock_refusal(life.sandbox.spec, self._settings)
        if problem is None and not life.sandbox.status.get("startedAt"):
            problem = spec_problem(life.sandbox.spec, self._settings)
        return self._facts_of(life.sandbox, problem)

    def _facts_of(self, sandbox: Sandbox, problem: Problem | None) -> Facts:
        run = sandbox.spec.run
        return Facts(
            limits=wanted_limits(sandbox.spec, self._defaults),
            timeout=(run.timeout_seconds if run else None) or self._defaults.timeout,
            offer=offer(sandbox.spec, self._settings, self._fleet.docker_health),
            problem=problem,
        )

    def _problem(self, life: Life, step: Step, error: BackendError, now: datetime) -> Problem:
        attempts = life.problem.attempts + 1 if life.problem else 1
        permanent = isinstance(step, Start | Update) and (error.permanent or attempts >= ATTEMPTS)
        life.problem_of = life.sandbox.generation
        if isinstance(step, Start):
            self._metrics.start_failures.labels(life.sandbox.backend or "none", error.reason).inc()
        log.warning("%s: %s", error.reason, error, extra=_where(life.sandbox))
        self._events.record(life.sandbox, "Warning", error.reason, str(error), now)
        return Problem(
            error.reason,
            str(error),
            permanent=permanent,
            retry_at=None if permanent else now + timedelta(seconds=0.5 * 2 ** min(attempts, 6)),
            attempts=attempts,
        )

    async def _perform(self, life: Life, step: Step) -> Have:
        """Do what the plan says; the answer is what is seen then."""
        sandbox, uid = life.sandbox, life.sandbox.uid
        if isinstance(step, Claim):
            self.see(await self._store.claim(sandbox, step.backend))
            self._stage(life, step.backend, "claimed")
            if step.backend is BackendName.MOCK:
                self._events.record(
                    sandbox, "Warning", "RunsOnMock", "No isolation: it runs as a plain process", self._clock()
                )
            return None
        if sandbox.backend is None:
            raise RuntimeError(f"{step} of sandbox {uid}, which has no backend")
        backend = self._fleet.get(sandbox.backend)
        match step:
            case Start():
                return await self._start(life, backend.start(sandbox))
            case Suspend():
                await backend.suspend(uid)
            case Resume():
                await backend.resume(uid)
            case Update(limits):
                await backend.update(uid, limits)
            case Kill(cause):
                life.cause = cause
                log.info("ended: %s", cause.value, extra=_where(sandbox))
                await backend.kill(uid)
            case Remove():
                await backend.remove(uid)
                self._metrics.deleted.labels(backend.name).inc()
                log.info("removed", extra=_where(sandbox))
                return None
            case _:
                raise RuntimeError(f"no way to perform {step}")
        return await backend.observe(uid)

    async def _start(self, life: Life, starting: Coroutine[Any, Any, Observation]) -> Have:
        """A start that takes long is told meanwhile."""
        sandbox = life.sandbox
        task = asyncio.create_task(starting)
        done, _ = await asyncio.wait([task], timeout=SLOW_START.total_seconds())
        if not done:
            try:
                await self._report(life, None, self._facts(life))
            except DirectoryError as error:
                log.debug("the slow start was not told: %s", error, extra=_where(sandbox))
        have = await task
        self._metrics.created.labels(have.backend).inc()
        self._stage(life, have.backend, "started")
        log.info("started", extra=_where(sandbox))
        self._events.record(sandbox, "Normal", "Started", f"Started on {have.backend.value}", self._clock())
        return have

    async def _report(self, life: Life, have: Have, facts: Facts) -> bool:
        """Write the status, if it says something new."""
        sandbox, now = life.sandbox, self._clock()
        status = report(
            sandbox, have, now, facts, docker_available=self._fleet.docker_health.available, cause=life.cause
        )
        patch = patch_of(sandbox.status, status)
        if set(patch) <= {"docker_available"} and sandbox.status:
            return False  # true of the daemon, not of this sandbox: told with the next change
        if len(life.writes) == WRITES and now - life.writes[0] < WRITES_WITHIN:
            raise Contested(
                f"its status was written {WRITES} times within {WRITES_WITHIN.total_seconds():g} s and always changed by"
                " another: do two controllers watch this namespace? Give each its own namespaces"
            )
        life.writes.append(now)
        self.see(await self._store.write_status(sandbox, patch))
        self._tell(life, sandbox, status, now)
        return True

    def _tell(self, life: Life, sandbox: Sandbox, status: Mapping[str, Any], now: datetime) -> None:
        """Metrics and Events of a change; `sandbox` is as it was before."""
        before, phase = sandbox.status.get("phase"), status["phase"]
        if phase == Phase.RUNNING and not sandbox.status.get("startedAt") and sandbox.backend:
            self._stage(life, sandbox.backend, "total")
        if phase in (Phase.RUNNING, *TERMINAL) and not sandbox.status.get("startedAt"):
            self._trace_start(life, now)
        if phase in TERMINAL and before not in TERMINAL:
            reason = status["result"]["reason"]
            self._metrics.results.labels(sandbox.backend or "none", reason).inc()
            kind = "Normal" if phase == Phase.SUCCEEDED else "Warning"
            self._events.record(sandbox, kind, *_said(status, "Finished"), now)
        elif phase == Phase.UNKNOWN and before != phase:
            self._events.record(sandbox, "Warning", *_said(status, "Ready"), now)
        elif before == Phase.UNKNOWN and phase in (Phase.RUNNING, Phase.SUSPENDED):
            message = f"{sandbox.backend} answers again, and the sandbox has lived on"
            self._events.record(sandbox, "Normal", "BackendBack", message, now)

    def _stage(self, life: Life, backend: str, stage: str) -> None:
        now = self._clock()
        life.stages.append((stage, now))
        self._metrics.stage.labels(backend, stage).observe((now - life.seen_at).total_seconds())

    def _trace_start(self, life: Life, now: datetime) -> None:
        began, stages = life.seen_at, []
        for stage, ended in life.stages:
            stages.append((stage, (began, ended)))
            began = ended
        sandbox = life.sandbox
        told = {"sandbox.uid": sandbox.uid, "sandbox.namespace": sandbox.namespace, "backend": str(sandbox.backend)}
        tracing.record("sandbox start", (life.seen_at, now), sandbox.trace, told, stages)
        life.stages.clear()


def _version(sandbox: Sandbox) -> int:
    """Resource versions are compared as numbers, as Kubernetes allows since 1.35 and etcd always did."""
    return int(sandbox.resource_version) if sandbox.resource_version.isdigit() else 0


def _said(status: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """Reason and message of a condition."""
    said = next(each for each in status["conditions"] if each["type"] == kind)
    return said["reason"], said["message"]


def _is_final(sandbox: Sandbox) -> bool:
    return sandbox.status.get("phase") in TERMINAL


def _where(sandbox: Sandbox) -> dict[str, str]:
    """The object, for each log line."""
    return {"sandbox_namespace": sandbox.namespace, "sandbox_name": sandbox.name, "sandbox_uid": sandbox.uid}
