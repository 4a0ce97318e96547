"""Running code through the API."""

import asyncio
import base64
import json
import time
from typing import Any

import httpx
import pytest

from controller.backends import Backend
from controller.backends.mock.backend import MockBackend
from controller.executions import keyed_id
from controller.settings import Settings
from tests.api.conftest import Api, Serve, problem
from tests.api.memory import MemoryDirectory

RESULT = {"exit_code", "reason", "stdout", "stderr", "truncated", "duration_ms", "execution_id", "path"}


async def test_a_result_has_the_fields_of_the_contract(api: Api) -> None:
    answer = await api.execute(await api.create(), code="print(1 + 1)", language="python")

    assert answer.status_code == 200
    result = answer.json()
    assert set(result) >= RESULT
    assert (result["exit_code"], result["reason"], result["stdout"]) == (0, "Completed", "2\n")
    assert (result["stderr"], result["truncated"], result["path"]) == ("", False, "agent")


@pytest.mark.parametrize(
    ("body", "stdout"),
    [
        ({"code": "echo $((2 + 3))", "language": "bash"}, "5\n"),
        ({"command": ["echo", "a b"]}, "a b\n"),
        ({"command": ["cat"], "stdin": "grüße"}, "grüße"),
        ({"command": ["cat"], "stdin_base64": base64.b64encode(b"x\0y").decode()}, "x\0y"),
        ({"code": "import os; print(os.environ['A'])", "env": {"A": "as an object"}}, "as an object\n"),
        ({"code": "import os; print(os.environ['A'])", "env": [{"name": "A", "value": "as in spec"}]}, "as in spec\n"),
    ],
)
async def test_what_is_asked_for_arrives_in_the_program(api: Api, body: dict[str, Any], stdout: str) -> None:
    assert (await api.execute(await api.create(), **body)).json()["stdout"] == stdout


async def test_a_program_that_fails_is_a_good_answer(api: Api) -> None:
    answer = await api.execute(await api.create(), code="import sys; sys.exit(3)")
    assert answer.status_code == 200
    assert (answer.json()["exit_code"], answer.json()["reason"]) == (3, "Error")


async def test_a_deadline_is_told_apart_from_a_failure(api: Api) -> None:
    result = (await api.execute(await api.create(), code="import time; time.sleep(60)", timeout=0.3)).json()
    assert result["reason"] == "Timeout"


async def test_bytes_that_are_no_text_come_back_exactly(api: Api) -> None:
    result = (await api.execute(await api.create(), code="import sys; sys.stdout.buffer.write(b'a\\xff\\0')")).json()
    assert result["stdout"] == "a\ufffd\0"
    assert base64.b64decode(result["stdout_base64"]) == b"a\xff\0"
    assert "stderr_base64" not in result


# --- the same key ---


async def test_a_retry_gives_the_first_result_and_runs_nothing(api: Api) -> None:
    uid = await api.create()
    first = await api.execute(uid, key="k1", code="import time; print(time.time_ns())")
    again = await api.execute(uid, key="k1", code="import time; print(time.time_ns())")

    assert first.json()["stdout"] == again.json()["stdout"]
    assert first.json()["execution_id"] == again.json()["execution_id"] == keyed_id(uid, "k1")


async def test_a_retry_while_the_first_still_runs_waits_for_it(api: Api) -> None:
    uid = await api.create()
    code = "import time; time.sleep(0.5); print(time.time_ns())"
    first, again = await asyncio.gather(*(api.execute(uid, key="k1", code=code) for _ in range(2)))
    assert first.json()["stdout"] == again.json()["stdout"] != ""


