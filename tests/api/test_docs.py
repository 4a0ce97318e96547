"""docs/http-api.md: its commands work, and its table of errors is the one that is sent."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from controller.api.problems import TYPE_PREFIX, Kind
from tests.api.conftest import Api
from tests.conftest import missing

PAGE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()


@pytest.mark.parametrize("script", re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
async def test_the_commands_of_the_page_work(api: Api, script: str) -> None:
    if shutil.which("curl") is None:
        missing("no curl", "apt-get install -y curl")
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script),
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "SANDBOX_API": api.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    for expected in (
        '"stdout":"2\\n"',
        '"stdout":"3\\n"',
        '"stdout":"42\\n"',
        "a,b",
        "event: progress",
        "event: result",
    ):
        assert expected in stdout.decode()


def test_the_page_names_every_kind_of_problem() -> None:
    told = {(kind, int(status)) for kind, status in re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", PAGE, re.MULTILINE)}
    sent = {(kind.type.removeprefix(TYPE_PREFIX), kind.status) for kind in Kind if kind is not Kind.INTERNAL}
    assert told == sent
