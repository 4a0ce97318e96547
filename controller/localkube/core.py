"""The built-in kinds, as far as controllers and kubectl need them around custom resources."""

import base64
from datetime import datetime
from typing import Any

from controller.localkube.kinds import Kind, whole_schema
from controller.localkube.schema import Schema
from controller.localkube.store import Object
from controller.localkube.table import AGE, NAME, Column, age_of, path_column

_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_TIME: Schema = {"type": "string", "format": "date-time", "nullable": True}
_STRINGS: Schema = {"type": "object", "additionalProperties": _STRING}
_OPEN: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _object(description: str | None = None, /, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, **({"description": description} if description else {})}


def _kind_schema(description: str, /, **properties: Schema) -> Schema:
    return whole_schema(_object(description, **properties))


def _named(description: str, key: str = "name") -> Schema:
    return {
        "type": "array", "description": description, "items": _object(**{key: _STRING}),
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key],
    }  # fmt: skip


_REFERENCE = _object(
    apiVersion=_STRING, kind=_STRING, name=_STRING, namespace=_STRING, uid=_STRING, resourceVersion=_STRING, fieldPath=_STRING,
)  # fmt: skip
_SOURCE = _object(component=_STRING, host=_STRING)

_EVENT = _kind_schema(
    "A report that something happened to an object.",
    involvedObject={**_REFERENCE, "description": "The object it happened to."},
    reason={**_STRING, "description": "A CamelCase word for programs."},
    message={**_STRING, "description": "What happened, for people."},
    type={**_STRING, "description": "Normal or Warning."},
    source=_SOURCE, firstTimestamp=_TIME, lastTimestamp=_TIME, count=_INTEGER, eventTime=_TIME, series={**_OPEN, "nullable": True},
    action=_STRING, related={**_REFERENCE, "nullable": True}, reportingComponent=_STRING, reportingInstance=_STRING,
)  # fmt: skip
_NEW_EVENT = _kind_schema(
    "A report that something happened to an object.",
    regarding={**_REFERENCE, "description": "The object it happened to."},
    reason={**_STRING, "description": "A CamelCase word for programs."},
    note={**_STRING, "description": "What happened, for people."},
    type={**_STRING, "description": "Normal or Warning."},
    deprecatedSource=_SOURCE, deprecatedFirstTimestamp=_TIME, deprecatedLastTimestamp=_TIME, deprecatedCount=_INTEGER, eventTime=_TIME,
    series={**_OPEN, "nullable": True}, action=_STRING, related={**_REFERENCE, "nullable": True},
    reportingController=_STRING, reportingInstance=_STRING,
)  # fmt: skip
_NEW_EVENT_NAMES = {
    "regarding": "involvedObject", "note": "message", "deprecatedSource": "source", "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp", "deprecatedCount": "count", "reportingController": "reportingComponent",
}  # fmt: skip
_OLD_EVENT_NAMES = {old: new for new, old in _NEW_EVENT_NAMES.items()}


def to_storage(kind: Kind, obj: Object) -> Object:
    """An object of any version as it is stored: events always in their core form."""
    if kind.group == "events.k8s.io":
        return {**{_NEW_EVENT_NAMES.get(name, name): value for name, value in obj.items()}, "apiVersion": "v1"}
    return obj


def from_storage(kind: Kind, obj: Object) -> Object:
    """A stored object as this kind shows it."""
    if kind.group == "events.k8s.io":
        obj = {_OLD_EVENT_NAMES.get(name, name): value for name, value in obj.items()}
    return obj if obj["apiVersion"] == kind.api_version else {**obj, "apiVersion": kind.api_version}


def base64_text(text: str) -> str:
    """As secrets carry their data."""
    return base64.b64encode(text.encode()).decode()


def _last_seen(obj: Object, now: datetime) -> str:
    series: dict[str, Any] = obj.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        obj.get("lastTimestamp"),
        obj.get("deprecatedLastTimestamp"),
        obj.get("eventTime"),
    )
    return age_of(next(filter(None, (*times, obj["metadata"].get("creationTimestamp")))), now)


def _event_object(obj: Object, now: datetime) -> str:
    about = obj.get("involvedObject") or obj.get("regarding") or {}
    return f"{about.get('kind', '').lower()}/{about.get('name', '')}"


