"""What people want: the Sandbox object and its spec, as checked data.

The spec models give the same answer as the CRD in `crds/` (tests/model feeds both the same documents), because the
library, the HTTP API and `plan` meet specs that no API server has seen. Nothing here imports a client or a clock.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from controller.grammar import (
    ENV_NAME,
    NETWORK,
    RUNTIME,
    host_folder,
    image_name,
    moment,
    network_name,
    quantity_between,
    relative_path,
    without_nul,
)

GROUP = "agent-platform.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "Sandbox"
PLURAL = "sandboxes"
FINALIZER = f"{GROUP}/sandbox"
BACKEND_ANNOTATION = f"{GROUP}/backend"
"""Written with the finalizer, before anything is started: which backend a sandbox has for life."""
TRACE_ANNOTATION = f"{GROUP}/traceparent"
"""W3C trace context of who made the object."""
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


PAYLOAD_BYTES = 131070
"""UTF-8 bytes of code, command, stdin, files and env together: about half of what Kubernetes allows all annotations.
Whatever part of it becomes an argument or `NAME=value` fits, with its NUL, into Linux's MAX_ARG_STRLEN (131072)."""
PATH_BYTES = 255
"""UTF-8 bytes of the path of a file in a spec: then no part of it exceeds Linux's NAME_MAX either."""
MONTH = 2592000
"""Seconds of 30 days."""


_MESSAGES = {
    "extra_forbidden": "unknown field",
    "missing": "is required",
    "model_type": "must be an object",
    "tuple_type": "must be a list",
    "string_unicode": "must be valid Unicode text",
}
"""Better words than pydantic's, by its type of error."""


class InvalidSpec(ValueError):
    """A spec that the CRD refuses, too. `str` of it is one line that names the field and repeats no text of it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        """Such as `spec.env[0].name`."""
        self.message = message


def _moment(value: object) -> object:
    return moment(value) if isinstance(value, str) else value


def _whole(value: object) -> object:
    """5.0 is the integer 5 to Kubernetes, as to JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _short_enough(path: str) -> str:
    if len(path.encode()) > PATH_BYTES:
        raise ValueError(f"must be at most {PATH_BYTES} bytes")
    return path


def _quantity(low: str, high: str) -> BeforeValidator:
    return BeforeValidator(lambda value: quantity_between(value, low, high))


Integer = Annotated[int, BeforeValidator(_whole)]
Text = Annotated[str, StringConstraints(max_length=PAYLOAD_BYTES)]
Argument = Annotated[str, StringConstraints(max_length=32768), AfterValidator(without_nul)]


