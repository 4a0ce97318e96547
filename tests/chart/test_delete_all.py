"""`sandbox-controller delete-all`, which the chart runs before it is uninstalled."""

import os
import subprocess
import sys

from tests.system.cluster import Cluster, python
from tests.system.conftest import Started
from tests.system.conftest import embedded as embedded
from tests.system.conftest import embedded_server as embedded_server
from tests.system.conftest import start_controller as start_controller

COMMAND = [sys.executable, "-c", "from controller.cli import main; main()", "delete-all"]


def delete_all(cluster: Cluster, seconds: int) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"KUBECONFIG": str(cluster.server.kubeconfig), "WATCH_NAMESPACES": cluster.namespace}
    return subprocess.run(
        [*COMMAND, f"--timeout={seconds}"], env=env, capture_output=True, text=True, timeout=seconds + 60
    )


def test_nothing_is_left_where_a_controller_runs(embedded: Cluster, start_controller: Started) -> None:
    controller = start_controller(embedded, SANDBOX__MOCK_MODE="true")
    sandboxes = [embedded.create(), embedded.create(python("print(1)"))]
    sandboxes[0].until_ready()
    done = delete_all(embedded, 30)
    assert (done.returncode, done.stdout) == (0, "no sandbox is left\n"), done.stderr
    assert embedded.list() == []
    controller.stop()


def test_what_is_left_is_named_with_the_way_out(embedded: Cluster) -> None:
    stuck = embedded.create(finalizers=["agent-platform.dev/sandbox"])
    done = delete_all(embedded, 1)
    assert done.returncode == 125
    assert f"after 1 s there are still 1 sandboxes: {embedded.namespace}/{stuck.name}" in done.stderr
    assert "remove" in done.stderr and "finalizer" in done.stderr
    assert stuck.body["metadata"]["deletionTimestamp"]
