"""What every backend promises of executions in a sandbox that is up. `exec` keeps them as far as `docker exec` can."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.backends import (
    Backend,
    Busy,
    Conflict,
    ExecResult,
    NotFound,
    NotRunning,
    OutputChunk,
    Refused,
    RunState,
)
from controller.model import Reason
from tests.backends.conftest import Place
from tests.backends.words import bash, execute, living, new_mark, request, resident, sandbox, true, until


@pytest.mark.parametrize("kind", ["python", "bash", "command"])
async def test_output_exit_code_and_reason_come_back(backend: Backend, up: str, kind: str) -> None:
    asked = {
        "python": request("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"),
        "bash": bash("echo out; echo err >&2; exit 3"),
        "command": request("", "command", command=("sh", "-c", "echo out; echo err >&2; exit 3")),
    }[kind]
    ended = await execute(backend, up, asked)
    assert (ended.stdout, ended.stderr) == (b"out\n", b"err\n")
    assert (ended.result.id, ended.result.exit_code, ended.result.reason) == (asked.id, 3, Reason.ERROR)
    assert ended.result.duration_ms >= 0


async def test_a_program_that_ends_well_is_completed(backend: Backend, up: str) -> None:
    ended = await execute(backend, up, request("print(1+1)"))
    assert (ended.stdout, ended.result.exit_code, ended.result.reason) == (b"2\n", 0, Reason.COMPLETED)


@pytest.mark.parametrize("kind", ["python", "bash"])
async def test_code_may_be_longer_than_an_argument(backend: Backend, up: str, kind: str) -> None:
    code = {"python": "import sys; print(len(sys.stdin.read()))", "bash": "wc -c"}[kind]
    ended = await execute(backend, up, request(f"{code}  # {'x' * 1_000_000}", kind, stdin=b"typed"))
    assert (ended.stdout.strip(), ended.stderr, ended.result.exit_code) == (b"5", b"", 0)


async def test_stdin_environment_files_and_folder_arrive(backend: Backend, up: str) -> None:
    long = "/".join(["d\u00e9" * 40] * 5)
    asked = bash(
        f'cat; printf "%s" "$A"; cat ../data/in.bin; basename "$PWD"; cat ../{long}',
        stdin=b"typed\0\n",
        env={"A": "b c\n"},
        files={"data/in.bin": b"\0\xff\n", "sub/x": b"", long: b""},
        cwd="sub",
    )
    ended = await execute(backend, up, asked)
    assert (ended.stdout, ended.stderr) == (b"typed\0\nb c\n\0\xff\nsub\n", b"")


async def test_environment_and_files_of_the_sandbox_are_there_in_every_execution(backend: Backend) -> None:
    wanted = sandbox(env=[{"name": "A", "value": "of the spec"}], files=[{"path": "d/f", "content": "file"}])
    await backend.start(wanted)
    code = "import os; print(os.environ['A'], open('d/f').read())"
    assert (await execute(backend, wanted.uid, request(code))).stdout == b"of the spec file\n"
    ended = await execute(backend, wanted.uid, request(code, env={"A": "of the execution"}))
    assert ended.stdout == b"of the execution file\n"


@pytest.mark.needs_agent
async def test_python_state_is_not_kept_unless_asked(backend: Backend, up: str) -> None:
    await execute(backend, up, request("x = 1"))
    assert (await execute(backend, up, request("print(x)"))).result.exit_code == 1
    await execute(backend, up, request("x = 41", context="a"))
    assert (await execute(backend, up, request("print(x + 1)", context="a"))).stdout == b"42\n"
    assert (await execute(backend, up, request("print(x)", context="b"))).result.exit_code == 1


async def test_output_is_streamed_as_it_comes(backend: Backend, up: str) -> None:
    stream = backend.executions.execute(up, bash("mkfifo fifo; echo first; read -t 1 <>fifo || true", timeout=10))
    async with asyncio.timeout(8):
        first = await anext(stream)
    assert first == OutputChunk("stdout", b"first\n")
    await _drain(stream)


async def _drain(stream: AsyncIterator[OutputChunk | ExecResult]) -> None:
    async for _ in stream:
        pass


async def test_at_its_deadline_an_execution_and_all_its_processes_end(place: Place, backend: Backend, up: str) -> None:
    mark, other = new_mark(), new_mark()
    bystander = asyncio.create_task(execute(backend, up, bash(f"sleep {other} & wait", timeout=20)))
    await until("the other one sleeps", lambda: true(living(other)))
    loop = asyncio.get_running_loop()
    began = loop.time()
    code = f"trap '' TERM INT HUP; setsid -f sleep {mark}; (sleep {mark} &) ; echo here; sleep {mark}; sleep {mark}"
    ended = await execute(backend, up, bash(code, timeout=1.0))
    took = loop.time() - began
    assert ended.result.reason is Reason.TIMEOUT
    assert ended.stdout == b"here\n"
    assert took < 3
    assert living(mark) == []
    assert living(other), "another execution in the same sandbox goes on"
    bystander.cancel()
    await asyncio.wait([bystander])


async def test_cancelled_is_ended_within_a_second(backend: Backend, up: str) -> None:
    mark = new_mark()
    asked = bash(f"setsid -f sleep {mark}; sleep {mark}")
    running = asyncio.create_task(execute(backend, up, asked))
    await until("both sleep", lambda: true(len(living(mark)) >= 2))
    await backend.executions.cancel(up, asked.id)
    async with asyncio.timeout(2):
        ended = await running
    assert ended.result.reason is Reason.CANCELLED
    assert living(mark) == []
    await backend.executions.cancel(up, asked.id)  # done is fine


async def test_cancelled_while_it_begins_is_ended_too(backend: Backend, up: str) -> None:
    mark = new_mark()
    asked = bash(f"sleep {mark}", files={"large": b"x" * 5_000_000})
    running = asyncio.create_task(execute(backend, up, asked))

    async def cancelled() -> bool:
        try:
            await backend.executions.cancel(up, asked.id)
        except NotFound:  # not there yet
            return False
        return True

    await until("there is something to cancel", cancelled)
    async with asyncio.timeout(5):
        assert (await running).result.reason is Reason.CANCELLED
    assert living(mark) == []


async def test_cancelling_what_never_was_is_not_found(backend: Backend, up: str) -> None:
    with pytest.raises(NotFound):
        await backend.executions.cancel(up, "never")


async def test_what_an_execution_leaves_running_ends_with_it(backend: Backend, up: str) -> None:
    mark = new_mark()
    ended = await execute(backend, up, bash(f"setsid -f sleep {mark} >/dev/null 2>&1; echo bye"))
    assert (ended.stdout, ended.result.exit_code) == (b"bye\n", 0)
    assert living(mark) == []


async def test_what_it_leaves_on_its_output_does_not_hold_it(backend: Backend, up: str) -> None:
    mark = new_mark()
    async with asyncio.timeout(5):
        ended = await execute(backend, up, bash(f"sleep {mark} & echo bye"))
    assert (ended.stdout, ended.result.reason, living(mark)) == (b"bye\n", Reason.COMPLETED, [])


@pytest.mark.needs_agent
async def test_the_same_id_runs_once_and_returns_the_first_result(place: Place, backend: Backend, up: str) -> None:
    asked = bash("echo x >>count; cat count")
    first = await execute(backend, up, asked)
    again = await execute(backend, up, asked)
    assert again.stdout == first.stdout == b"x\n"
    assert again.result == first.result
    after_restart = place.open()
    once_more = await execute(after_restart, up, asked)
    assert (once_more.stdout, once_more.result) == (first.stdout, first.result)
    assert (await execute(after_restart, up, bash("cat count"))).stdout == b"x\n"


async def test_the_same_id_attaches_while_the_first_still_runs(backend: Backend, up: str) -> None:
    asked = bash("echo x >>count; echo begun; sleep 1; cat count")
    first, second = await asyncio.gather(execute(backend, up, asked), execute(backend, up, asked))
    assert first.stdout == second.stdout == b"begun\nx\n"
    assert first.result == second.result


@pytest.mark.needs_agent
async def test_an_execution_is_taken_up_again_by_a_new_controller(place: Place, backend: Backend, up: str) -> None:
    asked = bash("echo begun; sleep 1; echo ended")
    stream = backend.executions.execute(up, asked)
    assert await anext(stream) == OutputChunk("stdout", b"begun\n")
    await backend.close()
    new = place.open()
    ended = await execute(new, up, asked)
    assert ended.stdout == b"begun\nended\n"
    assert ended.result.reason is Reason.COMPLETED


async def test_another_request_under_the_same_id_is_a_conflict(backend: Backend, up: str) -> None:
    await execute(backend, up, request("print(1)", id="key", digest="one"))
    with pytest.raises(Conflict):
        await execute(backend, up, request("print(2)", id="key", digest="two"))


async def test_more_at_once_than_set_are_busy(place: Place) -> None:
    backend = place.open(max_executions=2)
    await backend.start(wanted := sandbox())
    mark = new_mark()
    running = [asyncio.create_task(execute(backend, wanted.uid, bash(f"sleep {mark}"))) for _ in range(2)]
    await until("both run", lambda: true(len(living(mark)) >= 2))
    with pytest.raises(Busy):
        await execute(backend, wanted.uid, bash("true"))
    for task in running:
        task.cancel()
    await asyncio.wait(running)


async def test_many_at_once_do_not_mix_their_output(backend: Backend, up: str) -> None:
    ended = await asyncio.gather(*(execute(backend, up, request(f"print('{n}' * 1000)")) for n in range(10)))
    assert [e.stdout for e in ended] == [f"{n}".encode() * 1000 + b"\n" for n in range(10)]


async def test_output_beyond_the_limit_is_dropped_and_counted(backend: Backend, up: str) -> None:
    ended = await execute(backend, up, bash("head -c 5000000 /dev/zero; echo end >&2", output_limit=100_000))
    assert len(ended.stdout) == 100_000
    assert ended.result.dropped_stdout == 4_900_000
    assert (ended.stderr, ended.result.dropped_stderr) == (b"end\n", 0)
    assert ended.result.exit_code == 0


async def test_a_flood_of_output_costs_the_controller_no_memory(backend: Backend, up: str) -> None:
    await execute(backend, up, bash("head -c 3000000 /dev/zero"))  # whatever is allocated once
    before = resident()
    ended = await execute(backend, up, bash("head -c 200000000 /dev/zero; echo end >&2", timeout=60))
    assert (len(ended.stdout), ended.stderr) == (1 << 20, b"end\n")
    assert ended.result.dropped_stdout == 200_000_000 - (1 << 20)
    assert resident() - before < 8 * 2**20


@pytest.mark.needs_agent
async def test_a_fork_bomb_ends_at_its_deadline_and_the_sandbox_is_usable(backend: Backend) -> None:
    # with the limit reached, `docker exec` starts nothing that could end it
    await backend.start(wanted := sandbox(resources={"limits": {"pids": 40}}))
    mark = new_mark()
    code = f"bomb() {{ setsid -f sleep {mark}; bomb | bomb & }}; bomb; sleep {mark}"
    async with asyncio.timeout(15):
        ended = await execute(backend, wanted.uid, bash(code, timeout=1.0))
    assert ended.result.reason is not Reason.COMPLETED
    assert living(mark) == []
    assert (await execute(backend, wanted.uid, bash("echo usable"))).stdout == b"usable\n"


async def test_a_killed_program_tells_its_signal(place: Place, backend: Backend, up: str) -> None:
    ended = await execute(backend, up, bash("kill -SEGV $$"))
    assert ended.result.exit_code == 139
    assert ended.result.reason is Reason.ERROR
    if place.kind != "exec":
        assert ended.result.signal == 11


async def test_memory_beyond_the_limit_ends_the_execution_and_not_the_sandbox(backend: Backend) -> None:
    wanted = sandbox(resources={"limits": {"memory": "96Mi"}})
    await backend.start(wanted)
    ended = await execute(backend, wanted.uid, request("hold = []\nwhile True: hold.append(b'x' * 2**20)"))
    assert ended.result.reason is Reason.OOM_KILLED
    assert (await execute(backend, wanted.uid, request("print('alive')"))).stdout == b"alive\n"


async def test_what_is_killed_after_another_was_out_of_memory_was_not(backend: Backend) -> None:
    wanted = sandbox(resources={"limits": {"memory": "96Mi"}})
    await backend.start(wanted)
    ended = await execute(backend, wanted.uid, request("hold = []\nwhile True: hold.append(b'x' * 2**20)"))
    assert ended.result.reason is Reason.OOM_KILLED
    assert (await execute(backend, wanted.uid, bash("kill -KILL $$"))).result.reason is Reason.ERROR


@pytest.mark.needs_agent
async def test_peak_memory_and_processor_time_are_told(backend: Backend, up: str) -> None:
    ended = await execute(backend, up, request("hold = b'x' * 50_000_000\nfor i in range(2_000_000): pass"))
    assert ended.result.peak_memory is not None and 50_000_000 < ended.result.peak_memory < 200_000_000
    assert ended.result.cpu_seconds is not None and ended.result.cpu_seconds > 0


async def test_suspended_or_gone_it_runs_nothing(backend: Backend, up: str) -> None:
    await backend.suspend(up)
    with pytest.raises(NotRunning):
        await execute(backend, up, bash("true"))
    await backend.resume(up)
    assert (await execute(backend, up, bash("echo on"))).stdout == b"on\n"
    await backend.remove(up)
    with pytest.raises(NotFound):
        await execute(backend, up, bash("true"))


async def test_with_the_sandbox_lost_a_running_execution_is_lost(backend: Backend, up: str) -> None:
    mark = new_mark()
    running = asyncio.create_task(execute(backend, up, bash(f"sleep {mark}")))
    await until("it sleeps", lambda: true(living(mark)))
    await backend.kill(up)
    async with asyncio.timeout(15):
        ended = await running
    assert (ended.result.exit_code, ended.result.reason) == (None, Reason.LOST)
    seen = await backend.observe(up)
    assert seen is not None and seen.state is RunState.EXITED and not seen.ready


async def test_idle_time_counts_from_the_end_of_the_last_execution(backend: Backend, up: str) -> None:
    mark = new_mark()
    fresh = await backend.observe(up)
    assert fresh is not None and fresh.idle_since is not None
    running = asyncio.create_task(execute(backend, up, bash(f"sleep {mark}", timeout=1)))
    await until("it sleeps", lambda: true(living(mark)))
    busy = await backend.observe(up)
    assert busy is not None and busy.idle_since is None
    await running
    after = await backend.observe(up)
    assert after is not None and after.idle_since is not None and after.idle_since > fresh.idle_since


async def _bytes(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_files_go_in_and_out_unchanged(backend: Backend, up: str) -> None:
    content = bytes(range(256)) * 4096
    await backend.executions.put_file(up, "deep/er/data.bin", _bytes(content[:500_000], content[500_000:]))
    got = b"".join([chunk async for chunk in backend.executions.get_file(up, "deep/er/data.bin")])
    assert got == content
    assert [(f.path, f.size) for f in (await backend.executions.list_files(up, "deep/er")).files] == [
        ("deep/er/data.bin", len(content))
    ]
    ended = await execute(backend, up, bash("wc -c <deep/er/data.bin; echo more >>deep/er/data.bin"))
    assert (ended.stdout.strip(), ended.result.exit_code) == (str(len(content)).encode(), 0)


@pytest.mark.parametrize("place", ["docker", "exec"], indirect=True)  # mock's workspace has no size
async def test_a_file_that_finds_no_room_is_refused(backend: Backend) -> None:
    await backend.start(wanted := sandbox(workspace={"size": "1Mi"}))
    async with asyncio.timeout(10):
        with pytest.raises(Refused):
            await backend.executions.put_file(wanted.uid, "large", _bytes(*[bytes(65536)] * 300))
    assert (await backend.executions.list_files(wanted.uid)).files == []


async def test_a_listing_tells_that_there_is_more(backend: Backend, up: str) -> None:
    await execute(backend, up, bash("mkdir many; cd many; seq 10000 | xargs touch"))
    whole = await backend.executions.list_files(up, "many")
    assert (len(whole.files), whole.truncated) == (10_000, False)
    await execute(backend, up, bash("touch many/one-more"))
    cut = await backend.executions.list_files(up, "many")
    assert (len(cut.files), cut.truncated) == (10_000, True)


async def test_a_file_that_comes_in_half_leaves_the_old_one(backend: Backend, up: str) -> None:
    await backend.executions.put_file(up, "data/x", _bytes(b"old"))

    async def broken() -> AsyncIterator[bytes]:
        yield b"ne"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await backend.executions.put_file(up, "data/x", broken())
    await asyncio.sleep(0.5)
    assert b"".join([chunk async for chunk in backend.executions.get_file(up, "data/x")]) == b"old"
    assert [each.path for each in (await backend.executions.list_files(up)).files] == ["data/x"]


async def test_a_file_that_is_not_there_is_not_found(backend: Backend, up: str) -> None:
    with pytest.raises(NotFound):
        await _drain_bytes(backend.executions.get_file(up, "no/such"))


async def _drain_bytes(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


@pytest.mark.parametrize("path", ["link", "folder/passwd", "../x", "/etc/passwd", "a/../../x", "pipe", ""])
async def test_no_path_leads_out_of_the_workspace(backend: Backend, up: str, path: str) -> None:
    await execute(backend, up, bash("ln -s /etc/passwd link; ln -s /etc folder; mkfifo pipe"))
    with pytest.raises((Refused, NotFound)):
        async with asyncio.timeout(10):
            await _drain_bytes(backend.executions.get_file(up, path))
    await execute(backend, up, bash("ln -sfn /etc/sandbox-escape link"))  # nothing of the machine's, should it succeed
    target = path.replace("passwd", "sandbox-escape")
    try:
        await backend.executions.put_file(up, target, _bytes(b"x"))
    except Refused:
        pass
    else:
        assert target in ("link", "pipe"), "it may take the place of a link, but not go through it"
        assert b"".join([chunk async for chunk in backend.executions.get_file(up, target)]) == b"x"
    assert (await execute(backend, up, bash("test ! -e /etc/sandbox-escape"))).result.exit_code == 0
    assert not Path("/etc/sandbox-escape").exists()


async def test_no_folder_outside_of_the_workspace_is_listed_or_written(backend: Backend, up: str) -> None:
    await execute(backend, up, bash("ln -s /tmp folder; touch /tmp/secret"))
    with pytest.raises((Refused, NotFound)):
        await backend.executions.list_files(up, "folder")
    with pytest.raises(Refused):
        await execute(backend, up, bash("true", files={"folder/escaped": b""}))
    for size in (0, 1000):  # both of what is sent before it is refused, and after it
        with pytest.raises(Refused):
            await backend.executions.put_file(up, "folder/new/escaped", _bytes(*[b"x" * 65536] * size))
    assert (await execute(backend, up, bash("test ! -e /tmp/new -a ! -e /tmp/escaped"))).result.exit_code == 0


async def test_the_sandbox_sees_what_was_observed_of_it(place: Place, backend: Backend, up: str) -> None:
    seen = await backend.observe(up)
    assert seen is not None
    assert seen.state is RunState.RUNNING and seen.ready
    assert seen.path == ("exec" if place.kind == "exec" else "agent")
