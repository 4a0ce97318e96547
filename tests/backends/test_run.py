"""What every backend promises of a sandbox with `run`, and of its life."""

import asyncio
import threading

import pytest

from controller.backends import Backend, BackendError, NotFound, Refused, RunState
from tests.backends.conftest import Place
from tests.backends.words import finished, living, new_mark, python, resident, sandbox, true, until

pytestmark = pytest.mark.parametrize("place", ["mock", "docker"], indirect=True)
"""A program of its own goes past the agent, so an image without one makes no difference."""


async def test_a_program_runs_to_its_end_and_its_output_is_kept(backend: Backend) -> None:
    wanted = python("import sys; print('out'); print('err', file=sys.stderr)")
    started = await backend.start(wanted)
    assert (started.uid, started.namespace, started.name) == (wanted.uid, wanted.namespace, wanted.name)
    assert started.backend == backend.name
    seen = await finished(backend, wanted.uid)
    assert seen.exit_code == 0
    assert seen.tail is not None
    assert (seen.tail.stdout, seen.tail.stderr, seen.tail.truncated) == ("out\n", "err\n", False)
    assert not seen.oom_killed
    assert seen.created_at is not None and seen.started_at is not None and seen.finished_at is not None
    assert seen.created_at <= seen.started_at <= seen.finished_at


@pytest.mark.parametrize(
    ("run", "code"),
    [
        ({"language": "python", "code": "raise SystemExit(7)"}, 7),
        ({"language": "python", "code": "1/0"}, 1),
        ({"language": "bash", "code": "exit 9"}, 9),
        ({"language": "bash", "code": "kill -TERM $$"}, 143),
        ({"command": ["false"]}, 1),
    ],
)
async def test_the_exit_code_is_the_programs_own(backend: Backend, run: dict[str, object], code: int) -> None:
    wanted = sandbox(run=run)
    await backend.start(wanted)
    assert (await finished(backend, wanted.uid)).exit_code == code


async def test_files_environment_and_stdin_arrive(backend: Backend) -> None:
    wanted = sandbox(
        run={"language": "bash", "code": 'cat data/in.csv; printf "%s|" "$A" "$B"; cat', "stdin": "typed\n"},
        files=[{"path": "data/in.csv", "content": "1,2 ü\n"}],
        env=[{"name": "A", "value": "b c"}, {"name": "B", "value": "$(id)'\"\n"}],
    )
    await backend.start(wanted)
    seen = await finished(backend, wanted.uid)
    assert seen.tail is not None
    assert seen.tail.stdout == "1,2 ü\nb c|$(id)'\"\n|typed\n"


