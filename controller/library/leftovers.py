"""Marks of library processes: a file each, locked while its process lives, however it dies.

Each local place has an instance label of its own, so that neither a controller nor another library process touches its
sandboxes. A mark that nobody locks is of a process that ended without removing them; the next one does that.
"""

import fcntl
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

PREFIX = "library-"


class Mark:
    """The mark of one place of this process. `place` says where its sandboxes are: they are looked for only there."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @property
    def instance(self) -> str:
        return self._path.name

    def gone(self) -> None:
        """Nothing is left of this instance. Told twice is fine."""
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)
            self.release()

    def release(self) -> None:
        """Leave it to the next process."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def new_instance() -> str:
    """A name for `take`, unique on every machine that shares the daemon."""
    return f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex[:16]}"


def folder_in(state_folder: Path | None) -> Path:
    """Where marks are kept: below SANDBOX__STATE_FOLDER, else in this user's own below the temporary folder."""
    return (state_folder or Path(tempfile.gettempdir())) / f"sandbox-library-{os.geteuid()}"


def take(folder: Path, instance: str, place: str) -> Mark:
    """Mark this process as owner of `instance`. Raises OSError, also for a folder that another user could write to."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is open to other users; remove it, or set SANDBOX__STATE_FOLDER")
    unlocked = folder / f".{instance}"
    descriptor = os.open(unlocked, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(descriptor, place.encode())
    path = folder / instance
    unlocked.rename(path)  # no other process ever sees it without its lock
    return Mark(path, descriptor)


def dead(folder: Path, place: str) -> Iterator[Mark]:
    """Marks of ended processes with sandboxes at `place`; each is ours until the next is asked for."""
    for path in sorted(folder.glob(f"{PREFIX}*")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:  # another process was quicker
            continue
        mark = Mark(path, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.read(descriptor, 4096).decode(errors="replace") == place:
                yield mark
        except BlockingIOError:  # its process lives
            pass
        finally:
            mark.release()
