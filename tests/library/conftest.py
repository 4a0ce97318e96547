"""Every claim about the library holds on mock, on Docker and through the HTTP API."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller import Sandbox, SandboxManager
from controller.settings import SandboxSettings, Settings
from tests.library.served import served


@pytest.fixture(scope="module")
def state_folder() -> Iterator[Path]:
    """A short path: Unix sockets live below it."""
    folder = Path(tempfile.mkdtemp(prefix="sbx-lib-"))
    folder.chmod(0o711)  # on mock each sandbox has a user of its own
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def mock_settings(state_folder: Path) -> Settings:
    return Settings(sandbox=SandboxSettings(mock_mode=True, state_folder=state_folder))


@pytest.fixture(scope="module")
def docker_settings(sandbox_image: str, state_folder: Path) -> Settings:
    sandbox = SandboxSettings(docker_required=True, image=sandbox_image, state_folder=state_folder)
    return Settings(sandbox=sandbox)


@pytest.fixture(scope="module", params=["mock", "docker", "http"])
def open_manager(request: pytest.FixtureRequest) -> Iterator[Callable[..., SandboxManager]]:
    """Makes managers of one place, also of another class."""
    if request.param == "http":
        with served(key="key-for-tests") as url:
            yield lambda kind=SandboxManager: kind(url=url, token="key-for-tests")
    else:
        settings = request.getfixturevalue(f"{request.param}_settings")
        yield lambda kind=SandboxManager: kind(settings)


@pytest.fixture(scope="module")
def manager(open_manager: Callable[..., SandboxManager]) -> Iterator[SandboxManager]:
    with open_manager() as manager:
        yield manager


@pytest.fixture(scope="module")
def sandbox(manager: SandboxManager) -> Iterator[Sandbox]:
    """One that the claims of a module share."""
    with manager.create() as sandbox:
        yield sandbox


def eventually(holds: Callable[[], bool], seconds: float = 5) -> bool:
    """Whether it holds within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return holds()