async def test_a_retry_after_a_restart_of_the_controller_runs_nothing(
    serve: Serve, settings: Settings, backend: Backend
) -> None:
    code = "import time; time.sleep(1); print(time.time_ns())"
    async with serve() as api:
        uid = await api.create()
        done = await api.execute(uid, key="done", code=code)
        await events_until_first(api, uid, "running", code)

    await backend.close()
    restarted = MockBackend(settings.sandbox.model_copy(update={"timeout": 7}))
    async with serve(directory=MemoryDirectory(restarted, api.directory.objects)) as api:
        assert (await api.execute(uid, key="done", code=code)).json()["stdout"] == done.json()["stdout"]
        attached = await api.execute(uid, key="running", code=code)
        assert attached.json()["reason"] == "Completed"
        assert (await api.execute(uid, key="running", code=code)).json()["stdout"] == attached.json()["stdout"]
        problem(await api.execute(uid, key="running", code="print(1)"), 422, "idempotency-key-reused")
    await restarted.close()


async def test_another_request_under_the_same_key_is_refused(api: Api) -> None:
    uid = await api.create()
    await api.execute(uid, key="k1", code="print(1)")
    problem(await api.execute(uid, key="k1", code="print(2)"), 422, "idempotency-key-reused")


async def test_a_key_counts_in_its_sandbox_only(api: Api) -> None:
    one, other = await api.create(), await api.create()
    assert (await api.execute(one, key="k1", code="print(1)")).json()["stdout"] == "1\n"
    assert (await api.execute(other, key="k1", code="print(2)")).json()["stdout"] == "2\n"


@pytest.mark.parametrize("key", ["with space", "x" * 256, "a\tb", ""])
async def test_a_key_is_short_visible_ascii(api: Api, key: str) -> None:
    problem(await api.execute(await api.create(wait=0), key=key, code="print(1)"), 422, "invalid")


# --- events ---


