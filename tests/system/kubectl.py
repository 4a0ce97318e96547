"""Stock kubectl on one namespace."""

import subprocess

from tests.system.cluster import Cluster


def run_kubectl(kubectl: str, cluster: Cluster, *words: str, stdin: str = "", seconds: float = 60) -> str:
    """What kubectl prints; it has to end well."""
    command = [kubectl, f"--kubeconfig={cluster.server.kubeconfig}", f"--namespace={cluster.namespace}", *words]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr
    return done.stdout
