"""Sandbox objects in Kubernetes: the only state there is. Every write says which object it means, by uid."""

from collections.abc import Mapping
from typing import Any

from controller.cluster.connection import MERGE, Body, Connection
from controller.model import (
    API_VERSION,
    BACKEND_ANNOTATION,
    FINALIZER,
    KIND,
    PLURAL,
    TRACE_ANNOTATION,
    BackendName,
    Sandbox,
)
from controller.tracing import request_context

_API = f"/apis/{API_VERSION}"
PAGE = 500
"""Objects a page of a list."""


class Store:
    """Reading and writing Sandbox objects. Everything raises the errors of `Connection.call`."""

    def __init__(self, connection: Connection, namespaces: tuple[str, ...] = ()) -> None:
        self._connection = connection
        self._namespaces = namespaces

    async def objects(self) -> list[Body]:
        """All objects of the watched namespaces."""
        paths = [f"{_API}/namespaces/{namespace}/{PLURAL}" for namespace in self._namespaces] or [f"{_API}/{PLURAL}"]
        return [body for path in paths for body in await self._pages(path)]

    async def _pages(self, path: str) -> list[Body]:
        found: list[Body] = []
        query = {"limit": str(PAGE)}
        while True:
            page = await self._connection.call("GET", path, query=query)
            found += page["items"]
            following = page.get("metadata", {}).get("continue")
            if not following:
                return found
            query["continue"] = following

    async def create(self, namespace: str, name: str, spec: Mapping[str, Any]) -> Body:
        trace = request_context.get()
        metadata = {"name": name} | ({"annotations": {TRACE_ANNOTATION: trace}} if trace else {})
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": dict(spec)}
        query = {"fieldValidation": "Strict"}
        return await self._connection.call("POST", f"{_API}/namespaces/{namespace}/{PLURAL}", body, query=query)

    async def claim(self, sandbox: Sandbox, backend: BackendName) -> Body:
        """Finalizer and backend in one write, before anything is started."""
        finalizers = [*sandbox.finalizers, *([] if FINALIZER in sandbox.finalizers else [FINALIZER])]
        metadata = {"finalizers": finalizers, "annotations": {BACKEND_ANNOTATION: backend.value}}
        return await self._patch(sandbox, {"metadata": metadata}, exact=True)

    async def release(self, sandbox: Sandbox) -> Body:
        """Take our finalizer off."""
        finalizers = [finalizer for finalizer in sandbox.finalizers if finalizer != FINALIZER]
        return await self._patch(sandbox, {"metadata": {"finalizers": finalizers}}, exact=True)

    async def write_status(self, sandbox: Sandbox, patch: Mapping[str, Any]) -> Body:
        return await self._patch(sandbox, {"metadata": {}, "status": dict(patch)}, "/status")

    async def delete(self, sandbox: Sandbox) -> Body | None:
        """The object as it stays until its finalizers are taken off; None: it is gone."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": sandbox.uid}}
        left = await self._connection.call("DELETE", self._path(sandbox), body)
        return left if left.get("kind") == KIND and left["metadata"].get("deletionTimestamp") else None

    async def _patch(self, sandbox: Sandbox, body: Body, subresource: str = "", *, exact: bool = False) -> Body:
        """`exact`: only if nobody else wrote since; lists are replaced whole, so another's finalizer would be lost."""
        body["metadata"] |= {"uid": sandbox.uid} | ({"resourceVersion": sandbox.resource_version} if exact else {})
        return await self._connection.call("PATCH", self._path(sandbox) + subresource, body, content_type=MERGE)

    def _path(self, sandbox: Sandbox) -> str:
        return f"{_API}/namespaces/{sandbox.namespace}/{PLURAL}/{sandbox.name}"
