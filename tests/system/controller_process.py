"""The controller as people run it: a process of its own, which can be killed."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.system.cluster import until

COMMAND = [sys.executable, "-c", "from controller.cli import main; main()", "run"]
SERVING = re.compile(r"serving the API at (\S+), metrics and probes at (http://[\w.:]+)")
START_SECONDS = 60.0
PASSED_ON = {
    "PATH",
    "PYTHONPATH",
    "HOME",
    "TMPDIR",
    "DOCKER_HOST",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
}


class ControllerProcess:
    """`folder` keeps its log and its mock sandboxes from one start to the next."""

    def __init__(self, kubeconfig: Path, namespace: str, instance: str, folder: Path, env: Mapping[str, str]) -> None:
        self.instance, self.log = instance, folder / "controller.log"
        state = folder / "state"
        state.mkdir(mode=0o711, exist_ok=True)
        self.env = {name: value for name, value in os.environ.items() if name in PASSED_ON} | {
            "KUBECONFIG": str(kubeconfig),
            "WATCH_NAMESPACES": namespace,
            "API__PORT": "0",
            "API__METRICS_PORT": "0",
            "API__METRICS_HOST": "127.0.0.1",
            "SANDBOX__INSTANCE": instance,
            "SANDBOX__STATE_FOLDER": str(state),
            **env,
        }
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._told = 0
        self.api = self.operations = ""

    def start(self, *, and_wait: bool = True) -> "ControllerProcess":
        """Start it; returns once it is ready."""
        assert self._process is None, "it runs"
        self._told = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(COMMAND, env=self.env, stderr=log, stdout=log, cwd=self._folder)
        if and_wait:
            until(f"the controller is ready: {self.log}", self.is_ready, START_SECONDS)
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def said(self) -> str:
        """What it logged since its last start."""
        return self.log.read_bytes()[self._told :].decode()

    def is_serving(self) -> bool:
        assert self._process is not None, "it does not run"
        assert self._process.poll() is None, f"it ended: {self.said[-2000:]}"
        if found := SERVING.search(self.said):
            self.api, self.operations = found.groups()
        return found is not None

    def is_ready(self) -> bool:
        return self.is_serving() and self.readiness().status_code == 200

    def readiness(self) -> httpx.Response:
        return httpx.get(f"{self.operations}/readyz", timeout=5)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.api}{path}", timeout=5)

    def kill(self) -> None:
        """As a crash or the kernel does it."""
        self._end("kill")

    def stop(self) -> None:
        """As a person or Kubernetes does it."""
        self._end("terminate")

    def _end(self, how: str) -> None:
        if self._process is not None:
            getattr(self._process, how)()
            self._process.wait(30)
            self._process = None

    def wait_for_end(self) -> int:
        """The exit code of a process that ends by itself."""
        assert self._process is not None
        code = self._process.wait(START_SECONDS)
        self._process = None
        return code

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name with these labels."""
        text = httpx.get(f"{self.operations}/metrics", timeout=5).raise_for_status().text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def memory(self) -> int:
        """Bytes of its resident memory."""
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
