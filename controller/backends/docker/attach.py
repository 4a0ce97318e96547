"""Byte streams into containers, as asyncio streams: attached to a container, or to a `docker exec`.

docker-py's sockets block, and asyncio cannot take them where they are TLS; the upgrade itself is one HTTP request, so it
is made here. Source: https://docs.docker.com/reference/api/engine/#tag/Container/operation/ContainerAttach
"""

import asyncio
import json
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

import docker

from controller.backends import BackendError, NotFound, NotRunning, Unavailable

_HEADER = 8
"""Docker's multiplexing: stream number, three zero bytes, length (4 bytes, big-endian)."""
STDOUT, STDERR = 1, 2
_MAX_CHUNK = 1 << 20
"""dockerd copies in 32 KiB pieces; a longer frame is not Docker's."""
_MISSING, _CONFLICT = b"404", b"409"


async def _dial(client: docker.APIClient) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    adapter = client.get_adapter(client.base_url)
    if hasattr(adapter, "socket_path"):
        return await asyncio.open_unix_connection(adapter.socket_path)
    url = urlsplit(client.base_url)
    if url.scheme not in ("http", "https") or url.hostname is None:
        raise BackendError(f"streams over {url.scheme}:// are not supported; use a Unix socket or tcp://", "DockerHost")
    context = None
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=client.verify if isinstance(client.verify, str) else None)
        if client.verify is False:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if client.cert:
            certificate, key = client.cert if isinstance(client.cert, tuple) else (client.cert, None)
            context.load_cert_chain(certificate, key)
    return await asyncio.open_connection(url.hostname, url.port or (443 if context else 80), ssl=context)


async def attach(client: docker.APIClient, container: str, timeout: float) -> "DockerStream":
    """Attach to the container's stdin and stdout, from now on. `timeout` in seconds.

    Raises NotFound, NotRunning, Unavailable, BackendError.
    """
    return await _upgraded(client, f"/containers/{container}/attach?stream=1&stdin=1&stdout=1", b"", timeout)


async def start_exec(client: docker.APIClient, exec_id: str, timeout: float) -> "DockerStream":
    """Start a created exec, attached to its three streams. Raises as `attach` does."""
    return await _upgraded(
        client, f"/exec/{exec_id}/start", json.dumps({"Detach": False, "Tty": False}).encode(), timeout
    )


async def _upgraded(client: docker.APIClient, path: str, body: bytes, timeout: float) -> "DockerStream":
    head = (
        f"POST /v{client.api_version}{path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    what = f"opening {path.partition('?')[0]}"
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await _dial(client)
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
    except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError) as error:
        raise Unavailable(f"{what}: {type(error).__name__}: {error}", "DockerUnavailable") from error
    status = answer.split(b" ", 2)[1] if answer.count(b" ") >= 2 else b""
    if status in (b"101", b"200"):
        return DockerStream(reader, writer)
    writer.close()
    if status == _MISSING:
        raise NotFound(f"{what}: there is no such container")
    if status == _CONFLICT:
        raise NotRunning(f"{what}: the container does not run")
    raise BackendError(f"{what}: Docker answers {status.decode(errors='replace')}", "AttachFailed")


class DockerStream:
    """One upgraded connection: frames of stdout and stderr come, bytes for stdin go."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._stream = STDOUT
        self._left = 0
        """Bytes of the frame under way that were not read yet."""

    async def piece(self, limit: int = 65536) -> tuple[int, bytes]:
        """Which stream, and its next bytes, at most `limit`; no bytes at the end, or where the stream is none of Docker's."""
        try:
            while self._left == 0:
                header = await self._reader.readexactly(_HEADER)
                self._stream, self._left = header[0], int.from_bytes(header[4:], "big")
                if header[1:4] != b"\0\0\0" or self._left > _MAX_CHUNK:
                    return self._stream, b""
            data = await self._reader.read(min(self._left, limit))
        except (asyncio.IncompleteReadError, OSError):
            return self._stream, b""
        self._left -= len(data)
        return self._stream, data

    async def read(self, limit: int) -> bytes:
        """The next bytes of stdout; b"" at the end."""
        while True:
            stream, data = await self.piece(limit)
            if not data or stream == STDOUT:
                return data

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    def end_input(self) -> None:
        """No more bytes for stdin."""
        with suppress(OSError, NotImplementedError):  # TLS cannot close one side
            self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()
