"""What comes back from a sandbox: plain data, imported by the CLI too, whose start must be quick."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of output as it came; a character of several bytes may be split between two pieces."""

    stream: Literal["stdout", "stderr"]
    data: bytes

    @property
    def text(self) -> str:
        """The data as UTF-8, with U+FFFD for what is not."""
        return self.data.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Result:
    """How an execution ended."""

    exit_code: int | None
    """None where there is none: the sandbox was lost."""
    reason: str
    """Completed, Error, Timeout, OOMKilled, Cancelled or Lost."""
    stdout: str
    stderr: str
    truncated: bool
    """Output beyond SANDBOX__OUTPUT_LIMIT was dropped."""
    duration_ms: int
    execution_id: str
    path: str
    """How the sandbox was reached: `agent`, or `exec` where its image has no agent."""
    dropped_stdout: int = 0
    dropped_stderr: int = 0
    """Bytes."""
    signal: int | None = None
    peak_memory: int | None = None
    """Bytes."""
    cpu_seconds: float | None = None

    @property
    def ok(self) -> bool:
        """The program ended by itself with exit code 0."""
        return self.reason == "Completed" and self.exit_code == 0


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file below the workspace; `size` is in bytes."""

    path: str
    size: int
