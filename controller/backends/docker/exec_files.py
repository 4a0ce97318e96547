"""Files, and short execs of our own, through `docker exec`: what images without the agent get.

The tools are the sandbox's own, so they may lie; they run as its user, and what they say is bounded.
"""

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress

from controller.backends import BackendError, FileInfo, Listing, NotFound, Refused, Unavailable
from controller.backends.docker.attach import DockerStream
from controller.grammar import relative_path

INSIDE = """\
inside() {
  folder=/workspace/$1
  while folder=${folder%/*}; [ ! -e "$folder" ] && [ ! -L "$folder" ]; do :; done
  case $(readlink -f -- "$folder")/ in /workspace/*) ;; *) exit 95 ;; esac
}
"""
"""Ends with OUTSIDE where what is there of the way to "$1" leads out of the workspace."""
UNPACK = INSIDE + 'for path do inside "$path"; done; exec tar -xf - -C /workspace'
PUT = (
    INSIDE
    + """\
inside "$1"; [ -d "/workspace/$1" ] && exit 95
mkdir -p -- "$(dirname -- "/workspace/$1")" && exec cat >"/workspace/$2"
"""
)
GET = """\
real=$(readlink -f -- "/workspace/$1") && [ -f "$real" ] || exit 94
case $real in /workspace/*) exec cat -- "$real" ;; *) exit 95 ;; esac
"""
LIST = """\
cd -- "/workspace/$1" 2>/dev/null || exit 94
case $(pwd -P)/ in /workspace/*) ;; *) exit 95 ;; esac
find . -type f -exec stat -c "%s %n" {} + | head -n 10001
"""
MAX_FILES = 10_000
MAX_OUTPUT = 1 << 20
"""Bytes of an exec of our own."""
NO_FILE, OUTSIDE = 94, 95
ANSWER_SECONDS = 15.0
"""For a small exec of our own: a file, an end."""

Open = Callable[[str, list[str], dict[str, str]], Awaitable[tuple[str, DockerStream]]]
"""(uid, argv, env) -> exec id and its stream."""
ExitCode = Callable[[str], Awaitable[int | None]]
"""exec id -> exit code, None while it runs."""


