"""want, have, now -> what the status says. Pure: it says what was observed, and nothing it said before is lost by a crash."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.backends import Limits, Observation, RunState
from controller.backends.container import FIXED_PARTS, fixed_parts
from controller.model import MOCK_WARNING, BackendName, Isolation, Phase, Reason, Sandbox
from controller.plan import (
    TERMINAL,
    Cause,
    Facts,
    Have,
    Problem,
    Unreachable,
    deadline,
    ended_before_start,
    expiry,
    status_time,
    was_started,
)
from controller.quantity import format_bytes, format_cpu

Status = dict[str, Any]
KILLED = 137
"""Exit code of a program ended by SIGKILL: 128 + 9."""
NO_AGENT_WARNING = "The image has no sandbox agent: executions go through docker exec, slower and without contexts"
MESSAGE_BYTES = 1024


@dataclass(frozen=True)
class Ending:
    """How a sandbox ended: `reason` of its result, `word` of its condition, and a sentence."""

    reason: Reason
    word: str
    message: str


TOO_LATE = Ending(Reason.CANCELLED, "Expired", "spec.lifetime.shutdownTime passed before it was started.")


@dataclass(frozen=True)
class Condition:
    """One condition as it should stand; None: unknown."""

    type: str
    status: bool | None
    reason: str
    message: str


def report(
    want: Sandbox, have: Have, now: datetime, facts: Facts, *, docker_available: bool, cause: Cause | None = None
) -> Status:
    """The whole status as it should stand. `cause`: why we killed it, while that is remembered."""
    if Phase(want.status.get("phase") or Phase.PENDING) in TERMINAL:
        return dict(want.status)
    status: Status = {
        "observedGeneration": want.generation,
        "docker_available": docker_available,
        "backend": want.backend or "none",
        "warnings": warnings(want, have),
    }
    if isinstance(have, Observation):
        status |= _seen(have) | ({"expiresAt": api_time(expiry(want, have.started_at))} if have.started_at else {})
        said = _ended(want, have, facts, cause) if have.state is RunState.EXITED else _alive(want, have, now, facts)
    else:
        status |= {
            key: want.status[key]
            for key in ("isolation", "container", "limits", "startedAt", "expiresAt")
            if key in want.status
        }
        said = _unseen(want, have, now, facts)
    if isinstance(said, Ending):
        return status | _finished(want, have, now, said)
    phase, *conditions = said
    return status | {"phase": phase.value, "conditions": _merged(want, now, conditions)}


def warnings(want: Sandbox, have: Have) -> list[str]:
    """What is not protected, or not as it should be, in words that never change."""
    if want.backend is BackendName.MOCK:
        return [MOCK_WARNING]
    return [NO_AGENT_WARNING] if isinstance(have, Observation) and have.path == "exec" else []


Said = Ending | tuple[Any, ...]
"""An end, or a phase with its conditions."""


def _unseen(want: Sandbox, have: Unreachable | Observation | None, now: datetime, facts: Facts) -> Said:
    """No container is seen: not yet, no more, or nobody answers."""
    if want.deleted_at is not None:
        message = have.message if isinstance(have, Unreachable) else "It is being removed."
        return Phase.TERMINATING, Condition("Ready", False, "Terminating", message)
    if want.invalid:
        return Phase.PENDING, Condition("Ready", False, "InvalidSpec", want.invalid)
    if isinstance(have, Unreachable) and was_started(want.status):
        return Phase.UNKNOWN, Condition("Ready", None, have.reason, have.message)
    if was_started(want.status):
        return Ending(Reason.LOST, "Lost", "Its container is gone, and not by us. What it ran is not run again.")
    if ended_before_start(want, now):
        return TOO_LATE
    problem = facts.problem or (facts.offer.problem if want.backend is None else None)
    if problem is not None and problem.permanent:
        return Ending(Reason.ERROR, problem.reason, problem.message)
    phase = Phase.PENDING if want.backend is None else Phase.STARTING
    if isinstance(have, Unreachable):
        return phase, Condition("Ready", False, have.reason, have.message)
    if problem is not None:
        return phase, Condition("Ready", False, problem.reason, problem.message)
    if want.spec.operating_mode == "Suspended":
        return Phase.SUSPENDED, Condition(
            "Ready", False, "Suspended", "It was created suspended and is started when resumed."
        )
    return phase, Condition("Ready", False, "Starting", "It is being started.")


def _alive(want: Sandbox, have: Observation, now: datetime, facts: Facts) -> Said:
    """A container that has not ended."""
    refused = spec_refusal(want, have, facts)
    if want.deleted_at is not None:
        return Phase.TERMINATING, Condition("Ready", False, "Terminating", "It is being removed.")
    if have.state is RunState.CREATED:
        if ended_before_start(want, now):
            return TOO_LATE
        problem = facts.problem or Problem("Starting", "It is being started.")
        if problem.permanent:
            return Ending(Reason.ERROR, problem.reason, problem.message)
        return Phase.STARTING, Condition("Ready", False, problem.reason, problem.message), *refused
    if have.state is RunState.PAUSED:
        return Phase.SUSPENDED, Condition("Ready", False, "Suspended", "Its processes are frozen."), *refused
    if want.spec.run is not None:
        ready = Condition("Ready", False, "RunsItsProgram", "It runs spec.run and takes no other code.")
    elif have.ready:
        through = "the agent" if have.path == "agent" else "docker exec"
        ready = Condition("Ready", True, "TakesCode", f"Code can be run now, through {through}.")
    else:
        ready = Condition("Ready", False, "AgentNotAnswering", "It is up, but its agent does not answer.")
    return Phase.RUNNING, ready, *refused


def spec_refusal(want: Sandbox, have: Observation, facts: Facts) -> tuple[Condition, ...]:
    """Which changes of the spec a living sandbox cannot take, by name; nothing where there are none."""
    if want.invalid:
        return (Condition("SpecApplied", False, "InvalidSpec", want.invalid),)
    wanted = fixed_parts(want.spec)
    changed = [part for part in FIXED_PARTS if part in have.fixed and have.fixed[part] != wanted[part]]
    if changed:
        names = ", ".join(f"spec.{part}" for part in changed)
        return (
            Condition(
                "SpecApplied",
                False,
                "ChangeRefused",
                f"{names}: cannot change while it lives; delete it and create it anew.",
            ),
        )
    if facts.problem is not None:
        return (Condition("SpecApplied", False, facts.problem.reason, facts.problem.message),)
    return ()


def _ended(want: Sandbox, have: Observation, facts: Facts, cause: Cause | None) -> Ending:
    """Why it ended, from times and exit code alone where `cause` is not remembered: also right after a crash of ours."""
    if have.exit_code is None:
        return Ending(Reason.LOST, "Lost", "It ended and left no exit code.")
    if have.oom_killed:
        return Ending(Reason.OOM_KILLED, "OOMKilled", "It needed more memory than its limit.")
    if have.exit_code == KILLED:
        limit = deadline(want, replace(have, state=RunState.RUNNING), facts.timeout)
        if cause is None and limit is not None and have.finished_at is not None and have.finished_at >= limit[0]:
            cause = limit[1]
        if cause is Cause.TIMEOUT:
            return Ending(Reason.TIMEOUT, "Timeout", f"Its program was ended after {facts.timeout} s.")
        # the end of its lifetime completes a sandbox that waits for executions, and cuts short one that runs a program
        reason = Reason.COMPLETED if want.spec.run is None else Reason.CANCELLED
        if cause is Cause.EXPIRED:
            return Ending(reason, "Expired", "Its lifetime (spec.lifetime) is over.")
        if cause is Cause.IDLE:
            return Ending(reason, "Idle", f"Nothing was executed for {want.spec.lifetime.idle_seconds} s.")
    if want.spec.run is None:
        return Ending(
            Reason.ERROR,
            "Stopped",
            f"Its container ended by itself or by someone else, with exit code {have.exit_code}.",
        )
    if have.exit_code == 0:
        return Ending(Reason.COMPLETED, "Completed", "Its program ended with exit code 0.")
    return Ending(Reason.ERROR, "Error", f"Its program ended with exit code {have.exit_code}.")


def _finished(want: Sandbox, have: Have, now: datetime, ending: Ending) -> Status:
    """The record of an end: written once, never changed."""
    seen = have if isinstance(have, Observation) else None
    started = seen.started_at if seen else status_time(want.status, "startedAt")
    finished = (seen.finished_at if seen else None) or now
    if started is not None:
        finished = max(started, finished)  # a busy daemon may note them the other way round
    result: Status = {"reason": ending.reason.value, "stdout": "", "stderr": "", "truncated": False}
    planned = want.spec.run is None and ending.reason is Reason.COMPLETED  # the 137 of our own kill would mislead
    if seen is not None and seen.exit_code is not None and not planned:
        result["exitCode"] = seen.exit_code
    if started is not None:
        result["durationMs"] = round((finished - started) / timedelta(milliseconds=1))
    if seen is not None and seen.tail is not None:
        result |= {"stdout": seen.tail.stdout, "stderr": seen.tail.stderr, "truncated": seen.tail.truncated}
    conditions = [
        Condition("Ready", False, "Finished", ending.message),
        Condition("Finished", True, ending.word, ending.message),
    ]
    return {
        "phase": (Phase.SUCCEEDED if ending.reason is Reason.COMPLETED else Phase.FAILED).value,
        "finishedAt": api_time(finished),
        "result": result,
        "conditions": _merged(want, now, conditions),
    }


def _seen(have: Observation) -> Status:
    container = {"name": have.container_name, "id": have.container_id, "image": have.image, "node": have.node}
    seen: Status = {
        "isolation": (Isolation.NONE if have.backend is BackendName.MOCK else have.isolation).value,
        "container": {key: value for key, value in container.items() if value},
        "limits": shown_limits(have.limits),
    }
    return seen | ({"startedAt": api_time(have.started_at)} if have.started_at else {})


def shown_limits(limits: Limits) -> Status:
    """Limits in the words of the API; what is not enforced is left out."""
    shown: Status = {"network": limits.network}
    if limits.nano_cpus is not None:
        shown["cpu"] = format_cpu(limits.nano_cpus)
    if limits.memory is not None:
        shown["memory"] = format_bytes(limits.memory)
    if limits.pids is not None:
        shown["pids"] = limits.pids
    return shown


def api_time(moment: datetime) -> str:
    """As the API writes times: UTC, microseconds where there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _merged(want: Sandbox, now: datetime, conditions: list[Condition]) -> list[Status]:
    """Conditions in the standard form; a transition time changes with the status only."""
    before: dict[str, Mapping[str, Any]] = {old["type"]: old for old in want.status.get("conditions", ())}
    merged = []
    for condition in conditions:
        status = "Unknown" if condition.status is None else str(condition.status)
        old = before.get(condition.type, {})
        since = (
            old["lastTransitionTime"]
            if old.get("status") == status
            else now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        )
        merged.append(
            {
                "type": condition.type,
                "status": status,
                "reason": condition.reason,
                "message": condition.message[:MESSAGE_BYTES],
                "lastTransitionTime": since,
                "observedGeneration": want.generation,
            }
        )
    return merged


def patch_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> Status:
    """The merge patch that turns `old` into `new`; empty: nothing to write."""
    patch = {key: value for key, value in new.items() if old.get(key) != value}
    return patch | {key: None for key in old if key not in new}
