"""What comes back from a sandbox: plain data."""

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
    stdout_bytes: bytes
    stderr_bytes: bytes
    """What was printed, up to SANDBOX__OUTPUT_LIMIT."""
    truncated: bool
    """More was printed, and dropped."""
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
    def stdout(self) -> str:
        """`stdout_bytes` as UTF-8, with U+FFFD for what is not."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """`stderr_bytes` as UTF-8, with U+FFFD for what is not."""
        return self.stderr_bytes.decode(errors="replace")

    @property
    def ok(self) -> bool:
        """The program ended by itself with exit code 0."""
        return self.reason == "Completed" and self.exit_code == 0


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file below the workspace; `size` is in bytes."""

    path: str
    size: int
