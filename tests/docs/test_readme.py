"""README.md is true: what it shows is what one sees."""

import os
import re
import subprocess
from pathlib import Path

from tests.docs.conftest import BIN

ROOT = Path(__file__).parents[2]


def test_what_one_sees_is_what_the_readme_shows(controller: dict[str, str], kubectl: str) -> None:
    text = (ROOT / "README.md").read_text()
    shown = re.search(r"## What you see\n+```console\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    commands = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", shown[1], re.MULTILINE)
    subprocess.run(["kubectl", "delete", "sbx", "--all"], env=controller, check=True, capture_output=True, timeout=60)
    for command, answer in commands:
        seen = subprocess.run(command, shell=True, env=controller, cwd=ROOT, capture_output=True, text=True, timeout=60)
        wait = "kubectl wait --for=condition=Finished sbx/hello --timeout=60s"
        subprocess.run(wait, shell=True, env=controller, check=True, capture_output=True, timeout=90)
        if command.endswith("get sbx"):  # backend, Docker and age are this machine's
            seen = subprocess.run(command, shell=True, env=controller, capture_output=True, text=True, timeout=60)
            assert [line.split()[:3] for line in seen.stdout.splitlines()] == [
                line.split()[:3] for line in answer.splitlines()
            ]
        else:
            assert seen.stdout.split() == answer.split(), seen.stderr


def test_the_demo_shows_the_main_job_and_leaves_nothing_behind() -> None:
    environment = {**os.environ, "SANDBOX__MOCK_MODE": "true"}
    ran = subprocess.run(
        [BIN / "sandbox-controller", "demo"], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=90
    )
    assert ran.returncode == 0, ran.stderr
    assert "phase: Succeeded" in ran.stdout
    assert "stdout: 'hello" in ran.stdout
    assert "WARNING: Running in MOCK mode - NO SECURITY ISOLATION" in ran.stdout
    assert 'sandbox_results_total{backend="mock",reason="Completed"} 1.0' in ran.stdout
