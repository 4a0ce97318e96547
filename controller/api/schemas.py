"""Bodies of the HTTP API, in snake_case, and how objects and outcomes become them."""

import base64
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from controller.executions import Outcome
from controller.grammar import host_folder
from controller.model import Isolation, Phase, Reason, Sandbox, SandboxSpec

NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
"""DNS-1123 label: what Kubernetes takes as a namespace, and what fits a label's value."""
MAX_WAIT = 300
"""Seconds that a create may wait."""

Name = Annotated[str, StringConstraints(pattern=NAME)]
HostFolder = Annotated[str, StringConstraints(max_length=1024), AfterValidator(host_folder)]


class CreateSandbox(SandboxSpec):
    """A name and the fields of `spec`, all optional."""

    name: Name | None = Field(None, description="Default: a new one, `sandbox-…`.")
    namespace: Name | None = Field(None, description="Default: the first of WATCH_NAMESPACES, else `default`.")
    wait: float = Field(
        30, ge=0, le=MAX_WAIT, allow_inf_nan=False, description="Seconds to wait at most until it is ready."
    )
    workspace_path: HostFolder | None = Field(None, description="Older name of `workspace.host_path`.")

    @model_validator(mode="after")
    def _one_workspace(self) -> Self:
        if self.workspace_path is not None and self.workspace.host_path:
            raise ValueError("takes workspace_path or workspace.host_path, not both")
        return self

    def spec(self) -> dict[str, Any]:
        """What was given of `spec`, in the names of the CRD."""
        own = {"name", "namespace", "wait", "workspace_path"}
        spec = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude=own)
        if self.workspace_path is not None:
            spec["workspace"] = {**spec.get("workspace", {}), "hostPath": self.workspace_path}
        return spec


class ServiceState(BaseModel):
    """What runs sandboxes here."""

    status: Literal["docker", "mock", "kubernetes", "disabled"]
    docker_available: bool
    active_sandboxes: int
    warning: str | None = Field(None, description="Only on mock.")


class DockerInfo(BaseModel):
    """What the Docker daemon told of itself."""

    model_config = ConfigDict(extra="allow")

    available: bool
    status: str = Field(examples=["connected"])


class Condition(BaseModel):
    """As in Kubernetes."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""


class RunResult(BaseModel):
    """How the `run` of a sandbox ended."""

    exit_code: int | None = None
    reason: Reason
    stdout: str = Field("", description="The last 16 KiB.")
    stderr: str = Field("", description="The last 16 KiB.")
    truncated: bool = False
    duration_ms: int | None = None


class SandboxView(BaseModel):
    """A sandbox: its object's status, in snake_case."""

    model_config = ConfigDict(title="Sandbox", extra="allow")

    id: str = Field(description="The uid of the object; what the URLs take.", json_schema_extra={"format": "uuid"})
    name: str
    namespace: str
    phase: Phase
    ready: bool = Field(description="Code can be run in it now.")
    message: str = Field(description="Why it is not ready; empty where it is.")
    backend: Literal["docker", "kubernetes", "mock", "none"]
    docker_available: bool
    isolation: Isolation
    warnings: list[str]
    conditions: list[Condition]
    created_at: datetime | None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    container: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None
    result: RunResult | None = None


class SandboxUsage(BaseModel):
    """What a sandbox takes now, measured from outside of it."""

    memory: int = Field(description="Bytes.")
    cpu_seconds: float = Field(description="Since it started.")
    processes: int


class SandboxList(BaseModel):
    """Sandboxes that one may see, by namespace and name."""

    items: list[SandboxView]
    total: int = Field(description="How many there are; `items` holds at most `limit` of them.")


class ExecutionResult(BaseModel):
    """How an execution ended."""

    exit_code: int | None = Field(description="None where there is none: the sandbox was lost.", examples=[0])
    reason: Reason
    stdout: str = Field(description="UTF-8, with U+FFFD for bytes that are not.", examples=["2\n"])
    stderr: str = Field(examples=[""])
    truncated: bool = Field(description="Output beyond SANDBOX__OUTPUT_LIMIT was dropped.")
    duration_ms: int
    execution_id: str = Field(examples=["5f0c6a0d9a5e4b1f8f3d0e6c7b2a1908"])
    path: Literal["agent", "exec"] = Field(description="How the sandbox was reached.")
    stdout_base64: str | None = Field(None, description="Only where stdout is not UTF-8: its exact bytes.")
    stderr_base64: str | None = Field(None, description="Only where stderr is not UTF-8: its exact bytes.")
    dropped_stdout: int = Field(0, description="Bytes.")
    dropped_stderr: int = Field(0, description="Bytes.")
    signal: int | None = Field(None, description="The signal that ended it.")
    peak_memory: int | None = Field(None, description="Bytes.")
    cpu_seconds: float | None = None


class StoredFile(BaseModel):
    """A file below the workspace."""

    path: str
    size: int = Field(description="Bytes.")


class FileList(BaseModel):
    """The files in a folder of the workspace."""

    items: list[StoredFile]
    truncated: bool = Field(description="There are more.")


def execution_body(outcome: Outcome) -> dict[str, Any]:
    """An ExecutionResult, as a plain dictionary: this is on the fast path."""
    result = outcome.result
    body: dict[str, Any] = {
        "exit_code": result.exit_code,
        "reason": result.reason,
        "stdout": outcome.stdout.decode(errors="replace"),
        "stderr": outcome.stderr.decode(errors="replace"),
        "truncated": outcome.truncated,
        "duration_ms": result.duration_ms,
        "execution_id": result.id,
        "path": result.path,
        "dropped_stdout": result.dropped_stdout,
        "dropped_stderr": result.dropped_stderr,
        "signal": result.signal,
        "peak_memory": result.peak_memory,
        "cpu_seconds": result.cpu_seconds,
    }
    for name, data in (("stdout", outcome.stdout), ("stderr", outcome.stderr)):
        if "\ufffd" in body[name] and body[name].encode() != data:
            body[f"{name}_base64"] = base64.b64encode(data).decode()
    return body


def sandbox_body(sandbox: Sandbox) -> dict[str, Any]:
    """A SandboxView. Nothing of `spec`: code and variables may hold secrets."""
    status = _snake_case(sandbox.status)
    ready: Mapping[str, Any] = next((each for each in status.get("conditions", ()) if each.get("type") == "Ready"), {})
    return {
        "phase": Phase.PENDING,
        "docker_available": False,
        "isolation": Isolation.NONE,
        "warnings": [],
        "conditions": [],
        **status,
        **({"phase": Phase.TERMINATING} if sandbox.deleted_at else {}),
        "backend": status.get("backend") or sandbox.backend or "none",
        "ready": ready.get("status") == "True" and sandbox.deleted_at is None,
        "message": "" if ready.get("status") == "True" else ready.get("message", ""),
        "id": sandbox.uid,
        "name": sandbox.name,
        "namespace": sandbox.namespace,
        "created_at": sandbox.created_at,
    }


def _snake_case(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            re.sub(r"(?<=[a-z])[A-Z]", lambda c: "_" + c[0].lower(), key): _snake_case(each)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_snake_case(each) for each in value]
    return value
