"""docs/install.md, word by word."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chart.release import ROOT, Helm
from tests.cluster.node import Node

pytestmark = pytest.mark.cluster

PAGE = ROOT / "docs" / "install.md"
NAMESPACE, NAME = "sandbox-system", "box-sandbox-controller"
EXPECTED = {
    "helm test box": "Succeeded",
    "examples/hello.yaml": "hello",
    "6 * 7": "42\n",
    "as alice": "as alice\n",
    "helm rollback": "Rollback was a success",
    "helm uninstall": 'release "box" uninstalled',
}
"""What a block that has these words prints."""


class Shell:
    """One terminal: what a block exports and starts stays for the next."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._exports, self._env = folder / "exports", env
        self._exports.touch()
        self._groups: list[int] = []

    def run(self, block: str) -> str:
        script = f"source {self._exports}\n{block}\nexport -p >{self._exports}"
        output = self._exports.with_name("output")
        with output.open("w+") as printed:
            command = ["bash", "-euo", "pipefail", "-c", script]
            process = subprocess.Popen(
                command, cwd=ROOT, env=self._env, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
            )
            self._groups.append(process.pid)
            code = process.wait(240)
        said = output.read_text()
        assert code == 0, f"{block}\n{said}"
        return said

    def close(self) -> None:
        for group in self._groups:
            try:
                os.killpg(group, signal.SIGTERM)
            except ProcessLookupError:
                continue


@pytest.fixture
def shell(node: Node, helm: Helm, controller_image: str, sandbox_image: str, tmp_path: Path) -> Iterator[Shell]:
    """Its helm does not judge the CRD: the core of the test's API server is older than the CRD's rules."""
    programs = tmp_path / "bin"
    programs.mkdir()
    wrapper = programs / "helm"
    wrapper.write_text(
        f'#!/bin/bash\ncase $1 in install|upgrade) set -- "$@" --disable-openapi-validation --take-ownership;; esac\n'
        f'exec {helm.program} "$@"\n'
    )
    wrapper.chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = Shell(tmp_path, os.environ | {"PATH": path, "KUBECONFIG": str(node.kubeconfig)})
    yield shell
    shell.close()


def test_the_install_page_works_word_by_word(node: Node, shell: Shell) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    met = set()
    with ExitStack() as stack:
        for block in blocks:
            if "helm test" in block:
                stack.enter_context(node.service(NAME, NAMESPACE, 8000))
            said = shell.run(block)
            for words, expected in EXPECTED.items():
                if words in block:
                    assert expected in said, block
                    met.add(words)
    assert met == EXPECTED.keys()
    assert not node.get("sandboxes", "--all-namespaces")["items"]
