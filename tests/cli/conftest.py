"""The kubectl plugin as a shell calls it, against the HTTP API over mock."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller import Sandbox, SandboxManager
from tests.library.served import NAMESPACE, served

ROOT = Path(__file__).parents[2]
SECONDS = 30
Ran = subprocess.CompletedProcess[Any]


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    """The address of an API that asks for no token."""
    with served() as url:
        yield url


@pytest.fixture
def sandbox(api: str) -> Iterator[Sandbox]:
    """A sandbox of the namespace `team`."""
    with SandboxManager(url=api, namespace=NAMESPACE) as manager, manager.create(name="box") as sandbox:
        yield sandbox


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH with the commands as pip installs them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, function in (
        ("kubectl-sandbox", "kubectl_main"),
        ("kubectl_complete-sandbox", "kubectl_complete_main"),
        ("sandbox-controller", "main"),
    ):
        program = folder / name
        program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            f"from controller.cli import {function}\n{function}()\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture
def environment(programs: Path, tmp_path: Path) -> dict[str, str]:
    """A person's: a kubeconfig whose current context is the namespace `team`, and no address yet."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\n"
        "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n"
        "users: [{name: u, user: {token: from-the-kubeconfig}}]\n"
        "contexts: [{name: here, context: {cluster: c, user: u, namespace: team}}]\n"
    )
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SANDBOX")}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {**inherited, "PATH": path, "KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path)}


@pytest.fixture
def plugin(environment: dict[str, str], api: str) -> Callable[..., Ran]:
    """Call `kubectl-sandbox` as a person would whose API is the mock one; `input` is its piped stdin."""

    def call(*arguments: str, input: str | bytes | None = None, **changes: str) -> Ran:
        how: dict[str, Any] = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        return subprocess.run(
            ["kubectl-sandbox", *arguments],
            env={**environment, "SANDBOX_API": api, **changes},
            capture_output=True,
            text=not isinstance(input, bytes),
            timeout=SECONDS,
            **how,
        )

    return call
