"""The chart's Pods really run: from the controller image, on a node, on the Docker of that node through its socket."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.chart.release import ROOT, Helm, values
from tests.cluster.node import Node
from tests.system.cluster import until

pytestmark = pytest.mark.cluster

NAMESPACE, RELEASE, NAME = "sandboxes", "box", "box-sandbox-controller"
INSTANCE = "agent-platform.dev/instance=sandboxes-box-sandbox-controller"
SOCKET = Path("/var/run/docker.sock")
HELLO = """
apiVersion: agent-platform.dev/v1alpha1
kind: Sandbox
metadata: {name: hello}
spec: {run: {language: python, code: "print('hello')"}, lifetime: {ttlSecondsAfterFinished: 3600}}
"""
STAYS = """
apiVersion: agent-platform.dev/v1alpha1
kind: Sandbox
metadata: {name: stays}
"""


@pytest.fixture(scope="module")
def release(node: Node, helm: Helm, controller_image: str, sandbox_image: str) -> Iterator[Helm]:
    """The chart, installed on the node's Docker."""
    repository, _, tag = controller_image.partition(":")
    on_node = helm.on(node.kubeconfig, NAMESPACE)
    chosen = values(
        {
            "image.repository": f"docker.io/library/{repository}",
            "image.tag": tag,
            "image.pullPolicy": "Never",
            "docker.socket.enabled": "true",
            "docker.socket.path": str(SOCKET.resolve()),
            "docker.socket.groupId": str(os.stat(SOCKET).st_gid),
            "settings.SANDBOX__IMAGE": sandbox_image,
        }
    )
    on_node.install(*chosen, "--create-namespace", "--wait", "--timeout=120s", release=RELEASE, seconds=180)
    yield on_node
    for container in containers():
        container.remove(force=True)


def containers() -> list[docker.models.containers.Container]:
    client = docker.from_env(timeout=60)
    found: list[docker.models.containers.Container] = client.containers.list(all=True, filters={"label": INSTANCE})
    return found


def status_of(node: Node, name: str) -> dict[str, object]:
    return dict(node.get("sandbox", name, "--namespace=default").get("status", {}))


def test_a_sandbox_runs_on_the_docker_of_the_node(node: Node, release: Helm) -> None:
    node.kubectl("apply", "--namespace=default", "--filename=-", stdin=HELLO)
    status = until("hello has ended", lambda: (s := status_of(node, "hello")).get("result") and s)
    assert (status["backend"], status["docker_available"], status["phase"]) == ("docker", True, "Succeeded")
    assert status["result"]["stdout"] == "hello\n"


def test_helm_test_passes(node: Node, release: Helm) -> None:
    with node.service(NAME, NAMESPACE, 8000):
        said = release("test", RELEASE, "--logs=false", "--timeout=90s", seconds=120)
    assert "Succeeded" in said


def test_the_pod_is_neither_root_nor_able_to_write_beside_tmp(node: Node, release: Helm) -> None:
    look = (
        "id -u; touch /opt/controller/x 2>&1; grep -E 'CapEff|NoNewPrivs' /proc/1/status; touch /tmp/x && echo writes"
    )
    seen = node.kubectl("exec", f"--namespace={NAMESPACE}", f"deployment/{NAME}", "--", "sh", "-c", look)
    assert seen.startswith("65532\n")
    assert "Read-only file system" in seen
    assert "CapEff:\t0000000000000000" in seen and "NoNewPrivs:\t1" in seen
    assert seen.endswith("writes\n")


def test_an_upgrade_leaves_sandboxes_as_they_are(node: Node, release: Helm) -> None:
    node.kubectl("apply", "--namespace=default", "--filename=-", stdin=STAYS)
    before = until("it runs", lambda: (s := status_of(node, "stays")).get("phase") == "Running" and s)["container"]
    release.install("--reuse-values", "--set=log.level=DEBUG", "--wait", "--timeout=120s", release=RELEASE, seconds=180)
    node.kubectl(
        "patch",
        "sandbox",
        "stays",
        "--namespace=default",
        "--type=merge",
        "--patch",
        '{"spec": {"lifetime": {"maxSeconds": 3000}}}',
    )
    until("the new controller has seen it", lambda: status_of(node, "stays").get("observedGeneration") == 2)
    assert status_of(node, "stays")["container"] == before


def runbook_commands() -> list[str]:
    """Those that only look."""
    text = "\n".join(page.read_text() for page in sorted((ROOT / "docs" / "runbooks").glob("*.md")))
    blocks = re.findall(r"^ *```\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [
        line
        for line in lines
        if re.match(r"kubectl .*\b(get|logs|describe|auth)\b", line) and "port-forward" not in line
    ]


@pytest.mark.parametrize("command", runbook_commands())
def test_the_commands_of_the_runbooks_work(node: Node, release: Helm, command: str) -> None:
    """`grep` may find nothing: all is well."""
    until("there is a sandbox", lambda: status_of(node, "hello").get("result"))
    names = {"NS": NAMESPACE, "NAME": NAME, "ACCOUNT": NAME, "THEIRS": "default", "SANDBOX": "hello", "UID": "started"}
    for name, value in names.items():
        command = re.sub(rf"\b{name}\b", value, command)
    env = os.environ | {"KUBECONFIG": str(node.kubeconfig)}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr.replace("No resources found\n", "") == ""
    assert done.returncode in (0, 1)


def test_uninstalling_leaves_no_sandbox_no_container_and_no_finalizer(node: Node, release: Helm) -> None:
    node.kubectl("apply", "--namespace=default", "--filename=-", stdin=STAYS)
    until("it runs", lambda: status_of(node, "stays").get("phase") == "Running")
    assert containers()
    release("uninstall", RELEASE, "--timeout=120s", seconds=180)
    assert not node.get("sandboxes", "--all-namespaces")["items"]
    assert not containers()
    kinds, mine = "all,configmap,secret,role,rolebinding,job", "--selector=app.kubernetes.io/instance=box"
    until("all of the release is gone", lambda: not node.get(kinds, f"--namespace={NAMESPACE}", mine)["items"], 60)
    assert node.get("crd", "sandboxes.agent-platform.dev"), "it would take with it what others have"
