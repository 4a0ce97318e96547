"""Writes the chart's README.md from the comments of its values: `python charts/readme.py`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

CHART = Path(__file__).with_name("sandbox-controller")
PAGE = CHART / "README.md"
HEAD = """<!-- Written by charts/readme.py from values.yaml; change that. -->
# The chart of Sandbox Controller

Installs the controller, its CRD and the least rights that it needs. [docs/install.md](../../docs/install.md) goes through it step
by step: choosing a backend, upgrading, uninstalling, monitoring.

Where sandboxes run is a choice that you make; without one every Sandbox stays Pending:

| choice | isolation | what it costs |
|---|---|---|
| `docker.socket.enabled` | containers on the controller's node | **the socket is root on that node**, for whoever takes over the controller too |
| `docker.host` | containers on another machine, over TLS | a Docker machine beside the cluster; its certificates are root there |
| `mock.enabled` | **none** | only to try the API out |

The Pod meets the restricted Pod Security Standard, except for the volume of the socket.

## Values

| value | default | |
|---|---|---|
"""
_KEY = re.compile(r"^( *)([\w]+):(.*)$")
_TEXT = re.compile(r"^ *# -- (.*)$")


def described() -> Iterator[tuple[str, str]]:
    """Path and text of each value that has a comment."""
    path: list[str] = []
    text = None
    for line in (CHART / "values.yaml").read_text().splitlines():
        if match := _TEXT.match(line):
            text = match[1]
        elif match := _KEY.match(line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if text is not None:
                yield ".".join(path), text
            text = None


def page() -> str:
    """The whole page."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    return HEAD + "".join(f"| `{path}` | `{json.dumps(_at(values, path))}` | {text} |\n" for path, text in described())


def _at(values: object, path: str) -> object:
    for name in path.split("."):
        assert isinstance(values, dict)
        values = values[name]
    return values


if __name__ == "__main__":
    PAGE.write_text(page())
