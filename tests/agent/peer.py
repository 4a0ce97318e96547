"""A peer that speaks the agent's protocol over any pair of descriptors, written from the specification in agent.py's head.

It is deliberately not the controller's link: the two are checked against each other.
"""

import binascii
import itertools
import json
import os
import select
import struct
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

HELLO_TOKEN = bytes.fromhex("d3a96e0f51c8b742")
HEADER = struct.Struct("!8sBIII")
MAX_PAYLOAD = 32 * 1024
WINDOW = 256 * 1024
HELLO, REQUEST, PART, DATA, EOF, CREDIT, STARTED, STDOUT, STDERR, RESULT, ERROR, CLOSE = range(1, 13)


def frame(token: bytes, kind: int, channel: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(token, kind, channel, len(payload), binascii.crc32(payload)) + payload


class AgentRefused(Exception):
    """The agent answered with an ERROR frame."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass
class Channel:
    """What came over one channel so far."""

    stdout: bytes = b""
    stderr: bytes = b""
    data: bytes = b""
    started: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: AgentRefused | None = None
    credit: int = WINDOW
    arrived: dict[str, float] = field(default_factory=dict)


class Peer:
    """One session with an agent. Every wait ends after `patience` seconds."""

    def __init__(self, reader: int, writer: int, patience: float = 20.0, greet: bool = True) -> None:
        self.reader, self.writer, self.patience = reader, writer, patience
        self.token = os.urandom(8)
        self.renew_credit = True
        self.buffer = b""
        self.skipped = 0
        self.channels: dict[int, Channel] = defaultdict(Channel)
        self.numbers = itertools.count(1)
        self.ids = itertools.count(1)
        self.hello: dict[str, Any] = {}
        if greet:
            self.greet()

    def greet(self) -> None:
        self.hello = {}
        hello = json.dumps({"protocol": 1, "token": self.token.hex()}).encode()
        self.write(bytes(HEADER.size + MAX_PAYLOAD) + frame(HELLO_TOKEN, HELLO, 0, hello))
        self.wait(lambda: bool(self.hello))

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.writer, data) :]

    def send(self, kind: int, channel: int, payload: bytes = b"") -> None:
        self.write(frame(self.token, kind, channel, payload))

    def read_once(self, timeout: float) -> bool:
        """Take what has come. Returns whether something had."""
        if not select.select([self.reader], [], [], max(0.0, timeout))[0]:
            return False
        data = os.read(self.reader, 1 << 18)
        if not data:
            raise EOFError("the agent has gone")
        self.buffer += data
        while (start := self.buffer.find(self.token)) >= 0 and len(self.buffer) >= start + HEADER.size:
            _, kind, channel, length, checksum = HEADER.unpack_from(self.buffer, start)
            end = start + HEADER.size + length
            if len(self.buffer) < end:
                break
            payload = self.buffer[start + HEADER.size : end]
            assert binascii.crc32(payload) == checksum
            assert length <= MAX_PAYLOAD
            self.skipped += start
            self.buffer = self.buffer[end:]
            self.take(kind, channel, payload)
        return True

    def take(self, kind: int, number: int, payload: bytes) -> None:
        channel = self.channels[number]
        if kind == HELLO:
            self.hello = json.loads(payload)
        elif kind == DATA:
            channel.data += payload
            self.credit(number, payload)
        elif kind == CREDIT:
            channel.credit += json.loads(payload)["bytes"]
        elif kind == STARTED:
            channel.started = json.loads(payload)
        elif kind == STDOUT:
            channel.arrived.setdefault("stdout", time.monotonic())
            channel.stdout += payload
            self.credit(number, payload)
        elif kind == STDERR:
            channel.stderr += payload
            self.credit(number, payload)
        elif kind == RESULT:
            channel.arrived["result"] = time.monotonic()
            channel.result = json.loads(payload)
        elif kind == ERROR:
            error = json.loads(payload)
            channel.error = AgentRefused(error["code"], error["message"])

    def credit(self, number: int, payload: bytes) -> None:
        """Let the agent send as much again."""
        if self.renew_credit:
            self.credit_for(number, len(payload))

    def credit_for(self, number: int, count: int) -> None:
        self.send(CREDIT, number, json.dumps({"bytes": count}).encode())

    def wait(self, condition: Any) -> None:
        deadline = time.monotonic() + self.patience
        while not condition():
            if not self.read_once(deadline - time.monotonic()) and time.monotonic() > deadline:
                raise TimeoutError("the agent did not say what was waited for")

    def open(self, **request: Any) -> int:
        """Send a request, in parts where it is long. Returns its channel."""
        number = next(self.numbers)
        document = json.dumps(request).encode()
        while len(document) > MAX_PAYLOAD:
            self.send(PART, number, document[:MAX_PAYLOAD])
            document = document[MAX_PAYLOAD:]
        self.send(REQUEST, number, document)
        return number

    def start(self, kind: str, **request: Any) -> int:
        if "id" not in request:
            request["id"] = f"e-{os.getpid()}-{next(self.ids)}-{os.urandom(3).hex()}"
        request.setdefault("digest", "d")
        return self.open(op="execute", kind=kind, **request)

    def started(self, number: int) -> Channel:
        channel = self.channels[number]
        self.wait(lambda: channel.started or channel.error)
        if channel.error:
            raise channel.error
        return channel

    def finish(self, number: int) -> Channel:
        """Wait for the channel's result."""
        channel = self.channels[number]
        self.wait(lambda: channel.result or channel.error)
        if channel.error:
            raise channel.error
        return channel

    def feed(self, number: int, data: bytes) -> None:
        """Send bytes as the agent's credit allows, then the end."""
        channel, rest = self.channels[number], memoryview(data)
        while rest:
            self.wait(lambda: channel.credit or channel.result or channel.error)
            if channel.result or channel.error:
                break
            block = rest[: min(MAX_PAYLOAD, channel.credit)]
            channel.credit -= len(block)
            self.send(DATA, number, bytes(block))
            rest = rest[len(block) :]
        self.send(EOF, number)

    # The requests, from start to result

    def python(self, code: str, **request: Any) -> Channel:
        return self.finish(self.start("python", code=code, **request))

    def bash(self, code: str, **request: Any) -> Channel:
        return self.finish(self.start("bash", code=code, **request))

    def command(self, *argv: str, **request: Any) -> Channel:
        return self.finish(self.start("command", argv=list(argv), **request))

    def ask(self, op: str, **request: Any) -> Channel:
        return self.finish(self.open(op=op, **request))

    def put(self, path: str, content: bytes, **request: Any) -> Channel:
        number = self.open(op="put", path=path, **request)
        self.feed(number, content)
        return self.finish(number)
