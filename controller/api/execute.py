"""Running code in a sandbox that is up, and cancelling it."""

import re
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response, StreamingResponse

from controller import executions
from controller.api.access import Access
from controller.api.bodies import json_response, read_json
from controller.api.openapi import json_body, problems
from controller.api.paths import SANDBOX, ExecutionId, SandboxId
from controller.api.problems import Kind, Problem
from controller.api.schemas import ExecutionResult, execution_body
from controller.api.streams import EVENT_STREAM, begun, execution_events, wants_events
from controller.directory import SandboxDirectory
from controller.executions import Program
from controller.model import Sandbox
from controller.plan import TERMINAL, was_started
from controller.settings import Settings

KEY = re.compile(r"[\x21-\x7e]{1,255}")
"""An idempotency key."""
EXECUTE_EXAMPLES = {
    "python": {"code": "print(1 + 1)", "language": "python", "timeout": 10},
    "command": {"command": ["ls", "-l"], "env": {"LANG": "C.UTF-8"}},
    "bash with input": {"code": "wc -w", "language": "bash", "stdin": "three small words\n"},
    "state that is kept": {"code": "x = 41", "context": "analysis"},
}
EVENTS_EXAMPLE = (
    'event: progress\ndata: {"execution_id":"5f0c6a0d9a5e4b1f8f3d0e6c7b2a1908","elapsed_ms":0}\n\n'
    'event: stdout\ndata: {"data":"2\\n","encoding":"utf-8"}\n\n'
    'event: result\ndata: {"exit_code":0,"reason":"Completed", …}\n\n'
)
KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A request with the same key and body is the same execution: it gives the first one's result.",
    "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
}


def add_routes(app: FastAPI, access: Access, directory: SandboxDirectory, settings: Settings) -> None:
    """`/sandbox/{id}/execute`, `/sandbox/{id}/executions/{execution_id}`."""
    errors = (Kind.UNAUTHORIZED, Kind.FORBIDDEN, Kind.NOT_FOUND, Kind.NOT_RUNNING, Kind.UNAVAILABLE)
    events: dict[int | str, Any] = {
        200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}, "example": EVENTS_EXAMPLE}}}
    }

    @app.post(
        f"{SANDBOX}/execute",
        response_model=ExecutionResult,
        responses=problems(
            *errors,
            Kind.BAD_REQUEST,
            Kind.REQUEST_TIMEOUT,
            Kind.TOO_LARGE,
            Kind.UNSUPPORTED_MEDIA_TYPE,
            Kind.INVALID,
            Kind.KEY_REUSED,
            Kind.RESULT_GONE,
            Kind.REFUSED,
            Kind.PATH_FORBIDDEN,
            Kind.BUSY,
        )
        | events,
        openapi_extra=json_body(Program, EXECUTE_EXAMPLES) | {"parameters": [KEY_PARAMETER]},
    )
    async def execute(request: Request, uid: SandboxId) -> Response:
        """Run code or a command and give its result; with `Accept: text/event-stream` its output as it comes.

        A client that goes away cancels nothing.
        """
        sandbox = await access.sandbox(request, uid, "create", "execute")
        key = _key(request)
        program = await read_json(request, Program, settings.api.max_body)
        demand_running(sandbox)
        if sandbox.spec.run is not None:
            raise Problem(Kind.NOT_RUNNING, f"sandbox {uid} runs the one program of its `run` and takes no other")
        wanted = executions.request_for(uid, program, settings.sandbox, key)
        port = directory.backend(sandbox).executions
        if wants_events(request.headers):
            pieces = execution_events(wanted.id, executions.stream(port, uid, wanted))
            return StreamingResponse(await begun(pieces), media_type=EVENT_STREAM)
        return json_response(execution_body(await executions.run(port, uid, wanted)))

    @app.delete(
        f"{SANDBOX}/executions/{{execution_id:execution_id}}",
        status_code=204,
        responses=problems(*errors, Kind.INVALID),
    )
    async def cancel(request: Request, uid: SandboxId, execution_id: ExecutionId) -> Response:
        """End every process of an execution; one that is over already is fine."""
        sandbox = await access.sandbox(request, uid, "create", "execute")
        await directory.backend(sandbox).executions.cancel(uid, execution_id)
        return Response(status_code=204)


def demand_running(sandbox: Sandbox) -> None:
    """Raises Problem 409 for a sandbox that nobody can run code in or read files of now, as far as its object tells."""
    if sandbox.deleted_at is not None:
        raise Problem(Kind.NOT_RUNNING, f"sandbox {sandbox.uid} is being deleted")
    if sandbox.spec.operating_mode == "Suspended":
        raise Problem(Kind.NOT_RUNNING, f"sandbox {sandbox.uid} is suspended; set its operatingMode to Running")
    demand_started(sandbox)


def demand_started(sandbox: Sandbox) -> None:
    """Raises Problem 409 before its start and after its end, where a backend would know nothing of it."""
    if sandbox.backend is None or not was_started(sandbox.status):
        raise Problem(Kind.NOT_RUNNING, f"sandbox {sandbox.uid} has not started yet", headers={"Retry-After": "1"})
    if sandbox.status.get("phase") in TERMINAL:
        raise Problem(Kind.NOT_RUNNING, f"sandbox {sandbox.uid} has ended")


def _key(request: Request) -> str:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return ""
    if len(keys) > 1 or not KEY.fullmatch(keys[0]):
        raise Problem(Kind.INVALID, "Idempotency-Key: must be 1 to 255 visible ASCII characters, once")
    return keys[0]
