"""What is wrong with an object is said at the earliest place, costs no call to a backend, harms no other sandbox."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path

import docker
import httpx
import pytest
import yaml

from controller.localkube import LocalKube
from controller.model import API_VERSION, KIND
from tests.localkube.servers import Server
from tests.model.conftest import crd
from tests.model.corpus import BAD, Spec, mounted
from tests.system.cluster import Cluster, python, until
from tests.system.conftest import Started

Env = dict[str, str]


@pytest.fixture(params=["docker", "mock"])
def env(request: pytest.FixtureRequest) -> Env:
    """Settings that choose a backend."""
    if request.param == "mock":
        return {"SANDBOX__MOCK_MODE": "true"}
    assert request.getfixturevalue("sandbox_image")
    return {}


@pytest.fixture
def unchecked(tmp_path: Path) -> Iterator[Cluster]:
    """An API server with the CRD as an older or a careless installation has it: every spec passes."""
    lax = deepcopy(crd())
    schema = lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = {"x-kubernetes-preserve-unknown-fields": True}
    kube, kubeconfig = LocalKube(crds=[lax]), tmp_path / "kubeconfig"
    with kube.running():
        kube.write_kubeconfig(kubeconfig)
        cluster = Cluster(Server.of("embedded", kubeconfig))
        yield cluster
        cluster.close()


def _another_one_runs(cluster: Cluster) -> None:
    sandbox = cluster.create(python("print('fine')"))
    assert sandbox.until_ended()["result"]["stdout"] == "fine\n"
    sandbox.delete()
    sandbox.until_gone()


def test_specs_that_no_schema_checked_are_refused_by_the_name_of_the_field(
    unchecked: Cluster, env: Env, start_controller: Started
) -> None:
    controller = start_controller(unchecked, **env)
    with unchecked.counted_writes() as writes:
        refused = {what: unchecked.create(spec) for what, (_, spec) in BAD.items() if spec}
        for what, sandbox in refused.items():
            sandbox.until("told what is wrong", lambda status: status.get("conditions"))
            ready = sandbox.condition("Ready")
            assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec"), what
            assert BAD[what][0] in ready["message"], what
        _another_one_runs(unchecked)
        assert controller.metric("sandbox_backend_operation_seconds_count", operation="start") == 1
    assert {writes[sandbox.uid] for sandbox in refused.values()} == {1}, "told once, and not tried again"
    unchecked.clear()


NOT_ALLOWED = {
    # what: the spec, the reason, the field; ROOT is the folder that is allowed
    "a folder elsewhere": (mounted("/srv"), "HostPathNotAllowed", "spec.workspace.hostPath"),
    "a folder whose name begins alike": (mounted("ROOT-2"), "HostPathNotAllowed", "spec.workspace.hostPath"),
    "the root itself": (mounted("ROOT"), "HostPathNotAllowed", "spec.workspace.hostPath"),
    "a link that leads out": (mounted("ROOT/link"), "HostPathNotAllowed", "spec.workspace.hostPath"),
    "a folder behind a link": (mounted("ROOT/link/inner"), "HostPathNotAllowed", "spec.workspace.hostPath"),
    "a folder that is not there": (mounted("ROOT/absent"), "HostPathNotAllowed", "spec.workspace.hostPath"),
    "a file": (mounted("ROOT/file"), "HostPathNotAllowed", "spec.workspace.hostPath"),
    "the bridge": ({"network": "bridge"}, "NetworkNotAllowed", "spec.network"),
    "another's network": ({"network": "another"}, "NetworkNotAllowed", "spec.network"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that is allowed, with a link out of it and one beside it."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").touch()
    (tmp_path / "root-2" / "inner").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "root-2")
    return root


def test_what_this_installation_does_not_allow_fails_by_the_name_of_the_field(
    embedded: Cluster, env: Env, start_controller: Started, root: Path
) -> None:
    controller = start_controller(embedded, SANDBOX__WORKSPACE_ROOTS=str(root), **env)
    for what, (spec, reason, field) in NOT_ALLOWED.items():
        named = json.loads(json.dumps(spec).replace("ROOT", str(root)))
        sandbox = embedded.create(named)
        sandbox.until_phase("Failed")
        finished = sandbox.condition("Finished")
        assert finished["reason"] == reason, what
        assert field in finished["message"], what
    assert controller.metric("sandbox_backend_operation_seconds_count", operation="start") == 0
    _another_one_runs(embedded)
    embedded.clear()
    controller.stop()


@pytest.mark.parametrize(
    ("spec", "field"),
    [({"runtime": "no-such-runtime"}, "spec.runtime"), ({"network": "no-such-network"}, "spec.network")],
)
def test_what_the_daemon_does_not_have_fails_by_the_name_of_the_field(
    embedded: Cluster,
    docker_client: docker.DockerClient,
    sandbox_image: str,
    start_controller: Started,
    spec: Spec,
    field: str,
) -> None:
    controller = start_controller(embedded, SANDBOX__IMAGE=sandbox_image, SANDBOX__NETWORKS="no-such-network")
    sandbox = embedded.create(spec)
    sandbox.until_phase("Failed")
    assert field in sandbox.condition("Ready")["message"]
    assert docker_client.containers.list(all=True, filters={"name": sandbox.container}) == []
    _another_one_runs(embedded)
    embedded.clear()
    controller.stop()


WRONG = ("an image with an option", "an env name with =", "memory '1e30'", "a workspace at /etc", "a file above")


def _apply(kubectl: str, cluster: Cluster, specs: Mapping[str, Spec]) -> subprocess.CompletedProcess[str]:
    documents = [
        {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
        for name, spec in specs.items()
    ]
    return subprocess.run(
        [kubectl, f"--kubeconfig={cluster.server.kubeconfig}", f"--namespace={cluster.namespace}", "apply", "-f", "-"],
        input=yaml.safe_dump_all(documents),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_kubectl_says_which_field_is_wrong_and_applies_the_rest_of_the_file(cluster: Cluster, kubectl: str) -> None:
    wrong = {f"wrong-{number}": BAD[what][1] for number, what in enumerate(WRONG)}
    applied = _apply(kubectl, cluster, wrong | {"right": {}})
    assert applied.returncode == 1
    assert [BAD[what][0] for what in WRONG if BAD[what][0] not in applied.stderr] == []
    assert applied.stdout == "sandbox.agent-platform.dev/right created\n"
    cluster.clear()


def test_kubectl_refuses_fields_that_are_not_there(embedded: Cluster, kubectl: str) -> None:
    """On the embedded server, which like Kubernetes since 1.25 checks fields itself; older ones leave it to kubectl."""
    applied = _apply(kubectl, embedded, {"wrong": {"privileged": True}})
    assert applied.returncode == 1
    assert 'unknown field "spec.privileged"' in applied.stderr


def test_a_namespace_that_is_not_there_is_the_callers_mistake(cluster: Cluster, start_controller: Started) -> None:
    watched = f"{cluster.namespace},nowhere-{cluster.namespace}"
    controller = start_controller(cluster, WATCH_NAMESPACES=watched, SANDBOX__MOCK_MODE="true", and_wait=False)
    until("it serves", lambda: controller.is_serving() and controller.get("/sandbox").status_code == 200)
    body = {"name": "a", "namespace": f"nowhere-{cluster.namespace}"}
    refused = httpx.post(f"{controller.api}/sandbox/create", json=body, timeout=30)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    assert refused.json()["detail"].startswith(f"namespace nowhere-{cluster.namespace} does not exist")
