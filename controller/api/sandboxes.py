"""Sandboxes: create, list, get, delete."""

import secrets
from dataclasses import asdict
from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from controller.api.access import Access
from controller.api.bodies import json_response, read_json
from controller.api.execute import demand_started
from controller.api.openapi import json_body, problems
from controller.api.paths import SANDBOX, SandboxId
from controller.api.problems import Kind, Problem
from controller.api.schemas import MAX_WAIT, CreateSandbox, Name, SandboxList, SandboxUsage, SandboxView, sandbox_body
from controller.directory import Action, SandboxDirectory
from controller.model import Sandbox
from controller.settings import Settings

CREATE_EXAMPLES = {
    "stays up": {"name": "scratch", "resources": {"limits": {"memory": "256Mi"}}, "lifetime": {"idle_seconds": 600}},
    "runs one program": {"run": {"language": "python", "code": "print('hello')", "timeout_seconds": 5}},
    "older": {"workspace_path": "/srv/workspaces/demo"},
}


def add_routes(app: FastAPI, access: Access, directory: SandboxDirectory, settings: Settings) -> None:
    """`/sandbox/create`, `/sandbox`, `/sandbox/{id}`."""
    errors = (Kind.UNAUTHORIZED, Kind.FORBIDDEN, Kind.INVALID, Kind.UNAVAILABLE)
    default_namespace = next(iter(settings.watch_namespaces), "default")

    @app.post(
        "/sandbox/create",
        status_code=201,
        response_model=SandboxView,
        responses=problems(
            *errors,
            Kind.BAD_REQUEST,
            Kind.REQUEST_TIMEOUT,
            Kind.NAME_TAKEN,
            Kind.TOO_LARGE,
            Kind.UNSUPPORTED_MEDIA_TYPE,
            Kind.REFUSED,
        ),
        openapi_extra=json_body(CreateSandbox, CREATE_EXAMPLES),
    )
    async def create(request: Request) -> Response:
        """Make a Sandbox object and wait until it is ready, finished or failed; see `ready` and `message`.

        After `wait` seconds the answer is the sandbox as it is then: it goes on starting.
        """
        caller = await access.caller(request)
        wanted = await read_json(request, CreateSandbox, settings.api.max_body)
        namespace = wanted.namespace or default_namespace
        await access.demand(caller, Action("create", namespace=namespace))
        if settings.watch_namespaces and namespace not in settings.watch_namespaces:
            raise Problem(Kind.INVALID, f"body.namespace: this controller does not watch {namespace}")
        sandbox = await directory.create(namespace, wanted.name or f"sandbox-{secrets.token_hex(5)}", wanted.spec())
        if wanted.wait and directory.service_state()["status"] != "disabled":
            sandbox = await _ready(directory, sandbox, wanted.wait)
        return json_response(sandbox_body(sandbox), 201, {"Location": f"/sandbox/{sandbox.uid}"})

    @app.get("/sandbox", response_model=SandboxList, responses=problems(*errors))
    async def list_(
        request: Request,
        namespace: Annotated[Name | None, Query(description="Default: all in which you may list sandboxes.")] = None,
        name: Annotated[Name | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        """Sandboxes by namespace and name."""
        visible = await access.visible(request, namespace)
        found = sorted((each.namespace, each.name, each.uid) for each in visible if name in (None, each.name))
        sandboxes = [directory.get(uid) for _, _, uid in found[:limit]]
        return json_response({"items": [sandbox_body(each) for each in sandboxes if each], "total": len(found)})

    @app.get(SANDBOX, response_model=SandboxView, responses=problems(*errors, Kind.NOT_FOUND))
    async def get(request: Request, uid: SandboxId) -> Response:
        """One sandbox."""
        return json_response(sandbox_body(await access.sandbox(request, uid, "get")))

    @app.get(
        f"{SANDBOX}/usage",
        response_model=SandboxUsage,
        responses=problems(*errors, Kind.NOT_FOUND, Kind.NOT_RUNNING),
    )
    async def usage(request: Request, uid: SandboxId) -> Response:
        """Memory, processor time and processes of a sandbox that runs."""
        sandbox = await access.sandbox(request, uid, "get")
        demand_started(sandbox)
        return json_response(asdict(await directory.backend(sandbox).usage(uid)))

    @app.delete(
        SANDBOX,
        status_code=204,
        responses={
            202: {"description": "Asked for; not gone after `wait` seconds"},
            **problems(*errors, Kind.NOT_FOUND),
        },
    )
    async def delete(
        request: Request,
        uid: SandboxId,
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT, allow_inf_nan=False, description="Seconds.")] = 10,
    ) -> Response:
        """End it and remove every trace; waits until it is gone."""
        await access.sandbox(request, uid, "delete")
        await directory.delete(uid)
        try:
            await directory.wait_gone(uid, wait)
        except TimeoutError:
            return Response(status_code=202)
        return Response(status_code=204)


async def _ready(directory: SandboxDirectory, sandbox: Sandbox, wait: float) -> Sandbox:
    if sandbox.spec.operating_mode == "Suspended":
        return sandbox  # it is not started until somebody resumes it
    try:
        return await directory.wait_ready(sandbox.uid, wait)
    except TimeoutError:
        return directory.get(sandbox.uid) or sandbox
    except KeyError:
        raise Problem(Kind.NOT_FOUND, f"sandbox {sandbox.uid} was deleted while it started") from None
