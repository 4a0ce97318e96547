"""Docker's endless answers, events and logs, as asyncio iterators: a thread reads each, and ends with its consumer."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, Literal, Protocol, TypeVar

import docker
import requests
import urllib3
from docker.errors import DockerException
from docker.types import CancellableStream

from controller.backends import Unavailable
from controller.backends.docker.client import READ_TIMEOUT

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

QUEUE = 256
"""Items read ahead of the consumer; then the thread waits, and with it the daemon."""
MAX_FRAME = 1 << 20
"""Bytes; the log driver splits lines at 16 KiB."""
Piece = tuple[Literal["stdout", "stderr"], bytes]
_END = object()


class Closable(Protocol[T_co]):
    """A blocking stream that can be closed while a thread reads it."""

    def __iter__(self) -> Iterator[T_co]: ...
    def close(self) -> None: ...


async def _pumped(open_stream: Callable[[], Closable[T]]) -> AsyncIterator[T]:
    """What the blocking stream yields. Raises Unavailable where it breaks off."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Any] = asyncio.Queue()
    room = threading.Semaphore(QUEUE)
    stream = await asyncio.to_thread(_opened, open_stream)
    stopped = threading.Event()

    def read() -> None:
        end: object = _END
        try:
            for item in stream:
                room.acquire()
                if stopped.is_set():
                    return
                loop.call_soon_threadsafe(queue.put_nowait, item)
        except (
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            DockerException,
            OSError,
            ValueError,
            AttributeError,
        ) as error:
            end = error  # closing the response under a reader shows as ValueError or AttributeError
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(queue.put_nowait, end)

    threading.Thread(target=read, name="docker-stream", daemon=True).start()
    try:
        while True:
            item = await queue.get()
            if item is _END:
                return
            if isinstance(item, Exception):
                raise Unavailable(f"a stream of Docker broke off: {type(item).__name__}", "DockerUnavailable")
            room.release()
            yield item
    finally:
        stopped.set()
        room.release()
        with suppress(Exception):  # its reader may be at its end this moment
            stream.close()


def _opened(open_stream: Callable[[], Closable[T]]) -> Closable[T]:
    try:
        return open_stream()
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, DockerException, OSError) as error:
        raise Unavailable(f"a stream of Docker was not opened: {error}", "DockerUnavailable") from error


def read_events(client: docker.APIClient, filters: dict[str, list[str]], since: int) -> AsyncIterator[dict[str, Any]]:
    """The daemon's events from `since` on (seconds since 1970; of the past it knows the last 256)."""
    return _pumped(lambda: client.events(since=since, filters=filters, decode=True))


def read_logs(client: docker.APIClient, container: str, *, follow: bool) -> AsyncIterator[Piece]:
    """The container's log, then what comes, if `follow`, until it ends."""
    return _pumped(lambda: _open_logs(client, container, follow=follow))


def read_ends(client: docker.APIClient, container: str, limit: int) -> tuple[bytes, bytes]:
    """The last bytes of stdout and stderr, one more than `limit` where there was more. Blocking."""
    ends = {"stdout": bytearray(), "stderr": bytearray()}
    for stream, data in _open_logs(client, container, follow=False):
        ends[stream] += data
        del ends[stream][: -limit - 1]
    return bytes(ends["stdout"]), bytes(ends["stderr"])


class _Logs:
    """A log that is read piece by piece."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.close = CancellableStream(iter(()), response).close  # a generator cannot be closed while it runs

    def __iter__(self) -> Iterator[Piece]:
        return _demultiplexed(self._response)


def _open_logs(client: Any, container: str, *, follow: bool) -> _Logs:
    url = client._url("/containers/{0}/logs", container)  # docker-py's own logs() mixes the two streams
    params = {"stdout": 1, "stderr": 1, "follow": int(follow), "tail": "all"}
    response = client._get(url, params=params, stream=True, timeout=None if follow else READ_TIMEOUT)
    client._raise_for_status(response)
    return _Logs(response)


def _demultiplexed(response: Any) -> Generator[Piece, None, None]:
    """Docker's frames: stream number, three zero bytes, length (4 bytes, big-endian), data."""
    with response:
        while len(header := response.raw.read(8)) == 8:
            data = response.raw.read(min(int.from_bytes(header[4:], "big"), MAX_FRAME))
            yield "stderr" if header[0] == 2 else "stdout", data
