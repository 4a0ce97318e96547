"""A sandbox that forges or floods hurts only its own link."""

import asyncio
import os
import random
import resource
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.backends import BackendError, Refused
from controller.backends.agent.frames import MAX_PAYLOAD, WINDOW, FrameReader, Kind, encode
from controller.backends.agent.link import MAX_WASTE, AgentLink, LinkLost
from tests.link.conftest import HostileAgent, SocketStream, collect, request

Hostile = tuple[SocketStream, HostileAgent]
RESULT: dict[str, Any] = {
    "exit_code": 0,
    "signal": None,
    "reason": "Completed",
    "dropped_stdout": 0,
    "dropped_stderr": 0,
    "duration_ms": 1,
    "peak_memory": None,
    "cpu_seconds": None,
}


async def greeted(hostile: Hostile, **hello: object) -> tuple[AgentLink, HostileAgent]:
    stream, agent = hostile
    link, _ = await asyncio.gather(AgentLink.open(stream, 5), agent.greet(**hello))
    return link, agent


@given(
    st.lists(st.binary(max_size=200)),
    st.lists(st.tuples(st.integers(1, 12), st.binary(max_size=300)), max_size=5),
    st.randoms(),
)
def test_frames_are_found_in_any_noise_however_it_is_cut(
    noise: list[bytes], frames: list[tuple[int, bytes]], rng: random.Random
) -> None:
    token = b"\x01token!\x02"
    data = b""
    for number, (kind, payload) in enumerate(frames):
        data += (noise[number] if number < len(noise) else b"") + encode(token, Kind(kind), number, payload)
    reader, found = FrameReader(token), []
    while data:
        cut = rng.randint(1, 400)
        found += list(reader.feed(data[:cut]))
        data = data[cut:]
    assert [(kind, payload) for kind, _, payload in found] == frames


@given(st.binary(max_size=4000))
def test_a_reader_of_frames_never_raises_and_keeps_little(data: bytes) -> None:
    token = b"\x00\x00\x00\x00\x00\x00\x00\x01"
    reader = FrameReader(token)
    for _ in range(40):
        list(reader.feed(token + data))
    assert len(reader._buffer) <= MAX_PAYLOAD + 21 + 4100


@pytest.mark.parametrize(
    "hello",
    [
        {"protocol": 2},
        {"running": "x"},
        {"idle_seconds": 1e300},
        {"idle_seconds": -1},
        {"kept": -5},
        {"version": "v" * 9000},
    ],
)
async def test_an_agent_of_another_kind_is_refused(hostile: Hostile, hello: dict[str, object]) -> None:
    with pytest.raises(Refused, match="protocol"):
        await greeted(hostile, **hello)


async def test_silence_ends_the_wait(hostile: Hostile) -> None:
    stream, _ = hostile
    with pytest.raises(LinkLost):
        await AgentLink.open(stream, 0.1)


async def test_an_end_of_the_stream_reaches_every_caller(hostile: Hostile) -> None:
    link, agent = await greeted(hostile)
    waiting = [asyncio.create_task(collect(link.execute(request(execution_id=f"e{n}")))) for n in range(3)]
    await agent.next_channel()
    agent.writer.close()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, LinkLost)
    assert link.lost
    with pytest.raises(LinkLost):
        await link.cancel("x")


@pytest.mark.parametrize(
    "result",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 30_000,
        {**RESULT, "exit_code": 256},
        {**RESULT, "exit_code": "0"},
        {**RESULT, "exit_code": -1},
        {**RESULT, "reason": "Lost"},
        {**RESULT, "reason": None},
        {**RESULT, "duration_ms": 10**30},
        {**RESULT, "cpu_seconds": float("inf")},
        {**RESULT, "signal": 0},
        {**RESULT, "dropped_stdout": -1},
    ],
)
async def test_a_result_that_is_none_ends_the_link(hostile: Hostile, result: object) -> None:
    link, agent = await greeted(hostile)
    running = asyncio.create_task(collect(link.execute(request())))
    agent.say(Kind.RESULT, await agent.next_channel(), result)
    with pytest.raises(LinkLost):
        await running
    assert link.lost


async def test_output_beyond_the_limit_ends_the_link(hostile: Hostile) -> None:
    link, agent = await greeted(hostile)
    running = asyncio.create_task(collect(link.execute(request(output_limit=1000))))
    agent.say(Kind.STDOUT, await agent.next_channel(), bytes(1001))
    with pytest.raises(LinkLost, match="more than 1000"):
        await running


