"""Docker's endless answers, events and logs, as asyncio iterators: a thread reads each, and ends with its consumer."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, Literal, TypeVar

import docker
import requests
import urllib3
from docker.errors import DockerException

from controller.backends import Unavailable
from controller.backends.docker.client import READ_TIMEOUT

T = TypeVar("T")

QUEUE = 256
"""Items read ahead of the consumer; then the thread waits, and with it the daemon."""
MAX_FRAME = 1 << 20
"""Bytes; the log driver splits lines at 16 KiB."""
Piece = tuple[Literal["stdout", "stderr"], bytes]
_END = object()


async def _pumped(open_stream: Callable[[], Iterator[T]], close: Callable[[Any], None]) -> AsyncIterator[T]:
    """What the blocking iterator yields. Raises Unavailable where it breaks off."""
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
        close(stream)


def _opened(open_stream: Callable[[], Iterator[T]]) -> Iterator[T]:
    try:
        return open_stream()
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, DockerException, OSError) as error:
        raise Unavailable(f"a stream of Docker was not opened: {error}", "DockerUnavailable") from error


def read_events(client: docker.APIClient, filters: dict[str, list[str]], since: int) -> AsyncIterator[dict[str, Any]]:
    """The daemon's events from `since` on (seconds since 1970; of the past it knows the last 256)."""

    def close(stream: Any) -> None:
        with suppress(Exception):
            stream.close()

    return _pumped(lambda: client.events(since=since, filters=filters, decode=True), close)


def read_logs(client: docker.APIClient, container: str, *, follow: bool) -> AsyncIterator[Piece]:
    """The container's log, then what comes, if `follow`, until it ends."""

    return _pumped(lambda: _open_logs(client, container, follow=follow), lambda stream: stream.close())


def read_ends(client: docker.APIClient, container: str, limit: int) -> tuple[bytes, bytes]:
    """The last bytes of stdout and stderr, one more than `limit` where there was more. Blocking."""
    ends = {"stdout": bytearray(), "stderr": bytearray()}
    for stream, data in _open_logs(client, container, follow=False):
        ends[stream] += data
        del ends[stream][: -limit - 1]
    return bytes(ends["stdout"]), bytes(ends["stderr"])


def _open_logs(client: Any, container: str, *, follow: bool) -> Generator[Piece, None, None]:
    url = client._url("/containers/{0}/logs", container)  # docker-py's own logs() mixes the two streams
    params = {"stdout": 1, "stderr": 1, "follow": int(follow), "tail": "all"}
    response = client._get(url, params=params, stream=True, timeout=None if follow else READ_TIMEOUT)
    client._raise_for_status(response)
    return _demultiplexed(response)


def _demultiplexed(response: Any) -> Generator[Piece, None, None]:
    """Docker's frames: stream number, three zero bytes, length (4 bytes, big-endian), data."""
    with response:
        while len(header := response.raw.read(8)) == 8:
            data = response.raw.read(min(int.from_bytes(header[4:], "big"), MAX_FRAME))
            yield "stderr" if header[0] == 2 else "stdout", data
