"""The ports of the HTTP API: where Sandbox objects are kept, and who may do what with them.

The reconciler and the store implement them over Kubernetes; tests implement them in memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from controller.backends import Backend
from controller.model import Sandbox

Verb = Literal["create", "get", "list", "update", "delete"]
Subresource = Literal["", "execute", "files", "logs"]


class DirectoryError(Exception):
    """A Sandbox object could not be read or written; the text is for the person who asked."""


class Exists(DirectoryError):
    """An object of that name is there already."""


class Invalid(DirectoryError):
    """The API server or its admission refuses the object; the text names the field or the rule."""


class StoreUnavailable(DirectoryError):
    """The Kubernetes API does not answer, or objects were never listed so far."""


class SandboxDirectory(Protocol):
    """Sandbox objects as the last watch event told them. What is not async answers from memory, at once."""

    def get(self, uid: str) -> Sandbox | None:
        """None: there is none. Raises StoreUnavailable where nobody knows that yet."""
        ...

    def list(self, namespace: str | None = None) -> list[Sandbox]:
        """All, or those of one namespace. Raises StoreUnavailable until objects were listed once."""
        ...

    async def create(self, namespace: str, name: str, spec: Mapping[str, Any]) -> Sandbox:
        """Make the object; `spec` has the names of the CRD. Raises Exists, Invalid, StoreUnavailable."""
        ...

    async def wait_ready(self, uid: str, timeout: float) -> Sandbox:
        """Returns as soon as it can run code, is finished or has failed for good.

        Raises TimeoutError after `timeout` seconds, KeyError when it is deleted meanwhile.
        """
        ...

    async def delete(self, uid: str) -> None:
        """Ask for its deletion; asked before or gone already is fine. Raises StoreUnavailable."""
        ...

    async def wait_gone(self, uid: str, timeout: float) -> None:
        """Returns as soon as the object is gone. Raises TimeoutError after `timeout` seconds."""
        ...

    def backend(self, sandbox: Sandbox) -> Backend:
        """The backend that it has for life. Raises backends.Unavailable where that is not there now."""
        ...

    def service_state(self) -> Mapping[str, Any]:
        """`status` (docker, mock, kubernetes, disabled), `docker_available`, `active_sandboxes`, maybe `warning`."""
        ...

    def docker_info(self) -> Mapping[str, Any]:
        """`available`, `status` and what the daemon told when it was last asked."""
        ...

    def health(self) -> Mapping[str, Any]:
        """One entry for each part of the controller. Everyone may read it: no secrets, no names of objects."""
        ...


@dataclass(frozen=True)
class Identity:
    """Who a token belongs to, as a TokenReview tells it."""

    user: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """What a SubjectAccessReview is asked about: a verb on `sandboxes` or `sandboxes/<subresource>`."""

    verb: Verb
    subresource: Subresource = ""
    namespace: str = ""
    """Empty: in all namespaces."""
    name: str = ""
    """Empty: whichever object."""


class Reviewer(Protocol):
    """The cluster's word on tokens and rights. Both raise StoreUnavailable when it does not answer."""

    async def identify(self, token: str) -> Identity | None:
        """TokenReview: who it is, None for a token that is not valid."""
        ...

    async def allows(self, identity: Identity, action: Action) -> bool:
        """SubjectAccessReview."""
        ...
