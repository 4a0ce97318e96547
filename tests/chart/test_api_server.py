"""The chart on a real API server: its life as a release, and the controller with the chart's own account and nothing more."""

import base64
import subprocess
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from shutil import copytree
from uuid import uuid4

import httpx
import pytest
import yaml

from tests.chart.audit import Audited, granted
from tests.chart.release import CHART, Body, Helm, of_kind, values
from tests.localkube.servers import Server, ok
from tests.model.conftest import crd
from tests.system.cluster import Cluster, python, until
from tests.system.conftest import Started
from tests.system.conftest import start_controller as start_controller

pytestmark = pytest.mark.cluster

NAME = "box-sandbox-controller"
MOCK = values({"mock.enabled": "true"})
SOCKET = values({"docker.socket.enabled": "true", "docker.socket.groupId": "999"})
REMOTE = values({"docker.host": "tcp://docker.example:2376", "docker.tls.existingSecret": "certificates"})
EVERYTHING = [
    *values(
        {
            "podDisruptionBudget.enabled": "true",
            "dashboard.enabled": "true",
            "podLabels.team": "agents",
            "priorityClassName": "system-cluster-critical",
            "extraEnv[0].name": "A",
            "extraEnv[0].value": "b",
            "extraVolumes[0].name": "more",
            "extraVolumeMounts[0].name": "more",
            "extraVolumeMounts[0].mountPath": "/more",
            "tolerations[0].operator": "Exists",
            "nodeSelector.disk": "fast",
        }
    ),
    "--set-json=extraVolumes[0].emptyDir={}",
]


@pytest.fixture(scope="module")
def server(audited: Audited) -> Server:
    server = Server.of("real", audited.kubeconfig)
    server.install(crd())
    return server


@pytest.fixture
def namespace(server: Server) -> str:
    name = f"chart-{uuid4().hex[:8]}"
    ok(server.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}}), 201)
    return name


