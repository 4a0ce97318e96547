"""What keeps the unauthenticated server to the programs of this machine."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from controller.localkube import answers
from controller.localkube.failures import Failure

NAMES = ("127.0.0.1", "localhost", "::1")


class LoopbackOnly:
    """Refuses what a web page could send: browsers name their origin, and a rebound DNS name is not a loopback one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
            if name not in NAMES or "origin" in headers or "sec-fetch-site" in headers:
                why = "this server answers programs on this machine, under 127.0.0.1 or localhost, and no browsers"
                await answers.failed(Failure(403, "Forbidden", why))(scope, receive, send)
                return
        await self._app(scope, receive, send)
