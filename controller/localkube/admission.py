"""From what a client sends to what is stored: pruned, defaulted, validated, with the metadata that the server adds.

Pure, but for new names and uids.
"""

import json
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime

from controller.localkube import failures, meta, ownership, schema
from controller.localkube.kinds import Kind
from controller.localkube.ownership import Writer
from controller.localkube.store import Object
from controller.localkube.values import ABSENT, same

_NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # without vowels, as on the real server: no words by accident
_SERVER_FIELDS = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
)
_SKIPPED = (
    "some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


@dataclass(frozen=True)
class Options:
    """How a write is to be done."""

    manager: str
    subresource: str = ""
    dry_run: bool = False
    field_validation: str = "Warn"
    """`Ignore`, `Warn` or `Strict`."""
    force: bool = False
    """Server-side apply may take fields over from others."""
    applied: bool = False
    """The object comes out of server-side apply, its managedFields are right already."""
    duplicates: tuple[str, ...] = ()
    """Complaints about fields that the body sets twice."""


@dataclass(frozen=True)
class Admitted:
    object: Object
    warnings: list[str]


def check_type(kind: Kind, obj: Object) -> None:
    """Raises Failure 400 if this is no object of the kind's version, or its metadata is malformed."""
    if obj.get("apiVersion") != kind.api_version:
        got = obj.get("apiVersion", "")
        raise failures.bad_request(
            f"the API version in the data ({got}) does not match the expected API version ({kind.api_version})"
        )
    if problem := meta.decoding_problem(kind.kind, kind.version, obj.get("metadata")):
        raise problem


def creation(kind: Kind, namespace: str, obj: Object, options: Options, now: datetime) -> Admitted:
    """The object as it starts its life. Raises Failure 400 or 422."""
    metadata = _tidy(obj.get("metadata") or {})
    if metadata.get("namespace", namespace) != namespace:
        raise failures.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if metadata.get("resourceVersion") and not options.applied:
        raise failures.Failure(500, "", "resourceVersion should not be set on objects to be created")
    if not metadata.get("name") and metadata.get("generateName"):
        suffix = "".join(secrets.choice(_NAME_ALPHABET) for _ in range(5))
        metadata["name"] = metadata["generateName"][: 63 - len(suffix)] + suffix
    for name in (*_SERVER_FIELDS, "resourceVersion"):
        metadata.pop(name, None)
    metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": meta.now_text(now)}
    if namespace:
        metadata["namespace"] = namespace
    if kind.custom:
        metadata["generation"] = 1
    new = {**obj, "metadata": metadata}
    if kind.has_status and kind.custom:
        new.pop("status", None)
    admitted = _shaped(kind, new, options)
    _validate(kind, admitted, None)
    return _owned(kind, None, admitted, options, now)


def update(kind: Kind, old: Object, obj: Object, options: Options, now: datetime) -> Admitted:
    """The next state of `old`, the same if nothing changes. Raises Failure 400 or 422."""
    new = _isolated(kind, old, obj, options.subresource)
    metadata, before = _tidy(new.get("metadata") or {}), old["metadata"]
    given = {name: metadata.pop(name, None) for name in (*_SERVER_FIELDS, "resourceVersion")}
    for name in (*_SERVER_FIELDS, "resourceVersion", "namespace"):
        if name in before:
            metadata[name] = before[name]
    # These two are the client's to leave out, but not to change.
    metadata |= {name: given[name] for name in ("uid", "creationTimestamp") if given[name]}
    admitted = _shaped(kind, {**new, "metadata": metadata}, options)
    _validate(kind, admitted, old)
    if kind.custom and not same(_wanted(kind, admitted.object), _wanted(kind, old)):
        admitted.object["metadata"]["generation"] = before.get("generation", 0) + 1
    return _owned(kind, old, admitted, options, now)


def _isolated(kind: Kind, old: Object, obj: Object, subresource: str) -> Object:
    """Without the changes that this endpoint may not make."""
    if not kind.has_status:
        return obj
    wanted, state = (old, obj) if subresource == "status" else (obj, old)
    result = {name: value for name, value in wanted.items() if name != "status"}
    if subresource == "status":
        fields = (obj.get("metadata") or {}).get("managedFields")
        result["metadata"] = {**old["metadata"], "managedFields": fields}
    return {**result, "status": state["status"]} if "status" in state else result


def _wanted(kind: Kind, obj: Object) -> Object:
    """The part that the generation counts."""
    aside = ("metadata", "status") if kind.has_status else ("metadata",)
    return {name: value for name, value in obj.items() if name not in aside}


def _tidy(metadata: Object) -> Object:
    """As Go writes metadata: what is empty is left out."""
    return {name: value for name, value in metadata.items() if value not in (None, "", {}, [])}


def _shaped(kind: Kind, obj: Object, options: Options) -> Admitted:
    """Pruned and defaulted. Raises Failure 400 for unknown or repeated fields in strict validation."""
    pruned, unknown = schema.prune(obj, kind.schema)
    complaints = [*options.duplicates, *(f'unknown field "{path}"' for path in unknown)]
    if complaints and options.field_validation == "Strict":
        problem = f"strict decoding error: {', '.join(complaints)}"
        raise failures.bad_request(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {problem}'
        )
    shaped = schema.default(pruned, kind.schema)
    shaped["metadata"] = dict(shaped["metadata"])
    warnings = complaints if options.field_validation == "Warn" else []
    return Admitted(shaped, [*warnings, *meta.warnings(shaped["metadata"])])


def _validate(kind: Kind, admitted: Admitted, old: Object | None) -> None:
    """Raises Failure 422 with all that is wrong."""
    obj = admitted.object
    metadata = obj["metadata"]
    causes = list(meta.problems(metadata, is_namespace=kind.plural == "namespaces"))
    if old is not None:
        causes += meta.update_problems(metadata, old["metadata"])
    if obj.get("kind") != kind.kind:
        causes.append(failures.invalid_value("kind", obj.get("kind", ""), f"must be {kind.kind}"))
    before = ABSENT if old is None else {**old, "apiVersion": kind.api_version}
    causes += schema.validate(obj, kind.schema, "", before)
    if kind.has_rules:
        if any(map(schema.is_blocking, causes)):
            causes.append(failures.invalid_value("<nil>", None, _SKIPPED))
        else:
            causes += schema.check_rules(obj, kind.schema, "", before)
    if causes:
        failure = failures.invalid(kind.group, kind.kind, metadata.get("name", ""), causes)
        failure.warnings = tuple(admitted.warnings)
        raise failure


def _owned(kind: Kind, old: Object | None, admitted: Admitted, options: Options, now: datetime) -> Admitted:
    """With the managedFields that follow from the change."""
    obj = admitted.object
    if not options.applied:
        writer = Writer(options.manager, "Update", kind.api_version, options.subresource)
        before = None if old is None else {**old, "apiVersion": kind.api_version}
        obj["metadata"]["managedFields"] = ownership.after_update(before, obj, kind.schema, writer, meta.now_text(now))
    return admitted


def strict_patch_failure(patched: Object, problem: str) -> failures.Failure:
    """What the real server says to a patch whose result is refused by strict validation."""
    text = json.dumps(json.dumps(patched, separators=(",", ":"), ensure_ascii=False), ensure_ascii=False)
    return failures.invalid(
        "", "", "", [failures.Cause("patch", "FieldValueInvalid", f"Invalid value: {text}: {problem}")]
    )
