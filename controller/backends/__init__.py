"""The port: what the reconciler, the library and the HTTP API ask of a place where sandboxes run.

The comments here are the contract; tests/backends holds every backend to them. A backend keeps no state that it could not
rebuild from what runs there: names and labels carry everything. It touches only what bears its own instance label.
Every call ends within a deadline, with a result or with one of the errors below.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol

from controller.model import BackendName, Isolation, Reason, Sandbox


class BackendError(Exception):
    """Something went wrong in a backend. `reason` is CamelCase for a condition; the text says what to do.

    `permanent` means that trying again with the same spec cannot help.
    """

    reason = "BackendError"
    permanent = False

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or self.reason


class Unavailable(BackendError):
    """The backend does not answer. Nothing is known about its sandboxes until it does."""

    reason = "BackendUnavailable"


class Refused(BackendError):
    """The backend cannot do what the spec asks: an image, runtime or network that it does not have."""

    reason = "Refused"
    permanent = True


class NotFound(BackendError):
    """No such sandbox (or execution, or file) here."""

    reason = "NotFound"
    permanent = True


class NotRunning(BackendError):
    """The sandbox is there but cannot run code now: suspended, finished or not ready."""

    reason = "NotRunning"


class Busy(BackendError):
    """Too many executions at once in this sandbox; try again later."""

    reason = "Busy"


class Conflict(BackendError):
    """The execution id was used before, for another request."""

    reason = "Conflict"
    permanent = True


class RunState(StrEnum):
    """What a backend sees of a sandbox."""

    CREATED = "created"
    """Made but never started: its program has not run."""
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


@dataclass(frozen=True)
class Limits:
    """Limits as the backend enforces them, read back from it. None: unlimited."""

    nano_cpus: int | None = None
    memory: int | None = None
    """Bytes."""
    pids: int | None = None
    network: str = "none"


@dataclass(frozen=True)
class Usage:
    """What a sandbox takes now, measured from outside of it."""

    memory: int
    """Bytes; without the files that the kernel would give up first."""
    cpu_seconds: float
    """Since it started."""
    processes: int


@dataclass(frozen=True)
class Tail:
    """The end of what a program printed, decoded for a person."""

    stdout: str = ""
    stderr: str = ""
    truncated: bool = False


@dataclass(frozen=True)
class Observation:
    """The have: one sandbox as its backend sees it now."""

    uid: str
    namespace: str
    name: str
    backend: BackendName
    state: RunState
    ready: bool = False
    """Code can be executed now (never true for a sandbox with `run`)."""
    path: Literal["agent", "exec", ""] = ""
    """How executions reach it."""
    container_id: str = ""
    container_name: str = ""
    image: str = ""
    """Content id of the image."""
    node: str = ""
    isolation: Isolation = Isolation.CONTAINER
    limits: Limits = Limits()
    fixed: Mapping[str, str] = field(default_factory=dict)
    """Hash of each part of the spec that cannot change while it lives; see `controller.fixed`."""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    idle_since: datetime | None = None
    """When the last execution ended; None while one runs."""
    tail: Tail | None = None
    """Only of an exited program."""


@dataclass(frozen=True)
class Health:
    """One look at a backend. `status` is a word for programs, `message` tells a person what to do."""

    available: bool
    status: str
    message: str = ""
    info: Mapping[str, object] = field(default_factory=dict)
    """version, api_version, runtimes, networks, storage_driver, rootless, cgroup_version - what the backend tells."""


@dataclass(frozen=True)
class ExecRequest:
    """One execution. `id` is chosen by the caller; the same id with the same `digest` is the same execution."""

    id: str
    digest: str
    kind: Literal["python", "bash", "command"]
    code: str = ""
    command: tuple[str, ...] = ()
    stdin: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Relative path -> content, written below the workspace first."""
    cwd: str = ""
    context: str = ""
    """Name of a Python state that is kept between executions; empty: a fresh interpreter."""
    timeout: float = 30.0
    """Seconds until every process of the execution is ended."""
    output_limit: int = 1 << 20
    """Bytes kept of each stream; the rest is dropped and counted."""


