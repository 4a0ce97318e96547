"""One execution from a shell: what runs, its standard streams, its exit code, Ctrl-C."""

import asyncio
import codecs
import json
import math
import os
import select
import signal
import stat
import sys
import uuid
from collections.abc import Coroutine, Sequence
from contextlib import aclosing, suppress
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from controller.cli.program import OWN_ERROR, Failure

if TYPE_CHECKING:
    from controller.client import ApiClient

TIMED_OUT = 124
"""As timeout(1) of coreutils has it."""
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
TERMINATED = 143
"""128 + SIGTERM."""
CANCEL_SECONDS = 5.0
"""For the sandbox to end an interrupted program."""
STDIN_LIMIT = 12 * 2**20
"""Bytes; the API takes no more (`controller.executions.MAX_INLINE`)."""
STDIN_HINT_SECONDS = 2.0
STDIN_SECONDS = 60.0
"""For the first byte, or the end, of a pipe that nobody asked to pass on."""


class Language(StrEnum):
    python = "python"
    bash = "bash"


class Format(StrEnum):
    text = "text"
    json = "json"


CommandArgument = Annotated[
    list[str] | None, typer.Argument(metavar="COMMAND", help="Program and arguments, after --.")
]
CodeOption = Annotated[str, typer.Option("--code", "-c", help="Code to run instead of a command.")]
FileOption = Annotated[str, typer.Option("--file", "-f", help="File with the code; - reads it from stdin.")]
LanguageOption = Annotated[
    Language | None, typer.Option("--language", "-l", help="Of the code. Default: python, and bash for FILE.sh.")
]
EnvOption = Annotated[list[str] | None, typer.Option("--env", "-e", metavar="NAME=VALUE", help="Environment variable.")]
CwdOption = Annotated[str, typer.Option("--cwd", "-w", help="Working directory. Default: the workspace.")]
TimeoutOption = Annotated[float | None, typer.Option("--timeout", "-t", help="Seconds. Default: SANDBOX__TIMEOUT.")]
StateOption = Annotated[
    str, typer.Option("--state", help="Keep Python's variables under this name (the API's `context`).")
]
StdinOption = Annotated[
    bool | None,
    typer.Option("--stdin/--no-stdin", "-i", help="Pass stdin on. Default: where it is a pipe or a file."),
]
OutputOption = Annotated[Format, typer.Option("--output", "-o", help="json prints the result as one document.")]
RawOption = Annotated[
    bool, typer.Option("--raw", help="Let output command the terminal (colours, but anything else too).")
]


def program_body(
    command: Sequence[str] | None,
    code: str,
    file: str,
    language: Language | None,
    env: Sequence[str] | None,
    cwd: str,
    timeout: float | None,
    state: str,
    stdin: bool | None,
) -> dict[str, Any]:
    """The body of `POST /sandbox/{id}/execute`. Raises Failure; reads stdin where that is passed on."""
    if sum(map(bool, (command, code, file))) != 1:
        raise Failure("give exactly one of -- COMMAND, --code and --file")
    if language and command:
        raise Failure("a command has no --language")
    body: dict[str, Any] = {"env": dict(_variable(text) for text in env or [])}
    if command:
        body["command"] = list(command)
    else:
        body["code"] = _code(code, file)
        body["language"] = language or (Language.bash if file.endswith((".sh", ".bash")) else Language.python)
    if cwd:
        body["cwd"] = cwd
    if timeout is not None:
        if not math.isfinite(timeout):
            raise Failure("--timeout is a number of seconds")
        body["timeout"] = timeout
    if state:
        body["context"] = state
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Failure("code, arguments and variables must be UTF-8; other bytes pass as stdin, or by `cp`") from None
    if file != "-":
        body |= _stdin(stdin)
    return body


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Failure(f"--env {name}: a variable is given as NAME=VALUE")
    return name, value


def _code(code: str, file: str) -> str:
    if not file:
        return code
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"--file {file} cannot be read: {error}") from error


