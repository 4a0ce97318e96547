"""The link to a real agent."""

import asyncio
import random
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest

from controller.backends import Busy, Conflict, ExecResult, Listing, NotFound, OutputChunk, Refused
from controller.backends.agent.link import LinkLost
from controller.model import Reason
from tests.link.conftest import Open, collect, request


async def test_an_execution_yields_chunks_and_then_one_result(open_link: Open) -> None:
    link = await open_link()
    items = [
        item
        async for item in link.execute(request("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"))
    ]
    assert isinstance(items[-1], ExecResult)
    assert [type(item) for item in items[:-1]] == [OutputChunk] * (len(items) - 1)
    assert (items[-1].exit_code, items[-1].reason, items[-1].path) == (3, Reason.ERROR, "agent")


async def test_every_field_of_a_request_arrives(open_link: Open) -> None:
    link = await open_link()
    stdout, _, _ = await collect(
        link.execute(
            request(
                kind="bash",
                code='cat in/a; cat; echo "$A"; pwd',
                stdin=b"stdin\xff\n",
                env={"A": "ü"},
                files={"in/a": b"\x00\x01\n"},
                cwd="",
            )
        )
    )
    assert stdout.startswith(b"\x00\x01\nstdin\xff\n\xc3\xbc\n/")
    stdout, _, _ = await collect(link.execute(request(kind="command", command=("echo", "a b"), execution_id="y")))
    assert stdout == b"a b\n"
    await collect(link.execute(request("kept = 5", "z1", context="c")))
    assert (await collect(link.execute(request("print(kept)", "z2", context="c"))))[0] == b"5\n"


async def test_long_requests_and_long_stdin_pass_whole(open_link: Open) -> None:
    link = await open_link()
    code = "# " + "x" * 3_000_000 + "\nimport sys; print(len(sys.stdin.buffer.read()))"
    assert (await collect(link.execute(request(code, stdin=bytes(5_000_000)))))[0] == b"5000000\n"


async def test_stdin_goes_on_over_a_new_link_where_the_lost_one_ended(open_link: Open) -> None:
    first = await open_link()
    code = """
import hashlib, sys
print(len(sys.stdin.buffer.read(100_000)), flush=True)
open("go").read()
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"""
    asked = request(f"import os; os.mkfifo('go')\n{code}", stdin=random.Random(1).randbytes(3_000_000))
    lost = first.execute(asked)
    assert await anext(lost) == OutputChunk("stdout", b"100000\n")
    (channel,) = first._channels.values()
    async with asyncio.timeout(10):
        while channel.may_send:  # until the agent holds all that it may, while the program reads nothing
            await asyncio.sleep(0.01)
    second = await open_link()
    with pytest.raises(LinkLost):
        await anext(lost)
    going_on = asyncio.create_task(collect(second.execute(asked)))
    await collect(second.execute(request("open('go', 'w').close()", "go")))
    assert (await going_on)[0].decode() == f"100000\n{sha256(asked.stdin[100_000:]).hexdigest()}\n"


async def test_two_that_ask_for_the_same_execution_bring_its_stdin_once(open_link: Open) -> None:
    link = await open_link()
    asked = request("import sys; print(len(sys.stdin.buffer.read()))", stdin=bytes(5_000_000))
    both = await asyncio.gather(*(collect(link.execute(asked)) for _ in range(2)))
    assert [stdout for stdout, _, _ in both] == [b"5000000\n"] * 2


async def test_output_beyond_the_limit_is_counted(open_link: Open) -> None:
    link = await open_link()
    stdout, _, result = await collect(link.execute(request("print('x' * 10_000_000)", output_limit=1 << 20)))
    assert len(stdout) == 1 << 20
    assert result.dropped_stdout == 10_000_001 - (1 << 20)


async def test_many_executions_share_a_link(open_link: Open) -> None:
    link = await open_link()
    works = [collect(link.execute(request(f"print({n} * 'ab' + '!')", f"n{n}"))) for n in range(20)]
    for number, (stdout, _, _) in enumerate(await asyncio.gather(*works)):
        assert stdout == b"ab" * number + b"!\n"


async def test_a_slow_consumer_holds_nobody_up_and_misses_nothing(open_link: Open) -> None:
    link = await open_link()
    slow = link.execute(request("import sys; sys.stdout.write('x' * 3_000_000)", "slow", output_limit=4 << 20))
    first = await anext(slow)
    assert isinstance(first, OutputChunk)
    for number in range(5):
        assert (await collect(link.execute(request(execution_id=f"q{number}"))))[0] == b"2\n"
    rest, _, result = await collect(slow)
    assert len(first.data) + len(rest) == 3_000_000
    assert result.dropped_stdout == 0


