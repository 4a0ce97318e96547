"""What is said over the link, as types: strict and bounded, for the agent's words come out of a sandbox.

The head of sandbox-image/agent.py specifies them.
"""

from base64 import b64encode
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from controller.backends import BackendError, Busy, Conflict, ExecRequest, ExecResult, NotFound, Refused
from controller.model import Reason

PROTOCOL = 1
RESULT_GONE = "ResultGone"
"""Reason of a NotFound: the execution ran, and its result is no longer kept."""

_Count = Annotated[int, Field(ge=0, le=1 << 62)]
_Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
_Word = Annotated[str, Field(max_length=256)]


class Said(BaseModel):
    """Something that an agent said."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Hello(Said):
    """The agent's greeting."""

    protocol: Literal[1]
    version: _Word
    pid1: bool
    python: _Word
    running: Annotated[list[_Word], Field(max_length=1000)]
    """Ids of executions."""
    contexts: Annotated[list[_Word], Field(max_length=1000)]
    idle_seconds: _Seconds
    """Since the last execution ended; 0 while one runs."""
    kept: _Count
    forgotten: _Count
    max_executions: _Count


class Started(Said):
    """An execution was begun, or found."""

    stdin_received: _Count | None
    """Bytes that the agent has; None while another channel brings them."""


class Result(Said):
    """How an execution ended."""

    exit_code: Annotated[int, Field(ge=0, le=255)]
    signal: Annotated[int, Field(ge=1, le=64)] | None
    reason: Literal["Completed", "Error", "Timeout", "Cancelled", "OOMKilled"]
    dropped_stdout: _Count
    dropped_stderr: _Count
    duration_ms: _Count
    peak_memory: _Count | None
    cpu_seconds: _Seconds | None

    def of(self, execution_id: str) -> ExecResult:
        """As the port has it."""
        return ExecResult(
            id=execution_id, path="agent", **self.model_dump(exclude={"reason"}), reason=Reason(self.reason)
        )


class Error(Said):
    """A refusal: nothing was run, read or kept."""

    code: _Word
    message: Annotated[str, Field(max_length=4096)]

    def as_raised(self) -> BackendError:
        """As the port's error."""
        match self.code:
            case "Conflict":
                return Conflict(self.message)
            case "Busy":
                return Busy(self.message)
            case "NotFound":
                return NotFound(self.message)
            case "Gone":
                return NotFound(self.message, RESULT_GONE)
            case "BadRequest" | "Forbidden" | "TooLarge" | "NoSpace":
                return Refused(self.message, self.code)
        return BackendError(self.message, "AgentFailed")


class Credit(Said):
    """How much more content may be sent on a channel."""

    bytes: _Count


class Entry(Said):
    """One line of a listing."""

    path: Annotated[str, Field(max_length=8192)]
    bytes: _Count


class Listed(Said):
    """The end of a listing."""

    truncated: bool


def execute_request(request: ExecRequest) -> dict[str, object]:
    """An execution in the agent's words."""
    what: dict[str, object] = {"argv": list(request.command)} if request.kind == "command" else {"code": request.code}
    return what | {
        "op": "execute",
        "id": request.id,
        "digest": request.digest,
        "kind": request.kind,
        "context": request.context,
        "cwd": request.cwd,
        "env": dict(request.env),
        "files": [{"path": path, "data": b64encode(content).decode()} for path, content in request.files.items()],
        "stdin": bool(request.stdin),
        "deadline": request.timeout,
        "output_limit": request.output_limit,
    }
