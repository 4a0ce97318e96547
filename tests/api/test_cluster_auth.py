"""Tokens and rights of a real API server."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from controller.api import Authenticator
from controller.cluster.connection import Connection, configuration
from controller.cluster.reviews import ClusterReviewer
from controller.metrics import Metrics
from controller.model import GROUP
from tests.api.conftest import Serve, problem
from tests.api.test_auth import bearer

RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture
async def cluster(real_kubeconfig: Path) -> AsyncIterator[Connection]:
    connection = Connection(configuration(real_kubeconfig), Metrics())
    yield connection
    connection.close()


@pytest.fixture
async def namespace(cluster: Connection) -> AsyncIterator[str]:
    name = f"api-{uuid4().hex[:8]}"
    await cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    await cluster.call("DELETE", f"/api/v1/namespaces/{name}")


async def account(cluster: Connection, namespace: str, name: str, rules: list[dict[str, list[str]]]) -> str:
    """A token of a new service account that has these rights in its namespace."""
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    roles = f"{RBAC}/namespaces/{namespace}"
    await cluster.call("POST", accounts, {"metadata": {"name": name}})
    await cluster.call("POST", f"{roles}/roles", {"metadata": {"name": name}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    await cluster.call(
        "POST", f"{roles}/rolebindings", {"metadata": {"name": name}, "subjects": [subject], "roleRef": role}
    )
    asked = await cluster.call("POST", f"{accounts}/{name}/token", {"spec": {"expirationSeconds": 600}})
    return str(asked["status"]["token"])


def rule(resources: list[str], verbs: list[str]) -> dict[str, list[str]]:
    return {"apiGroups": [GROUP], "resources": resources, "verbs": verbs}


async def test_a_service_account_does_what_its_role_allows(serve: Serve, cluster: Connection, namespace: str) -> None:
    runner = await account(
        cluster,
        namespace,
        "runner",
        [rule(["sandboxes"], ["create", "get", "list", "delete"]), rule(["sandboxes/execute"], ["create"])],
    )
    viewer = await account(cluster, namespace, "viewer", [rule(["sandboxes"], ["get", "list"])])
    stranger = await account(cluster, namespace, "stranger", [])

    async with serve(Authenticator(SecretStr("s3cret"), ClusterReviewer(cluster))) as api:
        api.client.headers.update(bearer(runner))
        uid = await api.create(namespace=namespace)
        assert (await api.execute(uid, code="print(1)")).json()["stdout"] == "1\n"
        problem(await api.client.put(f"/sandbox/{uid}/files/a", content=b"1"), 403, "forbidden")
        problem(await api.client.post("/sandbox/create", json={"namespace": "default"}), 403, "forbidden")

        api.client.headers.update(bearer(viewer))
        assert [each["id"] for each in (await api.client.get("/sandbox")).json()["items"]] == [uid]
        problem(await api.execute(uid, code="print(1)"), 403, "forbidden")

        api.client.headers.update(bearer(stranger))
        assert (await api.client.get("/sandbox")).json() == {"items": [], "total": 0}
        problem(await api.execute(uid, code="print(1)"), 404, "not-found")

        api.client.headers.update(bearer(stranger[:-4] + "AAAA"))
        problem(await api.client.get("/sandbox"), 401, "unauthorized")
