"""The agent where there is no container: over a Unix socket, for one program, with limits that no kernel keeps for it."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.conftest import AGENT, RunningAgent, processes_with, start_process
from tests.agent.peer import Peer
from tests.agent.test_endings import PATIENCE, gone_within, marker
from tests.conftest import missing


@pytest.fixture
def root() -> None:
    if os.geteuid() != 0:
        missing("only root can drop to another user", "run the tests as root")


def connect(path: Path) -> Peer:
    deadline = time.monotonic() + 10
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            break
        except OSError:
            connection.close()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    descriptor = connection.detach()
    return Peer(descriptor, descriptor)


@pytest.fixture
def socket_path(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "workspace").mkdir()
    agent = start_process(tmp_path / "workspace", "--socket", str(tmp_path / "link"))
    yield tmp_path / "link"
    agent.stop()


def test_the_newest_connection_wins_and_finds_what_runs(socket_path: Path) -> None:
    first = connect(socket_path)
    first.started(first.start("bash", code="sleep 0.3; echo finished", id="over"))
    second = connect(socket_path)
    assert second.hello["running"] == ["over"]
    with pytest.raises((EOFError, ConnectionError)):
        first.wait(lambda: False)
    assert second.ask("attach", id="over").stdout == b"finished\n"


def test_the_agent_outlives_its_controller(socket_path: Path) -> None:
    first = connect(socket_path)
    first.started(first.start("bash", code="sleep 0.2; echo finished", id="alone"))
    os.close(first.reader)
    assert connect(socket_path).ask("attach", id="alone").stdout == b"finished\n"


def start_dropped(folder: Path, *options: str) -> RunningAgent:
    """An agent that became another user, with a Python and a copy of its file that this user can read."""
    for each in (folder, *list(folder.parents)[:-2]):
        each.chmod(0o755)
    program = Path(shutil.copy(AGENT, folder))
    shutil.copy(AGENT.with_name("agent.py"), folder)
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
    user = ("--user", "65533", "--group", "65533")
    return RunningAgent(
        [str(python), "-I", "-S", str(program), "--workspace", str(folder / "workspace"), *user, *options]
    )


@pytest.mark.usefixtures("root")
def test_only_its_starter_and_root_may_connect(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    agent = start_dropped(tmp_path, "--socket", str(tmp_path / "link"))
    try:
        peer = connect(tmp_path / "link")
        os.chmod(tmp_path / "link", 0o777)
        code = f"""
import socket
link = socket.socket(socket.AF_UNIX)
link.connect({str(tmp_path / "link")!r})
link.settimeout(5)
print(link.recv(1))
"""
        assert peer.python(code).stdout == b"b''\n"
        assert peer.bash("id -u; id -G").stdout == b"65533\n65533\n"
    finally:
        agent.stop()


@pytest.mark.usefixtures("root")
def test_an_agent_that_dropped_its_user_is_closed_to_its_programs(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    agent = start_dropped(tmp_path)
    try:
        peer = agent.session()
        code = """
import os
for pid in (os.getppid(), AGENT):
    for name in ("fd/0", "fd/1", "mem", "environ"):
        try: print("open", name, open(f"/proc/{pid}/{name}", "rb"))
        except PermissionError: pass