def _stdin(asked: bool | None) -> dict[str, str]:
    mode = _mode(sys.stdin)
    if not (asked if asked is not None else stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return {}
    if asked is None:
        _wait_for_stdin()
    data = sys.stdin.buffer.read(STDIN_LIMIT + 1)
    if len(data) > STDIN_LIMIT:
        raise Failure(f"stdin has more than {STDIN_LIMIT} bytes; copy it with `cp` and read it from the file")
    try:
        return {"stdin": data.decode()}
    except UnicodeDecodeError:
        import base64

        return {"stdin_base64": base64.b64encode(data).decode()}


def _wait_for_stdin() -> None:
    # A pipe that somebody's program left open must not hold this one for ever.
    if select.select([sys.stdin], [], [], STDIN_HINT_SECONDS)[0]:
        return
    typer.echo("waiting for stdin; --no-stdin runs without it", err=True)
    if not select.select([sys.stdin], [], [], STDIN_SECONDS)[0]:
        raise Failure("stdin is a pipe that gave nothing: -i waits as long as it takes, --no-stdin runs without it")


def _mode(stream: IO[str]) -> int:
    try:
        return os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # closed, or no file at all
        return 0


def exit_code(main: Coroutine[Any, Any, int]) -> int:
    """Run it to its end; Ctrl-C and SIGTERM cancel it first."""

    async def cancelled_by_sigterm() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main

    try:
        return asyncio.run(cancelled_by_sigterm())
    except asyncio.CancelledError:
        return TERMINATED


async def execute(client: "ApiClient", sandbox_id: str, body: dict[str, Any], output: Format, raw: bool) -> int:
    """Run it, print what it prints as it comes, and return the exit code for this command."""
    writers = {"stdout": Writer(sys.stdout, raw), "stderr": Writer(sys.stderr, raw)}
    key = uuid.uuid4().hex
    try:
        async with aclosing(client.stream(sandbox_id, body, key)) as events:
            async for event, data in events:
                if event == "result":
                    if output is Format.json:
                        typer.echo(json.dumps(data))
                    return _exit_code(data)
                if event in writers and output is Format.text:
                    writers[event].write(data)
    except asyncio.CancelledError:
        await _cancel(client, sandbox_id, key)
        raise
    except OSError:  # nobody reads any more, as in `… | head`, or the disk is full
        await _cancel(client, sandbox_id, key)
        raise
    finally:
        for writer in writers.values():
            writer.finish()
    raise Failure("the API told no result; the execution may go on until its timeout")


async def _cancel(client: "ApiClient", sandbox_id: str, key: str) -> None:
    from controller.client import ApiError
    from controller.executions import keyed_id

    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            await client.cancel(sandbox_id, keyed_id(sandbox_id, key))
    except (ApiError, TimeoutError) as error:
        typer.echo(f"the execution was not cancelled, it ends at its timeout: {error}", err=True)


def _exit_code(result: dict[str, Any]) -> int:
    reason, code = result["reason"], result["exit_code"]
    if result["truncated"]:
        dropped = result["dropped_stdout"] + result["dropped_stderr"]
        typer.echo(f"sandbox: {dropped} bytes of output beyond the limit were dropped", err=True)
    if reason == "Completed" or (reason == "Error" and code is not None):
        return int(code)
    typer.echo(f"sandbox: {_WORDS.get(reason, reason)} after {result['duration_ms'] / 1000:.1f} s", err=True)
    if reason == "Timeout":
        return TIMED_OUT
    if reason == "Cancelled":
        return INTERRUPTED
    return int(code) if code else OWN_ERROR


_WORDS = {
    "Timeout": "the time was over",
    "OOMKilled": "ended for using more memory than its limit",
    "Cancelled": "cancelled",
    "Lost": "the sandbox was lost while it ran",
}


class Writer:
    """Output of a sandbox on one of our streams: as it is into files and pipes, without control over a terminal."""

    def __init__(self, stream: IO[str], raw: bool) -> None:
        self._stream = stream
        self._decoder = None if raw or not stream.isatty() else codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes) -> None:
        if self._decoder is None:
            self._stream.buffer.write(data)  # type: ignore[attr-defined]
        else:
            self._stream.write(without_control(self._decoder.decode(data)))
        self._stream.flush()

    def finish(self) -> None:
        """Write what waits for the rest of a character."""
        with suppress(OSError):  # it was told when it happened
            if self._decoder is not None:
                self._stream.write(without_control(self._decoder.decode(b"", final=True)))
            self._stream.flush()


_CONTROL = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\r\t"}
_CONTROL |= dict.fromkeys(range(127, 160), "�")


def without_control(text: str) -> str:
    """Control characters as their pictures (ESC as U+241B), but for line breaks and tabs."""
    return text.translate(_CONTROL)
