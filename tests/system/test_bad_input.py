"""What is wrong with an object is said at the earliest place, costs no call to a backend, harms no other sandbox."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from controller.__main__ import running
from controller.cluster.connection import configuration
from controller.localkube import LocalKube
from controller.model import API_VERSION, KIND
from controller.settings import ApiSettings, SandboxSettings, Settings
from tests.model.conftest import crd
from tests.model.corpus import BAD, Spec, python

SANDBOXES = "/apis/agent-platform.dev/v1alpha1/namespaces/default/sandboxes"
SECONDS = 30


def unchecked_crd() -> dict[str, Any]:
    """The CRD as an older or a careless installation has it: every spec passes."""
    lax = deepcopy(crd())
    schema = lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = {"x-kubernetes-preserve-unknown-fields": True}
    return lax


@dataclass
class Place:
    """An API server with a controller that serves it."""

    api: httpx.AsyncClient
    operations: httpx.AsyncClient

    async def create(self, name: str, spec: Any) -> None:
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
        (await self.api.post(SANDBOXES, json=body)).raise_for_status()

    async def get(self, name: str) -> dict[str, Any]:
        answer = (await self.api.get(f"{SANDBOXES}/{name}")).raise_for_status()
        return dict(answer.json())

    async def names(self) -> list[str]:
        answer = (await self.api.get(SANDBOXES)).raise_for_status()
        return [item["metadata"]["name"] for item in answer.json()["items"]]

    async def total(self, metric: str, **labels: str) -> float:
        text = (await self.operations.get("/metrics")).raise_for_status().text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == metric and labels.items() <= sample.labels.items()
        )

    async def runs_another(self) -> None:
        """A good sandbox runs as if nothing were wrong."""
        await self.create("good", python(code="print('fine')"))
        done = await until(lambda: self.get("good"), lambda body: phase(body) in ("Succeeded", "Failed"))
        result = done["status"]["result"]
        assert (result["stdout"], result["reason"]) == ("fine\n", "Completed"), json.dumps(done["status"])

    async def clear(self) -> None:
        """Deletes all; nothing is left in the backend then."""
        for name in await self.names():
            (await self.api.delete(f"{SANDBOXES}/{name}")).raise_for_status()
        await until(self.names, lambda left: not left)


async def until(look: Callable[[], Awaitable[Any]], enough: Callable[[Any], bool]) -> Any:
    """What `look` sees once it is enough. Raises TimeoutError."""
    async with asyncio.timeout(SECONDS):
        while not enough(seen := await look()):
            await asyncio.sleep(0.02)
    return seen


def phase(body: dict[str, Any]) -> str:
    return str(body.get("status", {}).get("phase", ""))


def ready(body: dict[str, Any]) -> dict[str, Any]:
    """The Ready condition; empty: there is none yet."""
    conditions = body.get("status", {}).get("conditions", ())
    return next((condition for condition in conditions if condition["type"] == "Ready"), {})


@asynccontextmanager
async def place(tmp_path: Path, definition: dict[str, Any], **sandbox: Any) -> AsyncIterator[Place]:
    kubeconfig = tmp_path / "kubeconfig"
    settings = Settings(
        sandbox=SandboxSettings(instance=f"test-{uuid4().hex[:12]}", **sandbox),
        api=ApiSettings(port=0, metrics_host="127.0.0.1", metrics_port=0),
    )
    kube = LocalKube(crds=[definition])
    with kube.running() as address:
        kube.write_kubeconfig(kubeconfig)
        async with (
            running(settings, configuration(kubeconfig)) as urls,
            httpx.AsyncClient(base_url=address) as api,
            httpx.AsyncClient(base_url=urls["operations"]) as operations,
        ):
            there = Place(api, operations)
            try:
                yield there
            finally:
                await there.clear()


@pytest.fixture(params=["docker", "mock"])
def backend(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings that choose a backend."""
    if request.param == "mock":
        return {"mock_mode": True}
    return {"image": request.getfixturevalue("sandbox_image")}


