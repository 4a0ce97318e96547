"""Errors as problem documents (RFC 9457): one stable `type` for each thing that can go wrong."""

import logging
from collections.abc import Iterable, Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import ErrorDetails, to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from controller import backends, directory

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:agent-platform:problem:"

log = logging.getLogger(__name__)


class Kind(Enum):
    """What went wrong: the last part of `type`, the HTTP status, the title."""

    BAD_REQUEST = "bad-request", 400, "The request is not well-formed"
    UNAUTHORIZED = "unauthorized", 401, "Valid credentials are needed"
    FORBIDDEN = "forbidden", 403, "This is not allowed"
    PATH_FORBIDDEN = "path-forbidden", 403, "The path leads out of the workspace, or to no regular file"
    NOT_FOUND = "not-found", 404, "There is no such thing"
    METHOD_NOT_ALLOWED = "method-not-allowed", 405, "This address does not take that method"
    REQUEST_TIMEOUT = "request-timeout", 408, "The request came too slowly"
    NAME_TAKEN = "name-taken", 409, "A sandbox of that name exists"
    NOT_RUNNING = "not-running", 409, "The sandbox cannot do this now"
    RESULT_GONE = "result-gone", 410, "The execution ran, but its result is no longer kept"
    TOO_LARGE = "too-large", 413, "The request is too large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type", 415, "The body has a type that is not understood"
    INVALID = "invalid", 422, "The request is not valid"
    KEY_REUSED = "idempotency-key-reused", 422, "The idempotency key was used for another request"
    REFUSED = "refused", 422, "The backend refuses this"
    BUSY = "busy", 429, "Too many executions at once in this sandbox"
    HEAD_TOO_LARGE = "head-too-large", 431, "The address or the header fields are too long"
    INTERNAL = "internal", 500, "The controller made a mistake"
    UNAVAILABLE = "unavailable", 503, "A part that this needs does not answer"

    def __init__(self, slug: str, status: int, title: str) -> None:
        self.type = TYPE_PREFIX + slug
        self.status = status
        self.title = title


RETRY_AFTER: Mapping[Kind, int] = {Kind.BUSY: 1, Kind.UNAVAILABLE: 5}
"""Seconds, for the `Retry-After` header."""


class FieldError(BaseModel):
    """One wrong field. The wrong value is not repeated: it may be a secret."""

    field: str = Field(description="Where it is, for example `body.timeout`.")
    message: str


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(title="Problem")

    type: str = Field(description="Stable name of the kind of error.", examples=[Kind.NOT_FOUND.type])
    title: str
    status: int
    detail: str = Field("", description="What happened, to what, and what to do.")
    errors: list[FieldError] = Field([], description="Each wrong field, where fields are wrong.")


class Problem(Exception):
    """Ends a request with a problem document."""

    def __init__(
        self,
        kind: Kind,
        detail: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        errors: Iterable[FieldError] = (),
    ) -> None:
        super().__init__(detail or kind.title)
        self.kind, self.detail, self.headers, self.errors = kind, detail, dict(headers or {}), list(errors)

    def document(self) -> dict[str, Any]:
        """The members of the problem document."""
        told: dict[str, Any] = {"type": self.kind.type, "title": self.kind.title, "status": self.kind.status}
        if self.detail:
            told["detail"] = self.detail
        if self.errors:
            told["errors"] = [each.model_dump() for each in self.errors]
        return told

    def response(self) -> Response:
        """The answer that says it."""
        headers = {**self.headers}
        if self.kind in RETRY_AFTER:
            headers.setdefault("Retry-After", str(RETRY_AFTER[self.kind]))
        return Response(to_json(self.document()), self.kind.status, headers, MEDIA_TYPE)


def invalid(errors: Iterable[ErrorDetails], prefix: str = "") -> Problem:
    """Pydantic's errors as a problem: malformed JSON is 400, anything else 422."""
    errors = list(errors)
    if any(each["type"] == "json_invalid" for each in errors):
        return Problem(Kind.BAD_REQUEST, f"the body is not JSON: {errors[0]['msg'].removeprefix('Invalid JSON: ')}")
    fields = [
        FieldError(field=_place(prefix, each), message=each["msg"].removeprefix("Value error, ")) for each in errors
    ]
    return Problem(Kind.INVALID, f"{fields[0].field}: {fields[0].message}", errors=fields[:20])


def _place(prefix: str, error: ErrorDetails) -> str:
    # Names of unknown fields and of variables come from the request: as long as they like.
    return ".".join(str(part)[:100] for part in ((prefix, *error["loc"]) if prefix else error["loc"]))


def problem_of(error: Exception) -> Problem:
    """What the API says about an error of a backend or of the directory."""
    text = str(error)
    match error:
        case backends.NotFound(reason="ResultGone"):
            return Problem(Kind.RESULT_GONE, text)
        case backends.NotFound():
            return Problem(Kind.NOT_FOUND, text)
        case backends.NotRunning():
            return Problem(Kind.NOT_RUNNING, text, headers={"Retry-After": "1"})
        case backends.Busy():
            return Problem(Kind.BUSY, text)
        case backends.Conflict():
            return Problem(Kind.KEY_REUSED, text)
        case backends.Refused(reason="Forbidden"):
            return Problem(Kind.PATH_FORBIDDEN, text)
        case backends.Refused(reason="TooLarge"):
            return Problem(Kind.TOO_LARGE, text)
        case backends.Refused() | directory.Invalid():
            return Problem(Kind.REFUSED, text)
        case directory.Exists():
            return Problem(Kind.NAME_TAKEN, text)
        case directory.DirectoryError():
            # Where the cluster is and why it fails is for us: who asks may not have proved yet who they are.
            log.warning("answered 503: %s", text)
            return Problem(Kind.UNAVAILABLE, "the Kubernetes API does not answer as it should; try again later")
        case _:
            return Problem(Kind.UNAVAILABLE, text)


def install(app: FastAPI) -> None:
    """Make every error that leaves a route a problem document."""

    async def told(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response()

    async def failed(_: Request, error: Exception) -> Response:
        return problem_of(error).response()

    async def wrong_parameters(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid(error.errors()).response()

    async def refused_by_router(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            return Problem(Kind.METHOD_NOT_ALLOWED, headers={"Allow": _allowed(app, request)}).response()
        return Problem(Kind.NOT_FOUND if error.status_code == HTTPStatus.NOT_FOUND else Kind.BAD_REQUEST).response()

    async def mistake(request: Request, error: Exception) -> Response:
        return Problem(Kind.INTERNAL, "this is a bug; the controller's log tells more").response()

    app.add_exception_handler(Problem, told)
    app.add_exception_handler(backends.BackendError, failed)
    app.add_exception_handler(directory.DirectoryError, failed)
    app.add_exception_handler(RequestValidationError, wrong_parameters)
    app.add_exception_handler(HTTPException, refused_by_router)
    app.add_exception_handler(Exception, mistake)


def _allowed(app: FastAPI, request: Request) -> str:
    # Several routes share an address; the router knows of the first one's methods only.
    methods = {
        method
        for route in app.routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in getattr(route, "methods", None) or ()
    }
    return ", ".join(sorted(methods))
