"""Object metadata: its schema and what names, labels, annotations, finalizers and owners must look like.

Rules and texts: k8s.io/apimachinery/pkg/util/validation and pkg/api/validation.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from controller.localkube.failures import Cause, Failure, bad_request, forbidden_value, invalid_value, required
from controller.localkube.schema import Schema, validate
from controller.localkube.values import same, type_name

_STRINGS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_TIME: Schema = {"type": "string", "format": "date-time", "nullable": True}

OBJECT_META: Schema = {
    "type": "object",
    "description": "Standard object's metadata.",
    "properties": {
        "annotations": {**_STRINGS, "description": "Unstructured data that tools keep with the object."},
        "creationTimestamp": {**_TIME, "description": "When the server created the object. Read-only."},
        "deletionGracePeriodSeconds": {"type": "integer", "format": "int64", "description": "Read-only."},
        "deletionTimestamp": {
            **_TIME,
            "description": "When deletion was asked for; the object goes when its finalizers are gone. Read-only.",
        },
        "finalizers": {
            "type": "array",
            "items": {"type": "string"},
            "x-kubernetes-list-type": "set",
            "description": "Who must act before the object is removed.",
        },
        "generateName": {
            "type": "string",
            "description": "Prefix of a name that the server completes, if there is no name.",
        },
        "generation": {
            "type": "integer",
            "format": "int64",
            "description": "Counts the changes of the wanted state. Read-only.",
        },
        "labels": {**_STRINGS, "description": "Keys and values to organize and select objects by."},
        "managedFields": {
            "type": "array",
            "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            "x-kubernetes-list-type": "atomic",
            "description": "Who set which field.",
        },
        "name": {"type": "string", "description": "Unique within a namespace. Cannot be updated."},
        "namespace": {"type": "string", "description": "The space within which the name is unique. Cannot be updated."},
        "ownerReferences": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
            "description": "The objects this one depends on.",
            "items": {
                "type": "object",
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "name": {"type": "string"},
                    "uid": {"type": "string"},
                    "controller": {"type": "boolean"},
                    "blockOwnerDeletion": {"type": "boolean"},
                },
            },
        },
        "resourceVersion": {
            "type": "string",
            "description": "The server's version of the object, for watches and optimistic locking.",
        },
        "selfLink": {"type": "string", "description": "Deprecated."},
        "uid": {"type": "string", "description": "Unique in time and space. Read-only."},
    },
}

MAX_ANNOTATIONS = 256 * 1024
"""Bytes of all keys and values together."""

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"


def now_text(now: datetime) -> str:
    """`now` as Kubernetes writes times: UTC, whole seconds."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _examples(regex: str, *examples: str) -> str:
    return f"(e.g. {',  or '.join(map(repr, examples))}, regex used for validation is '{regex}')"


_ENDS = "and must start and end with an alphanumeric character"
_NAME_CHARACTERS = f"consist of alphanumeric characters, '-', '_' or '.', {_ENDS}"


def subdomain_problem(text: str) -> str | None:
    if len(text) > 253:
        return "must be no more than 253 bytes"
    if not re.fullmatch(_SUBDOMAIN, text):
        consists = f"must consist of lower case alphanumeric characters, '-' or '.', {_ENDS}"
        return f"a lowercase RFC 1123 subdomain {consists} {_examples(_SUBDOMAIN, 'example.com')}"
    return None


def label_name_problem(text: str) -> str | None:
    """For namespaces, whose names become DNS labels."""
    if len(text) > 63:
        return "must be no more than 63 bytes"
    if not re.fullmatch(_LABEL, text):
        consists = f"must consist of lower case alphanumeric characters or '-', {_ENDS}"
        return f"a lowercase RFC 1123 label {consists} {_examples(_LABEL, 'my-name', '123-abc')}"
    return None


def qualified_name_problem(text: str) -> str | None:
    """For label keys, annotation keys and finalizers: `[prefix/]name`."""
    *prefix, name = text.split("/")
    examples = _examples(_QUALIFIED, "MyName", "my.name", "123-abc")
    if len(prefix) > 1:
        more = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        return f"a valid label key must {_NAME_CHARACTERS} {examples} {more}"
    if prefix and not prefix[0]:
        return "prefix part must be non-empty"
    if prefix and (problem := subdomain_problem(prefix[0])):
        return f"prefix part {problem}"
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 bytes"
    if not re.fullmatch(_QUALIFIED, name):
        return f"name part must {_NAME_CHARACTERS} {examples}"
    return None


