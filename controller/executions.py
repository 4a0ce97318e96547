"""Executions: from what somebody asks for to the request of the port, and from its chunks to an outcome.

Used by the HTTP API and by the library. It keeps nothing: the same id with the same digest is the same execution for
the backend, which attaches to it or gives its kept result, after a restart of the controller too.
"""

import asyncio
import base64
import hashlib
import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)
from pydantic.fields import FieldInfo

from controller.backends import ExecRequest, ExecResult, Executions, OutputChunk, Unavailable
from controller.grammar import ENV_NAME, relative_path, without_nul
from controller.model import EnvVar
from controller.settings import SandboxSettings

MAX_TIMEOUT = 86400
"""Seconds; the same bound as `spec.run.timeoutSeconds`."""
MAX_CODE = 2**20
"""Characters of code."""
MAX_ARGUMENT = 131_071
"""Bytes of one argument or variable: MAX_ARG_STRLEN of Linux (include/uapi/linux/binfmts.h) less its NUL."""
MAX_INLINE = 12 * 2**20
"""Characters of stdin, and of one file; larger files have the call for files."""
MAX_NAME, MAX_PATH = 255, 1024
"""Bytes of a part of a path (NAME_MAX of Linux) and of a path."""
BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
GRACE = 15.0
"""Seconds that a backend has to tell of a timeout before the execution counts as lost to us."""


def _fits_an_argument(text: str) -> str:
    if len(text.encode()) > MAX_ARGUMENT:
        raise ValueError(f"must be at most {MAX_ARGUMENT} bytes, the most that Linux passes to a program")
    return text


def workspace_path(path: str) -> str:
    """A path below the workspace, as it is. Raises ValueError for any other, and where Linux would: NAME_MAX."""
    if any(len(part.encode()) > MAX_NAME for part in relative_path(path).split("/")) or len(path.encode()) > MAX_PATH:
        raise ValueError(f"must be at most {MAX_PATH} bytes, and each part of it at most {MAX_NAME}")
    return path


def _schema_pattern(pattern: str) -> FieldInfo:
    # For the OpenAPI document only: what a validator checks, as far as a pattern can say it.
    return cast("FieldInfo", Field(json_schema_extra={"pattern": pattern}))


def _names(pattern: str) -> FieldInfo:
    return cast("FieldInfo", Field(json_schema_extra={"propertyNames": {"pattern": pattern}}))


