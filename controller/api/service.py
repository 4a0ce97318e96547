"""What runs sandboxes here, and whether it is well."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request

from controller.api.access import Access
from controller.api.openapi import problems
from controller.api.problems import Kind
from controller.api.schemas import DockerInfo, ServiceState
from controller.directory import SandboxDirectory


def routes(access: Access, directory: SandboxDirectory) -> APIRouter:
    """`/health`, `/sandbox/status`, `/sandbox/docker-info`."""
    router = APIRouter(tags=["service"])
    errors = problems(Kind.UNAUTHORIZED, Kind.FORBIDDEN, Kind.UNAVAILABLE)

    @router.get("/health")
    async def health() -> dict[str, Any]:
        """Answers while the controller lives, with the state of each part. Open to everyone."""
        return {"status": "ok", **directory.health()}

    @router.get("/sandbox/status", response_model=ServiceState, response_model_exclude_none=True, responses=errors)
    async def status(request: Request) -> Mapping[str, Any]:
        """Which backend new sandboxes get, and how many are active."""
        await access.caller(request)
        return directory.service_state()

    @router.get("/sandbox/docker-info", response_model=DockerInfo, responses=errors)
    async def docker_info(request: Request) -> Mapping[str, Any]:
        """What the Docker daemon told: version, API version, runtimes, storage driver, rootless, cgroup version."""
        await access.caller(request)
        return directory.docker_info()

    return router
