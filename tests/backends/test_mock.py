"""What only the mock backend has to promise: folders and processes are all that stands between it and this machine."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from controller.backends import BackendError, Refused, RunState
from controller.backends.mock import backend as mock_module
from controller.backends.mock.backend import MockBackend
from controller.backends.mock.folder import Folder
from controller.backends.mock.users import is_own, user_for
from controller.model import Sandbox
from controller.settings import SandboxSettings
from tests.backends.words import finished, living, new_mark, python, sandbox, true, until

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give each sandbox a user of its own: run the tests as root"
)


@pytest.fixture
async def settings() -> AsyncIterator[SandboxSettings]:
    state = Path(tempfile.mkdtemp(prefix="sbx-test-"))
    state.chmod(0o711)
    settings = SandboxSettings(instance=f"test-{uuid4().hex[:12]}", state_folder=state)
    yield settings
    cleaner = MockBackend(settings)
    for seen in await cleaner.list():
        await cleaner.remove(seen.uid)
    await cleaner.close()
    subprocess.run(["rm", "-rf", str(state)], check=True)


@pytest.fixture
async def backend(settings: SandboxSettings) -> AsyncIterator[MockBackend]:
    backend = MockBackend(settings)
    yield backend
    await backend.close()


def folder_of(settings: SandboxSettings, wanted: Sandbox) -> Folder:
    assert settings.state_folder is not None
    return Folder(settings.state_folder / settings.instance / wanted.uid)


async def test_it_says_what_it_is(backend: MockBackend) -> None:
    health = await backend.probe()
    assert health.available
    assert health.message == "Running in MOCK mode - NO SECURITY ISOLATION"
    seen = await backend.start(wanted := python("pass"))
    assert seen.isolation == "none"
    assert (seen.image, seen.limits.nano_cpus, seen.limits.network) == ("", None, "host"), "only what is enforced"
    assert seen.uid == wanted.uid


CONTROLLER = """
import asyncio, json, os, signal, sys
from pathlib import Path
from controller.backends.mock.backend import MockBackend
from controller.backends.mock import launch
from controller.model import Sandbox, SandboxSpec
from controller.settings import SandboxSettings

die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
at, state, instance, *uids = sys.argv[1:]
if at == "before the process is known":
    launch.read_process = die
if at == "before the gate opens":
    os.write = die
code = "echo ran >>runs; sleep 0.3; cat runs"

async def main():
    backend = MockBackend(SandboxSettings(state_folder=Path(state), instance=instance))
    spec = SandboxSpec.model_validate({"run": {"language": "bash", "code": code}})
    await asyncio.gather(*(backend.start(Sandbox(uid=uid, name="n", namespace="tests", spec=spec)) for uid in uids))
    if at == "after the start":
        die()
    await backend.close()

