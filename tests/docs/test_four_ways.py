"""docs/four-ways.md is true: each of its ways runs as it stands there, against a controller with an API of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WAYS = {"kubectl plugin": "42", "HTTP": '"stdout":"42', "Python library": "42", "The object itself": "hello"}


def _blocks(way: str) -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "four-ways.md").read_text().partition(f"\n## {way}\n")[2].partition("\n## ")[0]
    return re.findall(r"```(sh|python)\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_runs_as_it_stands_on_the_page(way: str, controller: dict[str, str], kubectl: str) -> None:
    printed = ""
    for language, code in _blocks(way):
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code]
        ran = subprocess.run(command, env=controller, cwd=ROOT, capture_output=True, text=True, timeout=90)
        assert ran.returncode == 0, ran.stderr
        printed += ran.stdout
    assert WAYS[way] in printed.replace('": "', '":"')