NO_NUL = _schema_pattern(r"^[^\x00]*$")
PATH_PATTERN = r"^(?!(.*/)?\.{1,2}(/|$))[^/\x00-\x1f\x7f]{1,255}(/[^/\x00-\x1f\x7f]{1,255})*$"
Argument = Annotated[str, AfterValidator(without_nul), AfterValidator(_fits_an_argument), NO_NUL]
Code = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CODE), AfterValidator(without_nul), NO_NUL]
Command = Annotated[tuple[Argument, ...], Field(min_length=1, max_length=1024, strict=False)]
Text = Annotated[str, StringConstraints(max_length=MAX_INLINE)]
Base64 = Annotated[str, StringConstraints(max_length=MAX_INLINE * 4 // 3, pattern=BASE64)]
EnvName = Annotated[str, StringConstraints(pattern=ENV_NAME, max_length=256)]
Path = Annotated[
    str, StringConstraints(max_length=MAX_PATH), AfterValidator(workspace_path), _schema_pattern(PATH_PATTERN)
]


def _not_both(field: str, other: str) -> dict[str, Any]:
    return {"anyOf": [{"properties": {each: {"const": ""}}} for each in (field, other)]}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ProgramFile(_Strict):
    """A file written below the workspace first: `content` as text, or any bytes as `content_base64`."""

    model_config = ConfigDict(json_schema_extra=_not_both("content", "content_base64"))

    path: Path
    content: Text = ""
    content_base64: Base64 = ""

    def data(self) -> bytes:
        """The file's bytes. Text and base64 are never both there."""
        return base64.b64decode(self.content_base64) or self.content.encode()

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if self.content and self.content_base64:
            raise ValueError("takes content or content_base64, not both")
        return self


_form = Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "object")
Environment = Annotated[
    Annotated[dict[EnvName, Argument], Field(max_length=256), _names(ENV_NAME), Tag("object")]
    | Annotated[tuple[EnvVar, ...], Field(max_length=256, strict=False), Tag("list")],
    _form,
]
Files = Annotated[
    Annotated[dict[Path, Text], Field(max_length=256), _names(PATH_PATTERN), Tag("object")]
    | Annotated[tuple[ProgramFile, ...], Field(max_length=256, strict=False), Tag("list")],
    _form,
]
PROGRAM_RULES: dict[str, Any] = {
    # `Program._one_program` in the words of JSON Schema.
    "oneOf": [
        {"required": ["code"], "properties": {"code": {"type": "string"}, "command": {"type": "null"}}},
        {
            "required": ["command"],
            "properties": {
                "command": {"type": "array"},
                "code": {"type": "null"},
                "language": {"type": "null"},
                "context": {"const": ""},
            },
        },
    ],
    **_not_both("stdin", "stdin_base64"),
    "if": {"required": ["language"], "properties": {"language": {"const": "bash"}}},
    "then": {"properties": {"context": {"const": ""}}},
}


class Program(_Strict):
    """One execution: `code` in a language, or a `command`."""

    model_config = ConfigDict(json_schema_extra=PROGRAM_RULES)

    code: Code | None = Field(None, description="The text of the program.")
    language: Literal["python", "bash"] | None = Field(None, description="Of `code`; python where it is left out.")
    command: Command | None = Field(None, description="A program and its arguments; no shell.")
    stdin: Text = Field("", description="Standard input, as text.")
    stdin_base64: Base64 = Field("", description="Standard input, any bytes.")
    env: Environment = Field({}, description="Variables: an object, or a list of name and value as in `spec`.")
    files: Files = Field({}, description="Files written first: an object of path and text, or a list as in `spec`.")
    cwd: Annotated[
        str,
        StringConstraints(max_length=1024),
        AfterValidator(without_nul),
        Field(description="Working directory; default: the workspace."),
    ] = ""
    context: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="Name of a Python state that is kept between executions; empty: a fresh interpreter.",
    )
    timeout: float | None = Field(
        None, gt=0, le=MAX_TIMEOUT, allow_inf_nan=False, description="Seconds; default: SANDBOX__TIMEOUT."
    )

    @model_validator(mode="after")
    def _one_program(self) -> Self:
        if (self.code is None) == (self.command is None):
            raise ValueError("exactly one of code and command is needed")
        if self.command is not None and self.language is not None:
            raise ValueError("a command takes no language")
        if self.context and self.kind != "python":
            raise ValueError("only python has a context")
        if self.stdin and self.stdin_base64:
            raise ValueError("takes stdin or stdin_base64, not both")
        if len(self.environment()) < len(self.env) or len(self.contents()) < len(self.files):
            raise ValueError("a name in env or a path in files is there twice")
        return self

    @property
    def kind(self) -> Literal["python", "bash", "command"]:
        """As the port calls it."""
        return "command" if self.command is not None else self.language or "python"

    def environment(self) -> dict[str, str]:
        """`env` in either form."""
        return dict(self.env) if isinstance(self.env, dict) else {each.name: each.value for each in self.env}

    def contents(self) -> dict[str, bytes]:
        """`files` in either form, as bytes."""
        if isinstance(self.files, dict):
            return {path: text.encode() for path, text in self.files.items()}
        return {file.path: file.data() for file in self.files}


def keyed_id(uid: str, key: str) -> str:
    """The id of the execution that an idempotency key names in a sandbox; unguessable only if the key is."""
    return hashlib.sha256(f"{uid}\0{key}".encode()).hexdigest()[:32]


