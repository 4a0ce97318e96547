"""Sandboxes of the library begin, end, and are never left behind."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from controller import Sandbox, SandboxManager
from controller.backends import BackendError, Refused, Unavailable
from controller.settings import Settings
from tests.library.conftest import eventually


def test_leaving_the_block_removes_the_sandbox(manager: SandboxManager) -> None:
    with manager.create() as sandbox:
        assert sandbox.execute("print('here')").stdout == "here\n"
    with pytest.raises(BackendError):
        sandbox.execute("print('still here?')")


def test_removing_twice_is_removing_once(manager: SandboxManager) -> None:
    sandbox = manager.create()
    sandbox.remove()
    sandbox.remove()


def test_an_error_in_the_block_removes_the_sandbox_and_comes_out(manager: SandboxManager) -> None:
    with pytest.raises(ZeroDivisionError), manager.create() as sandbox:
        raise ZeroDivisionError
    with pytest.raises(BackendError):
        sandbox.execute("print(1)")


def test_what_create_is_given_is_there(manager: SandboxManager) -> None:
    with manager.create(env={"WHO": "me"}, files={"data/in.csv": "1,2\n"}) as sandbox:
        result = sandbox.execute("import os; print(os.environ['WHO'], open('data/in.csv').read(), end='')")
        assert result.stdout == "me 1,2\n"


@pytest.mark.parametrize(
    ("wanted", "error", "says"),
    [
        ({"image": "-v /:/host"}, ValueError, "image"),
        ({"memory": "0"}, ValueError, "memory"),
        ({"env": {"A=B": "x"}}, ValueError, "env"),
        ({"files": {"../x": "y"}}, ValueError, "files"),
        ({"privileged": True}, TypeError, "takes no 'privileged'"),
    ],
)
def test_a_wrong_field_is_named_before_anything_is_made(manager: SandboxManager, wanted, error, says) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=says):
        manager.create(**wanted)


@pytest.mark.parametrize("network", ["bridge", "host"])
def test_a_network_needs_the_settings_leave(manager: SandboxManager, network: str) -> None:
    with pytest.raises((BackendError, ValueError), match="network"):
        manager.create(network=network, wait=5)


def test_what_was_not_ready_in_time_is_removed_when_it_is(mock_settings: Settings) -> None:
    folder = mock_settings.sandbox.state_folder
    assert folder is not None
    before = set(folder.glob("library-*/*"))
    with SandboxManager(mock_settings) as manager, pytest.raises(Unavailable, match="was not ready"):
        manager.create(wait=0.001)
    assert set(folder.glob("library-*/*")) <= before


def test_isolation_that_is_required_is_never_mock(mock_settings: Settings) -> None:
    with SandboxManager(mock_settings) as manager, pytest.raises(Refused, match="isolation"):
        manager.create(isolation="required")


def test_a_lifetime_ends_a_sandbox_that_nobody_removes(mock_settings: Settings) -> None:
    def is_gone(sandbox: Sandbox) -> bool:
        try:
            sandbox.execute("print(1)")
        except BackendError:
            return True
        return False

    with SandboxManager(mock_settings) as manager:
        sandbox = manager.create(max_seconds=1)
        assert eventually(lambda: is_gone(sandbox))


UNREMOVED = """
import os, signal, sys
from controller import SandboxManager
sandbox = SandboxManager().create()
print(sandbox.id, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "waits":
    sys.stdin.read()
"""


@pytest.fixture(params=["mock", "docker"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """For a library process of its own, as the settings of this kind."""
    settings: Settings = request.getfixturevalue(f"{request.param}_settings")
    return {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "SANDBOX__MOCK_MODE": str(settings.sandbox.mock_mode),
        "SANDBOX__DOCKER_REQUIRED": str(settings.sandbox.docker_required),
        "SANDBOX__IMAGE": settings.sandbox.image,
        "SANDBOX__STATE_FOLDER": str(settings.sandbox.state_folder),
    }


@pytest.fixture
def is_there(request: pytest.FixtureRequest, environment: dict[str, str]) -> Callable[[str], bool]:
    """Whether a sandbox left any trace, as the machine tells and not the library."""
    if environment["SANDBOX__MOCK_MODE"] == "True":
        folder = Path(environment["SANDBOX__STATE_FOLDER"])
        return lambda uid: any(folder.glob(f"*/{uid}"))
    client = request.getfixturevalue("docker_client")
    return lambda uid: bool(client.containers.list(all=True, filters={"name": f"sbx-{uid}"}))


INTERRUPTED = r"""
import sys
from controller import SandboxManager
marker = sys.argv[1]
with SandboxManager().create() as sandbox:
    try:
        for item in sandbox.stream(f"echo up; exec sleep {marker}", "bash"):
            print("up", flush=True)
    except KeyboardInterrupt:
        count = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '[s]leep {marker}'"
        while sandbox.execute(count, "bash").stdout != "0\n":
            pass
        print("ended", flush=True)
"""


def test_ctrl_c_ends_the_program(environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", INTERRUPTED, f"{uuid.uuid4().int % 10**9}.125"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "ended\n"
        assert process.returncode == 0
    finally:
        process.send_signal(signal.SIGINT)  # where a claim failed: its sandbox shall not stay
        process.communicate()


FORKED = """
import os
from controller import SandboxManager
sandbox = SandboxManager().create()
child = os.fork()
if child == 0:
    try:
        sandbox.execute("print(1)")
    except RuntimeError as error:
        print("refused:", error, flush=True)
    with SandboxManager().create() as other:
        print(other.execute("print('own')").stdout, end="", flush=True)
else:
    os.waitpid(child, 0)
    print(sandbox.execute("print('still here')").stdout, end="")
"""


def test_a_forked_child_leaves_its_parents_sandboxes_alone(environment: dict[str, str]) -> None:
    ran = subprocess.run([sys.executable, "-c", FORKED], env=environment, capture_output=True, text=True, timeout=60)
    refused, own, still_here = ran.stdout.splitlines()
    assert "make a SandboxManager in the child" in refused
    assert (own, still_here) == ("own", "still here")


def library_process(how: str, environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", UNREMOVED, how],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def made_by(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_end_of_the_interpreter_removes_the_rest(environment, is_there) -> None:  # type: ignore[no-untyped-def]
    process = library_process("ends", environment)
    uid = made_by(process)
    process.communicate(timeout=30)
    assert process.returncode == 0 and uid and not is_there(uid)


def test_the_next_start_removes_what_a_killed_process_left_and_nothing_of_a_living_one(environment, is_there) -> None:  # type: ignore[no-untyped-def]
    living = library_process("waits", environment)
    living_uid = made_by(living)
    killed = library_process("killed", environment)
    dead_uid = made_by(killed)
    try:
        assert killed.wait(30) == -signal.SIGKILL and is_there(dead_uid)
        later = library_process("ends", environment)
        later.communicate(timeout=30)
        assert not is_there(dead_uid) and is_there(living_uid)
    finally:
        living.communicate("", timeout=30)
        killed.communicate()
    assert not is_there(living_uid)
