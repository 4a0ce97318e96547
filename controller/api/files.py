"""Files in and out of a workspace, and the output of `run`; streamed, so that no file is ever in memory as a whole."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import FastAPI, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from controller import backends
from controller.api.access import Access
from controller.api.bodies import json_response, read_chunks
from controller.api.execute import demand_running
from controller.api.openapi import problems
from controller.api.paths import SANDBOX, SandboxId
from controller.api.problems import Kind, Problem
from controller.api.schemas import FileList
from controller.api.streams import EVENT_STREAM, begun, output_events, wants_events
from controller.directory import SandboxDirectory
from controller.executions import MAX_PATH, PATH_PATTERN, workspace_path
from controller.model import Sandbox
from controller.plan import TERMINAL, was_started
from controller.quantity import format_bytes
from controller.settings import Settings

FilePath = Annotated[
    str,
    Path(
        description="Below the workspace.",
        examples=["data/in.csv"],
        max_length=MAX_PATH,
        json_schema_extra={"pattern": PATH_PATTERN},
    ),
]
FolderPath = Annotated[
    str,
    Query(
        description="Below the workspace; default: the workspace itself.",
        max_length=MAX_PATH,
        json_schema_extra={"pattern": f"^$|{PATH_PATTERN}"},
    ),
]
START_SECONDS = 60.0
"""For a sandbox whose logs are followed to start."""
HARMLESS = {
    # What a sandbox wrote must not become a page of ours in somebody's browser.
    "Content-Disposition": "attachment",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}
TEXT = {media_type: {"schema": {"type": "string"}} for media_type in ("text/plain", EVENT_STREAM)}
BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


def add_routes(app: FastAPI, access: Access, directory: SandboxDirectory, settings: Settings) -> None:
    """`/sandbox/{id}/files`, `/sandbox/{id}/files/{path}`, `/sandbox/{id}/logs`."""
    errors = (Kind.UNAUTHORIZED, Kind.FORBIDDEN, Kind.NOT_FOUND, Kind.INVALID, Kind.UNAVAILABLE)

    @app.get(
        f"{SANDBOX}/files",
        response_model=FileList,
        responses=problems(*errors, Kind.NOT_RUNNING, Kind.REFUSED, Kind.PATH_FORBIDDEN),
    )
    async def list_files(
        request: Request,
        uid: SandboxId,
        folder: FolderPath = "",
    ) -> Response:
        """The files in a folder of the workspace and below it, at most 10,000."""
        sandbox = await access.sandbox(request, uid, "get", "files")
        demand_running(sandbox)
        found = await directory.backend(sandbox).executions.list_files(uid, _below_workspace(folder) if folder else "")
        items = [{"path": each.path, "size": each.size} for each in found.files]
        return json_response({"items": items, "truncated": found.truncated})

    @app.put(
        f"{SANDBOX}/files/{{path:path}}",
        status_code=204,
        responses=problems(
            *errors,
            Kind.BAD_REQUEST,
            Kind.REQUEST_TIMEOUT,
            Kind.NOT_RUNNING,
            Kind.TOO_LARGE,
            Kind.REFUSED,
            Kind.PATH_FORBIDDEN,
        ),
        openapi_extra={"requestBody": BYTES},
    )
    async def put_file(request: Request, uid: SandboxId, path: FilePath) -> Response:
        """Write the body as a file, whatever its type; folders on the way are made."""
        sandbox = await access.sandbox(request, uid, "update", "files")
        demand_running(sandbox)
        chunks = read_chunks(request, settings.api.max_file)
        await directory.backend(sandbox).executions.put_file(uid, _below_workspace(path), chunks)
        return Response(status_code=204)

    @app.get(
        f"{SANDBOX}/files/{{path:path}}",
        response_class=Response,
        responses=problems(*errors, Kind.NOT_RUNNING, Kind.REFUSED, Kind.PATH_FORBIDDEN)
        | {200: {"description": "The file's bytes", **BYTES}},
    )
    async def get_file(request: Request, uid: SandboxId, path: FilePath) -> Response:
        """Read a regular file. One larger than API__MAX_FILE ends in the middle, by an aborted connection."""
        sandbox = await access.sandbox(request, uid, "get", "files")
        demand_running(sandbox)
        chunks = directory.backend(sandbox).executions.get_file(uid, _below_workspace(path))
        pieces = await begun(_at_most(chunks, settings.api.max_file))
        return StreamingResponse(pieces, headers=HARMLESS, media_type="application/octet-stream")

    @app.get(
        f"{SANDBOX}/logs",
        response_class=Response,
        responses=problems(*errors, Kind.NOT_RUNNING)
        | {200: {"description": "What `run` printed so far", "content": TEXT}},
    )
    async def logs(
        request: Request,
        uid: SandboxId,
        follow: Annotated[bool, Query(description="Wait for its start, and go on until the program ends.")] = False,
    ) -> Response:
        """The output of `run`: as text, or with `Accept: text/event-stream` as `stdout` and `stderr` events."""
        sandbox = await access.sandbox(request, uid, "get", "logs")
        chunks = _logs(directory, sandbox, follow)
        if wants_events(request.headers):
            return StreamingResponse(await begun(output_events(chunks)), media_type=EVENT_STREAM)
        return StreamingResponse(
            await begun(_bytes_of(chunks)), headers=HARMLESS, media_type="text/plain; charset=utf-8"
        )


def _below_workspace(path: str) -> str:
    try:
        return workspace_path(path)
    except ValueError as error:
        raise Problem(Kind.INVALID, f"the path {error}") from None


async def _at_most(chunks: AsyncIterator[bytes], limit: int) -> AsyncGenerator[bytes]:
    room = limit
    async with aclosing(chunks):  # type: ignore[type-var]
        async for chunk in chunks:
            room -= len(chunk)
            if room < 0:
                raise Problem(Kind.TOO_LARGE, f"the file is larger than {format_bytes(limit)} bytes (API__MAX_FILE)")
            yield chunk


async def _started(directory: SandboxDirectory, sandbox: Sandbox) -> Sandbox:
    """The sandbox as it is when it was started or has ended. Raises Problem: 409 where it takes too long, 404."""
    if was_started(sandbox.status) or sandbox.status.get("phase") in TERMINAL:
        return sandbox
    try:
        return await directory.wait_ready(sandbox.uid, START_SECONDS)
    except TimeoutError:
        retry = {"Retry-After": "1"}
        raise Problem(Kind.NOT_RUNNING, f"sandbox {sandbox.uid} has not started yet", headers=retry) from None
    except KeyError:
        raise Problem(Kind.NOT_FOUND, f"sandbox {sandbox.uid} was deleted before it started") from None


async def _logs(directory: SandboxDirectory, sandbox: Sandbox, follow: bool) -> AsyncGenerator[backends.OutputChunk]:
    if follow:
        sandbox = await _started(directory, sandbox)
    if sandbox.backend is not None:
        try:
            async for chunk in directory.backend(sandbox).logs(sandbox.uid, follow):
                yield chunk
            return
        except backends.NotFound:
            pass  # not there any more, or not yet
    # The status keeps the end of what a finished program printed.
    result = sandbox.status.get("result") or {}
    for stream in ("stdout", "stderr"):
        yield backends.OutputChunk(stream, result.get(stream, "").encode())


async def _bytes_of(chunks: AsyncGenerator[backends.OutputChunk]) -> AsyncGenerator[bytes]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield chunk.data
