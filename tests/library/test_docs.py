"""docs/library.md is true: its code runs, from top to bottom, on mock and on Docker."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from controller.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["mock", "docker"])
def test_the_code_of_the_page_runs(kind: str, request: pytest.FixtureRequest) -> None:
    settings: Settings = request.getfixturevalue(f"{kind}_settings")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(), re.DOTALL)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SANDBOX__MOCK_MODE": str(settings.sandbox.mock_mode),
        "SANDBOX__IMAGE": settings.sandbox.image,
        "SANDBOX__STATE_FOLDER": str(settings.sandbox.state_folder),
    }
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("2\n 0 Completed")
    assert "\n0\n1\n2\nended: Completed" in ran.stdout
    assert "['0\\n', '1\\n', '2\\n', '3\\n']" in ran.stdout