async def test_results_of_others_cannot_be_forged_from_a_program(hostile: Hostile) -> None:
    link, agent = await greeted(hostile)
    running = asyncio.create_task(collect(link.execute(request())))
    channel = await agent.next_channel()
    for token in (os.urandom(8), bytes(8), b"\xff" * 8):
        agent.write(encode(token, Kind.RESULT, channel, b'{"exit_code": 99}'))
    inner = encode(os.urandom(8), Kind.RESULT, channel, b'{"exit_code": 98}')
    agent.say(Kind.STDOUT, channel, inner)
    agent.say(Kind.RESULT, channel, RESULT)
    stdout, _, result = await running
    assert (stdout, result.exit_code) == (inner, 0)


FLOODS: dict[str, Callable[[HostileAgent, int], bytes]] = {
    "noise": lambda agent, channel: os.urandom(65536),
    "zeros": lambda agent, channel: bytes(65536),
    "frames to nobody": lambda agent, channel: encode(agent.token, Kind.STDOUT, 99, bytes(MAX_PAYLOAD)),
    "tiny frames to nobody": lambda agent, channel: encode(agent.token, Kind.STDOUT, 99, b"x") * 2000,
    "output beyond the credit": lambda agent, channel: encode(agent.token, Kind.STDOUT, channel, bytes(MAX_PAYLOAD)),
    "words": lambda agent, channel: encode(agent.token, Kind.STARTED, channel, b"{}") * 500,
    "unknown kinds": lambda agent, channel: encode(agent.token, 77, channel, bytes(100)) * 500,  # type: ignore[arg-type]
    "bad checksums": lambda agent, channel: (agent.token + bytes(5) + b"\x00\x00\x00\x02" + b"abcd" + b"xx") * 2000,
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_ends_the_link_and_nothing_grows(hostile: Hostile, flood: str) -> None:
    link, agent = await greeted(hostile)
    # Nobody takes from this channel: its output may not pile up.
    items = link.execute(request(timeout=60, output_limit=1 << 30))
    first = asyncio.create_task(anext(items))
    channel = await agent.next_channel()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    agent.say(Kind.STDOUT, channel, b"x")
    await first
    sent = 0
    with pytest.raises((ConnectionError, LinkLost)):
        async with asyncio.timeout(30):
            while sent < 20 * MAX_WASTE:
                data = FLOODS[flood](agent, channel)
                agent.write(data)
                sent += len(data)
                await agent.writer.drain()
                if link.lost:
                    raise ConnectionError
    assert sent < 2 * MAX_WASTE + 64 * WINDOW
    with pytest.raises(LinkLost):
        while True:
            await anext(items)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024  # KiB


async def test_endless_tiny_output_is_kept_as_its_bytes(hostile: Hostile) -> None:
    link, agent = await greeted(hostile)
    items = link.execute(request())
    first = asyncio.create_task(anext(items))
    channel = await agent.next_channel()
    for number in range(WINDOW // 2):
        agent.say((Kind.STDOUT, Kind.STDERR)[number % 2], channel, b"x")
        if number % 1000 == 0:
            await agent.writer.drain()
    agent.say(Kind.RESULT, channel, RESULT)
    chunk = await first
    stdout, stderr, _ = await collect(items)
    assert len(stdout) + len(stderr) + len(chunk.data) == WINDOW // 2  # type: ignore[union-attr]


async def test_an_agent_that_never_reads_ends_the_link(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.backends.agent.link.ANSWER_SECONDS", 0.2)
    link, _ = await greeted(hostile)
    with pytest.raises(LinkLost, match="takes nothing"):
        await collect(link.execute(request("#" * 10_000_000)))


async def test_an_agent_that_never_answers_ends_the_wait(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.backends.agent.link.GRACE_SECONDS", 0.1)
    link, _ = await greeted(hostile)
    with pytest.raises(LinkLost, match="does not answer"):
        await collect(link.execute(request(timeout=0.1)))


async def test_a_listing_of_nonsense_is_no_listing(hostile: Hostile) -> None:
    link, agent = await greeted(hostile)
    listing = asyncio.create_task(link.list_files())
    channel = await agent.next_channel()
    agent.say(Kind.DATA, channel, b'{"path": "a", "type": "file", "bytes": -4}\n')
    agent.say(Kind.RESULT, channel, {})
    with pytest.raises(BackendError):
        await listing
