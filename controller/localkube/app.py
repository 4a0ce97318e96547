"""The HTTP face: routes, and the way from a request to an operation and back."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from controller.localkube import (
    answers,
    bodies,
    discovery,
    failures,
    openapi,
    protobuf,
    requests,
    reviews,
    selectors,
    table,
    watching,
)
from controller.localkube.admission import Options
from controller.localkube.failures import Failure
from controller.localkube.kinds import Kind
from controller.localkube.loopback import LoopbackOnly
from controller.localkube.registry import (
    APPLY_PATCH,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    DeleteOptions,
    Registry,
    Written,
)
from controller.localkube.requests import Form, Target
from controller.localkube.selectors import Selector
from controller.localkube.store import Object
from controller.localkube.watching import Watch, Watches

_OBJECT_TYPES = (*requests.ACCEPTED, protobuf.MEDIA_TYPE)
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Api:
    """One server's endpoints."""

    def __init__(self, registry: Registry, watches: Watches, clock: Callable[[], datetime] = _utc_now) -> None:
        self._registry = registry
        self._watches = watches
        self._now = clock

    def app(self) -> ASGIApp:
        def route(path: str, endpoint: Callable[..., Any], *methods: str) -> Route:
            return Route(path, endpoint, methods=list(methods or ("GET",)))

        return LoopbackOnly(
            Starlette(
                routes=[
                    *(
                        route(f"/{name}{rest}", _healthy)
                        for name in ("healthz", "livez", "readyz")
                        for rest in ("", "/{check:path}")
                    ),
                    route("/version", self._version),
                    route("/openapi/v2", self._openapi_v2),
                    route("/openapi/v3", self._openapi_v3_index),
                    route("/openapi/v3/api/{version}", self._openapi_v3),
                    route("/openapi/v3/apis/{group}/{version}", self._openapi_v3),
                    route("/api", self._core_versions),
                    route("/apis", self._groups),
                    route("/apis/{group}", self._group),
                    route("/api/{version}", self._resources),
                    route("/apis/{group}/{version}", self._resources),
                    route("/api/{version}/{rest:path}", self._objects, *_METHODS),
                    route("/apis/{group}/{version}/{rest:path}", self._objects, *_METHODS),
                ],
                exception_handlers={
                    Failure: _on_failure,
                    404: _on_nothing,
                    405: _on_wrong_method,
                    Exception: _on_error,
                },
            )
        )

    # Discovery

    async def _version(self, request: Request) -> Response:
        return answers.answer(discovery.VERSION)

    async def _core_versions(self, request: Request) -> Response:
        return self._aggregated(request, [""]) or answers.answer(discovery.core_versions(request.url.netloc))

    async def _groups(self, request: Request) -> Response:
        names = [name for name in self._registry.kinds.groups() if name]
        return self._aggregated(request, names) or answers.answer(discovery.group_list(self._registry.kinds))

    def _aggregated(self, request: Request, groups: list[str]) -> Response | None:
        for wanted in request.headers.get("accept", "").split(","):
            parameters = dict(part.strip().partition("=")[::2] for part in wanted.split(";")[1:])
            version = parameters.get("v", "")
            if parameters.get("as") == "APIGroupDiscoveryList" and version in ("v2", "v2beta1"):
                found = discovery.aggregated(self._registry.kinds, groups, version)
                return answers.answer(
                    found, media_type=f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
                )
        return None

    async def _group(self, request: Request) -> Response:
        return answers.answer_or_nothing(discovery.group(self._registry.kinds, request.path_params["group"]))

    async def _resources(self, request: Request) -> Response:
        group, version = request.path_params.get("group", ""), request.path_params["version"]
        return answers.answer_or_nothing(discovery.resource_list(self._registry.kinds, group, version))

    async def _openapi_v2(self, request: Request) -> Response:
        return answers.answer(openapi.v2(self._registry.kinds))

    async def _openapi_v3_index(self, request: Request) -> Response:
        return answers.answer(openapi.v3_index(self._registry.kinds))

    async def _openapi_v3(self, request: Request) -> Response:
        group, version = request.path_params.get("group", ""), request.path_params["version"]
        return answers.answer_or_nothing(openapi.v3(self._registry.kinds, group, version))

    # Objects

    async def _objects(self, request: Request) -> Response:
        group, version = request.path_params.get("group", ""), request.path_params["version"]
        # Before anything is refused: a connection with a body left in it cannot be used again, and clients do.
        body = await _body(request)
        target = requests.target(self._registry.kinds, group, version, request.path_params["rest"])
        if target is None:
            return answers.nothing()
        form = requests.form(request.headers.get("accept", ""))
        match request.method:
            case "GET" if target.name is None or requests.flag(request.query_params, "watch"):
                self._require(target, "list")
                return (
                    self._watch(request, target, form)
                    if requests.flag(request.query_params, "watch")
                    else self._list(request, target, form)
                )
            case "GET":
                self._require(target, "get")
                found = self._registry.get(target.kind, target.namespace or "", target.name or "")
                return answers.answer(self._shown(request, target.kind, form, found), form)
            case "POST":
                return self._create(request, target, form, body)
            case "PUT":
                return self._update(request, target, form, body)
            case "PATCH":
                return self._patch(request, target, form, body)
            case _:
                return self._delete(request, target, form, body)

    def _require(self, target: Target, verb: str) -> None:
        if verb not in target.kind.verbs:
            raise failures.method_not_allowed()

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
            metadata |= {
                "continue": watching.continue_token(version, objects[limit - 1]),
                "remainingItemCount": len(objects) - limit,
            }
            objects = objects[:limit]
        if form.transform == "Table":
            include = query.get("includeObject", "Metadata")
            return answers.answer(table.table(objects, kind.columns, metadata, self._now(), include), form)
        if form.transform:
            items = [table.partial(obj) for obj in objects]
            return answers.answer(
                {
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "items": items,
                },
                form,
            )
        return answers.answer(
            {"apiVersion": kind.api_version, "kind": kind.list_kind, "metadata": metadata, "items": objects}, form
        )

    def _watch(self, request: Request, target: Target, form: Form) -> Response:
        query = request.query_params
        headers = True

        def show(obj: Object) -> Object:
            nonlocal headers
            shown = self._shown(request, target.kind, form, obj, headers=headers)
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

    def _shown(self, request: Request, kind: Kind, form: Form, obj: Object, *, headers: bool = True) -> Object:
        """One object in the form that was asked for."""
        if form.transform == "Table":
            include = request.query_params.get("includeObject", "Metadata")
            metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            return table.table([obj], kind.columns, metadata, self._now(), include, headers=headers)
        return table.partial(obj) if form.transform else obj

    def _create(self, request: Request, target: Target, form: Form, body: bytes) -> Response:
        self._require(target, "create")
        if target.namespace is None:
            return answers.nothing()
        if target.name is not None:
            raise failures.method_not_allowed()
        media_type = _media_type(request, _OBJECT_TYPES)
        obj, duplicates = bodies.decode_object(body, media_type, target.kind)
        answered = reviews.answer(target.kind, obj)
        if answered is not None:
            return answers.answer(answered, form, code=201)
        options = replace(_options(request, target, "CreateOptions"), duplicates=duplicates)
        return self._written(
            request, target, form, self._registry.create(target.kind, target.namespace, obj, options, self._now())
        )

    def _update(self, request: Request, target: Target, form: Form, body: bytes) -> Response:
        namespace, name = _one(target)
        self._require(target, "update")
        media_type = _media_type(request, _OBJECT_TYPES)
        obj, duplicates = bodies.decode_object(body, media_type, target.kind)
        options = replace(_options(request, target, "UpdateOptions"), duplicates=duplicates)
        return self._written(
            request, target, form, self._registry.update(target.kind, namespace, name, obj, options, self._now())
        )

    def _patch(self, request: Request, target: Target, form: Form, body: bytes) -> Response:
        namespace, name = _one(target)
        self._require(target, "patch")
        types = (
            (JSON_PATCH, MERGE_PATCH, APPLY_PATCH)
            if target.kind.custom
            else (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)
        )
        media_type = _media_type(request, types)
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
        written = self._registry.patch(target.kind, namespace, name, media_type, patch, options, self._now())
        return self._written(request, target, form, written)

    def _written(self, request: Request, target: Target, form: Form, written: Written) -> Response:
        shown = self._shown(request, target.kind, form, written.object)
        response = answers.answer(shown, form, code=201 if written.created else 200)
        return answers.warned(response, written.warnings)

    def _delete(self, request: Request, target: Target, form: Form, body: bytes) -> Response:
        options = _delete_options(request, body)
        if target.name is None:
            self._require(target, "deletecollection")
            if target.namespace is None:
                raise failures.method_not_allowed()
            kind = target.kind
            gone = self._registry.delete_all(
                kind, target.namespace, self._selector(request, target), options, self._now()
            )
            metadata = {"resourceVersion": str(self._registry.store.version)}
            return answers.answer(
                {"apiVersion": kind.api_version, "kind": kind.list_kind, "metadata": metadata, "items": gone}, form
            )
        self._require(target, "delete")
        namespace, name = _one(target)
        left = self._registry.delete(target.kind, namespace, name, options, self._now())
        return answers.answer(left, replace(form, transform=""))


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


def _one(target: Target) -> tuple[str, str]:
    if target.name is None or target.namespace is None:
        raise failures.bad_request("name must be provided")
    return target.namespace, target.name


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


async def _healthy(request: Request) -> Response:
    return PlainTextResponse("ok")


async def _on_failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, Failure)
    return answers.failed(error)


async def _on_error(request: Request, error: Exception) -> Response:
    """The error itself is logged by uvicorn."""
    return answers.failed(failures.internal_error(error))


async def _on_nothing(request: Request, error: Exception) -> Response:
    return answers.nothing()


async def _on_wrong_method(request: Request, error: Exception) -> Response:
    return answers.failed(failures.method_not_allowed())