def secret_key(server: Server, namespace: str) -> str:
    found = ok(server.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{NAME}-key"))
    return base64.b64decode(found["data"]["secret-key"]).decode()


def test_a_release_lives_from_install_to_uninstall(
    any_helm: Helm, audited: Audited, server: Server, namespace: str
) -> None:
    release = any_helm.on(audited.kubeconfig, namespace)
    release.install(*SOCKET)
    key = secret_key(server, namespace)
    assert len(key) == 48
    deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/{NAME}"
    first = ok(server.call("GET", deployment))["spec"]["template"]

    release.install("--reuse-values", "--set=log.level=DEBUG")
    changed = ok(server.call("GET", deployment))["spec"]["template"]
    assert changed["metadata"]["annotations"] != first["metadata"]["annotations"], "new settings restart the Pod"
    assert secret_key(server, namespace) == key

    release("rollback", "box", "1")
    back = ok(server.call("GET", deployment))["spec"]["template"]
    assert back["metadata"]["annotations"]["checksum/settings"] == first["metadata"]["annotations"]["checksum/settings"]
    assert secret_key(server, namespace) == key

    release("uninstall", "box", "--no-hooks")
    assert server.call("GET", deployment).status_code == 404
    assert server.call("GET", f"/apis/agent-platform.dev/v1alpha1/namespaces/{namespace}/sandboxes").status_code == 200


@pytest.mark.parametrize("backend", [[], MOCK, SOCKET, REMOTE], ids=["none", "mock", "socket", "remote"])
@pytest.mark.parametrize("more", [[], EVERYTHING], ids=["least", "everything"])
@pytest.mark.parametrize("where", ["everywhere", "here"])
def test_the_api_server_takes_every_object_of_every_combination(
    helm: Helm, audited: Audited, server: Server, namespace: str, backend: list[str], more: list[str], where: str
) -> None:
    watched = ["--set", f"watchNamespaces={{{namespace}}}"] if where == "here" else []
    against_server = ["--dry-run=server", "--disable-openapi-validation", "--take-ownership"]
    bodies = helm.on(audited.kubeconfig, namespace).render(*backend, *more, *watched, *against_server)
    definitions = of_kind(bodies, "CustomResourceDefinition")
    assert len(definitions) == 1
    dry_run(audited, namespace, [body for body in bodies if body not in definitions])
    dry_run(audited, namespace, definitions, "--validate=false")  # kubectl asks the core, which does not know CEL


def dry_run(audited: Audited, namespace: str, bodies: list[Body], *more: str) -> None:
    command = ["kubectl", f"--kubeconfig={audited.kubeconfig}", f"--namespace={namespace}", "apply", *more]
    done = subprocess.run(
        [*command, "--dry-run=server", "--filename=-"],
        input=yaml.safe_dump_all(bodies),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(server dry run)") == len(bodies)


@pytest.fixture(params=["everywhere", "here"])
def installed(
    request: pytest.FixtureRequest, helm: Helm, audited: Audited, server: Server
) -> Iterator[tuple[Cluster, Cluster]]:
    """A namespace with a release that serves all, or only itself; as its administrator, and as the chart's own account."""
    admin = Cluster(server)
    release = helm.on(audited.kubeconfig, admin.namespace)
    release.install(*SOCKET, *(["--set", f"watchNamespaces={{{admin.namespace}}}"] if request.param == "here" else []))
    path = f"/api/v1/namespaces/{admin.namespace}/serviceaccounts/{NAME}/token"
    token = ok(server.call("POST", path, {"spec": {}}), 201)["status"]["token"]
    config = yaml.safe_load(audited.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    kubeconfig = audited.folder / f"{admin.namespace}.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    own = copy(admin)
    own.server = Server.of("own", kubeconfig)
    yield admin, own
    admin.close()
    release("uninstall", "box", "--no-hooks")


def test_the_rights_of_the_chart_are_exactly_those_that_the_controller_uses(
    installed: tuple[Cluster, Cluster], audited: Audited, sandbox_image: str, start_controller: Started
) -> None:
    admin, own = installed
    roles = roles_of_controller(admin)
    everywhere = all(role["kind"] == "ClusterRole" for role in roles)
    key = "a-key-that-is-no-placeholder"
    controller = start_controller(
        own,
        SECURITY__SECRET_KEY=key,
        SANDBOX__IMAGE=sandbox_image,
        WATCH_NAMESPACES="" if everywhere else admin.namespace,
    )
    # the whole life of a sandbox, as an object and over the API, with a key and with a Kubernetes token
    ended = admin.create({**python("print(1)"), "lifetime": {"ttlSecondsAfterFinished": 1}})
    with httpx.Client(base_url=controller.api, timeout=60, headers={"Authorization": f"Bearer {key}"}) as api:
        made = (
            api.post("/sandbox/create", json={"name": "made", "namespace": admin.namespace}).raise_for_status().json()
        )
        ran = api.post(f"/sandbox/{made['id']}/execute", json={"code": "print(6 * 7)"}).raise_for_status().json()
        assert ran["stdout"] == "42\n"
        api.delete(f"/sandbox/{made['id']}").raise_for_status()
    token = yaml.safe_load(audited.kubeconfig.read_text())["users"][0]["user"]["token"]
    httpx.get(f"{controller.api}/sandbox", headers={"Authorization": f"Bearer {token}"}, timeout=30).raise_for_status()
    until("the first has ended, and its time after that", lambda: ended.is_gone)
    until("nothing is left", lambda: not admin.list())

    user = f"system:serviceaccount:{admin.namespace}:{NAME}"
    until("its Events were written", lambda: ("", "events", "create") in audited.uses(user))
    controller.stop()  # it may serve the namespace of the next test too
    assert audited.refused(user) == []
    assert audited.uses(user) == set().union(*(granted(role["rules"]) for role in roles))


def roles_of_controller(cluster: Cluster) -> list[Body]:
    """All that are bound to the chart's account, with their rules."""
    api, account = "/apis/rbac.authorization.k8s.io/v1", {"name": NAME, "namespace": cluster.namespace}
    namespaced = f"{api}/namespaces/{cluster.namespace}"
    bound = []
    for path in (api, namespaced):
        kind = "clusterrolebindings" if path == api else "rolebindings"
        bound += ok(cluster.server.call("GET", f"{path}/{kind}"))["items"]
    mine = [
        binding["roleRef"]
        for binding in bound
        if any(account.items() <= each.items() for each in binding.get("subjects", ()))
    ]
    places = {"ClusterRole": f"{api}/clusterroles", "Role": f"{namespaced}/roles"}
    return [
        {"kind": ref["kind"], **ok(cluster.server.call("GET", f"{places[ref['kind']]}/{ref['name']}"))} for ref in mine
    ]


def test_an_upgrade_brings_the_new_crd_and_keeps_the_objects(
    helm: Helm, audited: Audited, server: Server, tmp_path: Path
) -> None:
    older = tmp_path / "sandbox-controller"
    copytree(CHART, older)
    definition = crd()
    lifetime = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][
        "lifetime"
    ]
    del lifetime["properties"]["idleSeconds"]
    (older / "files" / "sandboxes.yaml").write_text(yaml.safe_dump(definition))
    cluster = Cluster(server)
    release = helm.on(audited.kubeconfig, cluster.namespace)
    release.install(*SOCKET, "--force-conflicts", chart=older)
    before = cluster.create({"lifetime": {"maxSeconds": 60}})

    def takes_the_field() -> bool:
        body = {**before.created, "metadata": {"generateName": "try-"}, "spec": {"lifetime": {"idleSeconds": 5}}}
        return server.call("POST", f"{cluster.path}?dryRun=All&fieldValidation=Strict", body).status_code == 201

    until("the older CRD is served", lambda: not takes_the_field())
    release.install("--reset-then-reuse-values")
    until("the newer CRD is served", takes_the_field)
    assert before.body["spec"]["lifetime"]["maxSeconds"] == 60
    cluster.close()
    release("uninstall", "box", "--no-hooks")
