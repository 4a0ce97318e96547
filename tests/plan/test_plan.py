"""want, have, now -> the one next step."""

from typing import Any

import pytest

from controller.backends import Limits, RunState
from controller.model import BackendName, Sandbox
from controller.plan import (
    UNREACHABLE_RETRY,
    Cause,
    Claim,
    Delete,
    Have,
    Kill,
    Offer,
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
from tests.plan.words import LIMITS, NOW, PROGRAM, after, exited, facts, fresh, have, want

SILENT = Unreachable("DockerUnavailable", "no answer")
LATER = Problem("Busy", "not now", retry_at=after(4))
NEVER = Problem("ImageNotFound", "not here", permanent=True)
LIVES = {"phase": "Running", "startedAt": "2030-01-01T12:00:00Z"}
ENDED = {"phase": "Succeeded", "finishedAt": "2030-01-01T12:00:00Z"}
STOPPED = {"operatingMode": "Suspended"}
RETAINED = {"lifetime": {"shutdownPolicy": "Retain", "ttlSecondsAfterFinished": 5}}


@pytest.mark.parametrize(
    ("sandbox", "seen", "known", "step"),
    [
        pytest.param(fresh(), None, facts(), Claim(BackendName.DOCKER), id="a new one is claimed first"),
        pytest.param(fresh(), None, facts(offer=Offer(None, NEVER)), Wait(), id="without an offer it waits"),
        pytest.param(fresh(), None, facts(NEVER), Wait(), id="what is not allowed is never claimed"),
        pytest.param(fresh(invalid="spec.x: bad"), None, facts(), Wait(), id="a wrong spec waits for a right one"),
        pytest.param(want(), None, facts(), Start(), id="claimed, it is started"),
        pytest.param(want(), None, facts(LATER), Wait(after(4)), id="after a failed start it waits"),
        pytest.param(want(), None, facts(NEVER), Wait(), id="what can never start is not tried"),
        pytest.param(want(STOPPED), None, facts(), Wait(), id="created suspended, it is not started"),
        pytest.param(want(status=LIVES), None, facts(), Wait(), id="what ran and is gone is not started again"),
        pytest.param(want(), SILENT, facts(), Wait(NOW + UNREACHABLE_RETRY), id="nothing is done in the dark"),
        pytest.param(want(), have(RunState.CREATED), facts(), Start(), id="created and not started, it is started"),
        pytest.param(want(STOPPED), have(RunState.CREATED), facts(), Wait(), id="unless it is suspended"),
        pytest.param(want(), have(RunState.CREATED), facts(LATER), Wait(after(4)), id="or failed just now"),
        pytest.param(want(), have(), facts(), Wait(after(3600)), id="running, it waits for the end of its life"),
        pytest.param(want({"run": PROGRAM}), have(), facts(), Wait(after(30)), id="a program waits for its timeout"),
        pytest.param(want(STOPPED), have(), facts(), Suspend(), id="suspended while running"),
        pytest.param(want(STOPPED), have(), facts(LATER), Wait(after(4)), id="unless that failed just now"),
        pytest.param(want(STOPPED), have(), facts(NEVER), Suspend(), id="whatever else was refused"),
        pytest.param(want(STOPPED), have(RunState.PAUSED), facts(), Wait(after(3600)), id="suspended already"),
        pytest.param(want(), have(RunState.PAUSED), facts(), Resume(), id="resumed"),
        pytest.param(want(), exited(), facts(), Wait(), id="an end is recorded, not acted on"),
        pytest.param(want(status=ENDED), None, facts(), Wait(after(300)), id="after its end its time runs"),
        pytest.param(want(RETAINED, status=ENDED), None, facts(), Wait(after(5)), id="as it does with Retain"),
        pytest.param(want(deleted_at=NOW), have(), facts(), Remove(), id="deleted while running"),
        pytest.param(want(deleted_at=NOW), None, facts(), Release(), id="deleted and nothing left"),
        pytest.param(want(deleted_at=NOW, finalizers=()), have(), facts(), Wait(), id="deleted, and not ours to hold"),
        pytest.param(want(deleted_at=NOW), SILENT, facts(), Wait(NOW + UNREACHABLE_RETRY), id="deleted in the dark"),
        pytest.param(want(deleted_at=NOW, status=ENDED), exited(), facts(), Remove(), id="deleted after its end"),
        pytest.param(want(deleted_at=NOW, invalid="bad"), have(), facts(), Remove(), id="deleted with a wrong spec"),
        pytest.param(want(invalid="bad"), have(), facts(), Wait(), id="a spec gone wrong leaves the living alone"),
    ],
)
def test_the_next_step(sandbox: Sandbox, seen: Have, known: Any, step: Step) -> None:
    assert plan(sandbox, seen, NOW, known) == step


@pytest.mark.parametrize(
    ("spec", "seen", "seconds", "cause"),
    [
        ({"run": PROGRAM}, have(), 30, Cause.TIMEOUT),
        ({"run": PROGRAM | {"timeoutSeconds": 7}}, have(), 7, Cause.TIMEOUT),
        ({"run": PROGRAM | {"timeoutSeconds": 7}, "lifetime": {"maxSeconds": 5}}, have(), 5, Cause.EXPIRED),
        ({"lifetime": {"maxSeconds": 9}}, have(), 9, Cause.EXPIRED),
        ({"lifetime": {"shutdownTime": after(3)}}, have(), 3, Cause.EXPIRED),
        ({"lifetime": {"idleSeconds": 60}}, have(idle_since=after(20)), 80, Cause.IDLE),
        ({"lifetime": {"maxSeconds": 9}} | STOPPED, have(RunState.PAUSED), 9, Cause.EXPIRED),
    ],
)
def test_at_its_deadline_it_is_ended_and_not_before(
    spec: dict[str, Any], seen: Have, seconds: float, cause: Cause
) -> None:
    known = facts()
    if "timeoutSeconds" in spec.get("run", {}):
        known = type(known)(known.limits, spec["run"]["timeoutSeconds"], known.offer)
    assert plan(want(spec), seen, after(seconds - 0.001), known) == Wait(after(seconds))
    assert plan(want(spec), seen, after(seconds), known) == Kill(cause)


@pytest.mark.parametrize(
    ("spec", "seen"),
    [
        pytest.param({"run": PROGRAM} | STOPPED, have(RunState.PAUSED), id="a suspended program has no timeout"),
        pytest.param({"lifetime": {"idleSeconds": 9}}, have(idle_since=None), id="who works is not idle"),
        pytest.param(
            {"lifetime": {"idleSeconds": 9}} | STOPPED,
            have(RunState.PAUSED, idle_since=NOW),
            id="who is suspended is not idle",
        ),
    ],
)
def test_only_the_lifetime_goes_on_for_those_who_cannot_act(spec: dict[str, Any], seen: Have) -> None:
    assert plan(want(spec), seen, after(3599), facts()) == Wait(after(3600))


def test_after_its_time_it_is_deleted() -> None:
    assert plan(want(status=ENDED), None, after(300), facts()) == Delete()


def test_with_retain_what_ran_is_removed_and_the_object_stays() -> None:
    sandbox = want(RETAINED, status=ENDED)
    assert plan(sandbox, exited(), after(5), facts()) == Remove()
    assert plan(sandbox, None, after(5), facts()) == Wait()


def test_a_shutdown_time_that_is_over_lets_nothing_start() -> None:
    spec = {"lifetime": {"shutdownTime": NOW}}
    assert plan(fresh(spec), None, NOW, facts()) == Wait()
    assert plan(want(spec), None, NOW, facts()) == Wait()
    assert plan(want(spec), have(RunState.CREATED), NOW, facts()) == Wait()
    assert plan(want(spec | STOPPED), have(RunState.CREATED), NOW, facts()) == Wait()


@pytest.mark.parametrize("name", ["nano_cpus", "memory", "pids"])
def test_a_changed_limit_is_applied_to_the_living(name: str) -> None:
    wanted = Limits(**{"nano_cpus": 10**9, "memory": 512 * 2**20, "pids": 128} | {name: 64 * 2**20})
    assert plan(want(), have(), NOW, facts(limits=wanted)) == Update(wanted)
    assert plan(want(), have(limits=wanted), NOW, facts(limits=wanted)) == Wait(after(3600))


def test_a_limit_that_was_refused_is_not_asked_for_again() -> None:
    wanted = Limits(nano_cpus=10**9, memory=2**30, pids=128)
    assert plan(want(), have(), NOW, facts(NEVER, limits=wanted)) == Wait(after(3600))


def test_a_limit_that_the_backend_does_not_enforce_is_not_asked_for() -> None:
    assert plan(want(), have(limits=Limits(memory=LIMITS.memory)), NOW, facts()) == Wait(after(3600))


def test_ending_comes_before_suspending() -> None:
    assert plan(want(STOPPED), have(), after(3600), facts()) == Kill(Cause.EXPIRED)
