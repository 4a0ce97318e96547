"""The built-in kinds, as far as controllers and kubectl need them around custom resources."""

import base64
from datetime import datetime

from controller.localkube import events
from controller.localkube.kinds import Kind, whole_schema
from controller.localkube.schema import Schema
from controller.localkube.store import Object
from controller.localkube.table import AGE, NAME, Column, path_column

READ_ONLY = ("get", "list", "watch")

_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_BOOLEAN: Schema = {"type": "boolean"}
_TIME: Schema = {"type": "string", "format": "date-time", "nullable": True}
_STRINGS: Schema = {"type": "object", "additionalProperties": _STRING}
_OPEN: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _kind_schema(description: str, /, **properties: Schema) -> Schema:
    return whole_schema({**_object(**properties), "description": description})


def _references(description: str) -> Schema:
    return {
        "type": "array",
        "description": description,
        "items": _object(name=_STRING),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    }


def with_encoded_text(secret: Object) -> Object:
    """With `stringData` moved into `data`; a malformed one is left for validation to refuse."""
    text, data = secret.get("stringData"), secret.get("data") or {}
    if (
        not isinstance(text, dict)
        or not isinstance(data, dict)
        or not all(isinstance(part, str) for part in text.values())
    ):
        return secret
    encoded = {name: base64.b64encode(part.encode()).decode() for name, part in text.items()}
    rest = {name: value for name, value in secret.items() if name != "stringData"}
    return {**rest, "data": {**data, **encoded}}


def _data_count(obj: Object, now: datetime) -> int:
    return len(obj.get("data") or {}) + len(obj.get("binaryData") or {})


def _created(obj: Object, now: datetime) -> str:
    created: str = obj["metadata"]["creationTimestamp"]
    return created


_DATA = Column("Data", _data_count, "integer")

_NAMESPACE = Kind(
    "",
    "v1",
    "namespaces",
    "Namespace",
    _kind_schema(
        "A scope for names. What is in it goes with it.",
        spec=_object(finalizers={"type": "array", "items": _STRING, "x-kubernetes-list-type": "atomic"}),
        status=_object(phase=_STRING, conditions={"type": "array", "items": _OPEN}),
    ),
    namespaced=False,
    short_names=("ns",),
    columns=(NAME, path_column("Status", ".status.phase"), AGE),
    has_status=True,
    selectable={"status.phase": ".status.phase"},
)
_CONFIG_MAP = Kind(
    "",
    "v1",
    "configmaps",
    "ConfigMap",
    _kind_schema("Configuration for programs to read.", data=_STRINGS, binaryData=_STRINGS, immutable=_BOOLEAN),
    short_names=("cm",),
    columns=(NAME, _DATA, AGE),
)
_SECRET = Kind(
    "",
    "v1",
    "secrets",
    "Secret",
    _kind_schema(
        "Data that not everyone may read.",
        type={**_STRING, "default": "Opaque"},
        data={"type": "object", "additionalProperties": {"type": "string", "format": "byte"}},
        stringData={**_STRINGS, "description": "Data in plain text. Write-only."},
        immutable=_BOOLEAN,
    ),
    columns=(NAME, path_column("Type", ".type"), _DATA, AGE),
    selectable={"type": ".type"},
)
_SERVICE_ACCOUNT = Kind(
    "",
    "v1",
    "serviceaccounts",
    "ServiceAccount",
    _kind_schema(
        "An identity for programs.",
        secrets=_references("Secrets it may use."),
        imagePullSecrets={"type": "array", "items": _object(name=_STRING), "x-kubernetes-list-type": "atomic"},
        automountServiceAccountToken=_BOOLEAN,
    ),
    short_names=("sa",),
    columns=(NAME, Column("Secrets", lambda obj, now: len(obj.get("secrets") or ()), "integer"), AGE),
)
_POD = Kind(
    "",
    "v1",
    "pods",
    "Pod",
    _kind_schema("A group of containers. This server has none.", spec=_OPEN, status=_OPEN),
    short_names=("po",),
    categories=("all",),
    verbs=READ_ONLY,
)
_SERVICE = Kind(
    "",
    "v1",
    "services",
    "Service",
    _kind_schema("A name for pods. This server has none.", spec=_OPEN, status=_OPEN),
    short_names=("svc",),
    categories=("all",),
    verbs=READ_ONLY,
)
_LEASE = Kind(
    "coordination.k8s.io",
    "v1",
    "leases",
    "Lease",
    _kind_schema(
        "A lock that one holder renews.",
        spec=_object(
            holderIdentity=_STRING,
            leaseDurationSeconds=_INTEGER,
            leaseTransitions=_INTEGER,
            acquireTime=_TIME,
            renewTime=_TIME,
            strategy=_STRING,
            preferredHolder=_STRING,
        ),
    ),
    columns=(NAME, path_column("Holder", ".spec.holderIdentity"), AGE),
)
_CRD_VERSION: Schema = {
    **_object(
        name={**_STRING, "minLength": 1},
        served=_BOOLEAN,
        storage=_BOOLEAN,
        deprecated=_BOOLEAN,
        deprecationWarning=_STRING,
        schema={**_object(openAPIV3Schema=_OPEN), "required": ["openAPIV3Schema"]},
        subresources=_object(status=_OPEN, scale=_OPEN),
        additionalPrinterColumns={
            "type": "array",
            "items": {
                **_object(
                    name=_STRING,
                    type=_STRING,
                    jsonPath=_STRING,
                    format=_STRING,
                    description=_STRING,
                    priority=_INTEGER,
                ),
                "required": ["jsonPath", "name", "type"],
            },
        },
        selectableFields={"type": "array", "items": {**_object(jsonPath=_STRING), "required": ["jsonPath"]}},
    ),
    "required": ["name", "schema", "served", "storage"],
}
_CRD_SPEC: Schema = {
    **_object(
        group={**_STRING, "minLength": 1},
        scope={**_STRING, "enum": ["Cluster", "Namespaced"]},
        names={
            **_object(
                plural={**_STRING, "minLength": 1},
                singular=_STRING,
                kind={**_STRING, "minLength": 1},
                listKind=_STRING,
                shortNames={"type": "array", "items": _STRING},
                categories={"type": "array", "items": _STRING},
            ),
            "required": ["kind", "plural"],
        },
        versions={"type": "array", "minItems": 1, "items": _CRD_VERSION},
        conversion=_OPEN,
        preserveUnknownFields=_BOOLEAN,
    ),
    "required": ["group", "names", "scope", "versions"],
}
_CRD = Kind(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    _kind_schema("Adds a kind of objects to the API.", spec=_CRD_SPEC, status=_OPEN),
    namespaced=False,
    short_names=("crd", "crds"),
    categories=("api-extensions",),
    columns=(NAME, Column("Created At", _created, "date")),
    has_status=True,
)

KINDS = (_NAMESPACE, *events.KINDS, _CONFIG_MAP, _SECRET, _SERVICE_ACCOUNT, _POD, _SERVICE, _LEASE, _CRD)
