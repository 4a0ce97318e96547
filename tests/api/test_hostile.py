"""Requests that are sent to do harm: each gets a problem document or a closed connection, and nobody else waits."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import pytest

from controller.api import Authenticator, limits, server
from tests.api.conftest import Api, Serve, problem


class Wire:
    """A connection on which any bytes can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def answer(self, seconds: float = 10) -> bytes:
        """All that comes until the other side closes."""
        async with asyncio.timeout(seconds):
            return await self.reader.read()

    async def status(self, seconds: float = 10) -> int:
        """Of the first answer; 0 where the connection was closed without one."""
        async with asyncio.timeout(seconds):
            line = await self.reader.readline()
        return int(line.split()[1]) if line else 0


@pytest.fixture
async def wire(api: Api) -> AsyncIterator[Callable[[], Awaitable[Wire]]]:
    opened: list[Wire] = []

    async def wire() -> Wire:
        opened.append(Wire(*await asyncio.open_connection(*address(api))))
        return opened[-1]

    yield wire
    for each in opened:
        each.writer.transport.abort()


def address(api: Api) -> tuple[str, int]:
    host, _, port = api.url.removeprefix("http://").partition(":")
    return host, int(port)


def head(target: str | bytes, *lines: str, method: str = "POST") -> bytes:
    raw = target if isinstance(target, bytes) else target.encode()
    rest = "".join(f"{line}\r\n" for line in ("Host: 127.0.0.1", *lines))
    return method.encode() + b" " + raw + b" HTTP/1.1\r\n" + rest.encode("latin-1") + b"\r\n"


JSON = "Content-Type: application/json"
Open = Callable[[], Awaitable[Wire]]


@pytest.mark.parametrize(
    "identifier",
    [
        "..%2f..%2fetc%2fpasswd",
        "../../etc/passwd",
        "%2e%2e",
        "%2e%2e%2fstatus",
        "..",
        "a" * 64,  # a container's
        "0B7E7F0E-5C1F-4A52-9D0C-2F5B8F0B6F55",
        "0b7e7f0e5c1f4a529d0c2f5b8f0b6f55",
        "0b7e7f0e-5c1f-4a52-9d0c-2f5b8f0b6f55%0a",
        "0b7e7f0e-5c1f-4a52-9d0c-2f5b8f0b6f55%00",
        "sbx-0b7e7f0e-5c1f-4a52-9d0c-2f5b8f0b6f55",
        "%C0%AE%C0%AE",
        "\u0660" * 36,
        "*",
        "",
    ],
)
@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("DELETE", ""), ("POST", "/execute"), ("GET", "/files/a")])
async def test_an_id_that_is_none_names_nothing(wire: Open, identifier: str, method: str, rest: str) -> None:
    connection = await wire()
    await connection.send(head(f"/sandbox/{identifier}{rest}", JSON, "Content-Length: 0", method=method))
    assert await connection.status() in (400, 404)


async def test_a_declared_body_of_100_mb_is_refused_unread(api: Api, wire: Open) -> None:
    uid, connection = await api.create(), await wire()
    began = time.monotonic()
    await connection.send(head(f"/sandbox/{uid}/execute", JSON, "Content-Length: 100000000", "Expect: 100-continue"))
    assert await connection.status() == 413
    assert time.monotonic() - began < 1


async def test_a_body_of_100_mb_that_is_sent_anyway_is_told_why(api: Api) -> None:
    problem(
        await api.client.post(
            "/sandbox/create", content=bytes(20_000_000), headers={"Content-Type": "application/json"}
        ),
        413,
        "too-large",
    )


@pytest.mark.parametrize("path", ["execute", "files/endless"])
async def test_an_endless_body_is_cut(serve: Serve, path: str) -> None:
    async with serve(max_body=100_000, max_file=100_000) as api:
        method = "POST" if path == "execute" else "PUT"
        target = f"/sandbox/{await api.create()}/{path}"
        connection = Wire(*await asyncio.open_connection(*address(api)))
        await connection.send(head(target, JSON, "Transfer-Encoding: chunked", method=method))
        feeding = asyncio.ensure_future(endless(connection))
        try:
            assert await connection.status() == 413
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionError):
                    await feeding
        finally:
            connection.writer.transport.abort()


