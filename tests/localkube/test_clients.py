"""Programs against the servers: the official Python client, and kopf with a real handler."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kopf
import kubernetes

from tests.localkube.servers import GROUP, Widgets, eventually, ok, widget


def test_the_python_client_writes_watches_and_is_refused(widgets: Widgets) -> None:
    client = kubernetes.config.new_client_from_config(str(widgets.server.kubeconfig))
    objects = kubernetes.client.CustomObjectsApi(client)
    place = (GROUP, "v1", widgets.namespace, "widgets")
    objects.create_namespaced_custom_object(*place, widget())
    objects.patch_namespaced_custom_object_status(*place, "one", {"status": {"phase": "Run"}})
    assert objects.get_namespaced_custom_object(*place, "one")["status"] == {"phase": "Run"}
    stream = kubernetes.watch.Watch().stream(
        objects.list_namespaced_custom_object, *place, resource_version="0", timeout_seconds=5
    )
    assert next(iter(stream))["object"]["metadata"]["name"] == "one"
    try:
        objects.create_namespaced_custom_object(*place, widget())
    except kubernetes.client.ApiException as error:
        assert (error.status, error.reason) == (409, "Conflict")
    else:
        raise AssertionError("a name is taken once")
    core = kubernetes.client.CoreV1Api(client)
    assert widgets.namespace in {item.metadata.name for item in core.list_namespace().items}
    core.create_namespaced_config_map(widgets.namespace, {"metadata": {"name": "c"}, "data": {"a": "b"}})
    assert core.read_namespaced_config_map("c", widgets.namespace).data == {"a": "b"}
    client.close()


@contextmanager
def operator(widgets: Widgets, registry: kopf.OperatorRegistry) -> Iterator[None]:
    """kopf, in a thread and a loop of its own, for the widgets of the test's namespace."""
    ready, stop = threading.Event(), threading.Event()

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo:
        http = widgets.server.http
        token = http.headers.get("Authorization", "").removeprefix("Bearer ")
        return kopf.ConnectionInfo(server=str(http.base_url), token=token or None, insecure=True)

    @kopf.on.startup(registry=registry)
    def settle(settings: kopf.OperatorSettings, **kwargs: Any) -> None:
        settings.posting.enabled = False
        settings.peering.standalone = True
        ready.set()

    async def main() -> None:
        running = asyncio.create_task(kopf.operator(registry=registry, namespaces=[widgets.namespace], standalone=True))
        while not stop.is_set():
            await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait([running])

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(20)
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def test_kopf_sees_creation_change_and_deletion(widgets: Widgets) -> None:
    registry = kopf.OperatorRegistry()
    seen: list[tuple[str, int]] = []

    @kopf.on.create(GROUP, "v1", "widgets", registry=registry)
    async def created(spec: Any, patch: Any, **kwargs: Any) -> None:
        seen.append(("created", spec["size"]))
        patch.status["phase"] = "Created"

    @kopf.on.update(GROUP, "v1", "widgets", field="spec", registry=registry)
    async def updated(spec: Any, patch: Any, **kwargs: Any) -> None:
        seen.append(("updated", spec["size"]))
        patch.status["phase"] = "Updated"

    @kopf.on.delete(GROUP, "v1", "widgets", registry=registry)
    async def deleted(spec: Any, **kwargs: Any) -> None:
        seen.append(("deleted", spec["size"]))

    widgets.create("one", {"size": 1})
    with operator(widgets, registry):
        eventually(lambda: widgets.get().get("status", {}).get("phase") == "Created", "the creation is handled")
        assert widgets.get()["metadata"]["finalizers"]
        ok(widgets.patch({"spec": {"size": 2}}))
        eventually(lambda: widgets.get()["status"]["phase"] == "Updated", "the change is handled")
        ok(widgets.delete())
        eventually(lambda: widgets.list()["items"] == [], "the deletion is handled")
    assert seen == [("created", 1), ("updated", 2), ("deleted", 2)]
