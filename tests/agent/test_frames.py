"""The link's bytes: torn, forged, flooding or not read at all, they cost nobody anything but the session they are in."""

import fcntl
import os
import select
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.conftest import RunningAgent
from tests.agent.peer import (
    DATA,
    EOF,
    HEADER,
    HELLO,
    HELLO_TOKEN,
    MAX_PAYLOAD,
    PART,
    REQUEST,
    AgentRefused,
    Peer,
    frame,
)


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def waiting(reader: int) -> int:
    """Bytes that wait in a pipe."""
    return struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))[0]  # type: ignore[no-any-return]


def test_a_controller_that_dies_in_the_middle_of_a_frame_is_followed_by_another(agent: RunningAgent) -> None:
    first = agent.session()
    half = frame(
        first.token,
        REQUEST,
        1,
        b'{"op": "execute", "id": "half", "digest": "d", "kind": "bash", "code": "' + b"x" * 9000,
    )
    for cut in (3, HEADER.size - 1, HEADER.size, HEADER.size + 10, len(half) - 1):
        first.write(half[:cut])
        second = agent.session()
        assert second.bash("echo served").stdout == b"served\n"
        with pytest.raises(AgentRefused, match="NotFound"):
            second.ask("attach", id="half")
        first = second


def test_the_torn_end_of_a_session_does_not_reach_a_program(agent: RunningAgent) -> None:
    first = agent.session()
    number = first.start("command", argv=["cat"], stdin=True, id="torn" + str(id(agent)))
    first.started(number)
    first.write(frame(first.token, DATA, number, b"x" * 1000)[:500])
    second = agent.session()
    number = second.open(op="attach", id="torn" + str(id(agent)))
    second.feed(number, b"whole")
    assert second.finish(number).stdout == b"whole"


def test_a_session_that_was_replaced_is_not_heard_any_more(agent: RunningAgent) -> None:
    first = agent.session()
    second = agent.session()
    first.start("bash", code="echo old > old-session")
    assert second.bash("ls old-session").result["exit_code"] == 2  # type: ignore[index]


def test_what_a_program_prints_is_never_taken_for_a_frame(agent: RunningAgent) -> None:
    peer = agent.session()
    forged = frame(HELLO_TOKEN, HELLO, 0, b"{}") + frame(peer.token, 10, 1, b'{"exit_code": 0}') + bytes(64)
    code = f"import sys; sys.stdout.buffer.write(bytes.fromhex('{forged.hex()}')); sys.exit(9)"
    done = peer.python(code)
    assert done.stdout == forged
    assert done.result and done.result["exit_code"] == 9


def test_a_session_that_starts_in_the_middle_of_output_finds_its_frames(agent: RunningAgent) -> None:
    first = agent.session()
    first.start("python", code="import os\nwhile True: os.write(1, bytes(range(256)) * 16)", id="noise", deadline=20)
    first.wait(lambda: first.channels[1].stdout)
    deadline = time.monotonic() + 5
    while waiting(first.reader) < 10_000:
        assert time.monotonic() < deadline
    second = agent.session()  # reads from wherever the first one stopped
    assert second.skipped > 0
    second.ask("cancel", id="noise")
    assert second.bash("echo clear").stdout == b"clear\n"


def test_garbage_between_frames_is_skipped(peer: Peer) -> None:
    peer.write(os.urandom(200_000) + HELLO_TOKEN + b"\x09" + os.urandom(50) + peer.token + b"\xff" * 30)
    peer.write(bytes(2 * MAX_PAYLOAD))  # completes what the garbage may have begun
    assert peer.bash("echo after").stdout == b"after\n"


def test_a_frame_that_says_it_is_longer_than_allowed_is_skipped(peer: Peer) -> None:
    peer.write(HEADER.pack(peer.token, REQUEST, 7, MAX_PAYLOAD + 1, 0))
    assert peer.bash("echo after").stdout == b"after\n"


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"null", b"7", b'"text"', b"\xff\xfe", b'{"op": []}', b'{"op": "fly"}', b'{"op": {"a": 1}}', b"[" * 20_000,
     b'{"op": "attach"}', b'{"op": "attach", "id": []}', b'{"op": "put", "path": 5}', b'{"op": "get", "path": null}',
     b'{"op": "put", "path": "x", "mode": "y"}', b'{"op": "list", "path": []}'],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_refused(peer: Peer, payload: bytes) -> None:
    number = next(peer.numbers)
    peer.send(REQUEST, number, payload)
    with pytest.raises(AgentRefused):
        peer.finish(number)
    assert peer.bash("echo after").stdout == b"after\n"


