"""What runs sandboxes here, and whether it is well."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request

from controller.api.access import Access
from controller.api.openapi import problems
from controller.api.problems import Kind
from controller.api.schemas import DockerInfo, ServiceState
from controller.directory import SandboxDirectory


def add_routes(app: FastAPI, access: Access, directory: SandboxDirectory) -> None:
    """`/health`, `/sandbox/status`, `/sandbox/docker-info`."""
    errors = problems(Kind.UNAUTHORIZED, Kind.FORBIDDEN, Kind.UNAVAILABLE)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Answers while the controller lives, with the state of each part. Open to everyone."""
        return {"status": "ok", **directory.health()}

    @app.get("/sandbox/status", response_model=ServiceState, response_model_exclude_none=True, responses=errors)
    async def status(request: Request) -> Mapping[str, Any]:
        """Which backend new sandboxes get, and how many are active."""
        await access.caller(request)
        return directory.service_state()

    @app.get("/sandbox/docker-info", response_model=DockerInfo, responses=errors)
    async def docker_info(request: Request) -> Mapping[str, Any]:
        """What the Docker daemon told: version, API version, runtimes, storage driver, rootless, cgroup version."""
        await access.caller(request)
        return directory.docker_info()
