"""The OpenAPI 3.1 document: FastAPI's, and the bodies that routes read themselves, the errors, the credentials."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from controller.api.problems import MEDIA_TYPE, Kind, ProblemDocument
from controller.api.schemas import CreateSandbox, ExecutionResult
from controller.executions import Program

BODIES: tuple[type[BaseModel], ...] = (CreateSandbox, Program, ExecutionResult, ProblemDocument)
REF = "#/components/schemas/{model}"
OPEN_PATHS = ("/health",)


def json_body(model: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads this model from its body."""
    schema = {"$ref": REF.format(model=model.__name__)}
    named = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": named}}}}


def problems(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that may end so."""
    by_status: dict[int | str, list[Kind]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind)
    return {
        status: {
            "description": "; ".join(kind.title for kind in same),
            "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="ProblemDocument")}}},
        }
        for status, same in by_status.items()
    }


def install(app: FastAPI) -> None:
    """Make `app.openapi` give the whole document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
    )
    _, own = models_json_schema([(model, "validation") for model in BODIES], by_alias=False, ref_template=REF)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.update(own["$defs"])
    _allow_null(schemas, "CreateSandbox")
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "SECURITY__SECRET_KEY or a Kubernetes token; on loopback nothing where neither is set up.",
        }
    }
    for path, operations in document["paths"].items():
        if path not in OPEN_PATHS:
            for operation in operations.values():
                operation["security"] = [{"bearer": []}]
        for operation in operations.values():
            for status, response in problems(Kind.BAD_REQUEST, Kind.HEAD_TOO_LARGE).items():
                operation["responses"].setdefault(str(status), response)
    return document


def _allow_null(schemas: dict[str, Any], name: str) -> None:
    """Say of a spec and all that it refers to: null is absent, as in Kubernetes."""
    required = schemas[name].get("required", ())
    for field, schema in schemas[name].get("properties", {}).items():
        for reference in _references(schema):
            _allow_null(schemas, reference)
        if field not in required and {"type": "null"} not in schema.get("anyOf", ()):
            schemas[name]["properties"][field] = {"anyOf": [schema, {"type": "null"}]}


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            yield from _references(each)