asyncio.run(main())
"""


def controller(at: str, settings: SandboxSettings, uids: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, at, str(settings.state_folder), settings.instance, *uids]
    )


@pytest.mark.parametrize("at", ["before the process is known", "before the gate opens", "after the start"])
async def test_a_controller_killed_at_any_step_of_a_start_leads_to_one_run(
    settings: SandboxSettings, backend: MockBackend, at: str
) -> None:
    wanted = sandbox(run={"language": "bash", "code": "echo ran >>runs; sleep 0.3; cat runs"})
    assert controller(at, settings, [wanted.uid]).wait(30) == -9
    seen = await backend.start(wanted)
    seen = await finished(backend, wanted.uid)
    assert seen.tail is not None and seen.tail.stdout == "ran\n"
    assert seen.exit_code == 0


async def test_a_controller_killed_again_and_again_runs_each_sandbox_once(
    settings: SandboxSettings, backend: MockBackend
) -> None:
    many = [sandbox(run={"language": "bash", "code": "echo ran >>runs; sleep 0.3; cat runs"}) for _ in range(12)]
    for delay in (0.45, 0.5, 0.6, 0.7, 0.8):
        process = controller("never", settings, [each.uid for each in many])
        await asyncio.sleep(delay)
        process.kill()
        process.wait()
    for wanted in many:
        await backend.start(wanted)
    for wanted in many:
        seen = await finished(backend, wanted.uid)
        assert (seen.exit_code, seen.tail and seen.tail.stdout) == (0, "ran\n")


async def test_two_controllers_that_start_the_same_sandbox_lead_to_one_run(settings: SandboxSettings) -> None:
    both = [MockBackend(settings), MockBackend(settings)]
    for _ in range(5):
        wanted = sandbox(run={"language": "bash", "code": "echo ran >>runs; sleep 0.1; cat runs"})
        await asyncio.gather(*(each.start(wanted) for each in both))
        for each in both:
            seen = await finished(each, wanted.uid)
            assert (seen.exit_code, seen.tail and seen.tail.stdout) == (0, "ran\n")
    for each in both:
        await each.close()


async def test_nothing_is_left_on_the_disk(settings: SandboxSettings, backend: MockBackend) -> None:
    for wanted in (python("pass"), sandbox()):
        await backend.start(wanted)
        await backend.remove(wanted.uid)
    assert list((Path(str(settings.state_folder)) / settings.instance).iterdir()) == []


async def test_a_pid_that_was_used_again_is_left_alone(settings: SandboxSettings, backend: MockBackend) -> None:
    wanted = python("pass")
    await backend.start(wanted)
    await finished(backend, wanted.uid)
    bystander = subprocess.Popen(["sleep", new_mark()])  # of another clock tick than the sandbox's agent
    process = folder_of(settings, wanted).path / "process.json"
    process.write_text(json.dumps(json.loads(process.read_text()) | {"pid": bystander.pid}))
    seen = await backend.observe(wanted.uid)
    assert seen is not None and seen.state is RunState.EXITED
    await backend.kill(wanted.uid)
    await backend.remove(wanted.uid)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


KILLS_ITS_AGENT = """
import os, subprocess, sys, time
subprocess.Popen(["setsid", "sleep", "{mark}"])
subprocess.Popen(["sleep", "{mark}"])
time.sleep(0.3)
me = os.getpid()
above = []
while (pid := os.getppid() if not above else parent) > 1:
    above.append(pid)
    parent = int(open(f"/proc/{{pid}}/stat").read().rpartition(")")[2].split()[1])
for pid in above[::-1]:
    try:
        os.kill(pid, 9)
    except PermissionError:
        pass
