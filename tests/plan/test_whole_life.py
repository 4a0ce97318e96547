"""Whatever happens, in whatever order: a life comes to rest, a program runs once, and few writes tell it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controller.backends import Observation, RunState, Tail
from controller.model import FINALIZER, Sandbox
from controller.plan import (
    TERMINAL,
    Claim,
    Delete,
    Facts,
    Kill,
    Problem,
    Release,
    Remove,
    Resume,
    Start,
    Step,
    Suspend,
    Unreachable,
    Wait,
    plan,
)
from controller.status import patch_of, report
from tests.plan.words import NOW, PROGRAM, after, exited, facts, fresh, have

STEPS = 12
"""As many as the reconciler allows one pass."""


class Life(RuleBasedStateMachine):
    """One sandbox with `run`: its object, its container, and a controller that may crash after any step."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.object: Sandbox | None = fresh(
            {"run": PROGRAM, "lifetime": {"maxSeconds": 100, "shutdownTime": after(350)}}
        )
        self.container: Observation | None = None
        self.answers = True
        self.starts_fail = ""
        self.freezing_fails = False
        self.problem: Problem | None = None
        self.starts = 0
        self.writes = 0
        self.steady = True
        """Nobody but the controller did anything: then writes are few."""

    # --- the controller, as reconcile.py does it ---

    @property
    def seen(self) -> Observation | Unreachable | None:
        return self.container if self.answers else Unreachable("DockerUnavailable", "no answer")

    @property
    def facts(self) -> Facts:
        """A problem whose next try is due is no problem."""
        due = self.problem is not None and self.problem.retry_at is not None and self.problem.retry_at <= self.now
        return facts(None if due else self.problem)

    @rule(crash_after=st.integers(0, STEPS))
    def work(self, crash_after: int) -> None:
        """A pass; a crash leaves whatever the last step did."""
        for number in range(STEPS + 1):
            assert number < STEPS, "the plan comes to an end"
            if self.object is None or (crash_after < STEPS and number == crash_after):
                self.steady, self.problem = False, None
                return
            step = plan(self.object, self.seen, self.now, self.facts)
            if not isinstance(step, Wait):
                self.perform(step)
            elif not (self.write_report() and self.object.status["phase"] in TERMINAL):
                assert step.until is None or step.until > self.now, "it waits for what is to come"
                return

    def write_report(self) -> bool:
        assert self.object is not None
        status = report(self.object, self.seen, self.now, self.facts, docker_available=self.answers)
        patch = patch_of(self.object.status, status)
        if set(patch) <= {"docker_available"} and self.object.status:
            return False
        self.writes += 1
        self.object = replace(self.object, status=status)
        again = report(self.object, self.seen, self.now, self.facts, docker_available=self.answers)
        assert patch_of(status, again) == {}, "reporting twice is reporting once"
        return True

    def perform(self, step: Step) -> None:
        assert self.object is not None
        assert self.answers or isinstance(step, Claim | Delete), "nothing is done in the dark"
        match step:
            case Claim(backend):
                self.writes += 1
                self.object = replace(self.object, backend=backend, finalizers=(FINALIZER,))
            case Start():
                assert FINALIZER in self.object.finalizers, "what is started is held"
                assert self.container is None or self.container.state is RunState.CREATED
                if self.starts_fail:
                    if self.starts_fail == "half way":
                        self.container = have(RunState.CREATED, self.object, created_at=self.now)
                    for_good = self.starts_fail == "for good"
                    retry = None if for_good else self.now + timedelta(seconds=1)
                    self.problem = Problem("DockerError", self.starts_fail, permanent=for_good, retry_at=retry)
                    return
                self.starts += 1
                self.problem = None
                self.container = have(RunState.RUNNING, self.object, created_at=self.now, started_at=self.now)
            case Suspend() if self.freezing_fails:
                self.problem = Problem("DockerError", "no freeze", retry_at=self.now + timedelta(seconds=1))
            case Suspend():
                self.become(RunState.PAUSED)
            case Resume():
                self.become(RunState.RUNNING)
            case Kill():
                self.end(137)
            case Remove():
                self.container = None
            case Release():
                assert self.container is None, "an object goes last"
                self.object = None
            case Delete():
                self.somebody_deletes_it()

    def become(self, state: RunState) -> None:
        assert self.container is not None
        self.container = replace(self.container, state=state)

    def end(self, code: int) -> None:
        assert self.container is not None
        started = self.container.started_at
        ended = exited(code, self.object, started_at=started, finished_at=self.now, tail=Tail("out"))
        self.container = replace(ended, created_at=self.container.created_at)

    # --- everybody else ---

    @rule(seconds=st.sampled_from([0.1, 1, 10, 31, 101, 400]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.container is not None and self.container.state is RunState.RUNNING)
    @rule(code=st.sampled_from([0, 1, 137]))
    def the_program_ends(self, code: int) -> None:
        self.end(code)

    @precondition(lambda self: self.object is not None and self.object.status.get("phase") == "Running")
    @rule()
    def somebody_removes_the_container(self) -> None:
        self.container = None

    @rule(answers=st.booleans())
    def docker_comes_and_goes(self, answers: bool) -> None:
        self.steady = self.steady and answers
        self.answers = answers

    @rule(how=st.sampled_from(["", "for now", "half way", "for good"]))
    def starts_fail_or_not(self, how: str) -> None:
        self.steady = self.steady and not how
        self.starts_fail = how

    @rule(fails=st.booleans())
    def freezing_fails_or_not(self, fails: bool) -> None:
        self.freezing_fails = fails

    @precondition(lambda self: self.object is not None and self.object.deleted_at is None)
    @rule(mode=st.sampled_from(["Running", "Suspended"]))
    def somebody_changes_the_mode(self, mode: Any) -> None:
        assert self.object is not None
        changed = self.object.spec.operating_mode != mode
        self.steady = self.steady and not changed
        spec = self.object.spec.model_copy(update={"operating_mode": mode})
        self.object = replace(self.object, spec=spec, generation=self.object.generation + changed)

    @precondition(lambda self: self.object is not None and self.object.deleted_at is None)
    @rule()
    def somebody_deletes_it(self) -> None:
        assert self.object is not None
        deleted = replace(self.object, deleted_at=self.now)
        self.object = deleted if FINALIZER in self.object.finalizers else None

    # --- what must hold ---

    @invariant()
    def it_runs_at_most_once(self) -> None:
        assert self.starts <= 1

    @invariant()
    def an_undisturbed_life_takes_few_writes(self) -> None:
        assert self.writes <= 4 or not self.steady, "with the finalizer's removal at most five"

    @invariant()
    def a_container_without_an_object_is_only_left_by_nobody(self) -> None:
        assert self.object is not None or self.container is None

    def teardown(self) -> None:
        """Left in peace, everything is gone in the end, or told."""
        self.answers, self.starts_fail = True, ""
        for _ in range(4):
            self.now += timedelta(seconds=401)
            self.work(STEPS)
        suspended = self.object is not None and self.object.spec.operating_mode == "Suspended"
        if self.object is None or suspended:
            return
        raise AssertionError(f"it never came to its end: {self.object.status}")


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