class ExecFiles:
    """`open_exec` creates and starts an exec."""

    def __init__(self, open_exec: Open, exit_code: ExitCode) -> None:
        self._open, self._exit_code = open_exec, exit_code

    async def code(self, exec_id: str) -> int:
        """The exit code of an exec whose stream has ended. Raises BackendError where it goes on."""
        for _ in range(50):
            code = await self._exit_code(exec_id)
            if code is not None:
                return code
            await asyncio.sleep(0.1)
        raise BackendError("a docker exec goes on after its end", "ExecStuck")

    async def small(self, uid: str, argv: list[str], stdin: bytes = b"") -> tuple[int, bytes]:
        """A short exec of our own: its exit code and the first MiB of its stdout."""
        exec_id, stream = await self._open(uid, argv, {})
        feeding = asyncio.create_task(feed(stream, stdin))
        output = bytearray()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while data := await stream.read(65536):
                    output += data[: MAX_OUTPUT - len(output)]
                return await self.code(exec_id), bytes(output)
        except TimeoutError:
            raise BackendError(
                f"a docker exec in sandbox {uid} did not end in {ANSWER_SECONDS:g} s", "ExecStuck"
            ) from None
        finally:
            feeding.cancel()
            stream.close()

    async def put(self, uid: str, files: Mapping[str, bytes]) -> None:
        buffer = io.BytesIO()
        # Its long and non-ASCII names are understood by busybox, too.
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content))
        code, _ = await self.small(uid, ["sh", "-c", UNPACK, "sh", *files], buffer.getvalue())
        if code == OUTSIDE:
            raise Refused("a path in files leads out of the workspace", "Forbidden")
        if code:
            raise Refused(f"the files were not written into sandbox {uid}: tar ended with {code}", "FilesNotWritten")

    async def put_file(self, uid: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        target = _below_workspace(path)
        folder, _, _ = target.rpartition("/")
        unfinished = f"{folder}/.upload-{os.urandom(8).hex()}".removeprefix("/")
        exec_id, stream = await self._open(uid, ["sh", "-c", PUT, "sh", target, unfinished], {})
        try:
            try:
                taken = await self._send(uid, path, chunks, stream)
                self._check(await self.code(exec_id), path)
                if not taken:
                    raise Unavailable(f"the connection that brought {path} broke", "DockerUnavailable")
            finally:
                stream.close()
            move = ["mv", "-f", "--", f"/workspace/{unfinished}", f"/workspace/{target}"]
            self._check((await self.small(uid, move))[0], path)
        except BaseException:
            with suppress(BackendError):
                await self.code(exec_id)  # it may be about to make the file
                await self.small(uid, ["rm", "-f", "--", f"/workspace/{unfinished}"])
            raise

    async def _send(self, uid: str, path: str, chunks: AsyncIterator[bytes], stream: DockerStream) -> bool:
        """Whether all of it was taken. If not, the exit code may say why."""
        ended = asyncio.create_task(_end_of(stream))  # a reader that has ended does not always break the stream
        try:
            async for chunk in chunks:
                stream.write(chunk)
                taking = asyncio.create_task(stream.drain())
                await asyncio.wait({taking, ended}, timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if (taking.done() and taking.exception() is not None) or ended.done():
                    taking.cancel()
                    return False
                if not taking.done():
                    taking.cancel()
                    raise _stuck(uid, path)
            stream.end_input()
            await asyncio.wait({ended}, timeout=ANSWER_SECONDS)
            if not ended.done():
                raise _stuck(uid, path)
            return True
        finally:
            ended.cancel()

    async def get_file(self, uid: str, path: str) -> AsyncGenerator[bytes]:
        exec_id, stream = await self._open(uid, ["sh", "-c", GET, "sh", _below_workspace(path)], {})
        try:
            while True:
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        data = await stream.read(65536)
                except TimeoutError:
                    raise _stuck(uid, path) from None
                if not data:
                    break
                yield data
            self._check(await self.code(exec_id), path)
        finally:
            stream.close()

    async def list_files(self, uid: str, path: str = "") -> Listing:
        code, output = await self.small(uid, ["sh", "-c", LIST, "sh", _below_workspace(path) if path else ""])
        self._check(code, path)
        cut = len(output) >= MAX_OUTPUT
        lines = output.splitlines()[: -1 if cut else None]  # the last one may be cut, too
        rows = (line.decode("utf-8", "replace").partition(" ") for line in lines)
        prefix = f"{path}/" if path else ""
        files = [FileInfo(prefix + name.removeprefix("./"), int(size)) for size, _, name in rows if size.isdigit()]
        return Listing(files[:MAX_FILES], truncated=cut or len(lines) > MAX_FILES)

    def _check(self, code: int, path: str) -> None:
        if code == NO_FILE:
            raise NotFound(f"there is no file {path} in the workspace")
        if code == OUTSIDE:
            raise Refused(f"{path} leads out of the workspace, or is a folder", "Forbidden")
        if code:
            raise Refused(f"{path}: the sandbox's own tools ended with {code}", "FileRefused")


async def _end_of(stream: DockerStream) -> None:
    while await stream.read(65536):
        pass


def _stuck(uid: str, path: str) -> BackendError:
    return BackendError(f"sandbox {uid} did not go on with {path} for {ANSWER_SECONDS:g} s", "ExecStuck")


async def feed(stream: DockerStream, data: bytes) -> None:
    with suppress(OSError):  # what was to read it has ended
        for start in range(0, len(data), 65536):
            stream.write(data[start : start + 65536])
            await stream.drain()
        stream.end_input()


def _below_workspace(path: str) -> str:
    """The path of a file in the workspace, as it is. Raises Refused for one that leaves it by its words."""
    try:
        return relative_path(path)
    except ValueError as error:
        raise Refused(f"{path!r} {error}", "Forbidden") from error