@dataclass(frozen=True)
class OutputChunk:
    """Output as it comes."""

    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True)
class ExecResult:
    """How an execution ended. Always the last thing that `execute` yields.

    Chunks are yielded as they come and not repeated here, unless the execution was over before (a retry):
    then everything comes as chunks first, too.
    """

    id: str
    exit_code: int | None
    """None where there is none: the sandbox was lost."""
    reason: Reason
    duration_ms: int
    path: Literal["agent", "exec"]
    dropped_stdout: int = 0
    dropped_stderr: int = 0
    """Bytes beyond the limit."""
    signal: int | None = None
    peak_memory: int | None = None
    """Bytes."""
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class FileInfo:
    """A file below the workspace."""

    path: str
    size: int


@dataclass(frozen=True)
class Listing:
    """The files in a folder of the workspace and below it."""

    files: list[FileInfo]
    truncated: bool
    """There are more: a listing has at most 10,000 files, and about 1 MiB."""


class Executions(Protocol):
    """Running code in sandboxes that are up. `uid` is the sandbox's."""

    def execute(self, uid: str, request: ExecRequest) -> AsyncIterator[OutputChunk | ExecResult]:
        """Run it, at most once per id: chunks, then one ExecResult. Closing the iterator does not cancel.

        Raises NotFound, NotRunning, Busy, Conflict, Unavailable before the first item, nothing after it: what goes wrong
        later is a result with reason Lost.
        """
        ...

    async def cancel(self, uid: str, execution_id: str) -> None:
        """End every process of the execution within 1 s. Raises NotFound for an unknown id; done is fine."""
        ...

    async def put_file(self, uid: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Write a file below the workspace. Raises Refused for a path that leaves it, also through symlinks."""
        ...

    def get_file(self, uid: str, path: str) -> AsyncIterator[bytes]:
        """Read a regular file below the workspace. Raises NotFound, Refused."""
        ...

    async def list_files(self, uid: str, path: str = "") -> Listing:
        """The files in a folder of the workspace. Raises NotFound, Refused."""
        ...


class Backend(Protocol):
    """A place where sandboxes run."""

    @property
    def name(self) -> BackendName: ...

    @property
    def executions(self) -> Executions: ...

    @property
    def reconnects(self) -> int:
        """Links to agents that were lost and opened again, so far."""
        ...

    async def probe(self) -> Health:
        """Ask whether it answers, within the connection timeout. Never raises for an absent backend."""
        ...

    async def observe(self, uid: str) -> Observation | None:
        """The sandbox now, None where there is none. Raises Unavailable: unknown is never told as absent."""
        ...

    async def list(self) -> list[Observation]:
        """All sandboxes of this instance, without tails. Raises Unavailable."""
        ...

    async def start(self, sandbox: Sandbox) -> Observation:
        """Create and start it; returns when a sandbox without `run` can execute code. Meets its own name: adopts.

        Never starts again what ran before. Leaves nothing behind where it fails.
        Raises Refused (permanent), Unavailable, BackendError.
        """
        ...

    async def suspend(self, uid: str) -> None:
        """Freeze every process; memory and files stay. Suspended already is fine."""
        ...

    async def resume(self, uid: str) -> None:
        """Undo `suspend`. Running already is fine."""
        ...

    async def update(self, uid: str, limits: Limits) -> None:
        """Apply cpu, memory and pids of `limits` to the living sandbox. Raises Refused."""
        ...

    async def usage(self, uid: str) -> Usage:
        """What it takes now. Raises NotFound, NotRunning, Unavailable."""
        ...

    async def kill(self, uid: str) -> None:
        """End every process now and keep the record of how it ended. Ended already is fine."""
        ...

    async def remove(self, uid: str) -> None:
        """End it and remove every trace. Removing twice is removing once."""
        ...

    def logs(self, uid: str, follow: bool = False) -> AsyncIterator[OutputChunk]:
        """The kept output of `run`, then what comes, if `follow`, until it ends. Raises NotFound."""
        ...

    def events(self) -> AsyncIterator[str]:
        """uids of sandboxes that changed by themselves. Ends or raises Unavailable when the stream is lost."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads; sandboxes live on."""
        ...
