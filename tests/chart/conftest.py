"""Helm, and a real API server with an audit log: for claims about the chart that need no node."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.chart.audit import POLICY, Audited
from tests.chart.release import ROOT, Helm
from tests.conftest import missing


def _program(name: str) -> Path:
    built = ROOT / "build" / "tools" / name
    found = built if built.exists() else shutil.which("helm")
    if found is None:
        missing(f"no {name}", "make helm, or put a helm on PATH")
    return Path(str(found))


@pytest.fixture(scope="session", params=["helm3", "helm4"])
def any_helm(request: pytest.FixtureRequest) -> Helm:
    """Each Helm that people use."""
    return Helm(_program(request.param))


@pytest.fixture(scope="session")
def helm() -> Helm:
    """The newest one."""
    return Helm(_program("helm4"))


@pytest.fixture(scope="session")
def control_plane() -> Path:
    """The folder of the programs `up`, `down`, `node-up` and `node-down`, which start a real Kubernetes."""
    folder = Path(os.environ.get("SANDBOX_TEST_CONTROLPLANE", ROOT.parent / "shared" / "controlplane")).resolve()
    if not (folder / "up").exists():
        missing(
            "no Kubernetes to start", "set SANDBOX_TEST_CONTROLPLANE to the folder of its programs `up` and `node-up`"
        )
    return folder


@pytest.fixture(scope="session")
def audited(control_plane: Path) -> Iterator[Audited]:
    """A real API server that writes down every request."""
    with TemporaryDirectory(prefix="sbx-chart-") as folder:
        audited = Audited(Path(folder))
        audited.policy.write_text(json.dumps(POLICY))
        flags = f"--audit-log-path={audited.log} --audit-policy-file={audited.policy} --audit-log-mode=blocking"
        done = subprocess.run(
            [control_plane / "up", audited.folder],
            env=os.environ | {"APISERVER_ARGS": flags},
            stdout=subprocess.PIPE,
            text=True,
            timeout=180,
            check=True,
        )
        assert Path(done.stdout.strip()) == audited.kubeconfig
        yield audited
        subprocess.run([control_plane / "down", audited.folder], timeout=60, check=True)