time.sleep(60)
"""


@as_root
async def test_a_program_that_kills_its_agent_leaves_nothing_running(backend: MockBackend) -> None:
    mark = new_mark()
    wanted = python(KILLS_ITS_AGENT.format(mark=mark))
    await backend.start(wanted)
    seen = await finished(backend, wanted.uid)
    assert seen.exit_code is None, "nobody knows how it would have ended"
    await backend.remove(wanted.uid)
    assert living(mark) == []


@as_root
@pytest.mark.parametrize("user", [65534, None])
async def test_without_users_of_their_own_processes_are_found_by_descent_and_mark(
    backend: MockBackend, monkeypatch: pytest.MonkeyPatch, user: int | None
) -> None:
    monkeypatch.setattr(mock_module, "user_for", lambda uid: user)
    mark, other = new_mark(), new_mark()
    bystander = sandbox(run={"command": ["sleep", other]})
    wanted = sandbox(
        run={"language": "bash", "code": f"setsid -f sleep {mark}; env -i setsid -f sleep {mark}; sleep {mark}"}
    )
    for each in (bystander, wanted):
        await backend.start(each)
    await until("all sleep", lambda: true(len(living(mark)) >= 3 and living(other)))
    await backend.remove(wanted.uid)
    assert living(mark) == []
    assert living(other), "the same user's, but another sandbox's"


@as_root
async def test_sandboxes_have_users_of_their_own_and_cannot_reach_each_other(
    settings: SandboxSettings, backend: MockBackend
) -> None:
    mark = new_mark()
    victim = sandbox(
        run={"command": ["sleep", mark]},
        files=[{"path": "secret", "content": "s3cret"}],
        env=[{"name": "A", "value": "s3cret"}],
    )
    await backend.start(victim)
    await until("it sleeps", lambda: true(living(mark)))
    theirs = folder_of(settings, victim)
    code = (
        f"id -u; ls {theirs.path}; cat {theirs.box}/workspace/secret {theirs.path}/record.json {theirs.box}/env.json;"
        f" cat /proc/[0-9]*/environ; kill -9 {living(mark)[0]}"
    )
    attacker = sandbox(run={"language": "bash", "code": code})
    await backend.start(attacker)
    seen = await finished(backend, attacker.uid)
    assert seen.tail is not None
    assert int(seen.tail.stdout.split()[0]) == user_for(attacker.uid) != user_for(victim.uid)
    assert "s3cret" not in seen.tail.stdout
    assert living(mark)


@as_root
async def test_variables_of_the_spec_touch_nothing_that_ran_as_root(
    settings: SandboxSettings, backend: MockBackend
) -> None:
    mark = new_mark()
    wanted = sandbox(run={"command": ["sleep", mark]}, env=[{"name": "LD_PRELOAD", "value": "/nonexistent.so"}])
    await backend.start(wanted)
    await until("it sleeps", lambda: true(living(mark)))
    agent = json.loads((folder_of(settings, wanted).path / "process.json").read_text())["pid"]
    assert b"LD_PRELOAD" not in Path(f"/proc/{agent}/environ").read_bytes()
    assert b"LD_PRELOAD=/nonexistent.so" in Path(f"/proc/{living(mark)[0]}/environ").read_bytes().split(b"\0")


@pytest.mark.parametrize(
    "forgery",
    [
        "ln -sf /etc/passwd result.json; ln -sf /etc/passwd stdout",
        "mkfifo result.json stdout",
        "mkdir result.json stdout",
        "head -c 5000000 /dev/zero >result.json",
        "python3 -c \"print('['*200000)\" >result.json",
        """echo '{"exit_code": "0", "stdout": 1, "reason": []}' >result.json""",
        """echo '{"exit_code": 1e999, "stdout": "?", "stderr": ""}' >result.json""",
        "echo 12 >result.json; touch -d 2099-01-01 result.json",
    ],
)
async def test_a_forged_result_fools_nobody_but_its_forger(
    settings: SandboxSettings, backend: MockBackend, forgery: str
) -> None:
    wanted = sandbox(
        run={
            "language": "bash",
            "code": f"cd ..; rm -f result.json stdout; {forgery}; pkill -9 -U $(id -u) -f agent; sleep 9",
        }
    )
    await backend.start(wanted)
    await until("forged", lambda: true(os.path.lexists(folder_of(settings, wanted).box / "result.json")))
    await asyncio.sleep(0.1)
    await backend.kill(wanted.uid)
    seen = await finished(backend, wanted.uid)
    assert seen.tail is not None
    assert "root:" not in seen.tail.stdout
    assert seen.exit_code in (None, 137)
    async for chunk in backend.logs(wanted.uid):
        assert b"root:" not in chunk.data
    await backend.remove(wanted.uid)
    assert not folder_of(settings, wanted).path.exists()


async def test_a_deep_tree_is_removed(settings: SandboxSettings, backend: MockBackend) -> None:
    code = "import os\nfor i in range(2000): os.mkdir('d'); os.chdir('d')"
    wanted = python(code)
    await backend.start(wanted)
    assert (await finished(backend, wanted.uid)).exit_code == 0
    await backend.remove(wanted.uid)
    assert not folder_of(settings, wanted).path.exists()


async def test_at_its_timeout_a_program_ends_by_itself_with_all_its_processes(backend: MockBackend) -> None:
    mark = new_mark()
    code = f"trap '' TERM; echo before; setsid -f sleep {mark}; sleep {mark}; sleep {mark}"
    wanted = sandbox(run={"language": "bash", "code": code, "timeoutSeconds": 1})
    await backend.start(wanted)
    seen = await finished(backend, wanted.uid, 5)
    assert seen.exit_code == 137
    assert seen.tail is not None and seen.tail.stdout == "before\n"
    assert seen.started_at is not None and seen.finished_at is not None
    assert 1 <= (seen.finished_at - seen.started_at).total_seconds() < 2
    assert living(mark) == []


async def test_a_state_folder_that_others_can_write_is_refused(settings: SandboxSettings) -> None:
    assert settings.state_folder is not None
    settings.state_folder.chmod(0o777)
    backend = MockBackend(settings)
    with pytest.raises(Refused, match="only we can write"):
        await backend.start(python("pass"))
    settings.state_folder.chmod(0o711)
    await backend.close()


@as_root
async def test_a_state_folder_that_sandboxes_cannot_reach_is_refused(settings: SandboxSettings) -> None:
    assert settings.state_folder is not None
    settings.state_folder.chmod(0o700)
    closed = settings.state_folder / "below"
    backend = MockBackend(settings.model_copy(update={"state_folder": closed}))
    with pytest.raises(Refused, match="SANDBOX__STATE_FOLDER"):
        await backend.start(python("pass"))
    settings.state_folder.chmod(0o711)
    await backend.close()


async def test_a_folder_of_this_machine_can_be_its_workspace(settings: SandboxSettings, backend: MockBackend) -> None:
    shared = Path(str(settings.state_folder)) / "shared"
    shared.mkdir()
    wanted = sandbox(
        run={"language": "bash", "code": "pwd; cat given; echo made >made"},
        workspace={"hostPath": str(shared)},
        files=[{"path": "given", "content": "given\n"}],
    )
    if os.geteuid() == 0:
        with pytest.raises(Refused, match="hostPath"):
            await backend.start(wanted)
        assert await backend.observe(wanted.uid) is None
        shared.chmod(0o777)
    await backend.start(wanted)
    seen = await finished(backend, wanted.uid)
    assert seen.tail is not None and seen.tail.stdout == f"{shared}\ngiven\n"
    await backend.remove(wanted.uid)
    assert (shared / "made").read_text() == "made\n", "it is not ours to delete"


async def test_files_of_the_spec_go_through_no_link(settings: SandboxSettings, backend: MockBackend) -> None:
    shared, target = Path(str(settings.state_folder)) / "shared", Path(str(settings.state_folder)) / "target"
    for folder in (shared, target):
        folder.mkdir()
        folder.chmod(0o777)
    (shared / "link").symlink_to(target)
    wanted = sandbox(workspace={"hostPath": str(shared)}, files=[{"path": "link/x", "content": "x"}])
    with pytest.raises(BackendError):
        await backend.start(wanted)
    assert list(target.iterdir()) == []
    assert await backend.observe(wanted.uid) is None


async def test_a_damaged_folder_hides_no_other_sandbox(settings: SandboxSettings, backend: MockBackend) -> None:
    damaged, whole = python("pass"), python("pass")
    for each in (damaged, whole):
        await backend.start(each)
    record = folder_of(settings, damaged).path / "record.json"
    text = record.read_text()
    record.write_text("{")
    assert [seen.uid for seen in await backend.list()] == [whole.uid]
    with pytest.raises(BackendError, match="damaged; remove the folder"):
        await backend.observe(damaged.uid)
    record.write_text(text)


async def test_limits_of_the_living_cannot_change_and_it_says_so(backend: MockBackend) -> None:
    seen = await backend.start(wanted := python("import time; time.sleep(30)"))
    with pytest.raises(Refused, match="limits"):
        await backend.update(wanted.uid, seen.limits)


def test_users_of_sandboxes_are_nobodys() -> None:
    users = {user_for(str(uuid4())) for _ in range(200)}
    if os.geteuid() == 0:
        assert len(users) == 200
        assert all(user is not None and is_own(user) for user in users)
    else:
        assert users == {None}


@pytest.mark.parametrize("uid", ["", "..", "a/b", ".new-x", "a\0b"])
async def test_a_uid_is_never_a_path(backend: MockBackend, uid: str) -> None:
    with pytest.raises(BackendError):
        await backend.remove(uid)


async def test_suspended_in_the_middle_of_a_fork_it_stands_still(backend: MockBackend) -> None:
    # So large that a fork takes long. (runc gives up on one now and then: "unable to freeze"; then Docker is asked again.)
    forks = "import os\nlarge = b'x' * 100_000_000\nwhile os.fork() or os._exit(0): os.wait()"
    await backend.start(wanted := python(forks))
    for _ in range(30):
        await backend.suspend(wanted.uid)
        seen = await backend.observe(wanted.uid)
        assert seen is not None
        assert seen.state is RunState.PAUSED
        await backend.resume(wanted.uid)
