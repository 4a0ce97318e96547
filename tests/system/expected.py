"""What a client may expect of the controller after each step. Pure: it asks nobody, waits for nothing, knows no clock."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

Result = Mapping[str, Any]
MOST_BOXES, MOST_RUNNING = 3, 2


class Kind(StrEnum):
    """The kinds of step."""

    CREATE = "create"
    EXECUTE = "execute"
    EXECUTE_WITH_KEY = "execute with a key"
    REPEAT = "repeat a key"
    REUSE = "reuse a key for another body"
    BEGIN = "begin a long execution"
    FINISH = "let a long execution end"
    CANCEL = "cancel"
    WRITE = "write a file"
    SUSPEND = "suspend"
    USE_SUSPENDED = "use a suspended one"
    RESUME = "resume"
    BLINK = "suspend and resume at once"
    DELETE = "delete"
    USE_DELETED = "use a deleted one"
    STOP = "stop the controller and start it"
    CRASH = "kill the controller and start it"
    CRASH_IN_START = "kill it again while it starts"
    CRASH_IN_CREATE = "kill it while it creates"
    CRASH_IN_EXECUTE = "kill it while it executes"
    CRASH_IN_CANCEL = "kill it while it cancels"
    CRASH_IN_WRITE = "kill it while it writes a file"
    CRASH_IN_SUSPEND = "kill it while it suspends"
    CRASH_IN_DELETE = "kill it while it deletes"


CRASHES = frozenset(kind for kind in Kind if kind.name.startswith("CRASH_IN"))
OFTEN = {Kind.CREATE: 2, Kind.BEGIN: 3, Kind.RESUME: 2}
"""Kinds whose outcome several others use up are done so many times as often."""


MOMENTS = (0.0, 0.005, 0.02, 0.1, 0.3)
"""Seconds after the beginning of a request at which the controller is killed: in the middle of this and of that."""


@dataclass(frozen=True)
class Step:
    """One step: with which sandbox, with which of its executions, and when the controller is killed in it."""

    kind: Kind
    box: str = ""
    key: str = ""
    moment: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind.value} {self.box} {self.key} {self.moment:g}"


@dataclass
class Execution:
    """One that was begun with a key."""

    key: str
    body: Mapping[str, Any]
    mark: str = ""
    """By which its processes are found, where it is a long one."""
    result: Result | None = None
    """As it was first told; None while it runs."""


@dataclass
class Box:
    """A sandbox that was created and not deleted."""

    name: str
    uid: str
    suspended: bool = False
    journal: list[str] = field(default_factory=list)
    """A line for each program that ran in it."""
    files: dict[str, bytes] = field(default_factory=dict)
    executions: dict[str, Execution] = field(default_factory=dict)

    @property
    def running(self) -> list[Execution]:
        return [each for each in self.executions.values() if each.result is None]

    @property
    def ended(self) -> list[Execution]:
        return [each for each in self.executions.values() if each.result is not None]

    def execution_id(self, key: str) -> str:
        """As docs/http-api.md tells it."""
        return hashlib.sha256(f"{self.uid}\0{key}".encode()).hexdigest()[:32]


@dataclass
class Expected:
    """All that there should be."""

    boxes: dict[str, Box] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    """uids."""
    ended_marks: list[str] = field(default_factory=list)
    """Of executions that ended, were cancelled, or whose sandbox was deleted."""
    done: Counter[Kind] = field(default_factory=Counter)
    _names: int = 0

    def new_name(self, what: str) -> str:
        self._names += 1
        return f"{what}-{self._names}"

    def possible(self) -> Iterator[Step]:
        """Every step that makes sense now."""
        yield from (Step(kind) for kind in (Kind.STOP, Kind.CRASH, Kind.CRASH_IN_START))
        if len(self.boxes) < MOST_BOXES:
            yield from (Step(kind) for kind in (Kind.CREATE, Kind.CRASH_IN_CREATE))
        if self.deleted:
            yield Step(Kind.USE_DELETED)
        for box in self.boxes.values():
            if len(self.boxes) > 1:  # the last one is kept for the other steps
                yield from (Step(kind, box.name) for kind in (Kind.DELETE, Kind.CRASH_IN_DELETE))
            if box.suspended:
                yield from (Step(kind, box.name) for kind in (Kind.USE_SUSPENDED, Kind.RESUME))
            else:
                yield from self._possible_in(box)

    def _possible_in(self, box: Box) -> Iterator[Step]:
        for kind in (
            Kind.EXECUTE,
            Kind.EXECUTE_WITH_KEY,
            Kind.CRASH_IN_EXECUTE,
            Kind.WRITE,
            Kind.CRASH_IN_WRITE,
            Kind.SUSPEND,
            Kind.CRASH_IN_SUSPEND,
            Kind.BLINK,
        ):
            yield Step(kind, box.name)
        if len(box.running) < MOST_RUNNING:
            yield Step(Kind.BEGIN, box.name)
        for execution in box.running:
            for kind in (Kind.FINISH, Kind.CANCEL, Kind.CRASH_IN_CANCEL):
                yield Step(kind, box.name, execution.key)
        for execution in box.ended:
            yield Step(Kind.REPEAT, box.name, execution.key)
        for execution in box.executions.values():
            yield Step(Kind.REUSE, box.name, execution.key)

    def due(self) -> list[Step]:
        """The possible steps of the kinds that were done least so far, so that no walk goes without one of them.

        In no order that means anything: whoever always takes the first one goes a good way, too.
        """
        possible = [(self.done[step.kind] // OFTEN.get(step.kind, 1), step) for step in self.possible()]
        least = min(times for times, _ in possible)
        due = [step for times, step in possible if times == least]
        due = [replace(step, moment=moment) for step in due for moment in (MOMENTS if step.kind in CRASHES else (0.0,))]
        random.Random(self.done.total()).shuffle(due)
        return due

    def ended(self, execution: Execution, result: Result) -> None:
        execution.result = result
        if execution.mark:
            self.ended_marks.append(execution.mark)

    def removed(self, box: Box) -> None:
        del self.boxes[box.name]
        self.deleted.append(box.uid)
        self.ended_marks += [each.mark for each in box.running if each.mark]
