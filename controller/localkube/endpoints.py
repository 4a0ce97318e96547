"""The endpoints of objects: from a request to an operation of the registry, and back."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from controller.localkube import answers, bodies, failures, forms, protobuf, requests, reviews, selectors, watching
from controller.localkube.admission import Options
from controller.localkube.forms import Form
from controller.localkube.registry import (
    APPLY_PATCH,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    DeleteOptions,
    Registry,
    Written,
)
from controller.localkube.requests import Target
from controller.localkube.selectors import Selector
from controller.localkube.store import Object
from controller.localkube.watching import Watch, Watches

_OBJECT_TYPES = (*forms.MEDIA_TYPES, protobuf.MEDIA_TYPE)


class Objects:
    def __init__(self, registry: Registry, watches: Watches) -> None:
        self._registry = registry
        self._watches = watches

    async def endpoint(self, request: Request) -> Response:
        group, version = request.path_params.get("group", ""), request.path_params["version"]
        # Before anything is refused: a connection with a body left in it cannot be used again, and clients do.
        body = await _body(request)
        target = requests.target(self._registry.kinds, group, version, request.path_params["rest"])
        if target is None:
            return answers.nothing()
        form = forms.form(request.headers.get("accept", ""), request.query_params)
        match request.method:
            case "GET" if requests.flag(request.query_params, "watch"):
                return self._watch(request, target, form)
            case "GET":
                return self._get(target, form) if target.name else self._list(request, target, form)
            case "POST":
                return self._create(request, target, form, body)
            case "PUT":
                return self._update(request, target, form, body)
            case "PATCH":
                return self._patch(request, target, form, body)
            case _ if target.name:
                return self._delete(request, target, form, body)
            case _:
                return self._delete_all(request, target, form, body)

    def _get(self, target: Target, form: Form) -> Response:
        namespace, name = _one(target, "get")
        found = self._registry.get(target.kind, namespace, name)
        return answers.answer(form.one(target.kind, found, _now()), form)

    def _selector(self, request: Request, target: Target) -> Selector:
        query = request.query_params
        chosen = [
            selectors.by_labels(query.get("labelSelector", "")),
            selectors.by_fields(query.get("fieldSelector", ""), target.kind.selectable),
        ]
        if target.name is not None:
            chosen.append(selectors.by_fields(f"metadata.name={target.name}", {}))
        return selectors.all_of(chosen)

    def _list(self, request: Request, target: Target, form: Form) -> Response:
        _require(target, "list")
        query, store, kind = request.query_params, self._registry.store, target.kind
        limit = requests.number(query, "limit")
        version, after = store.version, None
        if token := query.get("continue"):
            version, after = watching.continued(token)
        elif query.get("resourceVersionMatch") == "Exact":
            version = requests.version(query) or version
        else:
            requests.version(query)  # the newest is never older than what was asked for
        objects = self._registry.select(kind, target.namespace, self._selector(request, target), version)
        if after is not None:
            objects = [
                obj for obj in objects if (obj["metadata"].get("namespace", ""), obj["metadata"]["name"]) > after
            ]
        metadata: Object = {"resourceVersion": str(version)}
        if limit and len(objects) > limit:
            metadata["continue"] = watching.continue_token(version, objects[limit - 1])
            metadata["remainingItemCount"] = len(objects) - limit
            objects = objects[:limit]
        return answers.answer(form.many(kind, objects, metadata, _now()), form)

    def _watch(self, request: Request, target: Target, form: Form) -> Response:
        _require(target, "watch")
        query = request.query_params
        headers = True

        def show(obj: Object) -> Object:
            nonlocal headers
            shown = form.one(target.kind, obj, _now(), headers=headers)
            headers = False
            return shown

        watch = Watch(
            kind=target.kind,
            namespace=target.namespace,
            selects=self._selector(request, target),
            version=requests.version(query),
            bookmarks=requests.flag(query, "allowWatchBookmarks"),
            initial_events=requests.flag(query, "sendInitialEvents"),
            timeout=requests.number(query, "timeoutSeconds"),
            show=show,
        )
        return StreamingResponse(self._watches.stream(watch), media_type="application/json")

    def _create(self, request: Request, target: Target, form: Form, body: bytes) -> Response:
        if target.namespace is None:
            return answers.nothing()
        _require(target, "create")
        if target.name is not None:
            raise failures.method_not_allowed()
        media_type = _media_type(request, _OBJECT_TYPES)
        obj, duplicates = bodies.decode_object(body, media_type, target.kind)
        answered = reviews.answer(target.kind, obj)
        if answered is not None:
            return answers.answer(answered, form, code=201)
        options = replace(_options(request, target, "CreateOptions"), duplicates=duplicates)
        written = self._registry.create(target.kind, target.namespace, obj, options, _now())
        return _written(target, form, written)

    def _update(self, request: Request, target: Target, form: Form, body: bytes) -> Response:
        namespace, name = _one(target, "update")
        media_type = _media_type(request, _OBJECT_TYPES)
        obj, duplicates = bodies.decode_object(body, media_type, target.kind)
        options = replace(_options(request, target, "UpdateOptions"), duplicates=duplicates)
        written = self._registry.update(target.kind, namespace, name, obj, options, _now())
        return _written(target, form, written)

    def _patch(self, request: Request, target: Target, form: Form, body: bytes) -> Response:
        namespace, name = _one(target, "patch")
        strategic = () if target.kind.custom else (STRATEGIC_PATCH,)
        media_type = _media_type(request, (JSON_PATCH, MERGE_PATCH, *strategic, APPLY_PATCH))
        try:
            patch, duplicates = bodies.decode(body, allow_yaml=media_type == APPLY_PATCH)
            if media_type != JSON_PATCH and not isinstance(patch, dict):
                raise ValueError("json: cannot unmarshal array into Go value of type map[string]interface {}")
        except ValueError as error:
            raise failures.bad_request(f"error decoding patch: {error}") from error
        options = replace(_options(request, target, "PatchOptions"), duplicates=duplicates)
        if media_type == APPLY_PATCH and not request.query_params.get("fieldManager"):
            cause = failures.required("fieldManager", "is required for apply patch")
            raise failures.invalid("meta.k8s.io", "PatchOptions", "", [cause])
        written = self._registry.patch(target.kind, namespace, name, media_type, patch, options, _now())
        return _written(target, form, written)

    def _delete(self, request: Request, target: Target, form: Form, body: bytes) -> Response:
        namespace, name = _one(target, "delete")
        options = _delete_options(request, body)
        left = self._registry.delete(target.kind, namespace, name, options, _now())
        return answers.answer(left, replace(form, transform=""))

    def _delete_all(self, request: Request, target: Target, form: Form, body: bytes) -> Response:
        _require(target, "deletecollection")
        if target.namespace is None:
            raise failures.method_not_allowed()
        options, selects = _delete_options(request, body), self._selector(request, target)
        gone = self._registry.delete_all(target.kind, target.namespace, selects, options, _now())
        metadata = {"resourceVersion": str(self._registry.store.version)}
        return answers.answer(form.many(target.kind, gone, metadata, _now()), form)


def _now() -> datetime:
    return datetime.now(UTC)


def _require(target: Target, verb: str) -> None:
    if verb not in target.kind.verbs:
        raise failures.method_not_allowed()


def _one(target: Target, verb: str) -> tuple[str, str]:
    """Namespace and name of the one object that the request is about."""
    if target.name is None or target.namespace is None:
        raise failures.bad_request("name must be provided")
    _require(target, verb)
    return target.namespace, target.name


def _written(target: Target, form: Form, written: Written) -> Response:
    shown = form.one(target.kind, written.object, _now())
    response = answers.answer(shown, form, code=201 if written.created else 200)
    return answers.warned(response, written.warnings)


def _options(request: Request, target: Target, kind: str) -> Options:
    query = request.query_params
    agent = request.headers.get("user-agent", "").partition("/")[0] or "unknown"
    return Options(
        manager=query.get("fieldManager") or agent[:128],
        subresource=target.subresource,
        dry_run=requests.dry_run(query, kind),
        field_validation=requests.field_validation(query, kind),
        force=requests.flag(query, "force"),
    )


def _delete_options(request: Request, body: bytes) -> DeleteOptions:
    query = request.query_params
    given: Any = {}
    if body.strip():
        try:
            given, _ = bodies.decode(body, allow_yaml=True)
        except ValueError as error:
            raise failures.bad_request(f"error decoding DeleteOptions: {error}") from error
    if not isinstance(given, dict) or not isinstance(given.get("preconditions"), dict | None):
        raise failures.bad_request("error decoding DeleteOptions: DeleteOptions and preconditions are objects")
    preconditions = given.get("preconditions") or {}
    return DeleteOptions(
        dry_run=requests.dry_run(query, "DeleteOptions") or given.get("dryRun") == ["All"],
        propagation=query.get("propagationPolicy") or given.get("propagationPolicy") or "Background",
        uid=preconditions.get("uid"),
        resource_version=preconditions.get("resourceVersion"),
    )


def _media_type(request: Request, accepted: tuple[str, ...]) -> str:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower() or accepted[0]
    if given not in accepted:
        raise failures.unsupported_media_type(accepted)
    return given


async def _body(request: Request) -> bytes:
    """Raises Failure 413 as soon as it is too large."""
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > bodies.MAX_BYTES:
            raise failures.too_large(bodies.MAX_BYTES)
    return b"".join(parts)
