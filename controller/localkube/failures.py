"""The API's refusals, as the `Status` objects that Kubernetes clients understand.

Texts, reasons and codes are those of kube-apiserver (k8s.io/apimachinery/pkg/api/errors and .../util/validation/field),
because kubectl and client libraries read them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cause:
    """One field that is wrong: where, in which way (a cause type such as `FieldValueInvalid`), and the text."""

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class Failure(Exception):
    """A request that is refused; carries the whole `Status`."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details
        self.warnings: tuple[str, ...] = ()
        """For the client to show beside the refusal."""

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        return {**status, "code": self.code}


def shown(value: object) -> str:
    """A value as Go's field errors print it: JSON, but objects only by their type."""
    return '"object"' if isinstance(value, dict) else json.dumps(value, ensure_ascii=False)


def invalid_value(field: str, value: object, detail: str) -> Cause:
    return Cause(field, "FieldValueInvalid", f"Invalid value: {shown(value)}: {detail}")


def required(field: str, detail: str = "") -> Cause:
    return Cause(field, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value")


def duplicate(field: str, value: object) -> Cause:
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return Cause(field, "FieldValueDuplicate", f"Duplicate value: {text}")


def unsupported(field: str, value: object, supported: Sequence[object]) -> Cause:
    choices = ", ".join(json.dumps(choice, ensure_ascii=False) for choice in supported)
    return Cause(field, "FieldValueNotSupported", f"Unsupported value: {shown(value)}: supported values: {choices}")


def forbidden_value(field: str, detail: str) -> Cause:
    return Cause(field, "FieldValueForbidden", f"Forbidden: {detail}")


def _details(name: str, group: str, kind: str, **more: object) -> dict[str, Any]:
    return {**({"name": name} if name else {}), **({"group": group} if group else {}), "kind": kind, **more}


def _qualified(group: str, kind: str) -> str:
    return f"{kind}.{group}" if group else kind


def bad_request(message: str) -> Failure:
    return Failure(400, "BadRequest", message)


def forbidden(group: str, plural: str, name: str, why: str) -> Failure:
    message = f'{_qualified(group, plural)} "{name}" is forbidden: {why}'
    return Failure(403, "Forbidden", message, _details(name, group, plural))


def not_found(group: str, plural: str, name: str) -> Failure:
    return Failure(404, "NotFound", f'{_qualified(group, plural)} "{name}" not found', _details(name, group, plural))


def method_not_allowed() -> Failure:
    return Failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def not_acceptable(accepted: Sequence[str]) -> Failure:
    return Failure(406, "NotAcceptable", f"only the following media types are accepted: {', '.join(accepted)}")


def already_exists(group: str, plural: str, name: str, *, being_deleted: bool = False) -> Failure:
    message = f'{_qualified(group, plural)} "{name}" already exists'
    if being_deleted:
        message = f"object is being deleted: {message}"
    return Failure(409, "AlreadyExists", message, _details(name, group, plural))


def conflict(group: str, kind: str, name: str, why: str) -> Failure:
    message = f'Operation cannot be fulfilled on {_qualified(group, kind)} "{name}": {why}'
    return Failure(409, "Conflict", message, _details(name, group, kind))


def modified(group: str, plural: str, name: str) -> Failure:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(group, plural, name, why)


def expired(message: str) -> Failure:
    return Failure(410, "Expired", message)


def too_large(limit: int) -> Failure:
    """`limit` in bytes."""
    return Failure(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def unsupported_media_type(accepted: Sequence[str]) -> Failure:
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return Failure(415, "UnsupportedMediaType", message)


def invalid(group: str, kind: str, name: str, causes: Sequence[Cause]) -> Failure:
    text = str(causes[0]) if len(causes) == 1 else f"[{', '.join(map(str, causes))}]"
    listed = [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes]
    message = f'{_qualified(group, kind)} "{name}" is invalid: {text}'
    return Failure(422, "Invalid", message, _details(name, group, kind, causes=listed))


def internal_error(error: Exception) -> Failure:
    return Failure(500, "InternalError", f"Internal error occurred: {type(error).__name__}: {error}", {})


def unprocessable() -> Failure:
    return Failure(422, "Invalid", "the server rejected our request due to an error in our request", {})
