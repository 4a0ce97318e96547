"""What people want: the Sandbox object and its spec, as checked data.

The spec models give the same answer as the CRD in `crds/` (tests/model feeds both the same documents), because the
library, the HTTP API and `plan` meet specs that no API server has seen. Nothing here imports a client or a clock.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from controller.quantity import parse_quantity

GROUP = "agent-platform.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "Sandbox"
PLURAL = "sandboxes"
FINALIZER = f"{GROUP}/sandbox"
BACKEND_ANNOTATION = f"{GROUP}/backend"
"""Written with the finalizer, before anything is started: which backend a sandbox has for life."""
MOCK_WARNING = "Running in MOCK mode - NO SECURITY ISOLATION"


class BackendName(StrEnum):
    """Where sandboxes can run."""

    DOCKER = "docker"
    KUBERNETES = "kubernetes"
    MOCK = "mock"


class Phase(StrEnum):
    """`status.phase`."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    TERMINATING = "Terminating"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """Why a program ended: `status.result.reason` and the `reason` of an execution."""

    COMPLETED = "Completed"
    ERROR = "Error"
    TIMEOUT = "Timeout"
    OOM_KILLED = "OOMKilled"
    CANCELLED = "Cancelled"
    LOST = "Lost"


class Isolation(StrEnum):
    """`status.isolation`: what stands between the code and this machine."""

    CONTAINER = "container"
    GVISOR = "gvisor"
    POD = "pod"
    NONE = "none"

PAYLOAD_BYTES = 131072
"""UTF-8 bytes of code, command, stdin, files and env together: half of the 256 KiB that Kubernetes allows annotations."""
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_.-]*$"
IMAGE = r"^[a-z0-9]+([._/:-][a-z0-9]+)*$"  # placeholder, see below
NETWORK = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$"
RUNTIME = r"^([a-zA-Z0-9][a-zA-Z0-9_.-]*)?$"


AwareTime = Annotated[AwareDatetime, Field(strict=False)]
Argument = Annotated[str, StringConstraints(max_length=32768), AfterValidator(lambda text: without_nul(text))]


def without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL byte, which no program can be given")
    return text


def relative_path(path: str) -> str:
    if path.startswith("/") or path.endswith("/") or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("must be a path below the workspace, without '..', '.' or empty parts")
    return path


def absolute_path(path: str) -> str:
    if path and (not path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in path[1:].split("/"))):
        raise ValueError("must be an absolute path without '..', '.' or empty parts")
    return path


def quantity_between(low: int | Decimal, high: int | Decimal, low_text: str, high_text: str) -> Callable[[str], str]:
    """A check that a quantity lies in [low, high]."""

    def check(text: str) -> str:
        if not low <= parse_quantity(text) <= high:
            raise ValueError(f"{text} is out of range: from {low_text} to {high_text}")
        return text

    return check


class SpecModel(BaseModel):
    """camelCase outside, snake_case inside; unknown fields are refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, strict=True)


class EnvVar(SpecModel):
    """One environment variable of the program."""

    name: Annotated[str, StringConstraints(pattern=ENV_NAME, max_length=256)]
    value: Annotated[str, StringConstraints(max_length=32768), AfterValidator(without_nul)] = ""