async def test_specs_that_no_schema_checked_are_refused_by_the_name_of_the_field(
    tmp_path: Path, backend: dict[str, Any]
) -> None:
    names = {f"bad-{number}": what for number, what in enumerate(BAD)}
    async with place(tmp_path, unchecked_crd(), **backend) as there:
        for name, what in names.items():
            await there.create(name, BAD[what][1])
        for name, what in names.items():
            condition = ready(await until(lambda name=name: there.get(name), ready))
            assert (condition["status"], condition["reason"]) == ("False", "InvalidSpec"), what
            assert BAD[what][0] in condition["message"], what

        await there.runs_another()
        assert await there.total("sandbox_backend_operation_seconds_count", operation="start") == 1
        writes = await there.total("sandbox_api_writes_total", resource="sandboxes")
        assert writes <= len(names) + 5, "one write says what is wrong, and nothing tries again"

        await there.clear()


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """A folder that is allowed, beside one that is not and a link that leads there."""
    (tmp_path / "roots" / "mine").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "roots" / "link").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "roots"


@pytest.mark.parametrize(
    ("spec", "reason", "field"),
    [
        ({"workspace": {"hostPath": "/srv"}}, "HostPathNotAllowed", "spec.workspace.hostPath"),
        ({"workspace": {"hostPath": "{tmp}/elsewhere"}}, "HostPathNotAllowed", "spec.workspace.hostPath"),
        ({"workspace": {"hostPath": "{tmp}/roots"}}, "HostPathNotAllowed", "spec.workspace.hostPath"),
        ({"workspace": {"hostPath": "{tmp}/roots/link"}}, "HostPathNotAllowed", "spec.workspace.hostPath"),
        ({"workspace": {"hostPath": "{tmp}/roots/absent"}}, "HostPathNotAllowed", "spec.workspace.hostPath"),
        ({"network": "bridge"}, "NetworkNotAllowed", "spec.network"),
        ({"network": "somebody-elses"}, "NetworkNotAllowed", "spec.network"),
    ],
)
async def test_what_this_installation_does_not_allow_fails_by_the_name_of_the_field(
    tmp_path: Path, roots: Path, backend: dict[str, Any], spec: Spec, reason: str, field: str
) -> None:
    if "workspace" in spec:
        spec = {"workspace": {"hostPath": spec["workspace"]["hostPath"].format(tmp=tmp_path)}}
    async with place(tmp_path, crd(), workspace_roots=(str(roots),), **backend) as there:
        await there.create("bad", spec)
        bad = await until(lambda: there.get("bad"), lambda body: phase(body) == "Failed")
        finished = next(condition for condition in bad["status"]["conditions"] if condition["type"] == "Finished")
        assert finished["reason"] == reason
        assert field in ready(bad)["message"]
        assert await there.total("sandbox_backend_operation_seconds_count", operation="start") == 0
        await there.runs_another()
        assert (await there.get("bad"))["metadata"]["resourceVersion"] == bad["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [({"runtime": "no-such-runtime"}, "spec.runtime"), ({"network": "no-such-network"}, "spec.network")],
)
async def test_what_the_daemon_does_not_have_fails_by_the_name_of_the_field(
    tmp_path: Path, sandbox_image: str, docker_client: docker.DockerClient, spec: Spec, field: str
) -> None:
    async with place(tmp_path, crd(), image=sandbox_image, networks=("no-such-network",)) as there:
        await there.create("bad", spec)
        bad = await until(lambda: there.get("bad"), lambda body: phase(body) == "Failed")
        assert field in ready(bad)["message"]
        assert docker_client.containers.list(all=True, filters={"name": f"sbx-{bad['metadata']['uid']}"}) == []
        await there.runs_another()


MANIFEST = (
    "an image with an option",
    "an env name with =",
    "memory '1e30'",
    "a workspace at /etc",
    "privileges in depth",
)


def test_kubectl_says_which_field_is_wrong_and_applies_the_rest_of_the_file(tmp_path: Path, kubectl: str) -> None:
    documents = [
        {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": f"bad-{number}"}, "spec": BAD[what][1]}
        for number, what in enumerate(MANIFEST)
    ]
    documents.append({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "good"}})
    kube, kubeconfig = LocalKube(crds=[crd()]), tmp_path / "kubeconfig"
    with kube.running():
        kube.write_kubeconfig(kubeconfig)
        applied = subprocess.run(
            [kubectl, "--kubeconfig", str(kubeconfig), "apply", "-f", "-"],
            input=yaml.safe_dump_all(documents),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert applied.returncode == 1
        for what in MANIFEST:
            assert BAD[what][0] in applied.stderr
        assert applied.stdout == "sandbox.agent-platform.dev/good created\n"
