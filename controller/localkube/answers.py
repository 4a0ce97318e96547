"""HTTP answers: objects, refusals, warnings."""

import json
from collections.abc import Sequence
from typing import Any

from starlette.responses import PlainTextResponse, Response

from controller.localkube import bodies
from controller.localkube.failures import Failure
from controller.localkube.forms import Form
from controller.localkube.store import Object

MAX_WARNING_BYTES = 4096
"""Of all warnings of one answer together, as on kube-apiserver."""


def answer(value: Any, form: Form | None = None, code: int = 200, media_type: str = "application/json") -> Response:
    if form and form.media_type == "application/yaml":
        return Response(bodies.encode_yaml(value), code, media_type=form.media_type)
    return Response(bodies.encode(value), code, media_type=media_type)


def answer_or_nothing(value: Object | None) -> Response:
    return nothing() if value is None else answer(value)


def failed(failure: Failure) -> Response:
    return warned(answer(failure.status, code=failure.code), failure.warnings)


def warned(response: Response, warnings: Sequence[str]) -> Response:
    """With the warnings that kubectl prints, as many as there is room for."""
    room = MAX_WARNING_BYTES
    for warning in dict.fromkeys(warnings):
        text = json.dumps(warning)  # quoted, and in ASCII
        room -= len(text)
        if room < 0:
            break
        response.headers.append("Warning", f"299 - {text}")
    return response


def nothing() -> Response:
    return PlainTextResponse("404 page not found\n", 404)
