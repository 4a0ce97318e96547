"""The HTTP API as one application."""

from fastapi import FastAPI

from controller.api import execute, files, openapi, problems, sandboxes, service
from controller.api.access import Access
from controller.api.auth import Authenticator
from controller.api.limits import Limits
from controller.api.server import demand_safe_host
from controller.directory import SandboxDirectory
from controller.model import VERSION
from controller.settings import Settings
from controller.tracing import RequestContext


def build_app(directory: SandboxDirectory, settings: Settings, authenticator: Authenticator) -> FastAPI:
    """The application, to be served at `settings.api`. Raises ServeError where that would be unsafe."""
    demand_safe_host(settings.api.host, open_to_loopback=authenticator.open_to_loopback)
    app = FastAPI(
        title="Sandbox Controller",
        version=VERSION,
        description="Run untrusted code in hardened sandboxes. Errors are problem documents (RFC 9457).",
        # The pages would load scripts from a third party into an origin that can run code.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    access = Access(directory, authenticator)
    service.add_routes(app, access, directory)
    sandboxes.add_routes(app, access, directory, settings)
    execute.add_routes(app, access, directory, settings)
    files.add_routes(app, access, directory, settings)
    app.add_middleware(Limits)
    app.add_middleware(RequestContext)
    problems.install(app)
    openapi.install(app)
    return app
