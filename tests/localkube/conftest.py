"""Each claim is checked on the embedded server and on a real one; where they differ, the real one is right."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.localkube import LocalKube
from tests.localkube.servers import CRD, Server, Widgets


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    kube = LocalKube([CRD])
    with kube.running():
        kubeconfig = tmp_path_factory.mktemp("localkube") / "kubeconfig"
        kube.write_kubeconfig(kubeconfig)
        yield Server.of("embedded", kubeconfig)


@pytest.fixture(scope="session")
def real_servers() -> Iterator[dict[Path, Server]]:
    """Those in which the widgets are installed already; they are taken out at the end."""
    servers: dict[Path, Server] = {}
    yield servers
    for server in servers.values():
        server.call("DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD['metadata']['name']}")


@pytest.fixture
def real(real_kubeconfig: Path, real_servers: dict[Path, Server]) -> Server:
    if real_kubeconfig not in real_servers:
        server = Server.of("real", real_kubeconfig)
        server.install(CRD)
        real_servers[real_kubeconfig] = server
    return real_servers[real_kubeconfig]


@pytest.fixture(params=["embedded", "real"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def widgets(server: Server) -> Iterator[Widgets]:
    """Of a fresh namespace."""
    widgets = Widgets(server)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": widgets.namespace}}
    assert server.call("POST", "/api/v1/namespaces", namespace).status_code == 201
    yield widgets
    for left in widgets.list()["items"]:
        if left["metadata"].get("finalizers"):
            widgets.patch({"metadata": {"finalizers": None}}, name=left["metadata"]["name"])
    server.call("DELETE", f"/api/v1/namespaces/{widgets.namespace}")