async def test_an_endless_body_without_credentials_is_cut_too(serve: Serve) -> None:
    from pydantic import SecretStr

    async with serve(Authenticator(SecretStr("s3cret"))) as api:
        connection = Wire(*await asyncio.open_connection(*address(api)))
        await connection.send(head("/sandbox/create", JSON, "Transfer-Encoding: chunked"))
        feeding = asyncio.ensure_future(endless(connection))
        assert await connection.status() == 401
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionError):
                await feeding


async def endless(connection: Wire) -> None:
    while True:
        await connection.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")


@pytest.mark.parametrize("count", [500, server.CONNECTIONS + 100])
@pytest.mark.parametrize("sent", [b"", b"POST /sandbox/create HTTP/1.1\r\nHost: 127"], ids=["silent", "half a head"])
async def test_half_open_connections_delay_nobody(api: Api, count: int, sent: bytes) -> None:
    connections = [Wire(*await asyncio.open_connection(*address(api))) for _ in range(count)]
    for each in connections:
        each.writer.write(sent)
    try:
        began = time.monotonic()
        assert (await api.client.get("/health")).status_code == 200
        assert time.monotonic() - began < 1
    finally:
        for each in connections:
            each.writer.transport.abort()


async def test_one_connection_too_many_ends_the_one_that_waited_longest(
    monkeypatch: pytest.MonkeyPatch, wire: Open
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    oldest, *others = [await wire() for _ in range(4)]
    assert await oldest.answer(5) == b""
    for each in others:
        await each.send(head("/health", method="GET"))
        assert await each.status() == 200


async def test_bodies_that_never_come_delay_nobody(api: Api) -> None:
    uid = await api.create()
    connections = [Wire(*await asyncio.open_connection(*address(api))) for _ in range(300)]
    for each in connections:
        await each.send(head(f"/sandbox/{uid}/execute", JSON, "Content-Length: 1000"), b"{")
    try:
        await api.client.get("/health")
        began = time.monotonic()
        assert (await api.client.get("/health")).status_code == 200
        assert time.monotonic() - began < 1
    finally:
        for each in connections:
            each.writer.transport.abort()


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\n"], ids=["silent", "half a head"])
async def test_a_connection_without_a_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, wire: Open, sent: bytes
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    connection = await wire()
    await connection.send(sent)
    assert await connection.answer(5) == b""


async def test_a_trickle_does_not_keep_a_connection(monkeypatch: pytest.MonkeyPatch, wire: Open) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    connection = await wire()

    async def trickle() -> None:
        while True:
            await connection.send(b"G")
            await asyncio.sleep(0.05)

    async with asyncio.timeout(5):
        with pytest.raises(ConnectionError):
            await trickle()


async def test_a_second_request_has_a_deadline_too(monkeypatch: pytest.MonkeyPatch, wire: Open) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    connection = await wire()
    await connection.send(head("/health", method="GET"))
    assert await connection.status() == 200
    await connection.send(b"GET /health HTT")
    assert b"HTTP/1.1" not in await connection.answer(5)


async def test_a_connection_that_waits_between_requests_is_kept(monkeypatch: pytest.MonkeyPatch, wire: Open) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    connection = await wire()
    await connection.send(head("/health", method="GET"))
    assert await connection.status() == 200
    await asyncio.sleep(0.5)
    await connection.send(head("/health", "Connection: close", method="GET"))
    assert (await connection.answer()).count(b"HTTP/1.1 200 OK") == 1


async def test_a_body_that_comes_too_slowly_is_408(monkeypatch: pytest.MonkeyPatch, api: Api, wire: Open) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.2)
    uid, connection = await api.create(), await wire()
    await connection.send(head(f"/sandbox/{uid}/execute", JSON, "Content-Length: 1000"), b"{")
    answer = await connection.answer(5)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request-timeout" in answer


async def test_who_does_not_read_the_answer_is_let_go(monkeypatch: pytest.MonkeyPatch, api: Api, wire: Open) -> None:
    monkeypatch.setattr(limits, "SEND_SECONDS", 0.3)
    uid = await api.create()
    await api.execute(uid, command=["truncate", "-s", "100M", "big"])
    connection = await wire()
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await connection.send(head(f"/sandbox/{uid}/files/big", method="GET"))
    await asyncio.sleep(1)  # reads nothing for longer than it may
    connection.writer.transport.resume_reading()  # type: ignore[attr-defined]
    try:
        received = len(await connection.answer(5))
    except ConnectionError:
        return
    assert received < 50_000_000