class SpecModel(BaseModel):
    """camelCase outside, snake_case inside. Unknown fields are refused; null is absent, as in Kubernetes."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        strict=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        known = {*cls.model_fields, *(info.alias for info in cls.model_fields.values())}
        return {name: item for name, item in value.items() if item is not None or name not in known}


class EnvVar(SpecModel):
    """One environment variable of every program in the sandbox."""

    name: Annotated[str, StringConstraints(pattern=ENV_NAME, max_length=256)]
    value: Argument = ""


class File(SpecModel):
    """A text file written below the workspace before anything runs."""

    path: Annotated[
        str,
        StringConstraints(min_length=1, max_length=PATH_BYTES),
        AfterValidator(relative_path),
        AfterValidator(_short_enough),
    ]
    content: Text = ""


class Run(SpecModel):
    """The one program of a sandbox that finishes: `code` in a language, or a `command`."""

    language: Literal["python", "bash"] | None = None
    code: Annotated[Text, StringConstraints(min_length=1), AfterValidator(without_nul)] | None = None
    command: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=128, strict=False)] | None = None
    stdin: Text = ""
    timeout_seconds: Annotated[Integer, Field(ge=1, le=86400)] | None = None

    @field_validator("command")
    @classmethod
    def _names_a_program(cls, command: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if command is not None and not command[0]:
            raise ValueError("the first item names the program and cannot be empty")
        return command

    @model_validator(mode="after")
    def _one_program(self) -> Self:
        if (self.code is None) == (self.command is None):
            raise ValueError("exactly one of code and command is needed")
        if (self.code is None) != (self.language is None):
            raise ValueError("code needs a language, and a command takes none")
        return self


class Workspace(SpecModel):
    """`/workspace`: a tmpfs of `size`, or a folder of the host below SANDBOX__WORKSPACE_ROOTS."""

    size: Annotated[str, _quantity("1Mi", "64Gi")] = "256Mi"
    host_path: Annotated[str, StringConstraints(max_length=1024), AfterValidator(host_folder)] = ""


class Limits(SpecModel):
    """Upper bounds, enforced by the backend. Docker takes 6 MiB at least, and cpu below 0.01 it refuses or ignores."""

    cpu: Annotated[str, _quantity("10m", "512")] | None = None
    memory: Annotated[str, _quantity("6Mi", "1Ti")] | None = None
    pids: Annotated[Integer, Field(ge=4, le=32768)] | None = None


class Resources(SpecModel):
    """As in a Pod, limits only."""

    limits: Limits = Limits()


class Lifetime(SpecModel):
    """When a sandbox ends by itself, and what becomes of its object."""

    max_seconds: Annotated[Integer, Field(ge=1, le=MONTH)] = 3600
    idle_seconds: Annotated[Integer, Field(ge=0, le=MONTH)] = 0
    shutdown_time: Annotated[AwareDatetime, BeforeValidator(_moment)] | None = None
    ttl_seconds_after_finished: Annotated[Integer, Field(ge=0, le=MONTH)] = 300
    shutdown_policy: Literal["Delete", "Retain"] = "Delete"


class SandboxSpec(SpecModel):
    """`spec` of a Sandbox. Whatever it leaves out is safe: no network, limits, a finite life."""

    backend: Literal["auto", "docker", "kubernetes", "mock"] = "auto"
    isolation: Literal["preferred", "required"] = "preferred"
    image: Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(image_name)] | None = None
    run: Run | None = None
    env: Annotated[tuple[EnvVar, ...], Field(max_length=128, strict=False)] = ()
    files: Annotated[tuple[File, ...], Field(max_length=64, strict=False)] = ()
    workspace: Workspace = Workspace()
    resources: Resources = Resources()
    network: Annotated[
        str, StringConstraints(min_length=1, max_length=64, pattern=NETWORK), AfterValidator(network_name)
    ] = "none"
    runtime: Annotated[str, StringConstraints(max_length=64, pattern=RUNTIME)] = ""
    operating_mode: Literal["Running", "Suspended"] = "Running"
    lifetime: Lifetime = Lifetime()

    @field_validator("env")
    @classmethod
    def _env_once(cls, env: tuple[EnvVar, ...]) -> tuple[EnvVar, ...]:
        if len({variable.name for variable in env}) < len(env):
            raise ValueError("a name is there twice")
        return env

    @field_validator("files")
    @classmethod
    def _files_once(cls, files: tuple[File, ...]) -> tuple[File, ...]:
        paths = [file.path for file in files]
        if len(set(paths)) < len(paths):
            raise ValueError("a path is there twice")
        if any(other.startswith(f"{path}/") for path in paths for other in paths):
            raise ValueError("a path is both a file and the folder of another file")
        return files

    @model_validator(mode="after")
    def _small_enough(self) -> Self:
        if self.payload_bytes > PAYLOAD_BYTES:
            raise ValueError(
                f"code, command, stdin, files and env are more than {PAYLOAD_BYTES} bytes together; "
                "put large files in over the HTTP API"
            )
        return self

    @property
    def payload_bytes(self) -> int:
        """UTF-8 bytes of everything that PAYLOAD_BYTES limits."""
        texts = [text for variable in self.env for text in (variable.name, variable.value)]
        texts += [text for file in self.files for text in (file.path, file.content)]
        if self.run is not None:
            texts += [self.run.code or "", *(self.run.command or ()), self.run.stdin]
        return sum(len(text.encode()) for text in texts)


def parse_spec(spec: object) -> SandboxSpec:
    """A spec in the words of the API, defaults filled in. Raises InvalidSpec for what the CRD refuses, too."""
    try:
        return SandboxSpec.model_validate({} if spec is None else spec, by_alias=True, by_name=False)
    except ValidationError as error:
        raise _explain(error) from None


def _explain(error: ValidationError) -> InvalidSpec:
    """The first thing that is wrong, without the value that is: it may be a secret."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    parts = (f"[{part}]" if isinstance(part, int) else f".{repr(part[:64])[1:-1]}" for part in first["loc"])
    message = _MESSAGES.get(first["type"]) or re.sub(
        "^Value error, ", "", re.sub(r"^\w+ should ", "must ", first["msg"])
    )
    return InvalidSpec(f"spec{''.join(parts)}", message)


@dataclass(frozen=True)
class Sandbox:
    """The want: one Sandbox object as last seen in Kubernetes, or one made by the library."""

    uid: str
    name: str
    namespace: str
    spec: SandboxSpec
    """All defaults where the object's own is invalid."""
    invalid: str = ""
    """What is wrong with the object, for a person; nothing may be started while this is not empty."""
    generation: int = 1
    created_at: datetime | None = None
    deleted_at: datetime | None = None
    """When its deletion was asked for."""
    finalizers: tuple[str, ...] = ()
    backend: BackendName | None = None
    """The backend it was given for life; None before that was decided."""
    status: Mapping[str, Any] = field(default_factory=dict)
    """The status as last seen, in the words of the API."""
    resource_version: str = ""
    trace: str = ""
    """W3C trace context that its start belongs to; anyone's word who may edit the object."""


def sandbox_from_object(body: Mapping[str, Any]) -> Sandbox:
    """The Sandbox that an object from the API server describes; what is wrong with it is in `invalid`."""
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    status = body.get("status") or {}
    spec, invalid, backend = SandboxSpec(), "", None
    try:
        spec = parse_spec(body.get("spec"))
    except InvalidSpec as error:
        invalid = str(error)
    backends = {name.value for name in BackendName}
    finalizers = tuple(metadata.get("finalizers") or ())
    # The status first: only we write it, while the annotation is anyone's who may edit the object. Without the finalizer
    # that comes in the same write it is not ours, and nothing may be started that nothing holds.
    if status.get("backend") in backends:
        backend = BackendName(status["backend"])
    elif FINALIZER in finalizers and (decided := annotations.get(BACKEND_ANNOTATION)):
        if decided in backends:
            backend = BackendName(decided)
        else:
            invalid = f"metadata.annotations.{BACKEND_ANNOTATION}: must be one of {', '.join(BackendName)}"
    return Sandbox(
        uid=metadata["uid"],
        name=metadata["name"],
        namespace=metadata["namespace"],
        spec=spec,
        invalid=invalid,
        generation=metadata.get("generation", 1),
        created_at=_time(metadata.get("creationTimestamp")),
        deleted_at=_time(metadata.get("deletionTimestamp")),
        finalizers=finalizers,
        backend=backend,
        status=status,
        resource_version=metadata.get("resourceVersion", ""),
        trace=annotations.get(TRACE_ANNOTATION, ""),
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