async def test_an_execution_that_nobody_listens_to_goes_on(open_link: Open) -> None:
    link = await open_link()
    code = "import time, sys\nfor i in range(5): sys.stdout.write('y' * 200_000); time.sleep(0.02)"
    items = link.execute(request(code, "left"))
    await anext(items)
    await items.aclose()
    stdout, _, result = await collect(link.execute(request(code, "left")))
    assert (len(stdout), result.reason) == (1_000_000, Reason.COMPLETED)


async def test_leaving_executions_early_uses_nothing_up(open_link: Open) -> None:
    link = await open_link()
    await collect(link.execute(request("print('z' * 1_000_000)", "again")))
    for _ in range(150):  # more than the agent has channels
        items = link.execute(request("print('z' * 1_000_000)", "again"))
        await anext(items)
        await items.aclose()
    assert (await collect(link.execute(request())))[0] == b"2\n"


async def test_a_new_link_goes_on_where_the_old_one_broke(open_link: Open) -> None:
    first = await open_link()
    code = "import time\nfor i in range(10): print(i); time.sleep(0.05)"
    items = first.execute(request(code, "moved"))
    seen = {"stdout": 0, "stderr": 0}
    text = b""
    async for item in items:
        assert isinstance(item, OutputChunk)
        text += item.data
        seen["stdout"] += len(item.data)
        if b"3" in text:
            break
    second = await open_link()
    assert "moved" in second.hello.running
    with pytest.raises(LinkLost):
        await anext(items)
    rest, _, result = await collect(second.execute(request(code, "moved"), seen))
    assert text + rest == b"".join(b"%d\n" % i for i in range(10))
    assert result.exit_code == 0
    assert (await collect(second.attach("moved")))[0] == text + rest


async def test_ids_are_run_once(open_link: Open) -> None:
    link = await open_link()
    code = "open('ran', 'a').write('x'); print(open('ran').read())"
    results = [await collect(link.execute(request(code, "once"))) for _ in range(3)]
    assert results[0] == results[1] == results[2]
    with pytest.raises(Conflict):
        await collect(link.execute(request(code, "once", digest="other")))
    with pytest.raises(NotFound):
        await collect(link.attach("never"))


async def test_cancelling_ends_an_execution(open_link: Open) -> None:
    link = await open_link()
    items = link.execute(request("print('up', flush=True)\nimport time; time.sleep(50)", "c"))
    await anext(items)
    await link.cancel("c")
    assert (await collect(items))[2].reason == Reason.CANCELLED
    with pytest.raises(NotFound):
        await link.cancel("never")


async def test_cancelling_what_is_over_and_forgotten_is_fine(open_link: Open) -> None:
    link = await open_link()
    for number in range(258):  # it keeps 256
        await collect(link.execute(request("pass", f"n{number}")))
    with pytest.raises(NotFound, match="no longer kept"):
        await collect(link.attach("n0"))
    await link.cancel("n0")


async def test_a_refused_request_says_why(open_link: Open) -> None:
    link = await open_link()
    with pytest.raises(Refused, match="cwd"):
        await collect(link.execute(request(cwd="nowhere")))
    with pytest.raises(Refused):
        await collect(link.execute(request(files={"../x": b""}, execution_id="x2")))
    for number in range(link.hello.max_executions):
        await anext(link.execute(request("print(1, flush=True)\nimport time; time.sleep(30)", f"b{number}")))
    with pytest.raises(Busy):
        await collect(link.execute(request(execution_id="one-more")))


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_files_go_in_and_come_out(open_link: Open) -> None:
    link = await open_link()
    await link.put_file("a/b", chunks(b"x" * 1_000_000, b"", b"y" * 300_000))
    content = b"".join([chunk async for chunk in link.get_file("a/b")])
    assert content == b"x" * 1_000_000 + b"y" * 300_000
    await link.put_file("empty", chunks())
    assert {(file.path, file.size) for file in (await link.list_files()).files} == {("a/b", 1_300_000), ("empty", 0)}
    for path in ("../x", "/etc/passwd", "a"):
        with pytest.raises(Refused):
            await link.put_file(path, chunks(b"x" * 500_000))
    with pytest.raises(NotFound):
        async for _ in link.get_file("nothing"):
            pass
    with pytest.raises(NotFound):
        await link.list_files("nothing")


async def test_a_transfer_that_fails_halfway_leaves_nothing(open_link: Open) -> None:
    link = await open_link()

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ValueError("the client went away")

    with pytest.raises(ValueError, match="went away"):
        await link.put_file("half", broken())
    assert await link.list_files() == Listing([], truncated=False)
