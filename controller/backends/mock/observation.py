"""What the folder and the processes of a mock sandbox tell about it, now and after any crash."""

import base64
import binascii
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controller.backends import Limits, Observation, RunState, Tail
from controller.backends.mock.folder import LOG_BYTES, RESULT, RESULT_BYTES, Folder, Record
from controller.backends.mock.processes import agent_process
from controller.backends.tail import tail_of
from controller.model import BackendName, Isolation

KILLED = 137
"""Exit code of what SIGKILL ended: 128 + 9."""


def look(folder: Folder, *, with_tail: bool) -> tuple[Record, Observation] | None:
    """The sandbox of this folder now, without its readiness; None where there is none.

    Blocks. Raises BackendError, OSError.
    """
    record = folder.record()
    if record is None:
        return None
    agent = agent_process(folder.identity(record))  # first: what it wrote before it ended is there afterwards
    started_at = _time_of(folder.started)
    if agent is not None:
        state = RunState.PAUSED if agent.state in "Tt" else RunState.RUNNING
    else:
        state = RunState.CREATED if started_at is None else RunState.EXITED
    result = _result(folder) if state is RunState.EXITED else {}
    return record, Observation(
        uid=record.uid,
        namespace=record.namespace,
        name=record.name,
        backend=BackendName.MOCK,
        state=state,
        path="" if record.has_run else "agent",
        container_name=f"sbx-{record.uid}",
        isolation=Isolation.NONE,
        limits=Limits(memory=record.memory, pids=record.pids, network="host"),
        fixed=record.fixed,
        created_at=datetime.fromisoformat(record.created_at),
        started_at=started_at,
        finished_at=_finished_at(folder, started_at) if state is RunState.EXITED else None,
        exit_code=_exit_code(folder, result) if state is RunState.EXITED else None,
        oom_killed=result.get("reason") == "OOMKilled",
        tail=_tail(folder, result) if with_tail and record.has_run and state is RunState.EXITED else None,
    )


def _result(folder: Folder) -> dict[str, Any]:
    """What the agent wrote of `run`. The program could have written it as well: nothing in it is taken for granted."""
    try:
        found = json.loads(folder.read_box(RESULT, RESULT_BYTES))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _exit_code(folder: Folder, result: dict[str, Any]) -> int | None:
    code = result.get("exit_code")
    if type(code) is int and 0 <= code <= 255:
        return code
    return KILLED if folder.killed.exists() else None


def _finished_at(folder: Folder, started_at: datetime | None) -> datetime | None:
    ended = _time_of(folder.box / RESULT) or _time_of(folder.killed)
    if ended is None or started_at is None:
        return ended
    return max(started_at, min(ended, datetime.now(UTC)))  # a program can set the time of its files


def _tail(folder: Folder, result: dict[str, Any]) -> Tail:
    """The end of the output; of a program that was killed, the end of what its log kept."""
    if isinstance(result.get("stdout"), str) and isinstance(result.get("stderr"), str):
        return tail_of(_decoded(result["stdout"]), _decoded(result["stderr"]), cut=result.get("truncated") is True)
    stdout, stderr = (folder.read_box(stream, LOG_BYTES) for stream in ("stdout", "stderr"))
    return tail_of(stdout, stderr, cut=max(len(stdout), len(stderr)) >= LOG_BYTES)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""


def _time_of(path: Path) -> datetime | None:
    """When this file was last written, None where there is none."""
    try:
        return datetime.fromtimestamp(path.lstat().st_mtime, UTC)
    except FileNotFoundError:
        return None
