"""Files in and out of a workspace, and the output of `run`."""

import asyncio
import os
import tracemalloc
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
import pytest

from controller.api import files
from controller.model import Sandbox
from tests.api.conftest import Api, Serve, problem


async def test_a_file_comes_back_as_it_went_in(api: Api) -> None:
    uid, content = await api.create(), os.urandom(300_000)
    assert (await api.client.put(f"/sandbox/{uid}/files/data/in.bin", content=content)).status_code == 204
    answer = await api.client.get(f"/sandbox/{uid}/files/data/in.bin")
    assert answer.content == content
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_code_reads_the_file_and_its_files_are_listed(api: Api) -> None:
    uid = await api.create()
    await api.client.put(f"/sandbox/{uid}/files/in.txt", content=b"hello")
    code = "open('out.txt', 'w').write(open('in.txt').read() * 2)"
    assert (await api.execute(uid, code=code)).json()["exit_code"] == 0
    listed = (await api.client.get(f"/sandbox/{uid}/files")).json()["items"]
    assert {"path": "out.txt", "size": 10} in listed


@pytest.mark.parametrize("name", ["größe.txt", "a b.txt", "100%.txt", "日本.txt", "a+b&c=d?.txt"])
async def test_any_name_that_is_text_works(api: Api, name: str) -> None:
    uid = await api.create()
    assert (await api.client.put(f"/sandbox/{uid}/files/{quote(name)}", content=b"1")).status_code == 204
    assert name in [each["path"] for each in (await api.client.get(f"/sandbox/{uid}/files")).json()["items"]]


async def test_a_file_is_no_page_for_a_browser(api: Api) -> None:
    uid = await api.create()
    await api.client.put(f"/sandbox/{uid}/files/a.html", content=b"<script>alert(1)</script>")
    headers = (await api.client.get(f"/sandbox/{uid}/files/a.html")).headers
    assert headers["content-disposition"] == "attachment"
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_file_that_is_not_there_is_404(api: Api) -> None:
    problem(await api.client.get(f"/sandbox/{await api.create()}/files/nothing"), 404, "not-found")


@pytest.mark.parametrize(
    "path", ["%2e%2e/x", "a/%2e%2e/%2e%2e/x", "/etc/passwd", "%2Fetc%2Fpasswd", "a//b", "a%00b", "."]
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_path_cannot_leave_the_workspace(api: Api, method: str, path: str) -> None:
    uid = await api.create()
    answer = await raw(api, method, f"/sandbox/{uid}/files/{path}")
    problem(answer, 422, "invalid")


@pytest.mark.parametrize(("method", "path"), [("GET", "file"), ("GET", "folder/passwd"), ("PUT", "folder/passwd")])
async def test_a_symlink_leads_nowhere_outside(api: Api, method: str, path: str) -> None:
    uid = await api.create()
    await api.execute(uid, code="ln -s /etc folder; ln -s /etc/passwd file", language="bash")
    problem(await api.client.request(method, f"/sandbox/{uid}/files/{path}", content=b"x"), 403, "path-forbidden")


async def test_a_file_written_over_a_symlink_takes_its_place(api: Api) -> None:
    uid = await api.create()
    await api.execute(uid, command=["touch", "target"])
    await api.execute(uid, command=["ln", "-s", "target", "link"])
    await api.client.put(f"/sandbox/{uid}/files/link", content=b"new")
    assert (await api.client.get(f"/sandbox/{uid}/files/link")).content == b"new"
    assert (await api.client.get(f"/sandbox/{uid}/files/target")).content == b""


async def test_a_file_larger_than_allowed_is_413_and_not_kept(serve: Serve) -> None:
    async with serve(max_file=100_000) as api:
        uid = await api.create()
        problem(await api.client.put(f"/sandbox/{uid}/files/big", content=b"x" * 100_001), 413, "too-large")
        problem(await api.client.get(f"/sandbox/{uid}/files/big"), 404, "not-found")


async def test_a_file_too_large_to_read_is_never_told_as_whole(serve: Serve) -> None:
    async with serve(max_file=3_000_000) as api:
        uid = await api.create()
        await api.execute(uid, command=["truncate", "-s", "20M", "big"])
        with pytest.raises(httpx.RemoteProtocolError):  # too late for a status
            await api.client.get(f"/sandbox/{uid}/files/big")


async def test_large_files_take_little_memory(api: Api) -> None:
    uid, size = await api.create(), 48 * 2**20

    async def content() -> AsyncIterator[bytes]:
        for _ in range(size // 2**16):
            yield bytes(2**16)

    tracemalloc.start()
    try:
        assert (await api.client.put(f"/sandbox/{uid}/files/big", content=content())).status_code == 204
        read = 0
        async with api.client.stream("GET", f"/sandbox/{uid}/files/big") as answer:
            async for chunk in answer.aiter_bytes():
                read += len(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == size
    assert peak < 8 * 2**20


async def test_logs_are_what_run_printed(api: Api) -> None:
    uid = await api.create(run={"language": "python", "code": "print('hello')"})
    async with asyncio.timeout(20):
        answer = await api.client.get(f"/sandbox/{uid}/logs?follow=true")
    assert answer.text == "hello\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_logs_that_are_followed_wait_for_the_start(api: Api) -> None:
    uid = await api.create(wait=0, run={"command": ["echo", "hello"]})
    assert (await api.client.get(f"/sandbox/{uid}/logs")).text == ""
    assert (await api.client.get(f"/sandbox/{uid}/logs?follow=true")).text == "hello\n"


async def test_logs_that_never_start_are_not_followed_for_ever(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "START_SECONDS", 0.2)

    async def never(uid: str, timeout: float) -> Sandbox:
        async with asyncio.timeout(timeout):
            await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(api.directory, "wait_ready", never)
    uid = await api.create(wait=0, run={"command": ["echo", "hello"]})
    problem(await api.client.get(f"/sandbox/{uid}/logs?follow=true"), 409, "not-running")


async def test_logs_as_events_keep_the_streams_apart(api: Api) -> None:
    uid = await api.create(run={"language": "bash", "code": "echo out; echo err >&2"})
    answer = await api.client.get(f"/sandbox/{uid}/logs?follow=true", headers={"Accept": "text/event-stream"})
    assert 'event: stdout\ndata: {"data":"out\\n","encoding":"utf-8"}\n\n' in answer.text
    assert 'event: stderr\ndata: {"data":"err\\n","encoding":"utf-8"}\n\n' in answer.text
    assert answer.text.endswith("event: end\ndata: {}\n\n")


async def test_logs_of_a_finished_sandbox_outlive_its_process(api: Api) -> None:
    uid = await api.create(run={"command": ["true"]}, wait=0)
    api.directory.change(uid, status={"phase": "Succeeded", "result": {"stdout": "the end\n", "stderr": ""}})
    assert (await api.client.get(f"/sandbox/{uid}/logs")).text == "the end\n"


async def raw(api: Api, method: str, target: str) -> httpx.Response:
    """With the path as it is: clients take `..` out."""
    request = api.client.build_request(method, "/", content=b"" if method == "PUT" else None)
    request.url = request.url.copy_with(raw_path=target.encode())
    request.extensions["target"] = target.encode()
    return await api.client.send(request)