def label_value_problem(text: str) -> str | None:
    if len(text) > 63:
        return "must be no more than 63 bytes"
    if not re.fullmatch(_VALUE, text):
        examples = _examples(_VALUE, "MyValue", "my_value", "12345")
        return f"a valid label must be an empty string or {_NAME_CHARACTERS} {examples}"
    return None


def decoding_problem(kind: str, version: str, metadata: Any) -> Failure | None:
    """The 400 for metadata whose JSON types are wrong (the real server fails to decode those)."""
    go_names = {"integer": "number", "boolean": "bool"}
    start = f'{kind} in version "{version}" cannot be handled as a {kind}: json: cannot unmarshal'
    if metadata is not None and not isinstance(metadata, dict):
        got = type_name(metadata)
        return bad_request(f"{start} {go_names.get(got, got)} into Go value of type v1.ObjectMeta")
    present = {name: value for name, value in (metadata or {}).items() if value is not None}
    for cause in validate(present, OBJECT_META, "metadata"):
        if cause.reason != "FieldValueTypeInvalid":
            continue
        wanted, _, got = cause.message.partition("must be of type ")[2].partition(": ")
        got = got.strip('"')
        field = re.split(r"[.\[]", cause.field)[1]
        problem = (
            f"json: cannot unmarshal {go_names.get(got, got)} into Go struct field ObjectMeta.{field} of type {wanted}"
        )
        return bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: {problem}')
    return None


def warnings(metadata: dict[str, Any]) -> list[str]:
    """What is allowed, but better avoided."""
    why = "prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers"
    return [f'metadata.finalizers: "{name}": {why}' for name in metadata.get("finalizers", ()) if "/" not in name]


def problems(metadata: dict[str, Any], *, is_namespace: bool = False) -> Iterator[Cause]:
    """What is wrong with the metadata of any object."""
    name_problem = label_name_problem if is_namespace else subdomain_problem
    name = metadata.get("name", "")
    prefix = metadata.get("generateName", "")
    if prefix and (problem := name_problem(prefix.rstrip("-") or "x")):
        yield invalid_value("metadata.generateName", prefix, problem)
    if not name:
        yield required("metadata.name", "name or generateName is required")
    elif problem := name_problem(name):
        yield invalid_value("metadata.name", name, problem)
    for key, value in (metadata.get("labels") or {}).items():
        if problem := qualified_name_problem(key):
            yield invalid_value("metadata.labels", key, problem)
        if problem := label_value_problem(value or ""):
            yield invalid_value("metadata.labels", value, problem)
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        if problem := qualified_name_problem(key.lower()):
            yield invalid_value("metadata.annotations", key, problem)
    if sum(len(key.encode()) + len((value or "").encode()) for key, value in annotations.items()) > MAX_ANNOTATIONS:
        yield Cause(
            "metadata.annotations", "FieldValueTooLong", f"Too long: may not be more than {MAX_ANNOTATIONS} bytes"
        )
    for finalizer in metadata.get("finalizers") or ():
        if problem := qualified_name_problem(finalizer):
            yield invalid_value("metadata.finalizers", finalizer, problem)
    for owner in metadata.get("ownerReferences") or ():
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                yield invalid_value(f"metadata.ownerReferences.{field}", owner.get(field, ""), "must not be empty")


def update_problems(metadata: dict[str, Any], old: dict[str, Any]) -> Iterator[Cause]:
    """What an update may not change."""
    for field in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
        if not same(metadata.get(field), old.get(field)):
            yield invalid_value(f"metadata.{field}", metadata.get(field), "field is immutable")
    if "deletionTimestamp" in old:
        added = [name for name in metadata.get("finalizers", ()) if name not in old.get("finalizers", ())]
        if added:
            listed = ", ".join(f'"{name}"' for name in added)
            detail = "no new finalizers can be added if the object is being deleted, found new finalizers"
            yield forbidden_value("metadata.finalizers", f"{detail} []string{{{listed}}}")
