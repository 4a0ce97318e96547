"""Requests that are answered and not stored: who is asking, and may they? Here everyone may, and nobody has a token."""

from collections.abc import Callable

from controller.localkube.kinds import Kind, whole_schema
from controller.localkube.store import Object

_OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_EVERYTHING = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
_EVERY_PATH = {"verbs": ["*"], "nonResourceURLs": ["*"]}


def _kind(group: str, plural: str, kind: str, description: str) -> Kind:
    schema = whole_schema(
        {"type": "object", "description": description, "properties": {"spec": _OPEN, "status": _OPEN}}
    )
    return Kind(group, "v1", plural, kind, schema, namespaced=False, verbs=("create",))


def _allowed(review: Object) -> Object:
    return {"allowed": True, "reason": "this server is for development and allows everything"}


def _rules(review: Object) -> Object:
    return {"resourceRules": [_EVERYTHING], "nonResourceRules": [_EVERY_PATH], "incomplete": False}


def _unauthenticated(review: Object) -> Object:
    return {"user": {}, "error": "this server issues no tokens"}


def _myself(review: Object) -> Object:
    return {"userInfo": {"username": "system:anonymous", "groups": ["system:unauthenticated"]}}


KINDS = (
    _kind("authentication.k8s.io", "tokenreviews", "TokenReview", "Asks whose token this is."),
    _kind("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", "Asks who is asking."),
    _kind(
        "authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", "Asks whether somebody may do something."
    ),
    _kind(
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        "Asks whether one may do something.",
    ),
    _kind("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", "Asks for all that one may do."),
)

_ANSWERS: dict[str, Callable[[Object], Object]] = {
    "tokenreviews": _unauthenticated,
    "selfsubjectreviews": _myself,
    "subjectaccessreviews": _allowed,
    "selfsubjectaccessreviews": _allowed,
    "selfsubjectrulesreviews": _rules,
}


def answer(kind: Kind, review: Object) -> Object | None:
    """The review with its answer, None if the kind is no review."""
    if kind.plural not in _ANSWERS:
        return None
    return {**review, "metadata": review.get("metadata") or {}, "status": _ANSWERS[kind.plural](review)}
