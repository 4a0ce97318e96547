"""want, have, now -> what the status says."""

from typing import Any

import pytest

from controller.backends import Limits, Observation, RunState, Tail
from controller.model import MOCK_WARNING, BackendName, Isolation, Sandbox
from controller.plan import Cause, Have, Offer, Problem, Unreachable
from controller.status import NO_AGENT_WARNING, patch_of, report
from tests.plan.words import NOW, PROGRAM, after, exited, facts, fresh, have, want

KILLED = 137
SILENT = Unreachable("DockerUnavailable", "no answer")
NEVER = Problem("ImageNotFound", "build it", permanent=True)
LATER = Problem("DockerError", "again soon", retry_at=after(1))
LIVES = {"phase": "Running", "startedAt": "2030-01-01T12:00:00Z", "limits": {"cpu": "1"}}
RUNS = {"run": PROGRAM}
STOPPED = {"operatingMode": "Suspended"}
SHORT = {"lifetime": {"shutdownTime": after(60)}}


def told(sandbox: Sandbox, seen: Have, known: Any = None, at: float = 1, cause: Cause | None = None) -> dict[str, Any]:
    return report(sandbox, seen, after(at), known or facts(), docker_available=True, cause=cause)


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((each for each in status["conditions"] if each["type"] == kind), {})


@pytest.mark.parametrize(
    ("sandbox", "seen", "known", "phase", "ready", "reason"),
    [
        pytest.param(fresh(), None, facts(offer=Offer(None, LATER)), "Pending", "False", "DockerError", id="no offer"),
        pytest.param(fresh(invalid="spec.x: bad"), None, facts(), "Pending", "False", "InvalidSpec", id="wrong"),
        pytest.param(want(), None, facts(), "Starting", "False", "Starting", id="claimed"),
        pytest.param(want(), None, facts(LATER), "Starting", "False", "DockerError", id="a start failed"),
        pytest.param(want(), SILENT, facts(), "Starting", "False", "DockerUnavailable", id="dark before its start"),
        pytest.param(want(STOPPED), None, facts(), "Suspended", "False", "Suspended", id="created suspended"),
        pytest.param(want(), have(RunState.CREATED), facts(), "Starting", "False", "Starting", id="created"),
        pytest.param(want(), have(ready=True, path="agent"), facts(), "Running", "True", "TakesCode", id="ready"),
        pytest.param(want(), have(path="agent"), facts(), "Running", "False", "AgentNotAnswering", id="mute agent"),
        pytest.param(want(RUNS), have(), facts(), "Running", "False", "RunsItsProgram", id="runs"),
        pytest.param(want(STOPPED), have(RunState.PAUSED), facts(), "Suspended", "False", "Suspended", id="frozen"),
        pytest.param(want(status=LIVES), SILENT, facts(), "Unknown", "Unknown", "DockerUnavailable", id="dark"),
        pytest.param(want(deleted_at=NOW), have(), facts(), "Terminating", "False", "Terminating", id="deleted"),
        pytest.param(want(deleted_at=NOW), SILENT, facts(), "Terminating", "False", "Terminating", id="deleted, dark"),
        pytest.param(want(), exited(0), facts(), "Failed", "False", "Finished", id="stopped by itself"),
    ],
)
def test_what_is_said_of_a_sandbox(
    sandbox: Sandbox, seen: Have, known: Any, phase: str, ready: str, reason: str
) -> None:
    status = told(sandbox, seen, known)
    said = condition(status, "Ready")
    assert (status["phase"], said["status"], said["reason"]) == (phase, ready, reason)


@pytest.mark.parametrize(
    ("sandbox", "seen", "cause", "phase", "reason", "word"),
    [
        pytest.param(want(RUNS), exited(0), None, "Succeeded", "Completed", "Completed", id="well"),
        pytest.param(want(RUNS), exited(3), None, "Failed", "Error", "Error", id="badly"),
        pytest.param(
            want(RUNS), exited(KILLED, oom_killed=True), None, "Failed", "OOMKilled", "OOMKilled", id="memory"
        ),
        pytest.param(want(RUNS), exited(KILLED), None, "Failed", "Error", "Error", id="killed by someone"),
        pytest.param(want(RUNS), exited(KILLED), Cause.TIMEOUT, "Failed", "Timeout", "Timeout", id="timeout"),
        pytest.param(want(RUNS), exited(KILLED, at=30), None, "Failed", "Timeout", "Timeout", id="timeout, forgotten"),
        pytest.param(
            want(RUNS), exited(0, at=31), Cause.TIMEOUT, "Succeeded", "Completed", "Completed", id="just made"
        ),
        pytest.param(want(RUNS), exited(KILLED), Cause.EXPIRED, "Failed", "Cancelled", "Expired", id="lifetime, run"),
        pytest.param(want(), exited(KILLED), Cause.EXPIRED, "Succeeded", "Completed", "Expired", id="lifetime"),
        pytest.param(want(), exited(KILLED, at=3600), None, "Succeeded", "Completed", "Expired", id="and forgotten"),
        pytest.param(want(), exited(KILLED), Cause.IDLE, "Succeeded", "Completed", "Idle", id="idle"),
        pytest.param(want(), exited(0), None, "Failed", "Error", "Stopped", id="someone stopped it"),
        pytest.param(want(), exited(KILLED), None, "Failed", "Error", "Stopped", id="someone killed it"),
        pytest.param(want(RUNS), exited(None), None, "Failed", "Lost", "Lost", id="no exit code"),
        pytest.param(want(RUNS, status=LIVES), None, None, "Failed", "Lost", "Lost", id="gone"),
        pytest.param(want(STOPPED, status=LIVES), None, None, "Failed", "Lost", "Lost", id="gone while suspended"),
        pytest.param(want(SHORT), None, None, "Failed", "Cancelled", "Expired", id="too late to start"),
        pytest.param(
            want(SHORT), have(RunState.CREATED), None, "Failed", "Cancelled", "Expired", id="created, and too late"
        ),
    ],
)
def test_how_it_ended(sandbox: Sandbox, seen: Have, cause: Cause | None, phase: str, reason: str, word: str) -> None:
    status = told(sandbox, seen, cause=cause, at=4000)
    finished = condition(status, "Finished")
    assert (status["phase"], status["result"]["reason"]) == (phase, reason)
    assert (finished["status"], finished["reason"], condition(status, "Ready")["status"]) == ("True", word, "False")


