"""The library for programs without an event loop: each call runs its asynchronous twin on a loop in a thread."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from typing import Any, Self, TypeVar, Unpack

from controller.library.manager import (
    READ_LIMIT,
    AsyncMockSandboxManager,
    AsyncSandbox,
    AsyncSandboxManager,
    Language,
    Options,
    Wanted,
)
from controller.library.outcome import Output, Result, StoredFile
from controller.settings import Settings

T = TypeVar("T")


class LoopThread:
    """An event loop on a daemon thread, for blocking callers on any other thread. Costs about 0.1 ms a call."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.process = os.getpid()
        threading.Thread(target=self._loop.run_forever, name="sandbox-library", daemon=True).start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result or error. KeyboardInterrupt cancels it. Raises RuntimeError in a forked child."""
        if self.process != os.getpid():
            coroutine.close()
            raise RuntimeError("this was made before the process forked: make a SandboxManager in the child")
        task: asyncio.Task[Any] | None = None
        interrupted = False

        async def held() -> T:
            nonlocal task
            task = asyncio.current_task()
            if interrupted:
                coroutine.close()
                raise asyncio.CancelledError
            return await coroutine

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            if task is not None:
                task.cancel()

        try:
            return asyncio.run_coroutine_threadsafe(held(), self._loop).result()
        except Exception:
            raise
        except BaseException:  # wherever in the line above a signal struck: the loop knows if there is a task by now
            self._loop.call_soon_threadsafe(interrupt)
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """The items, none of which is None, one by one; closing the iterator closes `items`."""
        turn = asyncio.Lock()  # an interrupted step must have ended before the iterator can be closed

        async def following() -> T | None:
            async with turn:
                return await anext(items, None)

        async def close() -> None:
            async with turn:
                await items.aclose()

        try:
            while (item := self.call(following())) is not None:
                yield item
        finally:
            self.call(close())


_shared: LoopThread | None = None
_starting = threading.Lock()


def loop_thread() -> LoopThread:
    """The one of this process; a forked child gets its own."""
    global _shared
    with _starting:
        if _shared is None or _shared.process != os.getpid():
            _shared = LoopThread()
        return _shared


class Sandbox:
    """A sandbox that is up. Leaving its `with` block removes it. Safe to use from several threads."""

    def __init__(self, twin: AsyncSandbox, loop: LoopThread) -> None:
        self._twin = twin
        self._loop = loop

    @property
    def id(self) -> str:
        """The uid of the sandbox, which the HTTP API's URLs take."""
        return self._twin.id

    @property
    def name(self) -> str:
        return self._twin.name

    @property
    def backend(self) -> str:
        """docker, kubernetes or mock."""
        return self._twin.backend

    @property
    def isolation(self) -> str:
        """What stands between the code and the machine: container, gvisor, pod, or none on mock."""
        return self._twin.isolation

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person must know; on mock that nothing is isolated."""
        return self._twin.warnings

    def execute(self, code: str, language: Language = "python", **options: Unpack[Options]) -> Result:
        """Run `code` and return how it ended; a program that fails or times out is a result, not an error.

        KeyboardInterrupt ends the program. Raises NotFound, NotRunning, Busy, Unavailable, and ValueError for a bad
        option.
        """
        return self._loop.call(self._twin.execute(code, language, **options))

    def run(self, command: Sequence[str], **options: Unpack[Options]) -> Result:
        """Run a program by its arguments, without a shell. Otherwise as `execute`."""
        return self._loop.call(self._twin.run(command, **options))

    def stream(self, code: str, language: Language = "python", **options: Unpack[Options]) -> Iterator[Output | Result]:
        """Run `code`: its output as it comes, then one Result, whose `stdout` and `stderr` are empty.

        Leaving the loop before the Result ends the program. Raises as `execute`.
        """
        return self._loop.iterate(self._twin.stream(code, language, **options))

    def stream_run(self, command: Sequence[str], **options: Unpack[Options]) -> Iterator[Output | Result]:
        """As `stream`, for a program given by its arguments."""
        return self._loop.iterate(self._twin.stream_run(command, **options))

    def write_file(self, path: str, content: str | bytes) -> None:
        """Write a file below the workspace, making its folders. Raises Refused for a path that leaves it."""
        self._loop.call(self._twin.write_file(path, content))

    def read_file(self, path: str, limit: int = READ_LIMIT) -> bytes:
        """The content of a file below the workspace. Raises NotFound, and Refused for more than `limit` bytes."""
        return self._loop.call(self._twin.read_file(path, limit))

    def list_files(self, folder: str = "") -> list[StoredFile]:
        """The files in a folder of the workspace, at most 10,000. Raises NotFound."""
        return self._loop.call(self._twin.list_files(folder))

    def remove(self) -> None:
        """End it and remove every trace. Removing twice is removing once. Raises Unavailable."""
        self._loop.call(self._twin.remove())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return repr(self._twin)


class SandboxManager:
    """Makes sandboxes: on this machine's Docker, on mock where there is none (never silently), or behind `url`.

    With `url` it speaks to the HTTP API there, as `token` (the secret key, or a Kubernetes token), and sandboxes are
    objects in `namespace`. Without, no cluster and no controller are needed. Safe to use from several threads.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        namespace: str = "default",
    ) -> None:
        self._start(AsyncSandboxManager(settings, url=url, token=token, namespace=namespace))

    def _start(self, twin: AsyncSandboxManager) -> None:
        self._twin = twin
        self._loop = loop_thread()

    def is_docker_available(self) -> bool:
        """Whether the Docker daemon answers now."""
        return self._loop.call(self._twin.is_docker_available())

    def get_docker_info(self) -> dict[str, Any]:
        """`available`, `status` (such as `connected`), `message`, and the daemon's `version`, `runtimes` and so on."""
        return self._loop.call(self._twin.get_docker_info())

    def assert_docker_available(self) -> None:
        """Raises DockerUnavailableError, which says what to do, unless the daemon answers now."""
        self._loop.call(self._twin.assert_docker_available())

    def create(self, **wanted: Unpack[Wanted]) -> Sandbox:
        """A sandbox that can execute code: use it in `with`, or call its `remove` yourself.

        Raises ValueError for a bad field, Refused (an image, runtime or network that is not there), Unavailable,
        BackendError.
        """
        creation = self._twin.create(**wanted)

        async def created() -> AsyncSandbox:
            return await creation

        return Sandbox(self._loop.call(created()), self._loop)

    def close(self) -> None:
        """Let go of connections. Sandboxes that were not removed live until the interpreter's exit."""
        self._loop.call(self._twin.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class MockSandboxManager(SandboxManager):
    """As SandboxManager, on mock whatever the machine has: plain processes, NO SECURITY ISOLATION."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._start(AsyncMockSandboxManager(settings))
