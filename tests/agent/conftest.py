"""Agents under test: as a plain process, and as PID 1 of the sandbox image in a container as hard as the controller's."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from tests.agent.peer import Peer
from tests.conftest import IMAGE, missing

AGENT = Path(__file__).parents[2] / "sandbox-image" / "plain_agent.py"
HARDENED = [
    "--network=none",
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--pids-limit=128",
    "--memory=256m",
    "--memory-swap=256m",
    "--tmpfs=/tmp:size=64m,noexec",
    "--tmpfs=/workspace:exec,size=64m,uid=65532,gid=65532,mode=0755",
    "--log-driver=none",
]


class RunningAgent:
    """An agent and the pipes to it. Each session is a new Peer over the same pipes."""

    def __init__(self, argv: list[str], **popen: object) -> None:
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **popen)  # type: ignore[call-overload]

    def session(self, **how: object) -> Peer:
        assert self.process.stdin and self.process.stdout
        return Peer(self.process.stdout.fileno(), self.process.stdin.fileno(), **how)  # type: ignore[arg-type]

    def stop(self) -> int:
        """SIGTERM, as `docker stop` does. Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()
        return code


def start_process(workspace: Path, *options: str) -> RunningAgent:
    return RunningAgent([sys.executable, "-I", "-S", str(AGENT), "--workspace", str(workspace), *options])


def start_container(*options: str) -> RunningAgent:
    return RunningAgent(["docker", "run", "--rm", "-i", *HARDENED, *options, IMAGE])


@pytest.fixture(scope="module")
def process_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    agent = start_process(tmp_path_factory.mktemp("workspace"))
    yield agent
    agent.stop()


@pytest.fixture(scope="module")
def container_agent(_docker_client: docker.DockerClient | None) -> Iterator[RunningAgent]:
    if _docker_client is None:
        missing("no Docker daemon answers", "start one (apt-get install -y docker.io; dockerd), or set DOCKER_HOST")
    elif not _docker_client.images.list(IMAGE):
        missing(f"the image {IMAGE} is not there", "make image")
    agent = start_container()
    yield agent
    agent.stop()


@pytest.fixture(params=["process", "container"])
def agent(request: pytest.FixtureRequest) -> RunningAgent:
    """A shared agent of each sort."""
    running: RunningAgent = request.getfixturevalue(f"{request.param}_agent")
    return running


@pytest.fixture
def peer(agent: RunningAgent) -> Peer:
    """A fresh session with a shared agent of each sort."""
    return agent.session()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningAgent]]:
    """Starts agents as plain processes that no other test shares; `start("--pids", "64")` passes options."""
    started: list[RunningAgent] = []

    def begin(*options: str) -> RunningAgent:
        (tmp_path / "workspace").mkdir(exist_ok=True)
        started.append(start_process(tmp_path / "workspace", *options))
        return started[-1]

    yield begin
    for each in started:
        each.stop()


def processes_with(marker: str) -> list[int]:
    """Pids on this machine whose command line has the marker (a container's processes are among them)."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes()
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marker.encode() in command and state != "Z":
                found.append(int(name))
    return found
