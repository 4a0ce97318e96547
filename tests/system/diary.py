"""What walks did, and how the first one failed that did."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.system.expected import Kind, Step


@dataclass
class Diary:
    """What was done in all walks of a test, and what went wrong first.

    Hypothesis repeats a walk that failed, and where the moment was what mattered it sees that fail otherwise or not at
    all, and tells of that alone. So the first failure is kept, with the steps that led to it, and walks end there.
    """

    done: Counter[Kind] = field(default_factory=Counter)
    steps: list[str] = field(default_factory=list)
    failure: BaseException | None = None

    def open(self) -> None:
        """A new walk begins. Raises the failure of an earlier one."""
        self.steps.clear()
        if self.failure is not None:
            raise self.failure

    @contextmanager
    def entry(self, step: Step) -> Iterator[None]:
        self.steps.append(str(step))
        try:
            yield
        except BaseException as failure:
            failure.add_note("\n".join(self.steps))
            self.failure = self.failure or failure
            raise
        self.done[step.kind] += 1
