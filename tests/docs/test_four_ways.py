"""docs/four-ways.md is true: each of its ways runs as it stands there, against a controller with an API of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
WAYS = {"kubectl plugin": "42", "HTTP": '"stdout":"42', "Python library": "42", "The object itself": "hello"}
START_SECONDS = 30


def _blocks(way: str) -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "four-ways.md").read_text().partition(f"\n## {way}\n")[2].partition("\n## ")[0]
    return re.findall(r"```(sh|python)\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
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
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_runs_as_it_stands_on_the_page(way: str, controller: dict[str, str], kubectl: str) -> None:
    printed = ""
    for language, code in _blocks(way):
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code]
        ran = subprocess.run(command, env=controller, cwd=ROOT, capture_output=True, text=True, timeout=90)
        assert ran.returncode == 0, ran.stderr
        printed += ran.stdout
    assert WAYS[way] in printed.replace('": "', '":"')
