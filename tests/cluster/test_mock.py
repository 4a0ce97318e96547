"""The chart without Docker: on mock, which says so, and on nothing, where every Sandbox waits."""

from collections.abc import Iterator

import pytest

from tests.chart.release import Helm, values
from tests.cluster.node import Node
from tests.system.cluster import until

pytestmark = pytest.mark.cluster

NAME = "box-sandbox-controller"
HELLO = """
apiVersion: agent-platform.dev/v1alpha1
kind: Sandbox
metadata: {name: hello}
spec: {run: {language: python, code: "print('hello')"}}
"""


@pytest.fixture(params=["mock", "none"])
def release(
    request: pytest.FixtureRequest, node: Node, helm: Helm, controller_image: str
) -> Iterator[tuple[str, Helm]]:
    """A release that serves its own namespace only."""
    backend = request.param
    release = helm.on(node.kubeconfig, f"on-{backend}")
    repository, _, tag = controller_image.partition(":")
    chosen = values(
        {
            "image.repository": f"docker.io/library/{repository}",
            "image.tag": tag,
            "watchNamespaces": f"{{on-{backend}}}",
            **({"mock.enabled": "true"} if backend == "mock" else {}),
        }
    )
    release.install(*chosen, "--create-namespace", "--wait", "--timeout=120s", seconds=180)
    yield backend, release
    release("uninstall", "box", "--timeout=120s", seconds=180)
    assert not node.get("sandboxes", f"--namespace={release.namespace}")["items"]


def test_a_sandbox_runs_without_isolation_or_waits_and_says_so(node: Node, release: tuple[str, Helm]) -> None:
    backend, helm = release
    where = f"--namespace={helm.namespace}"
    node.kubectl("apply", where, "--filename=-", stdin=HELLO)
    status = until("it is told", lambda: node.get("sandbox", "hello", where).get("status"))
    if backend == "none":
        assert status["phase"] == "Pending"
        assert status["conditions"][0]["reason"] in ("MockNotAllowed", "DockerUnavailable")
    else:
        status = until("it has ended", lambda: (s := node.get("sandbox", "hello", where)["status"]).get("result") and s)
        assert status["result"]["stdout"] == "hello\n"
        assert status["warnings"] == ["Running in MOCK mode - NO SECURITY ISOLATION"]
    with node.service(NAME, helm.namespace, 8000):
        assert "Succeeded" in helm("test", "box", "--timeout=90s", seconds=120)
