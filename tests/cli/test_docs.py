"""docs/cli.md is true: its commands, typed into a shell, print what it says."""

import re
import subprocess
from pathlib import Path

from controller import Sandbox
from controller.cli import SANDBOX

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text()


def test_the_commands_of_the_page_print_what_it_shows(
    kubectl: str, environment: dict[str, str], api: str, sandbox: Sandbox
) -> None:
    shown = "".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)).replace(" NAME ", f" {sandbox.name} ")
    steps = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", shown, re.MULTILINE)
    assert len(steps) == 3
    for command, output in steps:
        ran = subprocess.run(
            ["bash", "-c", command],
            env={**environment, "SANDBOX_API": api},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (ran.returncode, ran.stdout) == (0, output), (command, ran.stderr)


def test_the_page_tells_every_command() -> None:
    table = re.findall(r"^\| `(\w+)", PAGE, re.MULTILINE)
    assert table[: len(SANDBOX)] == list(SANDBOX)
