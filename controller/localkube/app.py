"""The HTTP face: which URL leads where."""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from controller.localkube import answers, discovery, failures, openapi
from controller.localkube.endpoints import Objects
from controller.localkube.failures import Failure
from controller.localkube.kinds import Kinds
from controller.localkube.loopback import LoopbackOnly
from controller.localkube.registry import Registry
from controller.localkube.watching import Watches

Endpoint = Callable[[Request], Awaitable[Response]]


def app(registry: Registry, watches: Watches) -> ASGIApp:
    objects, served = Objects(registry, watches), _Discovery(registry.kinds)
    reads: dict[str, Endpoint] = {
        "/version": served.version,
        "/openapi/v2": served.openapi_v2,
        "/openapi/v3": served.openapi_v3_index,
        "/openapi/v3/api/{version}": served.openapi_v3,
        "/openapi/v3/apis/{group}/{version}": served.openapi_v3,
        "/api": served.core_versions,
        "/apis": served.groups,
        "/apis/{group}": served.group,
        "/api/{version}": served.resources,
        "/apis/{group}/{version}": served.resources,
    }
    for probe in ("healthz", "livez", "readyz"):
        reads |= {f"/{probe}": _healthy, f"/{probe}/{{check:path}}": _healthy}
    routes = [Route(path, endpoint, methods=["GET"]) for path, endpoint in reads.items()]
    for path in ("/api/{version}/{rest:path}", "/apis/{group}/{version}/{rest:path}"):
        routes.append(Route(path, objects.endpoint, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]))
    refusals = {Failure: _on_failure, 404: _on_nothing, 405: _on_wrong_method, Exception: _on_error}
    return LoopbackOnly(Starlette(routes=routes, exception_handlers=refusals))


class _Discovery:
    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds

    async def version(self, request: Request) -> Response:
        return answers.answer(discovery.VERSION)

    async def core_versions(self, request: Request) -> Response:
        return self._aggregated(request, [""]) or answers.answer(discovery.core_versions(request.url.netloc))

    async def groups(self, request: Request) -> Response:
        names = [name for name in self._kinds.groups() if name]
        return self._aggregated(request, names) or answers.answer(discovery.group_list(self._kinds))

    def _aggregated(self, request: Request, groups: list[str]) -> Response | None:
        for wanted in request.headers.get("accept", "").split(","):
            parameters = dict(part.strip().partition("=")[::2] for part in wanted.split(";")[1:])
            version = parameters.get("v", "")
            if parameters.get("as") == "APIGroupDiscoveryList" and version in ("v2", "v2beta1"):
                found = discovery.aggregated(self._kinds, groups, version)
                return answers.answer(
                    found, media_type=f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
                )
        return None

    async def group(self, request: Request) -> Response:
        return answers.answer_or_nothing(discovery.group(self._kinds, request.path_params["group"]))

    async def resources(self, request: Request) -> Response:
        group, version = request.path_params.get("group", ""), request.path_params["version"]
        return answers.answer_or_nothing(discovery.resource_list(self._kinds, group, version))

    async def openapi_v2(self, request: Request) -> Response:
        return answers.answer(openapi.v2(self._kinds))

    async def openapi_v3_index(self, request: Request) -> Response:
        return answers.answer(openapi.v3_index(self._kinds))

    async def openapi_v3(self, request: Request) -> Response:
        group, version = request.path_params.get("group", ""), request.path_params["version"]
        return answers.answer_or_nothing(openapi.v3(self._kinds, group, version))


async def _healthy(request: Request) -> Response:
    return PlainTextResponse("ok")


async def _on_failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, Failure)
    return answers.failed(error)


async def _on_error(request: Request, error: Exception) -> Response:
    """The error itself is logged by uvicorn."""
    return answers.failed(failures.internal_error(error))


async def _on_nothing(request: Request, error: Exception) -> Response:
    return answers.nothing()


async def _on_wrong_method(request: Request, error: Exception) -> Response:
    return answers.failed(failures.method_not_allowed())
