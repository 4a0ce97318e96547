"""What people want: the Sandbox object and its spec, as checked data.

The spec models give the same answer as the CRD in `crds/` (tests/model feeds both the same documents), because the
library, the HTTP API and `plan` meet specs that no API server has seen. Nothing here imports a client or a clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

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


class SpecModel(BaseModel):
    """camelCase outside, snake_case inside; unknown fields are refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


@dataclass(frozen=True)
class Sandbox:
    """The want: one Sandbox object as last seen in Kubernetes, or one made by the library."""

    uid: str
    name: str
    namespace: str
    spec: "SandboxSpec"
    generation: int = 1
    created_at: datetime | None = None
    deleted_at: datetime | None = None
    """When its deletion was asked for."""
    finalizers: tuple[str, ...] = ()
    backend: BackendName | None = None
    """The backend it was given for life; None before that was decided."""
    status: Mapping[str, Any] = field(default_factory=dict)
    """The status as last seen, in the words of the API."""


class SandboxSpec(SpecModel):
    """placeholder"""
