"""An API server under test, embedded or real, and the small vocabulary in which the claims about it are written."""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

GROUP = "contract.test.agent-platform.dev"
API_VERSION = f"{GROUP}/v1"
CRD = yaml.safe_load(Path(__file__).with_name("widgets.yaml").read_text())

API_SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"

MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

_numbers = itertools.count(1)


def widget(name: str | None = "one", spec: Any = None, **metadata: Any) -> dict[str, Any]:
    named = {"name": name} if name else {}
    return {
        "apiVersion": API_VERSION,
        "kind": "Widget",
        "metadata": {**named, **metadata},
        "spec": {"size": 6} if spec is None else spec,
    }


@dataclass
class Server:
    name: str
    kubeconfig: Path
    http: httpx.Client

    @classmethod
    def of(cls, name: str, kubeconfig: Path) -> "Server":
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        http = httpx.Client(base_url=cluster["server"], headers=headers, verify=False, timeout=20)
        return cls(name, kubeconfig, http)

    def call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **headers: str
    ) -> httpx.Response:
        content = body if isinstance(body, str | bytes | None) else json.dumps(body)
        sent = {"Content-Type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.http.request(method, path, content=content, headers=sent)

    def install(self, crd: dict[str, Any]) -> None:
        """Makes the server serve the CRD's first version."""
        spec = crd["spec"]
        group, version = spec["group"], spec["versions"][0]["name"]
        place = f"/apis/{group}/{version}/{spec['names']['plural']}"
        delegated = self._delegate(group, version)
        crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        answer = self.call("POST", crds, crd)
        assert answer.status_code in (201, 409), answer.text
        if delegated:
            service = f"{API_SERVICES}/{version}.{group}"
            eventually(lambda: _is_available(self.call("GET", service).json()), f"{group} is delegated")
            # The engine's answers carry an audit id, those of the older core do not.
            eventually(lambda: "audit-id" in self.call("GET", place).headers, f"{group} comes from the engine")
        eventually(lambda: self.call("GET", place).status_code == 200, f"{place} is served")

    def _delegate(self, group: str, version: str) -> bool:
        """Where an engine of its own serves CRDs behind an older core: says so before that core serves the group."""
        engine = self.call("GET", f"{API_SERVICES}/v1.apiextensions.k8s.io")
        if engine.status_code != 200 or not engine.json()["spec"].get("service"):
            return False
        own = {"group": group, "version": version, "groupPriorityMinimum": 1000, "versionPriority": 100}
        service = {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{version}.{group}"},
            "spec": {**engine.json()["spec"], **own},
        }
        assert self.call("POST", API_SERVICES, service).status_code in (201, 409)
        return True


def _is_available(service: dict[str, Any]) -> bool:
    conditions = service.get("status", {}).get("conditions", ())
    return any(condition["type"] == "Available" and condition["status"] == "True" for condition in conditions)


def eventually(holds: Any, what: str, seconds: float = 20) -> Any:
    """Waits until `holds()` is true and returns what it gave."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := holds():
            return result
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


@dataclass
class Widgets:
    """The widgets of one namespace that belongs to one test alone."""

    server: Server
    namespace: str = field(default_factory=lambda: f"contract-{int(time.time() * 1000)}-{next(_numbers)}")

    def path(self, name: str = "", query: str = "", subresource: str = "") -> str:
        parts = [f"/apis/{API_VERSION}/namespaces/{self.namespace}/widgets", *filter(None, (name, subresource))]
        return "/".join(parts) + (f"?{query}" if query else "")

    def core(self, plural: str, name: str = "", query: str = "") -> str:
        parts = [f"/api/v1/namespaces/{self.namespace}/{plural}", *filter(None, (name,))]
        return "/".join(parts) + (f"?{query}" if query else "")

    def create(self, name: str = "one", spec: Any = None, **metadata: Any) -> dict[str, Any]:
        return ok(self.server.call("POST", self.path(), widget(name, spec, **metadata)), 201)

    def post(self, body: Any, query: str = "") -> httpx.Response:
        return self.server.call("POST", self.path(query=query), body)

    def get(self, name: str = "one") -> dict[str, Any]:
        return ok(self.server.call("GET", self.path(name)))

    def patch(
        self, body: Any, content_type: str = MERGE, query: str = "", name: str = "one", subresource: str = ""
    ) -> httpx.Response:
        return self.server.call("PATCH", self.path(name, query, subresource), body, content_type)

    def put(self, body: Any, name: str = "one", subresource: str = "") -> httpx.Response:
        return self.server.call("PUT", self.path(name, subresource=subresource), body)

    def apply(self, spec: Any, manager: str, force: bool = False, name: str = "one", **metadata: Any) -> httpx.Response:
        query = f"fieldManager={manager}" + ("&force=true" if force else "")
        return self.patch(widget(name, spec, **metadata), APPLY, query, name)

    def delete(self, name: str = "one", body: Any = None, query: str = "") -> httpx.Response:
        return self.server.call("DELETE", self.path(name, query), body)

    def list(self, query: str = "") -> dict[str, Any]:
        return ok(self.server.call("GET", self.path(query=query)))

    @contextmanager
    def watch(self, query: str = "", path: str | None = None, **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
        where = path or self.path()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.server.http.stream("GET", f"{where}?watch=true&{query}", headers=sent, timeout=20) as answer:
            assert answer.status_code == 200, answer.read()
            yield (json.loads(line) for line in answer.iter_lines() if line)


def ok(answer: httpx.Response, code: int = 200) -> dict[str, Any]:
    assert answer.status_code == code, f"{answer.status_code}: {answer.text}"
    found: dict[str, Any] = answer.json()
    return found


def refused(answer: httpx.Response, code: int, reason: str) -> dict[str, Any]:
    """The Status of a refusal with this code and reason."""
    status: dict[str, Any] = answer.json()
    assert (answer.status_code, status.get("reason")) == (code, reason), answer.text
    assert status["kind"] == "Status" and status["status"] == "Failure" and status["code"] == code
    return status


def causes(answer: httpx.Response) -> set[tuple[str, str, str]]:
    """Field, reason and message of each thing that is wrong with an invalid object."""
    listed = refused(answer, 422, "Invalid")["details"]["causes"]
    return {(cause["field"], cause["reason"], cause["message"]) for cause in listed}


def warnings(answer: httpx.Response) -> list[str]:
    return [json.loads(text.removeprefix("299 - ")) for text in answer.headers.get_list("warning")]


def owned(obj: dict[str, Any]) -> dict[tuple[str, str, str], Any]:
    """What each writer owns of the object, by manager, operation and subresource."""
    entries = obj["metadata"]["managedFields"]
    return {
        (entry["manager"], entry["operation"], entry.get("subresource", "")): entry["fieldsV1"] for entry in entries
    }
