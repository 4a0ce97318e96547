"""Wants, haves and facts in few words."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.backends import Limits, Observation, RunState, Tail
from controller.backends.container import fixed_parts
from controller.model import FINALIZER, BackendName, Sandbox, SandboxSpec
from controller.plan import Facts, Offer, Problem

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
LIMITS = Limits(nano_cpus=10**9, memory=512 * 2**20, pids=128)
TIMEOUT = 30
PROGRAM = {"language": "python", "code": "print(1)"}


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def want(spec: dict[str, Any] | None = None, **fields: Any) -> Sandbox:
    """A sandbox that Docker has for life, made at NOW."""
    known = {
        "uid": "0c1b",
        "name": "one",
        "namespace": "default",
        "spec": SandboxSpec.model_validate(spec or {}),
        "created_at": NOW,
        "finalizers": (FINALIZER,),
        "backend": BackendName.DOCKER,
    }
    return Sandbox(**(known | fields))


def fresh(spec: dict[str, Any] | None = None, **fields: Any) -> Sandbox:
    """One that nobody has looked at yet."""
    return want(spec, **({"finalizers": (), "backend": None} | fields))


def have(state: RunState = RunState.RUNNING, sandbox: Sandbox | None = None, **fields: Any) -> Observation:
    """What Docker shows of it, started at NOW."""
    sandbox = sandbox or want()
    started = None if state is RunState.CREATED else NOW
    seen = Observation(
        uid=sandbox.uid,
        namespace=sandbox.namespace,
        name=sandbox.name,
        backend=sandbox.backend or BackendName.DOCKER,
        state=state,
        container_id="c0ffee",
        container_name=f"sbx-{sandbox.uid}",
        image="sha256:1",
        node="here",
        limits=LIMITS,
        fixed=fixed_parts(sandbox.spec),
        created_at=NOW,
        started_at=started,
    )
    return replace(seen, **fields)


def exited(code: int | None = 0, sandbox: Sandbox | None = None, at: float = 1, **fields: Any) -> Observation:
    return have(
        RunState.EXITED, sandbox, **({"exit_code": code, "finished_at": after(at), "tail": Tail("out", "err")} | fields)
    )


def facts(problem: Problem | None = None, offer: Offer | None = None, limits: Limits = LIMITS) -> Facts:
    return Facts(limits=limits, timeout=TIMEOUT, offer=offer or Offer(BackendName.DOCKER), problem=problem)
