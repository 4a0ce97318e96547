"""The processes of mock sandboxes: told apart from all others on this machine, frozen, and ended whole.

A process belongs to a sandbox when it descends from its agent (a subreaper, so `setsid` and double forks stay below
it), when it runs as the sandbox's own user, or when its environment bears the sandbox's mark: the last two still hold
after the program killed its agent. Signals go through pidfds, so a pid that was used again is never hit.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from controller.backends import BackendError, Usage
from controller.backends.mock.users import is_own

MARK = "AGENT_PLATFORM_SANDBOX"
"""Environment variable of every process of a sandbox; its value is the sandbox's uid."""


@dataclass(frozen=True)
class Process:
    """One process as /proc tells it. A pid alone is used again; with its start time it is the same process."""

    pid: int
    start_ticks: int
    """Clock ticks from boot to its start: field 22 of proc_pid_stat(5)."""
    parent: int = field(compare=False)
    state: str = field(compare=False)
    """R, S, D, T (stopped), Z (zombie) and so on."""


@dataclass(frozen=True)
class Identity:
    """What tells the processes of one sandbox from all others."""

    uid: str
    user: int | None
    """The user id that it runs as; None: as the controller's own user."""
    pid: int | None
    """Of its agent."""
    start_ticks: int | None


def read_process(pid: int) -> Process | None:
    """The process with this pid, None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name in parentheses may hold anything
    return Process(pid, start_ticks=int(fields[19]), parent=int(fields[1]), state=fields[0])


def agent_process(identity: Identity) -> Process | None:
    """The living agent of a sandbox; None when it ended, also where its pid is another's by now."""
    process = None if identity.pid is None else read_process(identity.pid)
    alive = process is not None and process.start_ticks == identity.start_ticks and process.state not in "ZX"
    return process if alive else None


def members(identity: Identity) -> list[Process]:
    """Every living process of the sandbox. Zombies are over and hold nothing."""
    glances = {pid: glance for pid in _pids() if (glance := _glance(pid)) is not None}
    agent = agent_process(identity)
    below = _descendants(glances, agent.pid) if agent is not None else set()
    found = []
    for pid, glance in glances.items():
        if pid in below or _bears_mark(pid, glance, identity):
            process = read_process(pid)
            if process is not None and _glance(pid) == glance:  # its pid was not used again in between
                found.append(process)
    return found


def usage_of(identity: Identity) -> Usage:
    """What the sandbox's processes take together; shared pages count for each of them."""
    memory, ticks, processes = 0, 0, 0
    for process in members(identity):
        try:
            text = Path(f"/proc/{process.pid}/stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        fields = text[text.rindex(")") + 2 :].split()
        processes += 1
        memory += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")  # rss, field 24 of proc_pid_stat(5)
        ticks += sum(map(int, fields[11:15]))  # its own time and that of children that are gone, fields 14 to 17
    return Usage(memory, ticks / os.sysconf("SC_CLK_TCK"), processes)


def _pids() -> Iterator[int]:
    ours = os.getpid()
    return (
        int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit() and int(entry.name) not in (1, ours)
    )


class _Glance(NamedTuple):
    """What one cheap look at a process tells."""

    parent: int
    user: int


def _glance(pid: int) -> _Glance | None:
    """None for a process that is gone, or a zombie."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:  # noqa: PTH123 a Path for each process costs more
            text = file.read(1024)
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, user = (text.partition(b"\n" + name + b":\t")[2].split(None, 1)[0] for name in _FIELDS)
    return None if state in b"ZX" else _Glance(int(parent), int(user))


_FIELDS = (b"State", b"PPid", b"Uid")


def _descendants(glances: dict[int, _Glance], root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, glance in glances.items():
        children.setdefault(glance.parent, []).append(pid)
    found, todo = {root}, [root]
    while todo:
        fresh = [pid for pid in children.get(todo.pop(), ()) if pid not in found]
        found.update(fresh)
        todo.extend(fresh)
    return found


def _bears_mark(pid: int, glance: _Glance, identity: Identity) -> bool:
    if identity.user is not None and is_own(identity.user):
        return glance.user == identity.user
    if glance.user != (os.geteuid() if identity.user is None else identity.user):
        return False
    try:
        return f"{MARK}={identity.uid}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone meanwhile, or it does not let us look
        return False


def freeze(identity: Identity, seconds: float = 5) -> list[Process]:
    """Stop every process of the sandbox, wait until the kernel shows them standing, and return them.

    Looks again until two looks in a row find the same processes, all standing: a fork that was under way when its process
    was stopped still makes a child, and a look that began before that misses it. One that waits in the kernel (D: for its
    vfork's child, which was stopped) runs no code either.
    Raises BackendError when that takes longer than `seconds`.
    """
    until = time.monotonic() + seconds
    stood: set[Process] | None = None
    told: set[Process] = set()
    while True:
        found = members(identity)
        moving = [each for each in found if each.state not in "Tt" and (each.state != "D" or each not in told)]
        if not moving and stood == set(found):
            return found
        if time.monotonic() > until:
            raise BackendError(f"sandbox {identity.uid} does not stand still after {seconds:g} s: {_some(moving)}")
        for process in moving:
            send(process, signal.SIGSTOP)
        told.update(moving)
        stood = None if moving else set(found)


def resume(identity: Identity, seconds: float = 5) -> None:
    """Let every process go on, and wait until the agent does. Raises BackendError where that takes longer than `seconds`."""
    for process in members(identity):
        send(process, signal.SIGCONT)
    _await(identity, seconds, "resumed", lambda: [a for a in [agent_process(identity)] if a and a.state in "Tt"])


def _await(identity: Identity, seconds: float, what: str, others_of: Callable[[], list[Process]]) -> None:
    until = time.monotonic() + seconds
    while others := others_of():
        if time.monotonic() > until:
            raise BackendError(f"sandbox {identity.uid} is not {what} after {seconds:g} s: {_some(others)}")
        time.sleep(0.001)


def end(identity: Identity, seconds: float = 5) -> None:
    """Kill every process of the sandbox and wait until all are gone.

    Raises BackendError when some are left after `seconds`.
    """
    until = time.monotonic() + seconds
    while doomed := freeze(identity, max(0.1, until - time.monotonic())):
        for process in doomed:
            send(process, signal.SIGKILL)
        for process in doomed:
            if not wait_gone(process, until - time.monotonic()):
                raise BackendError(f"sandbox {identity.uid}: killed processes do not go away: {_some(doomed)}")


def send(process: Process, number: signal.Signals) -> None:
    """Signal this very process; one that is gone is fine."""
    with _pidfd(process) as fd:
        if fd is not None:
            try:
                signal.pidfd_send_signal(fd, number)
            except ProcessLookupError:
                pass


def wait_gone(process: Process, seconds: float) -> bool:
    """Wait until this very process ended. False when it lives on after `seconds`."""
    with _pidfd(process) as fd:
        if fd is None:
            return True
        ending = select.poll()  # select() takes no descriptor from 1024 on
        ending.register(fd, select.POLLIN)
        return bool(ending.poll(max(0.0, seconds) * 1000))


@contextmanager
def _pidfd(process: Process) -> Iterator[int | None]:
    fd = open_pidfd(process)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def open_pidfd(process: Process) -> int | None:
    """A pidfd of this very process, None when it is gone. The caller closes it."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    now = read_process(process.pid)
    if now is None or now.start_ticks != process.start_ticks:
        os.close(fd)
        return None
    return fd


def _some(processes: list[Process]) -> str:
    return "pids " + ", ".join(f"{p.pid} ({p.state})" for p in processes[:10])