def request_for(uid: str, program: Program, settings: SandboxSettings, key: str = "") -> ExecRequest:
    """The request of the port. The same `key` gives the same id; without one each is an execution of its own."""
    stdin = base64.b64decode(program.stdin_base64) or program.stdin.encode()
    env, files = program.environment(), program.contents()
    return ExecRequest(
        id=keyed_id(uid, key) if key else uuid.uuid4().hex,
        digest=_digest(program, stdin, env, files),
        kind=program.kind,
        code=program.code or "",
        command=program.command or (),
        stdin=stdin,
        env=env,
        files=files,
        cwd=program.cwd,
        context=program.context,
        timeout=settings.timeout if program.timeout is None else program.timeout,
        output_limit=settings.output_limit,
    )


def _digest(program: Program, stdin: bytes, env: dict[str, str], files: dict[str, bytes]) -> str:
    # What was asked for and no defaults: a controller that restarts with other settings knows the request again.
    asked = [program.kind, program.code, program.command, program.cwd, program.context, program.timeout]
    contents = [(path, hashlib.sha256(files[path]).hexdigest()) for path in sorted(files)]
    text = json.dumps([asked, sorted(env.items()), contents], separators=(",", ":"))
    return hashlib.sha256(text.encode() + b"\0" + stdin).hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an execution ended and what it printed, up to the limit."""

    result: ExecResult
    stdout: bytes
    stderr: bytes

    @property
    def truncated(self) -> bool:
        """It printed more than the limit."""
        return bool(self.result.dropped_stdout or self.result.dropped_stderr)


class Collected:
    """What an execution printed so far."""

    def __init__(self) -> None:
        self._kept = {"stdout": bytearray(), "stderr": bytearray()}

    def add(self, chunk: OutputChunk) -> None:
        """Keep it; `stream` has seen to the limit."""
        self._kept[chunk.stream] += chunk.data

    def outcome(self, result: ExecResult) -> Outcome:
        """All of it."""
        return Outcome(result, bytes(self._kept["stdout"]), bytes(self._kept["stderr"]))


async def stream(executions: Executions, uid: str, request: ExecRequest) -> AsyncGenerator[OutputChunk | ExecResult]:
    """Run it: chunks as they come, at most `request.output_limit` bytes of each stream, then the result.

    Closing the iterator does not cancel the execution. Raises what the port's `execute` raises, and Unavailable when
    the backend tells no result within GRACE seconds after the execution's own deadline.
    """
    deadline = asyncio.get_running_loop().time() + request.timeout + GRACE
    room = {"stdout": request.output_limit, "stderr": request.output_limit}
    dropped = {"stdout": 0, "stderr": 0}
    async with aclosing(executions.execute(uid, request)) as items:  # type: ignore[type-var]
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    item = await anext(items)
            except (TimeoutError, StopAsyncIteration):
                raise Unavailable(f"no result of execution {request.id} came from the backend; ask again") from None
            if isinstance(item, ExecResult):
                yield replace(
                    item,
                    dropped_stdout=item.dropped_stdout + dropped["stdout"],
                    dropped_stderr=item.dropped_stderr + dropped["stderr"],
                )
                return
            # The backend keeps to the limit; what it got wrong ends here and not in memory.
            kept = item.data[: room[item.stream]]
            room[item.stream] -= len(kept)
            dropped[item.stream] += len(item.data) - len(kept)
            if kept:
                yield OutputChunk(item.stream, kept)


async def run(executions: Executions, uid: str, request: ExecRequest) -> Outcome:
    """Run it and collect what it prints. Raises like `stream`."""
    collected = Collected()
    async with aclosing(stream(executions, uid, request)) as items:
        async for item in items:
            if isinstance(item, ExecResult):
                return collected.outcome(item)
            collected.add(item)
    raise AssertionError("unreachable: stream ends with a result or raises")
