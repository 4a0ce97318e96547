"""What sandboxes take, told by every backend."""

import pytest

from controller.backends import Backend, NotFound, NotRunning
from tests.backends.words import execute, request, sandbox


async def test_usage_tells_memory_and_time_that_a_program_took(backend: Backend, up: str) -> None:
    before = await backend.usage(up)
    assert before.memory > 2**18 and before.processes >= 1
    hold = "held = bytearray(48 << 20)\nimport time\nwhile time.process_time() < 0.3: pass"
    context = "held" if (await backend.observe(up)).path == "agent" else ""  # type: ignore[union-attr]
    await execute(backend, up, request(hold, context=context))
    after = await backend.usage(up)
    assert after.cpu_seconds - before.cpu_seconds >= 0.25
    assert after.memory - before.memory >= (40 << 20 if context else -(8 << 20))


async def test_there_is_no_usage_of_what_is_not_there(backend: Backend) -> None:
    with pytest.raises(NotFound):
        await backend.usage(sandbox().uid)


async def test_there_is_no_usage_of_what_has_ended(backend: Backend, up: str) -> None:
    await backend.kill(up)
    with pytest.raises(NotRunning):
        await backend.usage(up)
