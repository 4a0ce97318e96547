"""Executions through `docker exec`, for images without the agent: the same promises, as far as they can be kept.

Docker cannot end an exec, so every process of one bears a marker in its environment, and another exec ends whatever bears
it. Results are kept in this process only: after a restart an execution is not run again, but its result is lost.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from controller.backends import (
    BackendError,
    Busy,
    Conflict,
    ExecRequest,
    ExecResult,
    Listing,
    NotFound,
    OutputChunk,
    Refused,
    Unavailable,
)
from controller.backends.docker.attach import STDERR, DockerStream
from controller.backends.docker.exec_files import ANSWER_SECONDS, ExecFiles, ExitCode, Open, feed
from controller.model import Reason

MARKER = "SANDBOX_EXECUTION"
BEGIN = """\
mkdir "/tmp/.execution-$SANDBOX_EXECUTION" 2>/dev/null || { echo sandbox: ran before >&2; exit 96; }
cd -- "$0" || exit 125
code=/tmp/.code-$SANDBOX_EXECUTION
[ ! -e "$code" ] || { exec 9<"$code" && rm -f "$code"; } || exit 125
exec "$@"
"""
LONG = 100_000
"""Bytes of code that come as a file: one argument may have 128 KiB."""
FROM_FILE = "exec(compile(open(9, encoding='utf-8').read(), '<string>', 'exec'))"
STORE = 'cat >"/tmp/.code-$0"'
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
KILLED = 137
NOT_STARTED = 126
"""From here on it is the runtime that speaks: an exec in a container that is just ending."""
KEPT, KEPT_BYTES = 64, 16 << 20
"""Finished executions of one sandbox whose results are kept, and their output; the oldest is dropped first."""
AGAIN_SECONDS = 0.2
"""Before what did not end is ended again: it may just begin, and not be there to be ended yet."""

Stream = Literal["stdout", "stderr"]


@dataclass
class _Run:
    """One execution and all that it printed, up to its limit. The request is not kept: it may be large."""

    id: str
    digest: str
    limit: int
    oom_kills: int
    """Of the sandbox before it began, as far as is known."""
    output: dict[Stream, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    dropped: dict[Stream, int] = field(default_factory=lambda: {"stdout": 0, "stderr": 0})
    cancelled: bool = False
    result: ExecResult | None = None
    refused: BackendError | None = None
    """Why it never began."""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return self.result is not None or self.refused is not None

    @property
    def size(self) -> int:
        return sum(map(len, self.output.values()))

    def add(self, stream: Stream, data: bytes) -> None:
        kept = self.output[stream]
        part = data[: self.limit - len(kept)]
        kept += part
        self.dropped[stream] += len(data) - len(part)
        if part:
            self.tell()

    def tell(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class ExecExecutions:
    """The port's `Executions`; `open_exec` creates and starts an exec."""

    def __init__(self, open_exec: Open, exit_code: ExitCode, max_executions: int) -> None:
        self._open, self._max = open_exec, max_executions
        self._files = ExecFiles(open_exec, exit_code)
        self._runs: dict[str, OrderedDict[str, _Run]] = {}
        self._idle_since: dict[str, datetime] = {}
        self._oom_kills: dict[str, int] = {}
        """uid -> how many processes the kernel had killed for memory, when it was last asked."""
        self._tasks: set[asyncio.Task[None]] = set()

    def idle_since(self, uid: str) -> datetime | None:
        """When the last execution ended; None while one runs. A restart of ours counts as one."""
        if any(not run.over for run in self._runs.get(uid, {}).values()):
            return None
        return self._idle_since.setdefault(uid, datetime.now(UTC))

    def forget(self, uid: str) -> None:
        """The sandbox is being removed."""
        self._runs.pop(uid, None)
        self._idle_since.pop(uid, None)
        self._oom_kills.pop(uid, None)

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
        run = self._runs[uid].get(request.id) if uid in self._runs else None
        if run is None:
            run = self._begin(uid, request)
        elif run.digest != request.digest:
            raise Conflict(f"execution {request.id} was asked for before, with another request")
        told = dict.fromkeys(run.output, 0)
        while True:
            news, result = run.news, run.result
            if run.refused is not None:
                raise run.refused
            for stream, kept in run.output.items():
                if data := bytes(kept[told[stream] :]):
                    told[stream] += len(data)
                    yield OutputChunk(stream, data)
            if result is not None:
                yield result
                return
            await news.wait()

    def _begin(self, uid: str, request: ExecRequest) -> _Run:
        """In a task of its own: who asked may go away, and a second one may ask for the same."""
        runs = self._runs.setdefault(uid, OrderedDict())
        if sum(not run.over for run in runs.values()) >= self._max:
            raise Busy(f"sandbox {uid} runs {self._max} executions, the most at once (SANDBOX__MAX_EXECUTIONS)")
        run = runs[request.id] = _Run(request.id, request.digest, request.output_limit, self._oom_kills.get(uid, 0))
        task = asyncio.create_task(self._run(uid, run, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    async def _run(self, uid: str, run: _Run, request: ExecRequest) -> None:
        try:
            if request.files:
                await self._files.put(uid, request.files)
            if _is_long(request):
                await self._store(uid, request)
            exec_id, stream = await self._open(uid, _argv(request), {**request.env, MARKER: run.id})
        except BaseException as error:
            if uid in self._runs:
                del self._runs[uid][run.id]
            run.refused = error if isinstance(error, BackendError) else Unavailable("the controller stops")
            run.tell()
            if run.refused is not error:
                raise
        else:
            await self._follow(uid, run, request, exec_id, stream)

    async def _store(self, uid: str, request: ExecRequest) -> None:
        code, _ = await self._files.small(uid, ["sh", "-c", STORE, request.id], request.code.encode())
        if code:
            raise Refused(f"the code found no room in /tmp of sandbox {uid}", "NoSpace")

    async def _follow(self, uid: str, run: _Run, request: ExecRequest, exec_id: str, stream: DockerStream) -> None:
        """From the start of an execution to its result."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        timed_out = False
        code: int | None = None
        feeding, reading = asyncio.create_task(feed(stream, request.stdin)), asyncio.create_task(_pump(stream, run))
        try:
            await asyncio.wait({reading}, timeout=request.timeout)
            timed_out = not reading.done()
            await self._end(uid, run.id)
            async with asyncio.timeout(ANSWER_SECONDS):
                while not reading.done():
                    await asyncio.wait({reading}, timeout=AGAIN_SECONDS)
                    await self._end(uid, run.id)
            code = await self._files.code(exec_id)
        except (BackendError, TimeoutError):
            code = None  # the sandbox is gone, or Docker is
        finally:
            feeding.cancel()
            reading.cancel()
            stream.close()
            reason = await self._reason(uid, run, code, timed_out)
            code = None if reason is Reason.LOST else code
            duration = round((loop.time() - began) * 1000)
            run.result = ExecResult(
                run.id, code, reason, duration, "exec", run.dropped["stdout"], run.dropped["stderr"],
                signal=code - 128 if code is not None and code > 128 else None,
            )  # fmt: skip
            run.tell()
            if uid in self._runs:
                self._idle_since[uid] = datetime.now(UTC)
                self._trim(self._runs[uid])

    async def _reason(self, uid: str, run: _Run, code: int | None, timed_out: bool) -> Reason:
        if run.cancelled:
            return Reason.CANCELLED
        if timed_out:
            return Reason.TIMEOUT
        if code is None or (code, bytes(run.output["stderr"])) == RAN_BEFORE:
            return Reason.LOST
        if code == 0:
            return Reason.COMPLETED
        return await self._why_killed(uid, run) if code == KILLED else Reason.ERROR

    async def _why_killed(self, uid: str, run: _Run) -> Reason:
        """Whether memory, the end of the sandbox, or its own doing ended it; Docker does not say it of an exec."""
        try:
            code, output = await self._files.small(uid, ["sh", "-c", OOM_COUNT])
        except BackendError:
            return Reason.LOST
        if code >= NOT_STARTED:
            return Reason.LOST
        counts = [int(line.split()[-1]) for line in output.splitlines() if line.startswith(b"oom_kill ")]
        self._oom_kills[uid] = kills = max(counts, default=0)
        return Reason.OOM_KILLED if kills > run.oom_kills else Reason.ERROR

    def _trim(self, runs: OrderedDict[str, _Run]) -> None:
        finished = deque(run for run in runs.values() if run.over)
        size = sum(run.size for run in finished)
        while len(finished) > KEPT or (size > KEPT_BYTES and len(finished) > 1):
            oldest = finished.popleft()
            size -= oldest.size
            del runs[oldest.id]

    async def _end(self, uid: str, execution_id: str) -> None:
        await self._files.small(uid, ["sh", "-c", END, f"{MARKER}={execution_id}"])

    async def cancel(self, uid: str, execution_id: str) -> None:
        run = self._runs[uid].get(execution_id) if uid in self._runs else None
        if run is None:
            raise NotFound(f"there is no execution {execution_id} in sandbox {uid}")
        if run.over:
            return
        run.cancelled = True
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while not run.over:
                    await self._end(uid, execution_id)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(AGAIN_SECONDS):
                            await run.news.wait()
        except TimeoutError:
            raise BackendError(f"execution {execution_id} did not end in {ANSWER_SECONDS:g} s", "ExecStuck") from None

    # --- files ---

    async def put_file(self, uid: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        await self._files.put_file(uid, path, chunks)

    async def get_file(self, uid: str, path: str) -> AsyncIterator[bytes]:
        async with aclosing(self._files.get_file(uid, path)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def list_files(self, uid: str, path: str = "") -> Listing:
        return await self._files.list_files(uid, path)


def _is_long(request: ExecRequest) -> bool:
    return len(request.code.encode()) > LONG


def _argv(request: ExecRequest) -> list[str]:
    long = _is_long(request)
    program = {
        "python": ["python3", "-u", "-c", FROM_FILE if long else request.code],
        "bash": ["bash", "/dev/fd/9"] if long else ["bash", "-c", request.code],
        "command": list(request.command),
    }[request.kind]
    cwd = request.cwd if request.cwd.startswith("/") else f"/workspace/{request.cwd}"
    return ["sh", "-c", BEGIN, cwd, *program]


async def _pump(stream: DockerStream, run: _Run) -> None:
    """Read to the end; beyond the limit bytes are counted and dropped, so that the program never waits for us."""
    while True:
        number, data = await stream.piece()
        if not data:
            return
        run.add("stderr" if number == STDERR else "stdout", data)