@pytest.mark.parametrize("sandbox", [fresh(), want(), want({"operatingMode": "Suspended"})])
def test_what_cannot_ever_start_has_failed_unless_it_is_not_asked_to(sandbox: Sandbox) -> None:
    status = told(sandbox, None, facts(NEVER))
    assert (status["phase"], condition(status, "Finished")["reason"]) == ("Failed", "ImageNotFound")
    assert status["result"]["reason"] == "Error" and "exitCode" not in status["result"]


def test_an_end_is_written_once_and_never_changed() -> None:
    ended = told(want(RUNS), exited(0))
    for seen in (None, SILENT, have(), exited(9)):
        assert told(want(RUNS, status=ended), seen, at=500) == ended


def test_nothing_that_was_known_is_lost_in_the_dark() -> None:
    before = told(want(), have(ready=True, path="agent"))
    dark = told(want(status=before), SILENT)
    for name in ("container", "limits", "startedAt", "expiresAt", "isolation"):
        assert dark[name] == before[name]


def test_limits_are_those_that_were_read_back() -> None:
    seen = have(limits=Limits(nano_cpus=1_500_000_000, memory=300 * 2**20, pids=None, network="lab"))
    assert told(want(), seen)["limits"] == {"cpu": "1500m", "memory": "300Mi", "network": "lab"}


def test_mock_is_always_labelled() -> None:
    seen = have(backend=BackendName.MOCK, ready=True, path="agent", isolation=Isolation.CONTAINER)
    for state in (seen, None, SILENT):
        status = told(want(backend=BackendName.MOCK), state)
        assert (status["backend"], status["warnings"]) == ("mock", [MOCK_WARNING])
    assert told(want(backend=BackendName.MOCK), seen)["isolation"] == "none"


def test_executions_without_the_agent_are_told_in_a_warning() -> None:
    assert told(want(), have(ready=True, path="exec"))["warnings"] == [NO_AGENT_WARNING]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"env": [{"name": "A", "value": "1"}]}, "spec.env"),
        ({"image": "other"}, "spec.image"),
        ({"isolation": "required"}, "spec.isolation"),
        ({"run": PROGRAM}, "spec.run"),
        ({"workspace": {"size": "1Gi"}}, "spec.workspace"),
    ],
)
def test_a_change_that_the_living_cannot_take_is_refused_by_name(changed: dict[str, Any], field: str) -> None:
    status = told(want(changed), have(sandbox=want()))
    refused = condition(status, "SpecApplied")
    assert (status["phase"], refused["status"], refused["reason"]) == ("Running", "False", "ChangeRefused")
    assert field in refused["message"]


def test_a_spec_that_says_the_same_in_other_words_is_no_change() -> None:
    assert condition(told(want({"network": "none", "env": []}), have(sandbox=want())), "SpecApplied") == {}


def test_transition_times_change_with_the_status_only() -> None:
    first = told(want(), have(path="agent"), at=1)
    same = told(want(status=first), have(path="agent"), at=50)
    ready = told(want(status=same), have(path="agent", ready=True), at=60)
    times = [condition(status, "Ready")["lastTransitionTime"] for status in (first, same, ready)]
    assert times == ["2030-01-01T12:00:01Z", "2030-01-01T12:00:01Z", "2030-01-01T12:01:00Z"]


def test_a_tail_is_in_the_result_as_it_was_read() -> None:
    seen = exited(1, tail=Tail("o", "e", truncated=True), finished_at=after(1.5))
    result = told(want(RUNS), seen)["result"]
    assert result == {
        "reason": "Error",
        "exitCode": 1,
        "stdout": "o",
        "stderr": "e",
        "truncated": True,
        "durationMs": 1500,
    }


def test_an_end_before_the_start_lasts_no_time() -> None:
    assert told(want(RUNS), exited(0, at=-5))["result"]["durationMs"] == 0


@pytest.mark.parametrize("seen", [None, SILENT, have(), have(RunState.PAUSED), have(RunState.CREATED), exited(2)])
@pytest.mark.parametrize("sandbox", [fresh(), want(), want(RUNS), want(deleted_at=NOW), fresh(invalid="bad")])
def test_reporting_twice_writes_nothing(sandbox: Sandbox, seen: Observation | None) -> None:
    first = told(sandbox, seen)
    again = _with_status(sandbox, first)
    assert patch_of(first, told(again, seen, at=2)) == {}


def _with_status(sandbox: Sandbox, status: dict[str, Any]) -> Sandbox:
    return Sandbox(**(sandbox.__dict__ | {"status": status}))


def test_a_patch_takes_out_what_is_no_longer_so() -> None:
    assert patch_of({"a": 1, "b": 2}, {"a": 1, "c": 3}) == {"c": 3, "b": None}
