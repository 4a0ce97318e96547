"""Executions through `docker exec`, for images without the agent: the same promises, as far as they can be kept.

Docker cannot end an exec, so every process of one bears a marker in its environment, and another exec ends whatever bears
it. Results are kept in this process only: after a restart an execution is not run again, but its result is lost.
"""

import asyncio
import io
import shlex
import tarfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from controller.backends import (
    BackendError,
    Busy,
    Conflict,
    ExecRequest,
    ExecResult,
    FileInfo,
    NotFound,
    OutputChunk,
    Refused,
)
from controller.backends.docker.attach import STDERR, DockerStream
from controller.grammar import relative_path
from controller.model import Reason

MARKER = "SANDBOX_EXECUTION"
BEGIN = """\
mkdir "/tmp/.execution-$SANDBOX_EXECUTION" 2>/dev/null || { echo sandbox: ran before >&2; exit 96; }
cd -- "$0" || exit 125
exec "$@"
"""
RAN_BEFORE = (96, b"sandbox: ran before\n")
END = """\
for round in 1 2 3 4 5 6 7 8 9 10; do
  left=
  for process in /proc/[0-9]*; do
    if tr '\\0' '\\n' <"$process/environ" 2>/dev/null | grep -qxF "$0"; then
      kill -STOP "${process#/proc/}" 2>/dev/null; left="$left ${process#/proc/}"
    fi
  done
  [ -z "$left" ] && exit 0
  kill -KILL $left 2>/dev/null
done
exit 1
"""
"""Ends every process whose environment has the line "$0"; stopped first, so that none of them forks meanwhile."""
OOM_COUNT = "cat /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null | grep '^oom_kill '"
INSIDE = """\
real=$(readlink -f -- "{path}") || exit 94
case $real in /workspace/*) ;; *) exit 95 ;; esac
"""
NO_FILE, OUTSIDE = 94, 95
KILLED = 137
NOT_STARTED = 126
"""From here on it is the runtime that speaks: an exec in a container that is just ending."""
KEPT = 64
"""Finished executions of one sandbox whose results are kept."""
ANSWER_SECONDS = 15.0
"""For a small exec of our own: a file, an end."""

Open = Callable[[str, list[str], dict[str, str]], Awaitable[tuple[str, DockerStream]]]
"""(uid, argv, env) -> exec id and its stream."""
ExitCode = Callable[[str], Awaitable[int | None]]
"""exec id -> exit code, None while it runs."""


