"""Bodies in Kubernetes' protobuf form, for the few kinds that kubectl sends in no other (`kubectl create ns`, …).

Field numbers: the generated.proto files of k8s.io/api and k8s.io/apimachinery, which never change them.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from controller.localkube.meta import now_text

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"


@dataclass(frozen=True)
class Field:
    name: str
    type: "str | Message" = "string"
    """`string`, `bytes`, `int`, `bool`, `time` or a message."""
    many: bool = False
    map: bool = False
    """From strings to values of the type."""


Message = dict[int, Field]

_OWNER: Message = {
    1: Field("kind"),
    3: Field("name"),
    4: Field("uid"),
    5: Field("apiVersion"),
    6: Field("controller", "bool"),
    7: Field("blockOwnerDeletion", "bool"),
}
_METADATA: Message = {
    1: Field("name"),
    2: Field("generateName"),
    3: Field("namespace"),
    5: Field("uid"),
    6: Field("resourceVersion"),
    8: Field("creationTimestamp", "time"),
    11: Field("labels", map=True),
    12: Field("annotations", map=True),
    13: Field("ownerReferences", _OWNER, many=True),
    14: Field("finalizers", many=True),
}
_RESOURCE_ATTRIBUTES: Message = dict(
    enumerate(map(Field, ("namespace", "verb", "group", "version", "resource", "subresource", "name")), 1)
)
_PATH_ATTRIBUTES: Message = {1: Field("path"), 2: Field("verb")}
_ATTRIBUTES: Message = {
    1: Field("resourceAttributes", _RESOURCE_ATTRIBUTES),
    2: Field("nonResourceAttributes", _PATH_ATTRIBUTES),
}
_NAMED: Message = {1: Field("name")}
_REFERENCE: Message = {
    1: Field("kind"),
    2: Field("namespace"),
    3: Field("name"),
    4: Field("uid"),
    5: Field("apiVersion"),
}

_KINDS: dict[str, Message] = {
    "Namespace": {},
    "ConfigMap": {
        2: Field("data", map=True),
        3: Field("binaryData", "bytes", map=True),
        4: Field("immutable", "bool"),
    },
    "Secret": {
        2: Field("data", "bytes", map=True),
        3: Field("type"),
        4: Field("stringData", map=True),
        5: Field("immutable", "bool"),
    },
    "ServiceAccount": {
        2: Field("secrets", _REFERENCE, many=True),
        3: Field("imagePullSecrets", _NAMED, many=True),
        4: Field("automountServiceAccountToken", "bool"),
    },
    "SelfSubjectAccessReview": {2: Field("spec", _ATTRIBUTES)},
    "SubjectAccessReview": {2: Field("spec", {**_ATTRIBUTES, 3: Field("user"), 4: Field("groups", many=True)})},
    "SelfSubjectRulesReview": {2: Field("spec", {1: Field("namespace")})},
    "SelfSubjectReview": {},
    "TokenReview": {2: Field("spec", {1: Field("token"), 2: Field("audiences", many=True)})},
}
_TYPE_META: Message = {1: Field("apiVersion"), 2: Field("kind")}
_ENVELOPE: Message = {1: Field("typeMeta", _TYPE_META), 2: Field("raw", "raw")}


def decode(body: bytes) -> dict[str, Any]:
    """The object in the body. Raises ValueError, also for a kind that is not known here."""
    if not body.startswith(MAGIC):
        raise ValueError("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    envelope = _message(body[len(MAGIC) :], _ENVELOPE)
    type_meta = envelope.get("typeMeta", {})
    fields = _KINDS.get(type_meta.get("kind", ""))
    if fields is None:
        raise ValueError(f"kind {type_meta.get('kind', '')!r} is not understood in protobuf: send it as JSON")
    return {**type_meta, **_message(envelope.get("raw", b""), {1: Field("metadata", _METADATA), **fields})}


def _message(data: bytes, message: Message) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for number, value in _fields(data):
        field = message.get(number)
        if field is None:
            continue
        if field.map:
            entry = _message(_bytes(value), {1: Field("key"), 2: Field("value", field.type)})
            result.setdefault(field.name, {})[entry.get("key", "")] = entry.get("value", "")
        elif field.many:
            result.setdefault(field.name, []).append(_value(value, field.type))
        elif value != b"":  # Go writes empty strings, too
            result[field.name] = _value(value, field.type)
    return result


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("proto: wrong wire type")
    return value


def _value(value: int | bytes, type: "str | Message") -> Any:
    if isinstance(type, dict):
        return _message(_bytes(value), type)
    match type:
        case "int" | "bool":
            if isinstance(value, bytes):
                raise ValueError("proto: wrong wire type")
            return bool(value) if type == "bool" else value
        case "time":
            seconds = _message(_bytes(value), {1: Field("seconds", "int")}).get("seconds", 0)
            return now_text(datetime.fromtimestamp(seconds, UTC)) if 0 < seconds < 2**35 else None
        case "bytes":
            return base64.b64encode(_bytes(value)).decode()
        case "raw":
            return _bytes(value)
        case _:
            return _bytes(value).decode()


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values on the wire: numbers for varints, bytes for what has a length."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                value, position = _varint(data, position)
                yield tag >> 3, value
                continue
            case 1 | 5 as wire:
                size = 8 if wire == 1 else 4
            case 2:
                size, position = _varint(data, position)
            case wire:
                raise ValueError(f"proto: illegal wire type {wire}")
        if position + size > len(data):
            raise ValueError("unexpected EOF")
        yield tag >> 3, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            raise ValueError("unexpected EOF")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("proto: integer overflow")