async def events(api: Api, uid: str, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    headers = {"Accept": "text/event-stream"}
    async with api.client.stream("POST", f"/sandbox/{uid}/execute", json=body, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [event async for event in parsed(answer)]


async def events_until_first(api: Api, uid: str, key: str, code: str) -> None:
    """Begins an execution and goes away."""
    headers = {"Accept": "text/event-stream", "Idempotency-Key": key}
    async with api.client.stream("POST", f"/sandbox/{uid}/execute", json={"code": code}, headers=headers) as answer:
        await anext(answer.aiter_lines())


async def parsed(answer: httpx.Response):  # type: ignore[no-untyped-def]
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def test_a_stream_is_progress_then_output_then_the_same_result(api: Api) -> None:
    uid = await api.create()
    seen = await events(api, uid, code="import sys; print('out'); print('err', file=sys.stderr)")

    names = [name for name, _ in seen]
    assert names[0] == "progress"
    assert names[-1] == "result"
    assert set(names[1:-1]) == {"stdout", "stderr"}
    result = seen[-1][1]
    assert set(result) >= RESULT
    assert (result["stdout"], result["stderr"]) == ("out\n", "err\n")
    assert seen[0][1]["execution_id"] == result["execution_id"]


async def test_a_stream_carries_any_bytes(api: Api) -> None:
    written = bytes(range(256)) * 300 + "é".encode()[:1]
    seen = await events(api, await api.create(), command=["cat"], stdin_base64=base64.b64encode(written).decode())

    pieces = [data for name, data in seen if name == "stdout"]
    assert (
        b"".join(
            base64.b64decode(each["data"]) if each["encoding"] == "base64" else each["data"].encode() for each in pieces
        )
        == written
    )


async def test_a_character_is_never_cut_in_two(api: Api) -> None:
    seen = await events(api, await api.create(), code="print('€' * 100_000, end='')")
    pieces = [data for name, data in seen if name == "stdout"]
    assert len(pieces) > 1
    assert {each["encoding"] for each in pieces} == {"utf-8"}
    assert "".join(each["data"] for each in pieces) == "€" * 100_000


async def test_a_refusal_is_a_status_and_no_stream(api: Api) -> None:
    uid = await api.create()
    await api.execute(uid, key="k1", code="print(1)")
    headers = {"Accept": "text/event-stream", "Idempotency-Key": "k1"}
    answer = await api.client.post(f"/sandbox/{uid}/execute", json={"code": "print(2)"}, headers=headers)
    problem(answer, 422, "idempotency-key-reused")


async def test_a_client_that_leaves_cancels_nothing(api: Api) -> None:
    uid = await api.create()
    code = "import time; time.sleep(1); print(time.time_ns())"
    await events_until_first(api, uid, "k1", code)

    result = (await api.execute(uid, key="k1", code=code)).json()
    assert (result["reason"], result["exit_code"]) == ("Completed", 0)


async def test_an_execution_can_be_cancelled_by_the_id_that_progress_tells(api: Api) -> None:
    uid = await api.create()
    headers = {"Accept": "text/event-stream"}
    body = {"code": "import time; time.sleep(60)"}
    async with api.client.stream("POST", f"/sandbox/{uid}/execute", json=body, headers=headers) as answer:
        seen = parsed(answer)
        _, progress = await anext(seen)
        began = time.monotonic()
        cancelled = await api.client.delete(f"/sandbox/{uid}/executions/{progress['execution_id']}")
        assert cancelled.status_code == 204
        rest = [event async for event in seen]
    assert rest[-1][0] == "result", rest
    assert rest[-1][1]["reason"] == "Cancelled"
    assert time.monotonic() - began < 5


async def test_cancelling_what_never_ran_is_404(api: Api) -> None:
    uid = await api.create()
    problem(await api.client.delete(f"/sandbox/{uid}/executions/{'0' * 32}"), 404, "not-found")


# --- when it cannot be run ---


async def test_more_at_once_than_a_sandbox_takes_is_429_with_retry_after(api: Api) -> None:
    uid = await api.create()
    answers = await asyncio.gather(*(api.execute(uid, code="import time; time.sleep(1)") for _ in range(8)))
    refused = [each for each in answers if each.status_code != 200]
    assert refused
    for each in refused:
        problem(each, 429, "busy")
        assert int(each.headers["retry-after"]) >= 1


async def test_a_suspended_sandbox_runs_nothing(api: Api) -> None:
    uid = await api.create(operating_mode="Suspended")
    assert "suspended" in problem(await api.execute(uid, code="print(1)"), 409, "not-running")["detail"]


async def test_a_sandbox_that_is_being_deleted_runs_nothing(api: Api) -> None:
    uid = await api.create()
    await api.directory.delete(uid)
    assert "deleted" in problem(await api.execute(uid, code="print(1)"), 409, "not-running")["detail"]


async def test_a_sandbox_that_has_not_started_says_to_come_back(api: Api) -> None:
    uid = await api.create(wait=0)
    answer = await api.execute(uid, code="print(1)")
    problem(answer, 409, "not-running")
    assert answer.headers["retry-after"]


CALLS = [("POST", "execute"), ("GET", "files"), ("GET", "files/a"), ("PUT", "files/a"), ("GET", "usage")]


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_before_its_start_and_after_its_end_a_sandbox_is_not_running_and_not_missing(
    api: Api, backend: Backend, method: str, path: str
) -> None:
    body: dict[str, Any] = {"json": {"code": "1"}} if path == "execute" else {}
    uid = await api.create(wait=0)
    api.directory.change(uid, backend=backend.name, status={"phase": "Starting"})
    answer = await api.client.request(method, f"/sandbox/{uid}/{path}", **body)
    problem(answer, 409, "not-running")
    assert answer.headers["retry-after"]
    api.directory.change(uid, status={"phase": "Failed", "startedAt": "2026-01-01T00:00:00Z"})
    answer = await api.client.request(method, f"/sandbox/{uid}/{path}", **body)
    assert "has ended" in problem(answer, 409, "not-running")["detail"]
    assert "retry-after" not in answer.headers


async def test_a_sandbox_with_a_run_of_its_own_takes_no_executions(api: Api) -> None:
    uid = await api.create(run={"command": ["true"]})
    problem(await api.execute(uid, code="print(1)"), 409, "not-running")


# --- what is not valid ---


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"code": "x", "timeout": 0}, "body.timeout"),
        ({"code": "x", "timeout": -1}, "body.timeout"),
        ({"code": "x", "timeout": 1e9}, "body.timeout"),
        ({"code": "x", "timeout": "5"}, "body.timeout"),
        ({"code": "x", "timeout": True}, "body.timeout"),
        ({"code": "x" * 10_000_000}, "body.code"),
        ({"code": ""}, "body.code"),
        ({"code": "x\0"}, "body.code"),
        ({"code": "x", "language": "perl"}, "body.language"),
        ({"code": "x", "privileged": True}, "body.privileged"),
        ({"code": "x", "context": "../x"}, "body.context"),
        ({"command": "ls"}, "body.command"),
        ({"command": []}, "body.command"),
        ({"command": ["a\0b"]}, "body.command.0"),
        ({"command": ["x" * 200_000]}, "body.command.0"),
        ({"code": "x", "stdin_base64": "?"}, "body.stdin_base64"),
        ({"code": "x", "env": {"A": 1}}, "body.env.object.A"),
        ({"code": "x", "env": [{"name": "A", "value": 1}]}, "body.env.list.0.value"),
        ({"code": "x", "env": 1}, "body.env.object"),
        ({"code": "x", "files": {"a": 1}}, "body.files.object.a"),
        ({"code": "x", "files": [{"path": "a", "content": "b", "content_base64": "Yg=="}]}, "body.files.list.0"),
        ({"code": "x", "files": [{"path": "a"}, {"path": "a"}]}, "body"),
        ({"code": "x", "stdin": "a", "stdin_base64": "Yg=="}, "body"),
        ({"code": "x", "command": ["x"]}, "body"),
        ({}, "body"),
        ([], "body"),
        ({"code": "x", "language": "bash", "context": "a"}, "body"),
    ],
)
async def test_the_wrong_field_is_named(api: Api, body: Any, field: str) -> None:
    answer = await api.client.post(f"/sandbox/{await api.create(wait=0)}/execute", json=body)
    assert problem(answer, 422, "invalid")["errors"][0]["field"] == field


