"""The asynchronous face, of which the blocking one is made."""

import asyncio
import uuid
from collections.abc import Callable

import pytest

from controller import AsyncSandbox, AsyncSandboxManager, Output, Result
from controller.backends import BackendError
from controller.client import ApiClient
from tests.library.served import served


async def test_a_sandbox_is_awaited_or_used_in_a_block(open_manager: Callable[..., AsyncSandboxManager]) -> None:
    async with open_manager(AsyncSandboxManager) as manager:
        sandbox = await manager.create()
        assert (await sandbox.execute("print(1)")).stdout == "1\n"
        await sandbox.remove()
        async with manager.create() as other:
            assert (await other.run(["echo", "2"])).stdout == "2\n"
        with pytest.raises(BackendError):
            await other.execute("print(3)")


async def test_executions_of_one_sandbox_run_side_by_side(open_manager: Callable[..., AsyncSandboxManager]) -> None:
    meeting = "open('{0}', 'w')\nimport os\nwhile not os.path.exists('{1}'): pass\nprint('met')"
    async with open_manager(AsyncSandboxManager) as manager, manager.create() as sandbox:
        both = await asyncio.gather(
            sandbox.execute(meeting.format("a", "b")), sandbox.execute(meeting.format("b", "a"))
        )
        assert [each.stdout for each in both] == ["met\n", "met\n"]


async def test_a_stream_ends_with_its_result(open_manager: Callable[..., AsyncSandboxManager]) -> None:
    async with open_manager(AsyncSandboxManager) as manager, manager.create() as sandbox:
        items = [item async for item in sandbox.stream("import sys; sys.stderr.write('x'); sys.exit(3)")]
    assert items[:-1] == [Output("stderr", b"x")]
    assert isinstance(items[-1], Result) and items[-1].exit_code == 3


async def test_cancelling_the_task_ends_the_program(open_manager: Callable[..., AsyncSandboxManager]) -> None:
    marker = f"{uuid.uuid4().int % 10**9}.25"
    count = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '[s]leep {marker}'"
    async with open_manager(AsyncSandboxManager) as manager, manager.create() as sandbox:

        async def running() -> int:
            return int((await sandbox.execute(count, "bash")).stdout)

        task = asyncio.create_task(sandbox.run(["sleep", marker]))
        async with asyncio.timeout(10):
            while not await running():
                pass
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while await running():
                pass


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.05])
async def test_a_creation_that_is_cancelled_leaves_nothing(moment: float) -> None:
    with served() as url:
        async with AsyncSandboxManager(url=url) as manager:
            creating = asyncio.ensure_future(_awaited(manager))
            await asyncio.wait([creating], timeout=moment)
            creating.cancel()
            with pytest.raises(asyncio.CancelledError):
                await creating
        async with ApiClient(url) as client:
            assert await client.list_sandboxes() == ([], 0)


async def _awaited(manager: AsyncSandboxManager) -> AsyncSandbox:
    return await manager.create()


@pytest.mark.parametrize("token", ["s3cret\nX: y", "s3cret\x00", "s3cr\u00e9t"])
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="the token has characters") as refused:
        AsyncSandboxManager(url="http://127.0.0.1:1", token=token)
    assert "s3cr" not in str(refused.value)


async def test_a_line_break_at_the_end_of_a_token_is_none_of_it() -> None:
    with served(key="key-for-tests") as url:
        async with AsyncSandboxManager(url=url, token="key-for-tests\n") as manager:
            assert not await manager.is_docker_available()