async def test_the_environment_of_the_controller_stays_with_it(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECURITY__SECRET_KEY", "very-secret")
    wanted = sandbox(run={"language": "bash", "code": "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; env"})
    await backend.start(wanted)
    seen = await finished(backend, wanted.uid)
    assert seen.tail is not None
    assert "PATH=" in seen.tail.stdout
    assert "very-secret" not in seen.tail.stdout


async def test_the_program_is_not_root(backend: Backend) -> None:
    wanted = sandbox(run={"language": "bash", "code": "id -u; id -G; grep CapEff /proc/self/status"})
    await backend.start(wanted)
    seen = await finished(backend, wanted.uid)
    assert seen.tail is not None
    user, groups, capabilities = seen.tail.stdout.splitlines()
    assert user != "0"
    assert "0" not in groups.split()
    assert int(capabilities.split()[1], 16) == 0


async def test_a_program_never_runs_twice_however_often_it_is_started(place: Place) -> None:
    first = place.open()
    wanted = sandbox(run={"language": "bash", "code": "echo x >>count; sleep 0.5; cat count"})
    await first.start(wanted)
    await first.start(wanted)
    second = place.open()  # the controller was killed and started again
    adopted = await second.start(wanted)
    assert adopted.state in (RunState.RUNNING, RunState.EXITED)
    seen = await finished(second, wanted.uid)
    again = await second.start(wanted)
    assert again.state is RunState.EXITED
    assert again.started_at == seen.started_at
    assert seen.tail is not None and seen.tail.stdout == "x\n"


async def test_a_new_controller_finds_what_the_old_one_started(place: Place) -> None:
    old = place.open()
    running, done = python("import time; time.sleep(60)"), python("print('done')")
    for wanted in (running, done):
        await old.start(wanted)
    before = await finished(old, done.uid)
    await old.close()
    new = place.open()
    found = {seen.uid: seen for seen in await new.list()}
    assert found.keys() == {running.uid, done.uid}
    assert found[running.uid].state is RunState.RUNNING
    assert found[done.uid].state is RunState.EXITED
    assert await new.observe(done.uid) == before


async def test_only_the_own_instance_is_listed_and_seen(place: Place) -> None:
    ours, theirs = place.open(), place.open(instance=place.settings.instance + "-b")
    wanted = python("pass")
    try:
        await theirs.start(wanted)
        assert await ours.list() == []
        try:
            assert await ours.observe(wanted.uid) is None
        except Refused:
            pass  # it told whose it is
    finally:
        await theirs.remove(wanted.uid)


async def test_an_unknown_sandbox_is_none_and_removing_it_is_fine(backend: Backend) -> None:
    uid = sandbox().uid
    assert await backend.observe(uid) is None
    await backend.remove(uid)
    with pytest.raises(NotFound):
        async for _ in backend.logs(uid):
            pass


async def test_removing_twice_is_removing_once(backend: Backend) -> None:
    mark = new_mark()
    wanted = sandbox(run={"command": ["sleep", mark]})
    await backend.start(wanted)
    await until("it sleeps", lambda: true(living(mark)))
    await asyncio.gather(backend.remove(wanted.uid), backend.remove(wanted.uid))
    await backend.remove(wanted.uid)
    assert await backend.observe(wanted.uid) is None
    assert await backend.list() == []
    assert living(mark) == []


async def test_removal_ends_children_that_left_their_session(backend: Backend) -> None:
    mark = new_mark()
    code = f"(setsid sleep {mark} &) ; setsid -f sleep {mark}; env -i setsid -f sleep {mark}; sleep {mark}"
    wanted = sandbox(run={"language": "bash", "code": code})
    await backend.start(wanted)
    await until("four of them", lambda: true(len(living(mark)) >= 4))
    await backend.remove(wanted.uid)
    assert living(mark) == []


async def test_a_program_that_ended_leaves_no_process_behind(backend: Backend) -> None:
    mark = new_mark()
    wanted = sandbox(run={"language": "bash", "code": f"setsid -f sleep {mark} >/dev/null 2>&1; echo bye"})
    await backend.start(wanted)
    seen = await finished(backend, wanted.uid)
    assert seen.exit_code == 0
    assert living(mark) == []


async def test_killing_ends_everything_and_keeps_the_record(backend: Backend) -> None:
    mark = new_mark()
    wanted = sandbox(
        run={
            "language": "bash",
            "code": f"trap '' TERM INT HUP; echo before; setsid -f sleep {mark}; sleep {mark}; sleep {mark}",
        }
    )
    await backend.start(wanted)
    await until("both sleep", lambda: true(len(living(mark)) >= 2))
    await backend.kill(wanted.uid)
    seen = await finished(backend, wanted.uid, 5)
    assert living(mark) == []
    assert seen.exit_code == 137
    assert seen.tail is not None and seen.tail.stdout == "before\n"
    assert not seen.oom_killed
    await backend.kill(wanted.uid)
    assert await backend.observe(wanted.uid) == seen


async def test_suspended_it_makes_no_progress_and_resumed_it_goes_on(backend: Backend) -> None:
    code = "for i in $(seq 1000); do echo $i; sleep 0.02; done"
    wanted = sandbox(run={"language": "bash", "code": code})
    await backend.start(wanted)
    await until("output", lambda: _printed(backend, wanted.uid))
    await backend.suspend(wanted.uid)
    await backend.suspend(wanted.uid)
    seen = await backend.observe(wanted.uid)
    assert seen is not None and seen.state is RunState.PAUSED and not seen.ready
    frozen = await _printed(backend, wanted.uid)
    await asyncio.sleep(0.3)
    assert await _printed(backend, wanted.uid) == frozen
    await backend.resume(wanted.uid)
    await backend.resume(wanted.uid)
    seen = await backend.observe(wanted.uid)
    assert seen is not None and seen.state is RunState.RUNNING
    await until("more output", lambda: _more(backend, wanted.uid, frozen))


async def test_a_suspended_sandbox_can_be_removed(backend: Backend) -> None:
    mark = new_mark()
    wanted = sandbox(run={"command": ["sleep", mark]})
    await backend.start(wanted)
    await until("it sleeps", lambda: true(living(mark)))
    await backend.suspend(wanted.uid)
    await backend.remove(wanted.uid)
    assert living(mark) == []


async def _printed(backend: Backend, uid: str) -> bytes:
    return b"".join([chunk.data async for chunk in backend.logs(uid)])


async def _more(backend: Backend, uid: str, before: bytes) -> bool:
    return len(await _printed(backend, uid)) > len(before)


async def test_logs_are_followed_to_the_end(backend: Backend) -> None:
    wanted = sandbox(run={"language": "bash", "code": "echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three"})
    await backend.start(wanted)
    async with asyncio.timeout(20):
        chunks = [chunk async for chunk in backend.logs(wanted.uid, follow=True)]
    output = {stream: b"".join(c.data for c in chunks if c.stream == stream) for stream in ("stdout", "stderr")}
    assert output == {"stdout": b"one\nthree\n", "stderr": b"two\n"}


async def test_who_stops_following_silent_logs_leaves_no_reader_behind(backend: Backend) -> None:
    wanted = sandbox(run={"language": "bash", "code": "echo one; sleep 60"})
    await backend.start(wanted)
    chunks = aiter(backend.logs(wanted.uid, follow=True))
    assert (await anext(chunks)).data == b"one\n"
    following = asyncio.ensure_future(anext(chunks))
    assert not (await asyncio.wait([following], timeout=0.3))[0]
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    await until("no thread that reads", lambda: true("docker-stream" not in {t.name for t in threading.enumerate()}))


async def test_memory_beyond_the_limit_ends_it_as_out_of_memory(backend: Backend) -> None:
    wanted = sandbox(
        run={"language": "python", "code": "hold = []\nwhile True: hold.append(b'x' * 2**20)"},
        resources={"limits": {"memory": "64Mi"}},
    )
    started = await backend.start(wanted)
    assert started.limits.memory == 64 * 2**20
    seen = await finished(backend, wanted.uid)
    assert seen.oom_killed
    assert seen.exit_code == 137


async def test_more_processes_than_allowed_are_refused_to_it(backend: Backend) -> None:
    code = "for i in $(seq 60); do sleep 5 & done 2>/dev/null; jobs -p | wc -l; exit 0"
    wanted = sandbox(run={"language": "bash", "code": code}, resources={"limits": {"pids": 20}})
    started = await backend.start(wanted)
    assert started.limits.pids == 20
    seen = await finished(backend, wanted.uid)
    assert seen.tail is not None
    assert int(seen.tail.stdout or 0) < 20


async def test_a_flood_of_output_costs_the_controller_no_memory(backend: Backend) -> None:
    wanted = python("import sys\nfor _ in range(200_000): sys.stdout.write('x' * 1023 + '\\n')\nprint('end')")
    await backend.start(wanted)
    before = resident()
    seen = await finished(backend, wanted.uid, 60)
    assert seen.tail is not None
    assert seen.tail.stdout.endswith("x\nend\n")
    assert seen.tail.truncated
    assert len(seen.tail.stdout.encode()) <= 16384
    assert resident() - before < 8 * 2**20


async def test_output_that_is_no_text_is_still_shown(backend: Backend) -> None:
    wanted = python("import sys; sys.stdout.buffer.write(b'a\\xff\\x00b\\n')")
    await backend.start(wanted)
    seen = await finished(backend, wanted.uid)
    assert seen.tail is not None
    assert seen.tail.stdout == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b\n"


async def test_an_end_is_told_as_an_event(place: Place) -> None:
    backend = place.open()
    wanted = python("import time; time.sleep(0.5)")
    told: list[str] = []

    async def listen() -> None:
        async for uid in backend.events():
            told.append(uid)

    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(listen())
        await asyncio.sleep(0.3)  # the stream is connected
        await backend.start(wanted)
        await finished(backend, wanted.uid)
        await until("the event", lambda: true(wanted.uid in told), 5)
        listening.cancel()


async def test_an_adopted_sandbox_tells_its_end_too(place: Place) -> None:
    wanted = python("import time; time.sleep(1)")
    old = place.open()
    await old.start(wanted)
    await old.close()
    backend = place.open()
    told: list[str] = []

    async def listen() -> None:
        async for uid in backend.events():
            told.append(uid)

    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(listen())
        await until("the event", lambda: true(wanted.uid in told), 5)
        listening.cancel()


async def test_a_program_that_cannot_be_found_ends_with_an_error(backend: Backend) -> None:
    wanted = sandbox(run={"command": ["no-such-program"]})
    try:
        await backend.start(wanted)
    except BackendError:
        assert await backend.observe(wanted.uid) is None, "a failed start leaves nothing behind"
        return
    assert (await finished(backend, wanted.uid)).exit_code == 127


async def test_a_fork_bomb_is_held_by_its_limit_and_ended(backend: Backend) -> None:
    mark = new_mark()
    code = f"bomb() {{ setsid -f sleep {mark}; bomb | bomb & }}; bomb; sleep {mark}"
    wanted = sandbox(run={"language": "bash", "code": code}, resources={"limits": {"pids": 40}})
    await backend.start(wanted)
    await until("it has begun", lambda: true(living(mark)))
    await asyncio.sleep(0.5)
    async with asyncio.timeout(15):
        await backend.kill(wanted.uid)
    assert living(mark) == []
    assert (await finished(backend, wanted.uid, 5)).exit_code is not None


async def test_twenty_start_at_once(backend: Backend) -> None:
    many = [python(f"print({number})") for number in range(20)]
    await asyncio.gather(*(backend.start(wanted) for wanted in many))
    for number, wanted in enumerate(many):
        seen = await finished(backend, wanted.uid)
        assert seen.tail is not None and seen.tail.stdout == f"{number}\n"
