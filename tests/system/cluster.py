"""A namespace of an API server, and the words in which the claims about Sandbox objects are written."""

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from controller.model import API_VERSION, KIND, PLURAL
from tests.localkube.servers import MERGE, Server, ok

Body = dict[str, Any]
SECONDS = 60.0
"""How long something may take on a busy machine before it counts as never."""
POLL = 0.1
"""Seconds between two looks."""
LAST = "last"
"""Name of the object whose end ends a count of writes."""
_numbers = itertools.count(1)


def until(what: str, look: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Look again and again until something true is seen."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(POLL)
    return seen


def python(code: str, **run: Any) -> Body:
    """The spec of a sandbox that runs Python code and finishes."""
    return {"run": {"language": "python", "code": code, **run}}


def bash(code: str, **run: Any) -> Body:
    return {"run": {"language": "bash", "code": code, **run}}


@dataclass
class Cluster:
    """One namespace."""

    server: Server
    namespace: str = field(default_factory=lambda: f"system-{uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        ok(self.server.call("POST", "/api/v1/namespaces", namespace), 201)

    @property
    def path(self) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURAL}"

    def create(self, spec: Mapping[str, Any] | None = None, name: str = "", **metadata: Any) -> "Applied":
        named = {"name": name or f"box-{next(_numbers)}", **metadata}
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": named, "spec": spec or {}}
        return Applied(self, ok(self.server.call("POST", self.path, body), 201))

    def find(self, name: str) -> "Applied":
        return Applied(self, ok(self.server.call("GET", f"{self.path}/{name}")))

    def list(self) -> list[Body]:
        return list(ok(self.server.call("GET", self.path))["items"])

    def delete_all(self) -> None:
        ok(self.server.call("DELETE", self.path))

    def clear(self) -> None:
        """Deletes all objects, and waits until they are gone."""
        self.delete_all()
        until("all objects are gone", lambda: not self.list())

    def close(self) -> None:
        """Whatever the controller left undone is torn off."""
        for body in self.list():
            self.server.call(
                "PATCH", f"{self.path}/{body['metadata']['name']}", {"metadata": {"finalizers": None}}, MERGE
            )
        self.delete_all()
        self.server.call("DELETE", f"/api/v1/namespaces/{self.namespace}")

    @contextmanager
    def counted_writes(self) -> Iterator[Counter[str]]:
        """uid -> how often the API server told that the object was written, its creation and end left out."""
        counts: Counter[str] = Counter()
        version = ok(self.server.call("GET", self.path))["metadata"]["resourceVersion"]
        path, query = self.path, {"watch": "true", "resourceVersion": version}
        listening, told_all = threading.Event(), threading.Event()
        with httpx.Client(
            base_url=self.server.http.base_url, headers=self.server.http.headers, verify=False, timeout=None
        ) as http:

            def count() -> None:
                with suppress(httpx.TransportError), http.stream("GET", path, params=query) as answer:
                    listening.set()
                    for line in answer.iter_lines():
                        event = json.loads(line)
                        counts[event["object"]["metadata"]["uid"]] += event["type"] == "MODIFIED"
                        if event["object"]["metadata"]["name"] == LAST and event["type"] == "DELETED":
                            told_all.set()
                            return

            threading.Thread(target=count, daemon=True).start()
            assert listening.wait(SECONDS)
            yield counts
            # a watch tells in order: with the end of this one it has told everything
            self.create({"run": {"command": ["true"]}}, name=LAST).delete()
            assert told_all.wait(SECONDS), "the watch did not tell the end"


@dataclass
class Applied:
    """One Sandbox object."""

    cluster: Cluster
    created: Body

    @property
    def name(self) -> str:
        return str(self.created["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.created["metadata"]["uid"])

    @property
    def container(self) -> str:
        return f"sbx-{self.uid}"

    @property
    def path(self) -> str:
        return f"{self.cluster.path}/{self.name}"

    @property
    def body(self) -> Body:
        return ok(self.cluster.server.call("GET", self.path))

    @property
    def status(self) -> Body:
        return dict(self.body.get("status") or {})

    @property
    def is_gone(self) -> bool:
        return self.cluster.server.call("GET", self.path).status_code == 404

    def condition(self, kind: str) -> Body:
        return condition(self.status, kind)

    def until(self, what: str, holds: Callable[[Body], Any], seconds: float = SECONDS) -> Body:
        """Its status, as soon as that is so."""
        deadline = time.monotonic() + seconds
        while not holds(status := self.status):
            assert time.monotonic() < deadline, f"after {seconds:g} s still not {what}: {json.dumps(status)}"
            time.sleep(POLL)
        return status

    def until_phase(self, *phases: str, seconds: float = SECONDS) -> Body:
        return self.until(" or ".join(phases), lambda status: status.get("phase") in phases, seconds)

    def until_ready(self) -> Body:
        return self.until("ready", lambda status: condition(status, "Ready").get("status") == "True")

    def until_ended(self, seconds: float = SECONDS) -> Body:
        return self.until_phase("Succeeded", "Failed", seconds=seconds)

    def until_gone(self, seconds: float = SECONDS) -> None:
        until(f"{self.name} is gone", lambda: self.is_gone, seconds)

    def patch(self, **spec: Any) -> httpx.Response:
        return self.cluster.server.call("PATCH", self.path, {"spec": spec}, MERGE)

    def delete(self) -> None:
        ok(self.cluster.server.call("DELETE", self.path))

    def events(self) -> list[Body]:
        """The Events about it."""
        path = f"/api/v1/namespaces/{self.cluster.namespace}/events"
        items = ok(self.cluster.server.call("GET", path))["items"]
        return [item for item in items if item["involvedObject"].get("uid") == self.uid]


def condition(status: Mapping[str, Any], kind: str) -> Body:
    """That condition; empty: there is none."""
    return next((dict(each) for each in status.get("conditions", ()) if each["type"] == kind), {})
