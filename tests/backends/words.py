"""The words of the contract suite: sandboxes, executions, waiting, and what still runs on this machine."""

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest

from controller.backends import Backend, ExecRequest, ExecResult, Observation, OutputChunk, RunState
from controller.model import Sandbox, SandboxSpec

T = TypeVar("T")
_numbers = itertools.count(1)


def sandbox(**spec: Any) -> Sandbox:
    """A new Sandbox object with this spec."""
    uid = str(uuid4())
    return Sandbox(uid=uid, name=f"test-{uid[:8]}", namespace="tests", spec=SandboxSpec.model_validate(spec))


def python(code: str, **run: Any) -> Sandbox:
    """A sandbox that runs Python code and finishes."""
    return sandbox(run={"language": "python", "code": code, **run})


def request(code: str, kind: str = "python", **fields: Any) -> ExecRequest:
    """An execution with an id of its own."""
    fields = {"id": uuid4().hex, "digest": sha256(code.encode()).hexdigest(), "timeout": 20.0} | fields
    return ExecRequest(kind=kind, code=code, **fields)


def bash(code: str, **fields: Any) -> ExecRequest:
    return request(code, "bash", **fields)


@dataclass(frozen=True)
class Ended:
    """An execution that was followed to its end."""

    result: ExecResult
    stdout: bytes
    stderr: bytes


async def execute(backend: Backend, uid: str, asked: ExecRequest) -> Ended:
    output = {"stdout": bytearray(), "stderr": bytearray()}
    result = None
    async for item in backend.executions.execute(uid, asked):
        if isinstance(item, OutputChunk):
            output[item.stream] += item.data
        else:
            assert result is None, "a second result"
            result = item
    assert result is not None, "no result"
    return Ended(result, bytes(output["stdout"]), bytes(output["stderr"]))


async def until(what: str, look: Callable[[], Awaitable[T]], seconds: float = 20) -> T:
    """Look again and again until something true is seen."""
    deadline = time.monotonic() + seconds
    while not (seen := await look()):
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds} s still not: {what}")
        await asyncio.sleep(0.02)
    return seen


async def finished(backend: Backend, uid: str, seconds: float = 30) -> Observation:
    async def exited() -> Observation | None:
        seen = await backend.observe(uid)
        assert seen is not None, "the sandbox is gone"
        return seen if seen.state is RunState.EXITED else None

    return await until("exited", exited, seconds)


def new_mark() -> str:
    """Seconds for `sleep` by which the process is found again on this machine."""
    return f"{31_000_000 + os.getpid() % 100_000}.{next(_numbers)}"


def living(mark: str) -> list[int]:
    """pids of the processes on this machine (those in containers too) with `mark` among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                pass
    return found


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def true(seen: object) -> bool:
    """For `until`, where what is looked at needs no waiting."""
    return bool(seen)
