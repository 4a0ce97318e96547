"""A shell beside `sandbox-controller dev`, as the pages have it."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
START_SECONDS = 30


@pytest.fixture(scope="package")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a shell beside `sandbox-controller dev`, on mock: the ways are the same on every backend."""
    folder = tmp_path_factory.mktemp("dev")
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "KUBECONFIG": str(folder / "kubeconfig"),
        "API__PORT": "0",
        "API__METRICS_PORT": "0",
        "SANDBOX__MOCK_MODE": "true",
        "SANDBOX__INSTANCE": f"four-ways-{os.getpid()}",
    }
    command = [BIN / "sandbox-controller", "dev", "--kubeconfig", folder / "kubeconfig"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        signal.alarm(START_SECONDS)
        api = next(line.split()[-1] for line in process.stdout if line.startswith("HTTP API"))
        signal.alarm(0)
        yield environment | {"SANDBOX_API": api}
        if shutil.which("kubectl"):  # the API is gone with its process: its sandboxes would live on
            subprocess.run(["kubectl", "delete", "sbx", "--all"], env=environment, check=True, timeout=60)
        process.terminate()
        process.communicate(timeout=30)
