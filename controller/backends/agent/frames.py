"""The frames of the link as bytes, cut out of a stream that may be hostile.

The head of sandbox-image/agent.py specifies them.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple
from zlib import crc32

HELLO_TOKEN = bytes.fromhex("d3a96e0f51c8b742")
TOKEN_BYTES = 8
MAX_PAYLOAD = 32 * 1024
WINDOW = 256 * 1024
"""Bytes of output or file content that each side may send on a channel before the other grants more."""

_HEADER = struct.Struct("!8sBIII")
FRAME_BYTES = _HEADER.size
"""What a frame has beside its payload."""
PADDING = bytes(_HEADER.size + MAX_PAYLOAD)
"""Sent before HELLO: completes whatever an earlier controller left half written, which the agent then drops."""


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    REQUEST = 2
    PART = 3
    DATA = 4
    EOF = 5
    CREDIT = 6
    STARTED = 7
    STDOUT = 8
    STDERR = 9
    RESULT = 10
    ERROR = 11
    CLOSE = 12


class Frame(NamedTuple):
    """One frame, without its token."""

    kind: int
    channel: int
    payload: bytes


def encode(token: bytes, kind: Kind, channel: int = 0, payload: bytes = b"") -> bytes:
    """One frame as bytes. `payload` has at most MAX_PAYLOAD bytes."""
    return _HEADER.pack(token, kind, channel, len(payload), crc32(payload)) + payload


class FrameReader:
    """Cuts frames that bear our token out of a stream; all other bytes are skipped and counted, none is kept."""

    def __init__(self, token: bytes) -> None:
        self._token = token
        self._buffer = bytearray()
        self.skipped = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with `data`. Never raises, keeps at most one incomplete frame."""
        self._buffer += data
        while True:
            start = self._buffer.find(self._token)
            self._skip(start if start >= 0 else max(0, len(self._buffer) - TOKEN_BYTES + 1))
            if start < 0 or len(self._buffer) < _HEADER.size:
                return
            _, kind, channel, length, checksum = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + length
            if length <= MAX_PAYLOAD and len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            if length > MAX_PAYLOAD or crc32(payload) != checksum:
                self._skip(1)
                continue
            del self._buffer[:end]
            yield Frame(kind, channel, payload)

    def _skip(self, count: int) -> None:
        del self._buffer[:count]
        self.skipped += count