def _event_columns(message: str) -> tuple[Column, ...]:
    return (
        Column("Last Seen", _last_seen),
        path_column("Type", ".type"),
        path_column("Reason", ".reason"),
        Column("Object", _event_object),
        path_column("Message", f".{message}"),
        Column("Name", NAME.cell, format="name", priority=1),
    )


def _count(field: str) -> Column:
    return Column("Data" if field == "data" else field.title(), lambda obj, now: len(obj.get(field) or ()), "integer")


_EVENT_FIELDS = {
    "type": ".type", "reason": ".reason", "source": ".source.component", "reportingComponent": ".reportingComponent",
    **{f"involvedObject.{name}": f".involvedObject.{name}" for name in _REFERENCE["properties"]},
}  # fmt: skip

EVENT_LIFETIME_SECONDS = 3600
"""kube-apiserver's --event-ttl."""

KINDS = (
    Kind(
        "", "v1", "namespaces", "Namespace",
        _kind_schema(
            "A scope for names.",
            spec=_object(finalizers={"type": "array", "items": _STRING, "x-kubernetes-list-type": "atomic"}),
            status=_object(phase=_STRING, conditions={"type": "array", "items": _OPEN}),
        ),
        namespaced=False, short_names=("ns",), columns=(NAME, path_column("Status", ".status.phase"), AGE), has_status=True,
        selectable={"status.phase": ".status.phase"},
    ),
    Kind(
        "", "v1", "events", "Event", _EVENT, short_names=("ev",), columns=_event_columns("message"), selectable=_EVENT_FIELDS,
    ),
    Kind(
        "events.k8s.io", "v1", "events", "Event", _NEW_EVENT, short_names=("ev",), columns=_event_columns("note"),
        selectable={"type": ".type", "reason": ".reason", "reportingController": ".reportingController",
                    **{f"regarding.{name}": f".regarding.{name}" for name in _REFERENCE["properties"]}},
    ),
    Kind(
        "", "v1", "configmaps", "ConfigMap",
        _kind_schema("Configuration for programs to read.", data=_STRINGS, binaryData=_STRINGS, immutable={"type": "boolean"}),
        short_names=("cm",), columns=(NAME, _count("data"), AGE),
    ),
    Kind(
        "", "v1", "secrets", "Secret",
        _kind_schema(
            "Data that not everyone may read.",
            type={**_STRING, "default": "Opaque"}, data={**_STRINGS, "additionalProperties": {"type": "string", "format": "byte"}},
            stringData=_STRINGS, immutable={"type": "boolean"},
        ),
        columns=(NAME, path_column("Type", ".type"), _count("data"), AGE), selectable={"type": ".type"},
    ),
    Kind(
        "", "v1", "serviceaccounts", "ServiceAccount",
        _kind_schema(
            "An identity for programs.",
            secrets=_named("Secrets it may use."), imagePullSecrets=_named("Secrets to pull images with."),
            automountServiceAccountToken={"type": "boolean"},
        ),
        short_names=("sa",), columns=(NAME, _count("secrets"), AGE),
    ),
    Kind(
        "", "v1", "pods", "Pod", _kind_schema("A group of containers; this server runs none.", spec=_OPEN, status=_OPEN),
        short_names=("po",), categories=("all",), verbs=("get", "list", "watch"),
    ),
    Kind(
        "coordination.k8s.io", "v1", "leases", "Lease",
        _kind_schema(
            "A lock that one holder renews.",
            spec=_object(
                holderIdentity=_STRING, leaseDurationSeconds=_INTEGER, leaseTransitions=_INTEGER, acquireTime=_TIME, renewTime=_TIME,
                strategy=_STRING, preferredHolder=_STRING,
            ),
        ),
        columns=(NAME, path_column("Holder", ".spec.holderIdentity"), AGE),
    ),
    Kind(
        "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition",
        _kind_schema("Adds a kind of objects to the API.", spec=_OPEN, status=_OPEN),
        namespaced=False, short_names=("crd", "crds"), categories=("api-extensions",), has_status=True,
        columns=(NAME, Column("Created At", lambda obj, now: obj["metadata"]["creationTimestamp"], "date")),
    ),
)  # fmt: skip