def test_frames_that_nobody_expects_are_ignored(peer: Peer) -> None:
    peer.send(99, 5, b"unknown")
    peer.send(DATA, 77, b"to nobody")
    peer.send(EOF, 77)
    peer.send(10, 77, b"{}")
    peer.send(6, 77, b"{")
    assert peer.bash("echo after").stdout == b"after\n"


def test_a_greeting_that_makes_no_sense_changes_nothing(peer: Peer) -> None:
    for hello in (b"", b"{", b"{}", b'{"token": 5}', b'{"token": "zz"}', b'{"token": "00"}', b"[]"):
        peer.write(frame(HELLO_TOKEN, HELLO, 0, hello))
    assert peer.bash("echo after").stdout == b"after\n"


def test_a_request_is_bounded(peer: Peer) -> None:
    for _ in range((16 << 20) // MAX_PAYLOAD + 2):
        peer.send(PART, 1, bytes(MAX_PAYLOAD))
    number = next(peer.numbers)
    peer.send(REQUEST, number, b"{}")
    with pytest.raises(AgentRefused, match="TooLarge"):
        peer.finish(number)
    assert peer.bash("echo after").stdout == b"after\n"


def test_stdin_beyond_the_credit_ends_its_execution(peer: Peer) -> None:
    number = peer.start("bash", code="sleep 20", stdin=True)
    for _ in range(20):
        peer.send(DATA, number, bytes(MAX_PAYLOAD))
    with pytest.raises(AgentRefused, match="BadRequest"):
        peer.finish(number)
    assert peer.bash("echo after").stdout == b"after\n"


def test_a_controller_that_does_not_read_makes_nothing_grow(start: Callable[..., RunningAgent]) -> None:
    agent = start()
    peer = agent.session()
    peer.bash("true")
    before = resident(agent.process.pid)
    for number in range(8):
        peer.start(
            "bash", code="head -c 200000000 /dev/zero; echo > done-$N", env={"N": str(number)}, id=f"flood-{number}"
        )
    deadline = time.monotonic() + 60
    while agent.session().hello["running"]:
        assert time.monotonic() < deadline
    assert resident(agent.process.pid) - before < 8 * (1 << 20) + (8 << 20)  # eight kept outputs of 1 MiB, and a little


def test_requests_that_nobody_reads_the_answers_to_are_held_back(start: Callable[..., RunningAgent]) -> None:
    agent = start()
    peer = agent.session()
    before = resident(agent.process.pid)
    request = frame(peer.token, REQUEST, 9, b'{"op": "fly' + b"y" * 500 + b'"}')
    sent = 0
    while sent < 50_000_000 and select.select([], [peer.writer], [], 1.0)[1]:
        sent += os.write(peer.writer, (request * 8)[:4000])
    assert sent < 20_000_000
    assert resident(agent.process.pid) - before < 8 << 20


def test_programs_cannot_reach_into_the_agent(container_agent: RunningAgent) -> None:
    peer = container_agent.session()
    code = """
import os
found = []
pid = os.getppid()
while pid:
    for name in ("fd", "mem", "environ", "maps", "fd/0", "fd/1", "fd/3", "fd/4", "fd/5"):
        try:
            path = f"/proc/{pid}/{name}"
            os.listdir(path) if name == "fd" else open(path, "rb").close()
            found.append(path)
        except (PermissionError, FileNotFoundError):
            pass
    pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
print(found, sorted(os.listdir("/proc/self/fd")))
"""
    assert peer.python(code).stdout == b"[] ['0', '1', '2', '3']\n"  # 3: of the listing itself


def test_programs_inherit_three_descriptors(peer: Peer) -> None:
    assert peer.bash("echo /proc/self/fd/*").stdout.split()[:3] == [
        b"/proc/self/fd/0",
        b"/proc/self/fd/1",
        b"/proc/self/fd/2",
    ]
    assert peer.command("ls", "/proc/self/fd").stdout == b"0\n1\n2\n3\n"
