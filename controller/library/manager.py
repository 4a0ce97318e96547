"""The library: sandboxes from a Python program, without a cluster or through the HTTP API.

Everything is written once, asynchronously, here; `blocking` offers the same to programs without an event loop.
"""

import asyncio
import base64
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack

from pydantic import BaseModel, ValidationError

from controller.backends import BackendError, Refused
from controller.choose import DockerUnavailableError
from controller.executions import Program
from controller.library.outcome import Output, Result, StoredFile
from controller.library.place import Created, Place
from controller.model import SandboxSpec
from controller.settings import Settings, get_settings

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)
Language = Literal["python", "bash"]

CANCEL_SECONDS = 5.0
"""How long an abandoned execution's cancellation is waited for; an agent answers within one second."""
READ_LIMIT = 64 * 2**20
"""Bytes that `read_file` takes into memory unless told otherwise."""


class Wanted(TypedDict, total=False):
    """What `create` takes; whatever is left out is safe: no network, limits, a finite life."""

    name: str
    """A DNS label; default: made up."""
    image: str
    """Default: SANDBOX__IMAGE."""
    env: Mapping[str, str]
    files: Mapping[str, str]
    """Path below the workspace -> text. For bytes, or much of it, use `write_file`."""
    network: str
    """none (default), bridge, or one of SANDBOX__NETWORKS."""
    runtime: str
    """An OCI runtime that the daemon has, such as runsc."""
    isolation: Literal["preferred", "required"]
    """required: never on mock, raises Refused instead."""
    cpu: str
    """Cores as a Kubernetes quantity: `500m`, `2`. Default: SANDBOX__CPU_LIMIT."""
    memory: str
    """`512Mi`. Default: SANDBOX__MEMORY_LIMIT."""
    pids: int
    workspace_size: str
    """`256Mi`, the default."""
    max_seconds: int
    """The sandbox is removed after that long, 3600 by default, even if nobody does it."""
    wait: float
    """Seconds until it must be able to execute code; 60 by default."""


class Options(TypedDict, total=False):
    """What every execution takes."""

    stdin: str | bytes
    env: Mapping[str, str]
    files: Mapping[str, str | bytes]
    """Path below the workspace -> content, written before the program starts."""
    timeout: float
    """Seconds until every process of the execution is ended; default: SANDBOX__TIMEOUT."""
    cwd: str
    """Working directory, below the workspace unless absolute; default: the workspace."""
    context: str
    """Name of a Python state kept between executions; default: a fresh interpreter."""


def spec_from(wanted: Wanted) -> SandboxSpec:
    """The spec that `wanted` means. Raises ValueError, which names the field, and TypeError for an unknown one."""
    unknown = wanted.keys() - Wanted.__annotations__.keys()
    if unknown:
        raise TypeError(f"create() takes no {sorted(unknown)[0]!r}; it takes {', '.join(Wanted.__annotations__)}")
    spec: dict[str, Any] = {key: wanted[key] for key in ("image", "network", "runtime", "isolation") if key in wanted}
    limits = {key: wanted[key] for key in ("cpu", "memory", "pids") if key in wanted}
    spec["resources"] = {"limits": limits}
    spec["env"] = [{"name": name, "value": value} for name, value in wanted.get("env", {}).items()]
    spec["files"] = [{"path": path, "content": content} for path, content in wanted.get("files", {}).items()]
    if "workspace_size" in wanted:
        spec["workspace"] = {"size": wanted["workspace_size"]}
    if "max_seconds" in wanted:
        spec["lifetime"] = {"max_seconds": wanted["max_seconds"]}
    return _checked(SandboxSpec, spec)


def program_from(options: Options, **what: Any) -> Program:
    """The program of one execution. Raises ValueError, which names the field, and TypeError for an unknown option."""
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"an execution takes no {sorted(unknown)[0]!r}; it takes {', '.join(Options.__annotations__)}")
    body: dict[str, Any] = {**what, **options}
    if isinstance(body.get("stdin"), bytes):
        body["stdin_base64"] = base64.b64encode(body.pop("stdin")).decode()
    if "files" in options:
        body["files"] = [_file(path, content) for path, content in options["files"].items()]
    return _checked(Program, body)


