"""Events: one resource with two shapes, the older of the core group and that of events.k8s.io. Stored is the older."""

from datetime import datetime
from typing import Any

from controller.localkube.kinds import Kind, whole_schema
from controller.localkube.schema import Schema
from controller.localkube.store import Object
from controller.localkube.table import NAME, Column, age_of, path_column

LIFETIME_SECONDS = 3600
"""After this an event may be forgotten; kube-apiserver's --event-ttl."""

_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_TIME: Schema = {"type": "string", "format": "date-time", "nullable": True}
_REFERENCE_FIELDS = ("apiVersion", "kind", "name", "namespace", "uid", "resourceVersion", "fieldPath")
_REFERENCE: Schema = {"type": "object", "properties": dict.fromkeys(_REFERENCE_FIELDS, _STRING)}
_SOURCE: Schema = {"type": "object", "properties": {"component": _STRING, "host": _STRING}}
_SERIES: Schema = {
    "type": "object",
    "nullable": True,
    "properties": {"count": _INTEGER, "lastObservedTime": _TIME},
}

_FIELDS: dict[str, Schema] = {
    "involvedObject": {**_REFERENCE, "description": "The object it happened to."},
    "reason": {**_STRING, "description": "A CamelCase word for programs."},
    "message": {**_STRING, "description": "What happened, for people."},
    "type": {**_STRING, "description": "Normal or Warning."},
    "source": _SOURCE,
    "firstTimestamp": _TIME,
    "lastTimestamp": _TIME,
    "count": _INTEGER,
    "eventTime": _TIME,
    "series": _SERIES,
    "action": _STRING,
    "related": {**_REFERENCE, "nullable": True},
    "reportingComponent": _STRING,
    "reportingInstance": _STRING,
}
_NEWER_NAMES = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_OLDER_NAMES = {newer: older for older, newer in _NEWER_NAMES.items()}


def to_storage(kind: Kind, obj: Object) -> Object:
    """An object as it is stored: events in their older shape, whatever the version they came in."""
    if kind.group == "events.k8s.io":
        return {**{_OLDER_NAMES.get(name, name): value for name, value in obj.items()}, "apiVersion": "v1"}
    return obj


def from_storage(kind: Kind, obj: Object) -> Object:
    """A stored object as its kind shows it."""
    if kind.group == "events.k8s.io":
        obj = {_NEWER_NAMES.get(name, name): value for name, value in obj.items()}
    return obj if obj["apiVersion"] == kind.api_version else {**obj, "apiVersion": kind.api_version}


def _last_seen(obj: Object, now: datetime) -> str:
    series: dict[str, Any] = obj.get("series") or {}
    last = obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp") or obj.get("eventTime")
    return age_of(series.get("lastObservedTime") or last or obj["metadata"].get("creationTimestamp"), now)


def _about(obj: Object, now: datetime) -> str:
    about = obj.get("involvedObject") or obj.get("regarding") or {}
    return f"{about.get('kind', '').lower()}/{about.get('name', '')}"


def _kind(group: str, names: dict[str, str], **more: Any) -> Kind:
    """The kind as a group shows it: with other names for some fields."""
    fields = {names.get(name, name): field for name, field in _FIELDS.items()}
    description = "A report that something happened to an object."
    about = names.get("involvedObject", "involvedObject")
    reporter = names.get("reportingComponent", "reportingComponent")
    return Kind(
        group,
        "v1",
        "events",
        "Event",
        whole_schema({"type": "object", "description": description, "properties": fields}),
        columns=(
            Column("Last Seen", _last_seen),
            path_column("Type", ".type"),
            path_column("Reason", ".reason"),
            Column("Object", _about),
            path_column("Message", f".{names.get('message', 'message')}"),
            Column("Name", NAME.cell, format="name", priority=1),
        ),
        selectable={
            "type": ".type",
            "reason": ".reason",
            "source": f".{names.get('source', 'source')}.component",
            reporter: f".{reporter}",
            **{f"{about}.{name}": f".{about}.{name}" for name in _REFERENCE_FIELDS},
        },
        **more,
    )


KINDS = (_kind("", {}, short_names=("ev",)), _kind("events.k8s.io", _NEWER_NAMES))
