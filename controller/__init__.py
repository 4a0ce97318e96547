"""Run untrusted code in hardened sandboxes. The library's names are imported when they are asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from controller.choose import DockerUnavailableError
    from controller.library.blocking import MockSandboxManager, Sandbox, SandboxManager
    from controller.library.manager import AsyncMockSandboxManager, AsyncSandbox, AsyncSandboxManager
    from controller.library.outcome import Output, Result, StoredFile
    from controller.settings import Settings, get_settings

_HOMES = {
    "AsyncMockSandboxManager": "controller.library.manager",
    "AsyncSandbox": "controller.library.manager",
    "AsyncSandboxManager": "controller.library.manager",
    "DockerUnavailableError": "controller.choose",
    "MockSandboxManager": "controller.library.blocking",
    "Output": "controller.library.outcome",
    "Result": "controller.library.outcome",
    "Sandbox": "controller.library.blocking",
    "SandboxManager": "controller.library.blocking",
    "Settings": "controller.settings",
    "StoredFile": "controller.library.outcome",
    "get_settings": "controller.settings",
}
__all__ = [
    "AsyncMockSandboxManager",
    "AsyncSandbox",
    "AsyncSandboxManager",
    "DockerUnavailableError",
    "MockSandboxManager",
    "Output",
    "Result",
    "Sandbox",
    "SandboxManager",
    "Settings",
    "StoredFile",
    "get_settings",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'controller' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