@dataclass
class _Run:
    """One execution and all that it printed, up to its limit."""

    request: ExecRequest
    chunks: list[OutputChunk] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=lambda: {"stdout": 0, "stderr": 0})
    dropped: dict[str, int] = field(default_factory=lambda: {"stdout": 0, "stderr": 0})
    cancelled: bool = False
    result: ExecResult | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        part = data[: self.request.output_limit - self.kept[stream]]
        self.kept[stream] += len(part)
        self.dropped[stream] += len(data) - len(part)
        if part:
            self.chunks.append(OutputChunk(stream, part))
            self.tell()

    def tell(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class ExecExecutions:
    """The port's `Executions`; `open_exec` creates and starts an exec."""

    def __init__(self, open_exec: Open, exit_code: ExitCode, max_executions: int) -> None:
        self._open, self._exit_code, self._max = open_exec, exit_code, max_executions
        self._runs: dict[str, OrderedDict[str, _Run]] = {}
        self._idle_since: dict[str, datetime] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def idle_since(self, uid: str) -> datetime | None:
        """When the last execution ended; None while one runs. A restart of ours counts as one."""
        if any(run.result is None for run in self._runs.get(uid, {}).values()):
            return None
        return self._idle_since.setdefault(uid, datetime.now(UTC))

    def forget(self, uid: str) -> None:
        """The sandbox is being removed."""
        self._runs.pop(uid, None)
        self._idle_since.pop(uid, None)

    def close(self) -> None:
        """Let go; what runs in the sandboxes goes on."""
        for task in self._tasks:
            task.cancel()

    async def execute(self, uid: str, request: ExecRequest) -> AsyncIterator[OutputChunk | ExecResult]:
        """As the port has it. Raises Refused for a context, which only the agent has."""
        if request.context:
            raise Refused(
                "this sandbox's image has no agent, so it keeps no contexts; leave `context` out", "NoContexts"
            )
        run = self._runs.setdefault(uid, OrderedDict()).get(request.id)
        if run is None:
            run = await self._begin(uid, request)
        elif run.request.digest != request.digest:
            raise Conflict(f"execution {request.id} was asked for before, with another request")
        told = 0
        while True:
            news = run.news
            while told < len(run.chunks):
                yield run.chunks[told]
                told += 1
            if run.result is not None:
                yield run.result
                return
            await news.wait()

    async def _begin(self, uid: str, request: ExecRequest) -> _Run:
        runs = self._runs[uid]
        if sum(run.result is None for run in runs.values()) >= self._max:
            raise Busy(f"sandbox {uid} runs {self._max} executions, the most at once (SANDBOX__MAX_EXECUTIONS)")
        run = runs[request.id] = _Run(request)
        try:
            if request.files:
                await self._put(uid, request.files)
            exec_id, stream = await self._open(uid, _argv(request), {**request.env, MARKER: request.id})
        except BaseException:
            del runs[request.id]
            raise
        task = asyncio.create_task(self._follow(uid, run, exec_id, stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    async def _follow(self, uid: str, run: _Run, exec_id: str, stream: DockerStream) -> None:
        """From the start of an execution to its result."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        timed_out = False
        code: int | None = None
        feeding = asyncio.create_task(_feed(stream, run.request.stdin))
        try:
            try:
                async with asyncio.timeout(run.request.timeout):
                    await _pump(stream, run)
            except TimeoutError:
                timed_out = True
            await self._end(uid, run.request.id)
            if timed_out:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await _pump(stream, run)
            code = await self._code(exec_id)
        except (BackendError, TimeoutError):
            code = None  # the sandbox is gone, or Docker is
        finally:
            feeding.cancel()
            stream.close()
            reason = await self._reason(uid, run, code, timed_out)
            code = None if reason is Reason.LOST else code
            duration = round((loop.time() - began) * 1000)
            run.result = ExecResult(
                run.request.id, code, reason, duration, "exec", run.dropped["stdout"], run.dropped["stderr"],
                signal=code - 128 if code is not None and code > 128 else None,
            )  # fmt: skip
            self._idle_since[uid] = datetime.now(UTC)
            run.tell()
            self._trim(uid)

    async def _reason(self, uid: str, run: _Run, code: int | None, timed_out: bool) -> Reason:
        if run.cancelled:
            return Reason.CANCELLED
        if timed_out:
            return Reason.TIMEOUT
        if code is None or (code, b"".join(chunk.data for chunk in run.chunks)) == RAN_BEFORE:
            return Reason.LOST
        if code == 0:
            return Reason.COMPLETED
        return await self._why_killed(uid) if code == KILLED else Reason.ERROR

    async def _why_killed(self, uid: str) -> Reason:
        """Whether memory, the end of the sandbox, or its own doing ended it; Docker does not say it of an exec."""
        try:
            code, output = await self._small(uid, ["sh", "-c", OOM_COUNT])
        except BackendError:
            return Reason.LOST
        if code >= NOT_STARTED:
            return Reason.LOST
        counts = [line.split()[-1] for line in output.splitlines() if line.startswith(b"oom_kill ")]
        return Reason.OOM_KILLED if any(count != b"0" for count in counts) else Reason.ERROR

    def _trim(self, uid: str) -> None:
        finished = [key for key, run in self._runs.get(uid, {}).items() if run.result is not None]
        for key in finished[:-KEPT]:
            del self._runs[uid][key]

    async def _code(self, exec_id: str) -> int | None:
        for _ in range(50):
            code = await self._exit_code(exec_id)
            if code is not None:
                return code
            await asyncio.sleep(0.1)
        return None

    async def _end(self, uid: str, execution_id: str) -> None:
        await self._small(uid, ["sh", "-c", END, f"{MARKER}={execution_id}"])

    async def cancel(self, uid: str, execution_id: str) -> None:
        run = self._runs[uid].get(execution_id) if uid in self._runs else None
        if run is None:
            raise NotFound(f"there is no execution {execution_id} in sandbox {uid}")
        if run.result is None:
            run.cancelled = True
            await self._end(uid, execution_id)

    # --- files ---

    async def _small(self, uid: str, argv: list[str], stdin: bytes = b"") -> tuple[int, bytes]:
        """A short exec of our own: its exit code and the first MiB of its stdout."""
        exec_id, stream = await self._open(uid, argv, {})
        feeding = asyncio.create_task(_feed(stream, stdin))
        output = bytearray()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while data := await stream.read(65536):
                    output += data[: (1 << 20) - len(output)]
                return await self._code(exec_id) or 0, bytes(output)
        except TimeoutError:
            raise BackendError(
                f"a docker exec in sandbox {uid} did not end in {ANSWER_SECONDS:g} s", "ExecStuck"
            ) from None
        finally:
            feeding.cancel()
            stream.close()

    async def _put(self, uid: str, files: Mapping[str, bytes]) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content))
        code, _ = await self._small(uid, ["tar", "-xf", "-", "-C", "/workspace"], buffer.getvalue())
        if code:
            raise Refused(f"the files were not written into sandbox {uid}: tar ended with {code}", "FilesNotWritten")

    async def put_file(self, uid: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        target = shlex.quote(_below_workspace(path))
        script = f'mkdir -p -- "$(dirname -- {target})" || exit 94\nreal=$(readlink -f -- {target})\n' + (
            'case $real in /workspace/*) ;; *) exit 95 ;; esac\ncat >"$real.part" && mv -f -- "$real.part" "$real"'
        )
        exec_id, stream = await self._open(uid, ["sh", "-c", script], {})
        try:
            async for chunk in chunks:
                stream.write(chunk)
                async with asyncio.timeout(ANSWER_SECONDS):
                    await stream.drain()
            stream.end_input()
            async with asyncio.timeout(ANSWER_SECONDS):
                while await stream.read(65536):
                    pass
                self._check(await self._code(exec_id), path)
        except TimeoutError:
            raise BackendError(f"{path} was not taken by sandbox {uid} in time", "ExecStuck") from None
        finally:
            stream.close()

    async def get_file(self, uid: str, path: str) -> AsyncIterator[bytes]:
        script = INSIDE.format(path="$0") + 'test -f "$real" || exit 94; exec cat -- "$real"'
        exec_id, stream = await self._open(uid, ["sh", "-c", script, _below_workspace(path)], {})
        try:
            while True:
                async with asyncio.timeout(ANSWER_SECONDS):
                    data = await stream.read(65536)
                if not data:
                    break
                yield data
            self._check(await self._code(exec_id), path)
        finally:
            stream.close()

    async def list_files(self, uid: str, path: str = "") -> list[FileInfo]:
        script = 'cd -- "$0" 2>/dev/null || exit 94; find . -type f -exec stat -c "%s %n" {} + | head -n 10000'
        folder = _below_workspace(path) if path else "/workspace"
        code, output = await self._small(uid, ["sh", "-c", script, folder])
        self._check(code, path)
        rows = (line.decode("utf-8", "replace").partition(" ") for line in output.splitlines())
        prefix = f"{path}/" if path else ""
        return [FileInfo(prefix + name.removeprefix("./"), int(size)) for size, _, name in rows if size.isdigit()]

    def _check(self, code: int | None, path: str) -> None:
        if code == NO_FILE:
            raise NotFound(f"there is no file {path} in the workspace")
        if code == OUTSIDE:
            raise Refused(f"{path} leads out of the workspace", "OutsideWorkspace")
        if code:
            raise Refused(f"{path}: the sandbox's own tools ended with {code}", "FileRefused")


def _argv(request: ExecRequest) -> list[str]:
    program = {
        "python": ["python3", "-u", "-c", request.code],
        "bash": ["bash", "-c", request.code],
        "command": list(request.command),
    }[request.kind]
    cwd = request.cwd if request.cwd.startswith("/") else f"/workspace/{request.cwd}"
    return ["sh", "-c", BEGIN, cwd, *program]


async def _feed(stream: DockerStream, data: bytes) -> None:
    for start in range(0, len(data), 65536):
        stream.write(data[start : start + 65536])
        await stream.drain()
    stream.end_input()


async def _pump(stream: DockerStream, run: _Run) -> None:
    """Read to the end; beyond the limit bytes are counted and dropped, so that the program never waits for us."""
    while True:
        number, data = await stream.piece()
        if not data:
            return
        run.add("stderr" if number == STDERR else "stdout", data)


def _below_workspace(path: str) -> str:
    """The absolute path of a file in the workspace. Raises Refused for one that leaves it by its words."""
    try:
        return f"/workspace/{relative_path(path)}"
    except ValueError as error:
        raise Refused(f"{path!r} {error}", "OutsideWorkspace") from error
