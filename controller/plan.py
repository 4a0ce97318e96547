"""want, have, now -> the next step. Pure: the step is data, whoever performs it decides nothing.

A sandbox's life: Claim (finalizer and backend, written before anything is started) -> Start -> ... -> its end, recorded in
the status -> Delete or Retain. Its `run` happens at most once: what ran, or may have run, is never started again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from controller.backends import Limits, Observation, RunState
from controller.model import FINALIZER, BackendName, Phase, Sandbox

UNREACHABLE_RETRY = timedelta(seconds=2)
TERMINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED})


@dataclass(frozen=True)
class Unreachable:
    """The backend does not answer: nothing is known."""

    reason: str
    message: str


Have = Observation | Unreachable | None
"""What the backend sees: the sandbox, nothing at all, or no answer."""


@dataclass(frozen=True)
class Problem:
    """Why a sandbox cannot go on; `permanent`: trying again cannot help, else not before `retry_at`."""

    reason: str
    message: str
    permanent: bool = False
    retry_at: datetime | None = None
    attempts: int = 1


@dataclass(frozen=True)
class Offer:
    """Which backend a new sandbox gets, or why none does now."""

    backend: BackendName | None
    problem: Problem | None = None


class Cause(StrEnum):
    """Why a sandbox is ended by us."""

    TIMEOUT = "Timeout"
    EXPIRED = "Expired"
    IDLE = "Idle"


@dataclass(frozen=True)
class Wait:
    """Nothing to do until something changes, or until then."""

    until: datetime | None = None


@dataclass(frozen=True)
class Claim:
    """Write finalizer and backend into the object."""

    backend: BackendName


@dataclass(frozen=True)
class Start:
    """Create and start it, or adopt what bears its name."""


@dataclass(frozen=True)
class Suspend:
    """Freeze it."""


@dataclass(frozen=True)
class Resume:
    """Go on."""


@dataclass(frozen=True)
class Update:
    """Apply changed limits to the living sandbox."""

    limits: Limits


@dataclass(frozen=True)
class Kill:
    """End its processes; the record of how stays until it is in the status."""

    cause: Cause


@dataclass(frozen=True)
class Remove:
    """Remove what runs, with every trace."""


@dataclass(frozen=True)
class Release:
    """Take our finalizer off: nothing of it is left."""


@dataclass(frozen=True)
class Delete:
    """Delete the object: its time after the end is over."""


Step = Wait | Claim | Start | Suspend | Resume | Update | Kill | Remove | Release | Delete


@dataclass(frozen=True)
class Facts:
    """What the plan needs besides object and container."""

    limits: Limits
    """The spec's limits, completed from the settings."""
    timeout: int
    """Seconds for `run`, completed from the settings."""
    offer: Offer
    problem: Problem | None = None
    """Of the last attempt, or of a look at the spec."""


def plan(want: Sandbox, have: Have, now: datetime, facts: Facts) -> Step:
    """The one next step for `want`."""
    if want.deleted_at is not None:
        return _plan_deletion(want, have, now)
    if Phase(want.status.get("phase") or Phase.PENDING) in TERMINAL:
        return _plan_after_end(want, have, now)
    if want.invalid:
        return Wait()
    if want.backend is None:
        return _plan_claim(want, now, facts)
    if isinstance(have, Unreachable):
        return Wait(now + UNREACHABLE_RETRY)
    if have is None:
        return _plan_start(want, now, facts)
    return _plan_life(want, have, now, facts)


def _plan_deletion(want: Sandbox, have: Have, now: datetime) -> Step:
    if FINALIZER not in want.finalizers:
        return Wait()
    if isinstance(have, Unreachable):
        return Wait(now + UNREACHABLE_RETRY)
    return Release() if have is None else Remove()


def _plan_after_end(want: Sandbox, have: Have, now: datetime) -> Step:
    lifetime = want.spec.lifetime
    ended = status_time(want.status, "finishedAt") or want.created_at or now
    over = ended + timedelta(seconds=lifetime.ttl_seconds_after_finished)
    if now < over:
        return Wait(over)
    if lifetime.shutdown_policy == "Delete":
        return Delete()
    if isinstance(have, Unreachable):
        return Wait(now + UNREACHABLE_RETRY)
    return Wait() if have is None else Remove()


