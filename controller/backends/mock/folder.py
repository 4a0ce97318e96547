"""The folder of a mock sandbox: everything that is known about it, kept through a kill of the controller at any moment.

    STATE/INSTANCE/UID/     ours; the sandbox's user passes through it to its box and reads nothing
        record.json         the labels: who it is, its limits, its user. Written once, before anything is started
        process.json        the pid and start time of its agent. Written while the agent still waits at its gate
        started             made by the gate right before the agent runs: whoever made it first is the only run there is
        killed              we were asked to end it
        agent.sock agent.log
        box/                the sandbox's own: spec.json env.json files.json result.json stdout stderr tmp/ workspace/

What lies in the box was written by hostile code: it is read bounded, never through links.
"""

import errno
import fcntl
import json
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from controller.backends import BackendError, Refused
from controller.backends.mock.processes import Identity
from controller.settings import SandboxSettings

NEW, OLD = ".new-", ".old-"
"""Before the name of a folder that is being made, or deleted."""
LOG_BYTES = 1 << 20
"""That much of each output stream of `run` the agent keeps for `logs`."""
RESULT = "result.json"
RESULT_BYTES = 1 << 20
"""The agent's own is at most 45 KiB: two tails of 16 KiB in base64."""


@dataclass(frozen=True)
class Record:
    """What was decided when a sandbox was made."""

    uid: str
    namespace: str
    name: str
    has_run: bool
    """It runs one program and finishes; otherwise it waits for executions."""
    created_at: str
    """RFC 3339."""
    user: int | None
    memory: int
    """Bytes."""
    pids: int
    host_path: str = ""
    """The folder of this machine that is its workspace; empty: one in the box."""
    fixed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Folder:
    """One sandbox's folder. Its methods block for as long as the disk does."""

    path: Path

    @property
    def box(self) -> Path:
        return self.path / "box"

    def workspace(self, record: Record) -> Path:
        return Path(record.host_path) if record.host_path else self.box / "workspace"

    @property
    def started(self) -> Path:
        return self.path / "started"

    @property
    def socket(self) -> Path:
        return self.path / "agent.sock"

    @property
    def log(self) -> Path:
        """What the agent says when it fails to start."""
        return self.path / "agent.log"

    @property
    def killed(self) -> Path:
        return self.path / "killed"

    def record(self) -> Record | None:
        """The record, None where there is no such sandbox. Raises BackendError where it is damaged."""
        found = self._read_json("record.json")
        try:
            return None if found is None else Record(**found)
        except TypeError as error:
            raise BackendError(f"{self.path}/record.json is not ours ({error}); remove {self.path}") from error

    @contextmanager
    def locked(self, seconds: float = 10) -> Iterator[None]:
        """For the step from made to started: another controller waits here, and then sees what was done.

        Raises BackendError after `seconds`, FileNotFoundError where there is no such sandbox.
        """
        until = time.monotonic() + seconds
        with (self.path / "record.json").open() as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise BackendError(
                            f"another controller is starting {self.path.name} and does not end"
                        ) from None
                    time.sleep(0.01)
            yield

    def identity(self, record: Record) -> Identity:
        """How its processes are told from others."""
        process = self._read_json("process.json") or {}
        return Identity(record.uid, record.user, process.get("pid"), process.get("start_ticks"))

    def write_process(self, pid: int, start_ticks: int) -> None:
        write_durably(self.path / "process.json", json.dumps({"pid": pid, "start_ticks": start_ticks}).encode())

    def write_record(self, record: Record) -> None:
        write_durably(self.path / "record.json", json.dumps(asdict(record)).encode())

    def read_box(self, name: str, limit: int, offset: int = 0) -> bytes:
        """Up to `limit` bytes of a file in the box, b"" where there is no such regular file.

        No links are followed: a hard one, too, could bring in a file that only we may read.
        """
        try:
            fd = os.open(self.box / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # not there, a link, a socket: whatever it is, the agent did not write it
            return b""
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                return b""
            return os.pread(fd, limit, offset)
        finally:
            os.close(fd)

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise BackendError(f"{self.path}/{name} is damaged; remove the folder {self.path}") from error
        return found


def state_folder(settings: SandboxSettings) -> Path:
    """Where this user's mock sandboxes live."""
    return settings.state_folder or Path(tempfile.gettempdir()) / f"sandbox-controller-{os.geteuid()}"


def make_private(folder: Path) -> None:
    """Make a folder that others may only pass through. Raises BackendError where somebody else made it before."""
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Refused(
            f"{folder} is not a folder that only we can write to; remove it, or set SANDBOX__STATE_FOLDER to another"
        )
    folder.chmod(0o711)


def make_folder(parent: Path, record: Record) -> None:
    """Make the folder of a new sandbox, whole or not at all; there already is fine. Raises OSError, BackendError."""
    draft = Folder(Path(tempfile.mkdtemp(prefix=NEW, dir=parent)))
    try:
        draft.path.chmod(0o711)
        draft.write_record(record)
        for folder in (draft.box, draft.box / "tmp", draft.box / "workspace"):
            folder.mkdir(mode=0o700)
            if record.user is not None:
                os.chown(folder, record.user, record.user)
        draft.path.rename(parent / record.uid)
    except BaseException as error:
        delete_tree(draft.path)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return
        raise


def write_for_user(path: Path, content: str, user: int | None) -> None:
    """Write a file that the sandbox's user alone may read. Only before anything of it ran."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(content)
        if user is not None:
            os.fchown(fd, user, user)


def discard(folder: Folder) -> None:
    """Delete the folder of a sandbox; absent is fine. Killed in the middle, what is left bears no sandbox's name."""
    if not folder.path.exists():
        return
    old = Path(tempfile.mkdtemp(prefix=OLD, dir=folder.path.parent))
    try:
        folder.path.rename(old / "sandbox")
    except FileNotFoundError:  # by another removal, at the same time
        pass
    delete_tree(old)


def write_durably(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace the file at once, on the disk before this returns."""
    fd, draft = tempfile.mkstemp(prefix=NEW, dir=path.parent)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(content)
        file.flush()
        os.fsync(fd)
    Path(draft).replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def delete_tree(path: Path, seconds: float = 120) -> None:
    """Delete a tree that hostile code filled; absent is fine. Raises BackendError.

    By rm(1), because shutil.rmtree holds a descriptor and a stack frame for each level, of which there can be 100,000.
    """
    command = ["/bin/rm", "-rf", "--one-file-system", "--", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)  # noqa: S603 our own path
    except subprocess.TimeoutExpired:
        raise BackendError(f"deleting {path} took longer than {seconds:.0f} s; it is tried again") from None
    if done.returncode != 0:
        raise BackendError(f"deleting {path} failed: {done.stderr.decode(errors='replace')[-200:].strip()}")