class File(SpecModel):
    """A text file written below the workspace before anything runs."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(relative_path)]
    content: Annotated[str, StringConstraints(max_length=131072)] = ""


class Run(SpecModel):
    """The one program of a sandbox that finishes: `code` in a language, or a `command`."""

    language: Literal["python", "bash"] | None = None
    code: Annotated[str, StringConstraints(min_length=1, max_length=131072), AfterValidator(without_nul)] | None = None
    command: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=256, strict=False)] | None = None
    stdin: Annotated[str, StringConstraints(max_length=131072)] = ""
    timeout_seconds: Annotated[int, Field(ge=1, le=86400)] | None = None

    @model_validator(mode="after")
    def _one_program(self) -> Self:
        if (self.code is None) == (self.command is None):
            raise ValueError("exactly one of code and command is needed")
        if (self.code is None) != (self.language is None):
            raise ValueError("code needs a language, and a command takes none")
        return self


class Workspace(SpecModel):
    """`/workspace`: a tmpfs of `size`, or a folder of the host below SANDBOX__WORKSPACE_ROOTS."""

    size: Annotated[str, AfterValidator(quantity_between(2**20, 2**36, "1Mi", "64Gi"))] = "256Mi"
    host_path: Annotated[str, StringConstraints(max_length=1024), AfterValidator(absolute_path)] = ""


class Limits(SpecModel):
    """Upper bounds, enforced by the backend."""

    cpu: Annotated[str, AfterValidator(quantity_between(Decimal("0.01"), 512, "10m", "512"))] | None = None
    memory: Annotated[str, AfterValidator(quantity_between(6 * 2**20, 2**40, "6Mi", "1Ti"))] | None = None
    pids: Annotated[int, Field(ge=4, le=32768)] | None = None


class Resources(SpecModel):
    """As in a Pod, limits only."""

    limits: Limits = Limits()


class Lifetime(SpecModel):
    """When a sandbox ends by itself, and what becomes of its object."""

    max_seconds: Annotated[int, Field(ge=1, le=2592000)] = 3600
    idle_seconds: Annotated[int, Field(ge=0, le=2592000)] = 0
    shutdown_time: AwareTime | None = None
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2592000)] = 300
    shutdown_policy: Literal["Delete", "Retain"] = "Delete"


class SandboxSpec(SpecModel):
    """`spec` of a Sandbox. Whatever it leaves out is safe: no network, limits, a finite life."""

    backend: Literal["auto", "docker", "kubernetes", "mock"] = "auto"
    isolation: Literal["preferred", "required"] = "preferred"
    image: Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=IMAGE)] | None = None
    run: Run | None = None
    env: Annotated[tuple[EnvVar, ...], Field(max_length=256, strict=False)] = ()
    files: Annotated[tuple[File, ...], Field(max_length=64, strict=False)] = ()
    workspace: Workspace = Workspace()
    resources: Resources = Resources()
    network: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NETWORK)] = "none"
    runtime: Annotated[str, StringConstraints(max_length=64, pattern=RUNTIME)] = ""
    operating_mode: Literal["Running", "Suspended"] = "Running"
    lifetime: Lifetime = Lifetime()

    @model_validator(mode="after")
    def _small_enough(self) -> Self:
        run = self.run or Run.model_construct(code="", command=())
        texts = [run.code or "", *(run.command or ()), run.stdin, *(f.path + f.content for f in self.files), *(e.name + e.value for e in self.env)]
        size = sum(len(text.encode()) for text in texts)
        if size > PAYLOAD_BYTES:
            raise ValueError(f"code, command, stdin, files and env are {size} bytes together; at most {PAYLOAD_BYTES} are taken")
        return self

    @model_validator(mode="after")
    def _no_double(self) -> Self:
        for what, names in (("env", [e.name for e in self.env]), ("files", [f.path for f in self.files])):
            doubled = sorted({name for name in names if names.count(name) > 1})
            if doubled:
                raise ValueError(f"{what} names {doubled[0]!r} twice")
        return self


@dataclass(frozen=True)
class Sandbox:
    """The want: one Sandbox object as last seen in Kubernetes, or one made by the library."""

    uid: str
    name: str
    namespace: str
    spec: SandboxSpec
    generation: int = 1
    created_at: datetime | None = None
    deleted_at: datetime | None = None
    """When its deletion was asked for."""
    finalizers: tuple[str, ...] = ()
    backend: BackendName | None = None
    """The backend it was given for life; None before that was decided."""
    status: Mapping[str, Any] = field(default_factory=dict)
    """The status as last seen, in the words of the API."""