def _file(path: str, content: str | bytes) -> dict[str, str]:
    if isinstance(content, bytes):
        return {"path": path, "content_base64": base64.b64encode(content).decode()}
    return {"path": path, "content": content}


def _checked(model: type[Model], body: dict[str, Any]) -> Model:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {what}" if where else what) from None


class AsyncSandbox:
    """A sandbox that is up. Leaving its `async with` block removes it."""

    def __init__(self, place: Place, created: Created) -> None:
        self._place = place
        self._created = created

    @property
    def id(self) -> str:
        """The uid of the sandbox, which the HTTP API's URLs take."""
        return self._created.id

    @property
    def name(self) -> str:
        return self._created.name

    @property
    def backend(self) -> str:
        """docker, kubernetes or mock."""
        return self._created.backend

    @property
    def isolation(self) -> str:
        """What stands between the code and the machine: container, gvisor, pod, or none on mock."""
        return self._created.isolation

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person must know; on mock that nothing is isolated."""
        return self._created.warnings

    async def execute(self, code: str, language: Language = "python", **options: Unpack[Options]) -> Result:
        """Run `code` and return how it ended; a program that fails or times out is a result, not an error.

        Cancelling the task ends the program. Raises NotFound, NotRunning, Busy, Unavailable, and ValueError for a
        bad option.
        """
        return await self._collect(program_from(options, code=code, language=language))

    async def run(self, command: Sequence[str], **options: Unpack[Options]) -> Result:
        """Run a program by its arguments, without a shell. Otherwise as `execute`."""
        return await self._collect(program_from(options, command=_arguments(command)))

    def stream(
        self, code: str, language: Language = "python", **options: Unpack[Options]
    ) -> AsyncGenerator[Output | Result, None]:
        """Run `code`: its output as it comes, then one Result, whose `stdout` and `stderr` are empty.

        Leaving the loop before the Result (and closing the iterator) ends the program. Raises as `execute`.
        """
        return self._stream(program_from(options, code=code, language=language))

    def stream_run(self, command: Sequence[str], **options: Unpack[Options]) -> AsyncGenerator[Output | Result, None]:
        """As `stream`, for a program given by its arguments."""
        return self._stream(program_from(options, command=_arguments(command)))

    async def write_file(self, path: str, content: str | bytes) -> None:
        """Write a file below the workspace, making its folders. Raises Refused for a path that leaves it."""
        await self._place.write(self.id, path, _once(content.encode() if isinstance(content, str) else content))

    async def read_file(self, path: str, limit: int = READ_LIMIT) -> bytes:
        """The content of a file below the workspace. Raises NotFound, and Refused for more than `limit` bytes."""
        content = bytearray()
        async with aclosing(self._place.read(self.id, path)) as chunks:
            async for chunk in chunks:
                content += chunk
                if len(content) > limit:
                    raise Refused(f"{path} has more than {limit} bytes; give read_file a higher limit")
        return bytes(content)

    async def list_files(self, folder: str = "") -> list[StoredFile]:
        """The files in a folder of the workspace, at most 10,000. Raises NotFound."""
        return await self._place.files(self.id, folder)

    async def remove(self) -> None:
        """End it and remove every trace. Removing twice is removing once. Raises Unavailable."""
        await self._place.remove(self.id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.remove()

    def __repr__(self) -> str:
        return f"<sandbox {self.name} on {self.backend}, isolation {self.isolation}>"

    async def _collect(self, program: Program) -> Result:
        key = uuid.uuid4().hex
        try:
            return await self._place.execute(self.id, key, program)
        except asyncio.CancelledError:
            await self._abandon(key)
            raise

    async def _stream(self, program: Program) -> AsyncGenerator[Output | Result, None]:
        key = uuid.uuid4().hex
        ended = False
        try:
            async with aclosing(self._place.stream(self.id, key, program)) as items:
                async for item in items:
                    ended = isinstance(item, Result)
                    yield item
        except (asyncio.CancelledError, GeneratorExit):
            if not ended:
                await self._abandon(key)
            raise

    async def _abandon(self, key: str) -> None:
        """Nobody waits for this execution any more, so nothing of it shall go on."""
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._place.cancel(self.id, key)
        except (BackendError, TimeoutError) as error:
            log.warning("sandbox %s: cancelling an execution failed, it ends at its timeout: %s", self.name, error)


class Creation:
    """A sandbox to be: `await` it for a sandbox to remove yourself, or use it in `async with`."""

    def __init__(self, manager: "AsyncSandboxManager", name: str, spec: SandboxSpec, wait: float) -> None:
        self._manager, self._name, self._spec, self._wait = manager, name, spec, wait
        self._sandbox: AsyncSandbox | None = None

    def __await__(self) -> Generator[Any, None, AsyncSandbox]:
        return self._manager._create(self._name, self._spec, self._wait).__await__()

    async def __aenter__(self) -> AsyncSandbox:
        self._sandbox = await self
        return self._sandbox

    async def __aexit__(self, *error: object) -> None:
        if self._sandbox is not None:
            await self._sandbox.remove()


class AsyncSandboxManager:
    """Makes sandboxes: on this machine's Docker, on mock where there is none (never silently), or behind `url`.

    With `url` it speaks to the HTTP API there, as `token` (the secret key, or a Kubernetes token), and sandboxes are
    objects in `namespace`. Without, no cluster and no controller are needed.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        namespace: str = "default",
    ) -> None:
        self._place = self._open(settings, url, token, namespace)

    @staticmethod
    def _open(settings: Settings | None, url: str | None, token: str | None, namespace: str) -> Place:
        if url is None:
            from controller.library.local import LocalPlace

            return LocalPlace(settings or get_settings())
        from controller.library.remote import RemotePlace

        return RemotePlace(url, token, namespace)

    async def is_docker_available(self) -> bool:
        """Whether the Docker daemon answers now."""
        return bool((await self._place.docker_info())["available"])

    async def get_docker_info(self) -> dict[str, Any]:
        """`available`, `status` (such as `connected`), `message`, and the daemon's `version`, `runtimes` and so on."""
        return await self._place.docker_info()

    async def assert_docker_available(self) -> None:
        """Raises DockerUnavailableError, which says what to do, unless the daemon answers now."""
        info = await self._place.docker_info()
        if not info["available"]:
            raise DockerUnavailableError(str(info.get("message") or f"Docker is not available ({info['status']})"))

    def create(self, **wanted: Unpack[Wanted]) -> Creation:
        """A sandbox that can execute code, to be awaited or used in `async with`.

        Raises ValueError for a bad field; when awaited Refused (an image, runtime or network that is not there),
        Unavailable, BackendError.
        """
        spec = spec_from(wanted)
        return Creation(self, wanted.get("name") or f"library-{uuid.uuid4().hex[:8]}", spec, wanted.get("wait", 60.0))

    async def _create(self, name: str, spec: SandboxSpec, wait: float) -> AsyncSandbox:
        return AsyncSandbox(self._place, await self._place.create(name, spec, wait))

    async def close(self) -> None:
        """Let go of connections. Sandboxes that were not removed live until the interpreter's exit."""
        await self._place.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class AsyncMockSandboxManager(AsyncSandboxManager):
    """As AsyncSandboxManager, on mock whatever the machine has: plain processes, NO SECURITY ISOLATION."""

    def __init__(self, settings: Settings | None = None) -> None:
        settings = settings or get_settings()
        sandbox = settings.sandbox.model_copy(update={"mock_mode": True})
        super().__init__(settings.model_copy(update={"sandbox": sandbox}))


def _arguments(command: Sequence[str]) -> tuple[str, ...]:
    if isinstance(command, str):
        raise TypeError("a command is a list such as ['ls', '-l']; for a shell line use execute(line, 'bash')")
    return tuple(command)


async def _once(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 65536):
        yield content[start : start + 65536]
