"""The agent under gVisor, whose kernel (of 2022) has no subreapers and lists no children."""

from collections.abc import Iterator

import docker
import pytest

from tests.agent.conftest import HARDENED, RunningAgent
from tests.agent.peer import Peer
from tests.conftest import IMAGE, missing


@pytest.fixture(scope="module")
def gvisor_agent(_docker_client: docker.DockerClient | None, container_agent: RunningAgent) -> Iterator[RunningAgent]:
    assert _docker_client
    if "runsc" not in _docker_client.info().get("Runtimes", {}):
        missing(
            "the daemon has no runtime runsc", "apt-get install -y runsc and register it in /etc/docker/daemon.json"
        )
    roomy = [option for option in HARDENED if not option.startswith("--pids-limit")]  # it counts gVisor's own threads
    agent = RunningAgent(["docker", "run", "--rm", "-i", "--runtime=runsc", "--pids-limit=512", *roomy, IMAGE])
    yield agent
    agent.stop()


@pytest.fixture
def peer(gvisor_agent: RunningAgent) -> Peer:
    return gvisor_agent.session(patience=60)


LIST = "import os\nfor p in os.listdir('/proc'):\n  if p.isdigit(): print(open(f'/proc/{p}/cmdline').read().replace('\\0', ' '))"


def test_programs_run(peer: Peer) -> None:
    assert peer.python("print(1+1)").stdout == b"2\n"
    assert peer.bash("cat; echo $A; exit 3", env={"A": "b"}).stdout == b"b\n"


def test_a_deadline_ends_daemons_too(peer: Peer) -> None:
    done = peer.bash("(setsid sleep 71 &); setsid sleep 71 & sleep 71", deadline=1)
    assert done.result and done.result["reason"] == "Timeout"
    assert done.result["duration_ms"] < 3000
    assert b"sleep 71" not in peer.python(LIST).stdout


def test_the_normal_end_takes_leftovers_with_it(peer: Peer) -> None:
    assert peer.bash("(setsid sleep 72 &); setsid sleep 72 & echo left").stdout == b"left\n"
    assert b"sleep 72" not in peer.python(LIST).stdout


def test_a_program_that_kills_all_it_can_hurts_only_what_runs(peer: Peer) -> None:
    assert peer.bash("kill -KILL -1; sleep 60", deadline=20).result["reason"] == "Error"  # type: ignore[index]
    assert peer.python("print('next')").stdout == b"next\n"


def test_contexts_keep_state(peer: Peer) -> None:
    peer.python("x = 5", context="c")
    assert peer.python("print(x)", context="c").stdout == b"5\n"


def test_memory_of_the_agent_is_closed_to_programs(peer: Peer) -> None:
    done = peer.python("open('/proc/1/mem', 'rb')")
    assert b"PermissionError" in done.stderr