MALFORMED: dict[str, tuple[bytes, set[int]]] = {
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n\r\n", {400}),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", {400, 404}),
    "long header": (head("/sandbox", "X: " + "y" * 100_000, method="GET"), {431}),
    "long query": (head("/sandbox?" + "y" * 100_000, method="GET"), {431}),
    "NUL in a header": (head("/sandbox", "X: a\x00b", method="GET"), {400}),
    "CR in a header": (head("/sandbox", "X: a\rSet-Cookie: b", method="GET"), {400}),
    "folded header": (head("/sandbox", " folded: x", method="GET"), {400, 403}),
    "negative length": (head("/sandbox/create", JSON, "Content-Length: -1"), {400}),
    "length in letters": (head("/sandbox/create", JSON, "Content-Length: abc"), {400}),
    "length of 5000 digits": (head("/sandbox/create", JSON, "Content-Length: " + "9" * 5000), {400}),
    "two lengths": (head("/sandbox/create", JSON, "Content-Length: 2", "Content-Length: 3") + b"{}}", {400}),
    "unknown transfer encoding": (head("/sandbox/create", JSON, "Transfer-Encoding: gzip"), {400, 501}),
    "broken chunk": (head("/sandbox/create", JSON, "Transfer-Encoding: chunked") + b"zz\r\n", {400}),
    "raw bytes in the path": (head(b"/sandbox/\xff", method="GET"), {400}),
    "path not UTF-8": (head("/sandbox/%ff", method="GET"), {400}),
    "query not UTF-8": (head("/sandbox?namespace=%ff", method="GET"), {422}),
    "absolute address": (head("http://attacker.example/sandbox", method="GET"), {404}),
    "body not UTF-8": (head("/sandbox/create", JSON, "Content-Length: 1") + b"\xff", {400}),
    "text not UTF-8": (head("/sandbox/create", JSON, "Content-Length: 12") + b'{"name":"\xff"}', {400}),
    "lone surrogate": (head("/sandbox/create", JSON, "Content-Length: 17") + b'{"name":"\\ud800"}', {400, 422}),
    "empty body": (head("/sandbox/create", JSON, "Content-Length: 0"), {400}),
    "deep nesting": (head("/sandbox/create", JSON, "Content-Length: 100000") + b"[" * 100_000, {400, 422}),
    "huge number": (
        head("/sandbox/create", JSON, "Content-Length: 5012") + b'{"wait":' + b"9" * 5003 + b"}",
        {400, 422},
    ),
    "no type": (head("/sandbox/create", "Content-Length: 2") + b"{}", {415}),
    "a form": (
        head("/sandbox/create", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 3") + b"a=b",
        {415},
    ),
    "websocket": (head("/health", "Upgrade: websocket", "Connection: Upgrade", method="GET"), {200}),
}


@pytest.mark.parametrize(("request_bytes", "statuses"), MALFORMED.values(), ids=MALFORMED)
async def test_malformed_requests_are_answered_as_such(wire: Open, request_bytes: bytes, statuses: set[int]) -> None:
    connection = await wire()
    await connection.send(request_bytes)
    assert await connection.status() in statuses


async def test_what_is_not_http_gets_a_problem_document(wire: Open) -> None:
    connection = await wire()
    await connection.send(b"hello\r\n\r\n")
    answer = await connection.answer()
    assert b"application/problem+json" in answer
    assert b"urn:agent-platform:problem:bad-request" in answer


async def test_nothing_of_a_request_becomes_a_header_of_the_answer(api: Api) -> None:
    uid, evil = await api.create(), "x\r\nSet-Cookie: a=b"
    answers = [
        await api.client.get(f"/sandbox/{uid}/files/x%0d%0aSet-Cookie:%20a=b"),
        await api.client.get("/sandbox", params={"name": evil}),
        await api.client.post("/sandbox/create", json={"name": evil}),
        await api.client.put(f"/sandbox/{uid}/files/x%0d%0aSet-Cookie:%20a=b", content=b""),
    ]
    for answer in answers:
        assert answer.status_code in (404, 422)
        assert "set-cookie" not in answer.headers


async def test_nothing_makes_a_500(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    uid = await api.create()
    bodies = [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"x"',
        b"1e999",
        b'{"code":null}',
        b'{"code":"x","files":{"a":null}}',
        b"{" * 1000,
    ]
    for path in ("/sandbox/create", f"/sandbox/{uid}/execute", f"/sandbox/{uuid4()}/execute"):
        for body in bodies:
            answer = await api.client.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code < 500, (path, body)
    assert "Traceback" not in caplog.text