@pytest.mark.parametrize("name", ["A=B", "A B", "A\0", "", "1A", "ä"])
async def test_a_variable_needs_a_name_that_programs_take(api: Api, name: str) -> None:
    problem(await api.execute(await api.create(wait=0), code="x", env={name: "1"}), 422, "invalid")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", ".", "a\0b"])
async def test_files_stay_below_the_workspace(api: Api, path: str) -> None:
    problem(await api.execute(await api.create(wait=0), code="x", files={path: "1"}), 422, "invalid")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_a_timeout_is_a_finite_number(api: Api, text: str) -> None:
    headers = {"Content-Type": "application/json"}
    body = f'{{"code": "x", "timeout": {text}}}'
    answer = await api.client.post(f"/sandbox/{await api.create(wait=0)}/execute", content=body, headers=headers)
    problem(answer, 422, "invalid")


@pytest.mark.parametrize("secret", ["hunter2-in-a-value"])
async def test_errors_do_not_repeat_values(api: Api, secret: str) -> None:
    answer = await api.execute(await api.create(wait=0), code="x", env={"A": secret + "\0"}, context=secret + "/")
    problem(answer, 422, "invalid")
    assert secret not in answer.text


async def test_output_beyond_the_limit_is_dropped_and_counted(serve: Serve, settings: Any) -> None:
    async with serve() as api:
        limit = settings.sandbox.output_limit
        result = (await api.execute(await api.create(), code=f"print('x' * {limit + 99}, end='')")).json()
        assert (len(result["stdout"]), result["truncated"]) == (limit, True)
        assert (result["dropped_stdout"], result["dropped_stderr"]) == (99, 0)
