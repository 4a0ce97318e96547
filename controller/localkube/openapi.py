"""OpenAPI documents: kubectl explains kinds from them, and learns that the server validates fields itself."""

import hashlib
import json

from controller.localkube.kinds import Kind, Kinds
from controller.localkube.schema import Schema
from controller.localkube.store import Object

_INFO = {"title": "Kubernetes", "version": "v1.32.0"}
_PATCHES = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")
_QUERY = ("dryRun", "fieldManager", "fieldValidation")
_ACTIONS = {"post": "post", "put": "put", "patch": "patch", "delete": "delete"}


def _gvk(kind: Kind) -> dict[str, str]:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _model(kind: Kind) -> str:
    """The schema's name: `dev.agent-platform.v1alpha1.Sandbox`."""
    group = kind.group if "." in kind.group else f"{kind.group or 'core'}.api.k8s.io"
    return ".".join([*reversed(group.split(".")), kind.version, kind.kind])


def _paths(kind: Kind) -> dict[str, tuple[str, ...]]:
    """Each URL of the kind and its methods."""
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    place = f"{root}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{root}/{kind.plural}"
    methods = {"list": "get", "get": "get", "create": "post", "update": "put", "patch": "patch", "delete": "delete"}
    all_of = tuple(methods[verb] for verb in ("list", "create") if verb in kind.verbs)
    one_of = tuple(methods[verb] for verb in ("get", "update", "patch", "delete") if verb in kind.verbs)
    paths = {place: all_of, f"{place}/{{name}}": one_of}
    if kind.has_status:
        paths[f"{place}/{{name}}/status"] = tuple(method for method in one_of if method != "delete")
    return {path: found for path, found in paths.items() if found}


def _operation(kind: Kind, method: str, *, v2: bool) -> Object:
    reference = f"#/{'definitions' if v2 else 'components/schemas'}/{_model(kind)}"
    answer: Object = {"description": "OK"}
    answer |= (
        {"schema": {"$ref": reference}} if v2 else {"content": {"application/json": {"schema": {"$ref": reference}}}}
    )
    action = _ACTIONS.get(method, "get")
    operation: Object = {
        "x-kubernetes-group-version-kind": _gvk(kind),
        "x-kubernetes-action": action,
        "responses": {"200": answer},
    }
    if method in ("post", "put", "patch"):
        plain: Schema = {"type": "string"}
        operation["parameters"] = [
            {"name": name, "in": "query", "uniqueItems": True, **(plain if v2 else {"schema": plain})}
            for name in _QUERY
        ]
        if not v2:
            types = _PATCHES if method == "patch" else ("application/json",)
            operation["requestBody"] = {"content": {name: {"schema": {"type": "object"}} for name in types}}
        elif method == "patch":
            operation["consumes"] = list(_PATCHES)
    return operation


def _described(kind: Kind) -> Schema:
    return {**kind.schema, "x-kubernetes-group-version-kind": [_gvk(kind)]}


def v3_index(kinds: Kinds) -> Object:
    paths = {}
    for kind in kinds.all():
        place = f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"
        if place not in paths:
            text = json.dumps(v3(kinds, kind.group, kind.version), sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
            paths[place] = {"serverRelativeURL": f"/openapi/v3/{place}?hash={digest.upper()}"}
    return {"paths": paths}


def v3(kinds: Kinds, group: str, version: str) -> Object | None:
    """The document of one group and version, None if there is no such."""
    found = kinds.of_group(group, version)
    if not found:
        return None
    paths = {
        path: {method: _operation(kind, method, v2=False) for method in methods}
        for kind in found
        for path, methods in _paths(kind).items()
    }
    schemas = {_model(kind): _described(kind) for kind in found}
    return {"openapi": "3.0.0", "info": _INFO, "paths": paths, "components": {"schemas": schemas}}


def v2(kinds: Kinds) -> Object:
    """The older document, of everything at once."""
    paths = {
        path: {method: _operation(kind, method, v2=True) for method in methods}
        for kind in kinds.all()
        for path, methods in _paths(kind).items()
    }
    definitions = {_model(kind): _older(_described(kind)) for kind in kinds.all()}
    return {"swagger": "2.0", "info": _INFO, "paths": paths, "definitions": definitions}


_ONLY_V3 = ("anyOf", "oneOf", "not", "nullable", "x-kubernetes-validations")


def _older(schema: Schema) -> Schema:
    """Without what OpenAPI v2 cannot say; kube-apiserver drops the same."""
    result = {name: value for name, value in schema.items() if name not in _ONLY_V3}
    if schema.get("x-kubernetes-preserve-unknown-fields") is True or schema.get("x-kubernetes-int-or-string") is True:
        result.pop("type", None)
    if "properties" in schema:
        result["properties"] = {name: _older(sub) for name, sub in schema["properties"].items()}
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            result[name] = _older(schema[name])
    return result
