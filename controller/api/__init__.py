"""The HTTP API: sandboxes and executions for programs that are not on this machine's Python."""

from controller.api.app import build_app
from controller.api.auth import Authenticator
from controller.api.server import ServeError, serving

__all__ = ["Authenticator", "ServeError", "build_app", "serving"]
