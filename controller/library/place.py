"""Where a manager's sandboxes live: on this machine's backends (`local`), or behind the HTTP API (`remote`).

Errors are the port's (`controller.backends`): NotFound, NotRunning, Busy, Conflict, Refused, Unavailable.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from controller.executions import Program
from controller.library.outcome import Output, Result, StoredFile
from controller.model import SandboxSpec


@dataclass(frozen=True, slots=True)
class Created:
    """A sandbox that is up."""

    id: str
    name: str
    namespace: str
    backend: str
    """docker, kubernetes or mock."""
    isolation: str
    """container, gvisor, pod, or none on mock."""
    warnings: tuple[str, ...] = ()


class Place(Protocol):
    """What the library needs of it."""

    async def docker_info(self) -> dict[str, Any]:
        """`available`, `status` and what the daemon tells; asked anew each time. Never raises for an absent daemon."""
        ...

    async def create(self, name: str, spec: SandboxSpec, wait: float) -> Created:
        """Make a sandbox; returns when it can execute code, or raises. Nothing is left behind where it fails."""
        ...

    async def execute(self, sandbox_id: str, key: str, program: Program) -> Result:
        """Run it, at most once per `key`, with its output collected up to the limit."""
        ...

    def stream(self, sandbox_id: str, key: str, program: Program) -> AsyncGenerator[Output | Result, None]:
        """Run it, at most once per `key`: output as it comes, then one Result whose `stdout` and `stderr` are empty."""
        ...

    async def cancel(self, sandbox_id: str, key: str) -> None:
        """End every process of the execution that was started with `key`. Done already is fine."""
        ...

    async def write(self, sandbox_id: str, path: str, chunks: AsyncIterator[bytes]) -> None: ...

    def read(self, sandbox_id: str, path: str) -> AsyncGenerator[bytes, None]: ...

    async def files(self, sandbox_id: str, folder: str) -> list[StoredFile]: ...

    async def remove(self, sandbox_id: str) -> None:
        """End it and remove every trace. Removing twice is removing once."""
        ...

    def reopened(self) -> "Place":
        """The same place for another event loop: the last removal at the interpreter's exit has its own."""
        ...

    async def close(self) -> None:
        """Let go of connections; sandboxes live on."""
        ...
