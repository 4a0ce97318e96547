"""A container's stdin and stdout as asyncio streams.

docker-py's `attach_socket` hands out a blocking socket, which asyncio cannot take where it is TLS; the upgrade itself is one
HTTP request (https://docs.docker.com/reference/api/engine/#tag/Container/operation/ContainerAttach), so it is made here.
"""

import asyncio
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

import docker

from controller.backends import BackendError, Unavailable

_HEADER = 8
"""Docker's multiplexing: stream number, three zero bytes, length (4 bytes, big-endian)."""
_STDOUT = 1
_MAX_CHUNK = 1 << 20
"""dockerd copies in 32 KiB pieces; a longer frame is not Docker's."""


async def _dial(client: docker.APIClient) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    adapter = client.get_adapter(client.base_url)
    if hasattr(adapter, "socket_path"):
        return await asyncio.open_unix_connection(adapter.socket_path)
    url = urlsplit(client.base_url)
    if url.scheme not in ("http", "https") or url.hostname is None:
        raise BackendError(
            f"attaching over {url.scheme}:// is not supported; use a Unix socket, tcp:// or TLS", "DockerHost"
        )
    context = None
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=client.verify if isinstance(client.verify, str) else None)
        if client.verify is False:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if client.cert:
            certificate, key = client.cert if isinstance(client.cert, tuple) else (client.cert, None)
            context.load_cert_chain(certificate, key)
    return await asyncio.open_connection(url.hostname, url.port or (443 if context else 80), ssl=context)


async def attach(client: docker.APIClient, container: str, timeout: float) -> "AttachedStream":
    """Attach to the container's stdin and stdout, from now on. Raises Unavailable, BackendError; `timeout` in seconds."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await _dial(client)
            path = f"/v{client.api_version}/containers/{container}/attach?stream=1&stdin=1&stdout=1"
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
    except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError) as error:
        raise Unavailable(
            f"attaching to container {container[:12]}: {type(error).__name__}: {error}", "DockerUnavailable"
        ) from error
    status = head.split(b" ", 2)[1] if head.count(b" ") >= 2 else b""
    if status not in (b"101", b"200"):
        writer.close()
        raise BackendError(
            f"attaching to container {container[:12]}: Docker answers {status.decode(errors='replace')}", "AttachFailed"
        )
    return AttachedStream(reader, writer)


class AttachedStream:
    """The bytes of one container: `read` gives its stdout with Docker's headers taken off, `write` is its stdin."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._left = 0
        self._skip = False

    async def read(self, limit: int = 65536) -> bytes:
        """The next bytes of stdout, at most `limit`; b"" at the end or where the stream is none of Docker's."""
        while True:
            while self._left == 0:
                try:
                    header = await self._reader.readexactly(_HEADER)
                except (asyncio.IncompleteReadError, OSError):
                    return b""
                self._left = int.from_bytes(header[4:], "big")
                self._skip = header[0] != _STDOUT
                if header[1:4] != b"\0\0\0" or self._left > _MAX_CHUNK:
                    return b""
            try:
                data = await self._reader.read(min(self._left, limit))
            except OSError:
                return b""
            self._left -= len(data)
            if not data or not self._skip:
                return data

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    def is_closing(self) -> bool:
        return self._writer.is_closing()

    def close(self) -> None:
        self._writer.close()

    async def wait_closed(self) -> None:
        with suppress(OSError):
            await self._writer.wait_closed()