"""
        done = peer.python(code.replace("AGENT", str(agent.process.pid)))
        assert (done.stdout, done.stderr) == (b"", b"")
    finally:
        agent.stop()


def test_memory_above_the_limit_ends_the_execution_and_no_other(start: Callable[..., RunningAgent]) -> None:
    peer = start("--memory", str(200 << 20)).session()
    other = peer.start("bash", code="sleep 1.5; echo other")
    slow = "import time\nkept = []\nwhile True: kept.append(bytearray(b'x' * 5_000_000)); time.sleep(0.005)"
    done = peer.python(slow, deadline=10)
    assert done.result and done.result["reason"] == "OOMKilled"
    spread = (
        "for i in 1 2 3 4; do python3 -c 'import time; b = bytearray(b\"x\" * 80_000_000); time.sleep(5)' & done; wait"
    )
    assert peer.bash(spread, deadline=10).result["reason"] == "OOMKilled"  # type: ignore[index]
    assert peer.finish(other).stdout == b"other\n"


def test_an_allocation_far_above_the_limit_fails(start: Callable[..., RunningAgent]) -> None:
    done = start("--memory", str(100 << 20)).session().python("b = bytearray(1 << 30)")
    assert b"MemoryError" in done.stderr or done.result["reason"] == "OOMKilled"  # type: ignore[index]


def test_too_many_processes_end_the_execution(start: Callable[..., RunningAgent]) -> None:
    peer = start("--pids", "20").session()
    mark = marker()
    done = peer.bash(f"for i in $(seq 100); do sleep {mark} & done; wait", deadline=5)
    assert done.result and done.result["exit_code"] != 0
    assert gone_within(PATIENCE, mark)
    assert peer.bash("echo next").stdout == b"next\n"


def test_open_files_are_limited(start: Callable[..., RunningAgent]) -> None:
    assert start("--nofile", "64").session().bash("ulimit -n").stdout == b"64\n"


class Run:
    """One `--run`, and what it left."""

    def __init__(self, folder: Path, *options: str, **request: object) -> None:
        (folder / "workspace").mkdir(exist_ok=True)
        (folder / "spec.json").write_text(json.dumps(request))
        self.folder = folder
        self.argv = [
            sys.executable,
            "-I",
            "-S",
            str(AGENT),
            "--workspace",
            str(folder / "workspace"),
            "--run",
            str(folder / "spec.json"),
        ]
        self.argv += ["--result", str(folder / "result.json"), *options]

    def begin(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv, stdin=subprocess.DEVNULL)

    def finish(self, process: subprocess.Popen[bytes] | None = None) -> dict[str, Any]:
        assert (process or self.begin()).wait(30) == 0
        result: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        for name in ("stdout", "stderr"):
            result[name] = base64.b64decode(result[name])
        return result


def test_a_run_writes_its_result(tmp_path: Path) -> None:
    result = Run(
        tmp_path, kind="bash", code="cat; echo err >&2; echo $A; exit 3", stdin="in\n", env={"A": "b"}, deadline=10
    ).finish()
    assert (result["exit_code"], result["reason"], result["truncated"]) == (3, "Error", False)
    assert (result["stdout"], result["stderr"]) == (b"in\nb\n", b"err\n")
    assert result["started_at"] <= result["finished_at"] <= time.time()
    assert (tmp_path / "stdout").read_bytes() == b"in\nb\n"


def test_a_run_keeps_the_tail_for_its_result_and_the_beginning_for_its_log(tmp_path: Path) -> None:
    result = Run(tmp_path, kind="python", code="for i in range(1_000_000): print(i)", deadline=30).finish()
    assert len(result["stdout"]) == 16384
    assert result["stdout"].endswith(b"999998\n999999\n")
    assert result["truncated"]
    log = (tmp_path / "stdout").read_bytes()
    assert len(log) == 1 << 20
    assert log.startswith(b"0\n1\n2\n")


def test_a_run_ends_at_its_deadline_with_all_it_started(tmp_path: Path) -> None:
    mark = marker()
    began = time.monotonic()
    result = Run(tmp_path, kind="bash", code=f"(setsid sleep {mark} &); echo said; sleep {mark}", deadline=0.5).finish()
    assert (result["reason"], result["stdout"]) == ("Timeout", b"said\n")
    assert time.monotonic() - began < 0.5 + PATIENCE + 1  # and the start of the interpreter
    assert processes_with(mark) == []


def test_the_log_of_a_run_grows_while_it_runs(tmp_path: Path) -> None:
    run = Run(tmp_path, kind="bash", code="echo early; sleep 20", deadline=30)
    process = run.begin()
    deadline = time.monotonic() + 10
    while not (tmp_path / "stdout").exists() or (tmp_path / "stdout").read_bytes() != b"early\n":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    assert run.finish(process)["reason"] == "Cancelled"


def test_a_run_that_is_not_to_be_had_says_why(tmp_path: Path) -> None:
    run = Run(tmp_path, kind="perl", code="1")
    done = subprocess.run(run.argv, capture_output=True, check=False)
    assert done.returncode != 0
    assert b"kind: must be command, bash or python" in done.stderr
    assert not (tmp_path / "result.json").exists()


def test_a_run_above_its_memory_is_told_as_such(tmp_path: Path) -> None:
    result = Run(
        tmp_path,
        "--memory",
        str(150 << 20),
        kind="python",
        deadline=20,
        code="import time\nkept = []\nwhile True: kept.append(bytearray(b'x' * 5_000_000)); time.sleep(0.005)",
    ).finish()
    assert (result["reason"], result["exit_code"]) == ("OOMKilled", 137)