def _plan_claim(want: Sandbox, now: datetime, facts: Facts) -> Step:
    if facts.problem is not None or facts.offer.backend is None:
        return Wait(facts.problem.retry_at if facts.problem else None)
    if ended_before_start(want, now):
        return Wait()
    return Claim(facts.offer.backend)


def _plan_start(want: Sandbox, now: datetime, facts: Facts) -> Step:
    if was_started(want.status) or ended_before_start(want, now):
        return Wait()  # the report says Lost, or Expired
    if facts.problem is not None:
        return Wait(facts.problem.retry_at)
    if want.spec.operating_mode == "Suspended":
        return Wait(want.spec.lifetime.shutdown_time)
    return Start()


def _plan_life(want: Sandbox, have: Observation, now: datetime, facts: Facts) -> Step:
    suspended = want.spec.operating_mode == "Suspended"
    if have.state is RunState.EXITED:
        return Wait()  # the report records it
    if have.state is RunState.CREATED:
        if ended_before_start(want, now):
            return Wait()  # the report says Expired
        if facts.problem is not None:
            return Wait(facts.problem.retry_at)
        return Wait(want.spec.lifetime.shutdown_time) if suspended else Start()
    limit = deadline(want, have, facts.timeout)
    if limit is not None and now >= limit[0]:
        return Kill(limit[1])
    failed_just_now = facts.problem is not None and facts.problem.retry_at is not None
    if suspended != (have.state is RunState.PAUSED) and not failed_just_now:
        return Suspend() if suspended else Resume()
    if facts.problem is None and _differ(have.limits, facts.limits):
        return Update(facts.limits)
    moments = (limit[0] if limit else None, facts.problem.retry_at if facts.problem else None)
    return Wait(min((moment for moment in moments if moment is not None), default=None))


def _differ(have: Limits, want: Limits) -> bool:
    """Whether a limit that the backend enforces has another value; it cannot change the network, nor enforce a None."""
    enforced = {name: value for name in ("nano_cpus", "memory", "pids") if (value := getattr(have, name)) is not None}
    return any(getattr(want, name) != value for name, value in enforced.items())


def deadline(want: Sandbox, have: Observation, timeout: int) -> tuple[datetime, Cause] | None:
    """When this living sandbox has to end, and why: the earliest of all its limits.

    A suspended one has neither timeout nor idle time; its lifetime goes on.
    """
    started = have.started_at or have.created_at
    if started is None:
        return None
    ends = [(expiry(want, started), Cause.EXPIRED)]
    if have.state is RunState.RUNNING and want.spec.run is not None:
        ends.append((started + timedelta(seconds=want.spec.run.timeout_seconds or timeout), Cause.TIMEOUT))
    idle = want.spec.lifetime.idle_seconds
    if have.state is RunState.RUNNING and want.spec.run is None and idle and have.idle_since is not None:
        ends.append((have.idle_since + timedelta(seconds=idle), Cause.IDLE))
    return min(ends)


def expiry(want: Sandbox, started: datetime) -> datetime:
    """When its lifetime ends, whatever it does."""
    lifetime = want.spec.lifetime
    end = started + timedelta(seconds=lifetime.max_seconds)
    return end if lifetime.shutdown_time is None else min(end, lifetime.shutdown_time)


def ended_before_start(want: Sandbox, now: datetime) -> bool:
    """Its shutdown time came before it ever ran."""
    shutdown = want.spec.lifetime.shutdown_time
    return shutdown is not None and now >= shutdown


def was_started(status: Mapping[str, Any]) -> bool:
    """Whether the status says that its container has been running; it may have been created suspended."""
    return status.get("phase") == Phase.RUNNING or "startedAt" in status


def status_time(status: Mapping[str, Any], field: str) -> datetime | None:
    """A time of the status, as the API writes it."""
    text = status.get(field)
    return datetime.fromisoformat(text).astimezone(UTC) if isinstance(text, str) else None
