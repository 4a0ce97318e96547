"""How the agent of a mock sandbox comes to run: which interpreter, which environment, and the gate before it.

The gate is a shell that waits until the controller wrote down its pid. A controller that is killed before that closes
the gate for good, and nothing ran; one killed later finds the process again. Then the gate makes the file `started`,
which only the first can make: so a sandbox's program runs at most once, whoever starts it how often.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from hashlib import sha256
from pathlib import Path

from controller.backends import BackendError, Refused
from controller.backends.mock.folder import RESULT, Folder, Record, write_durably, write_for_user
from controller.backends.mock.processes import MARK, Process, read_process
from controller.backends.mock.users import may_use
from controller.model import Run, Sandbox
from controller.resources import agent_programs

GATE = """\
read -r go || exit 1
set -C
: >"$1" || exit 1
cd "$2" || exit 1
ulimit -c 0
umask 022
shift 2
exec "$@" </dev/null
"""
NOFILE = 1024
SPEC, ENV, FILES = "spec.json", "env.json", "files.json"
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def provide_agent(state: Path) -> Path:
    """Copies of the agent's files that every sandbox's user can read, wherever this package lies; the one to run."""
    programs = {path.name: path.read_bytes() for path in agent_programs()}
    folder = state / f"agent-{sha256(b''.join(programs.values())).hexdigest()[:16]}"
    folder.mkdir(mode=0o755, exist_ok=True)
    for name, text in programs.items():
        if not (folder / name).exists():
            write_durably(folder / name, text, 0o644)
    return folder / next(iter(programs))


def find_python(user: int | None) -> Path:
    """Our own interpreter where the sandbox's user can run it, else the system's. Raises Refused."""
    system = shutil.which("python3", path=_SYSTEM_PATH)
    for candidate in (Path(sys.executable), *([Path(system)] if system else [])):
        real = candidate.resolve()
        if may_use(user, real):
            return real
    raise Refused(f"{sys.executable} lies in a folder closed to others; install python3 in /usr/bin", "NoPython")


def launch(folder: Folder, record: Record, sandbox: Sandbox, agent: Path, timeout: int) -> Process:
    """Start the agent of a sandbox that never ran; its pid is on the disk before it does anything.

    `timeout` in seconds is for a `run` that names none. Raises OSError, BackendError, Refused.
    """
    python = find_python(record.user)
    variables = {each.name: each.value for each in sandbox.spec.env if each.name != MARK}
    write_for_user(folder.box / ENV, json.dumps(variables), record.user)
    write_for_user(
        folder.box / FILES, json.dumps({each.path: each.content for each in sandbox.spec.files}), record.user
    )
    arguments = ["--workspace", str(folder.workspace(record)), "--env", ENV, "--files", FILES]
    arguments += ["--memory", str(record.memory), "--pids", str(record.pids), "--nofile", str(NOFILE)]
    if record.user is not None:
        arguments += ["--user", str(record.user), "--group", str(record.user)]
    if sandbox.spec.run is None:
        arguments += ["--socket", f"../{folder.socket.name}"]  # an absolute path may be too long for a socket
    else:
        write_for_user(folder.box / SPEC, json.dumps(_request(sandbox.spec.run, timeout)), record.user)
        arguments += ["--run", SPEC, "--result", RESULT]
    gate = ["/bin/sh", "-c", GATE, "sandbox", str(folder.started), str(folder.box)]
    gate += [str(python), "-I", "-S", str(agent), *arguments]
    go, hold = os.pipe()
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, go, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(folder.log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        ]
        environment = _environment(folder, record, python)
        ignored = (signal.SIGPIPE, signal.SIGXFSZ)  # by our interpreter; a program expects the default
        pid = os.posix_spawn(gate[0], gate, environment, file_actions=actions, setsid=True, setsigdef=ignored)
        process = read_process(pid)
        if process is None:
            raise BackendError(f"sandbox {record.uid}: its agent vanished while it was started; it is tried again")
        folder.write_process(process.pid, process.start_ticks)
        os.write(hold, b"go\n")
        return process
    finally:
        os.close(go)
        os.close(hold)


def _environment(folder: Folder, record: Record, python: Path) -> dict[str, str]:
    """All that the agent gets to see of the controller's environment: nothing that could be a secret."""
    return {
        "PATH": _search_path(python, record.user),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "HOME": str(folder.workspace(record)),
        "TMPDIR": str(folder.box / "tmp"),
        MARK: record.uid,
    }


def _search_path(python: Path, user: int | None) -> str:
    """Our PATH with the interpreter first, without the folders that the sandbox's user cannot enter.

    In one of those, what is not found at all would be told as "Permission denied".
    """
    ours = [Path(entry) for entry in os.environ.get("PATH", _SYSTEM_PATH).split(":") if entry.startswith("/")]
    folders = dict.fromkeys((python.parent, *ours))
    return ":".join(str(folder) for folder in folders if may_use(user, folder))


def _request(run: Run, timeout: int) -> dict[str, object]:
    """`run` as the agent's specification has it."""
    asked: dict[str, object] = {"stdin": run.stdin, "deadline": run.timeout_seconds or timeout}
    if run.command is not None:
        return asked | {"kind": "command", "argv": list(run.command)}
    return asked | {"kind": run.language, "code": run.code}


class SocketStream:
    """The agent's socket, as the link wants its bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.write, self.drain, self.close = writer.write, writer.drain, writer.close

    async def read(self, limit: int) -> bytes:
        """At most `limit` bytes; b"" at the end, also where the agent was killed."""
        try:
            return await self._reader.read(limit)
        except OSError:
            return b""


async def dial(folder: Folder) -> SocketStream:
    """Connect to the agent of this sandbox. Raises OSError."""
    descriptor = os.open(folder.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # by way of the descriptor, because the path of a socket has at most 107 bytes: unix(7)
        return SocketStream(*await asyncio.open_unix_connection(f"/proc/self/fd/{descriptor}/{folder.socket.name}"))
    finally:
        os.close(descriptor)
