"""Which user a mock sandbox runs as, and what that user can reach."""

import os
import stat
from hashlib import sha256
from pathlib import Path

_FIRST = 0x4000_0000
"""User ids from here on are nobody's: above the ranges of /etc/login.defs, of systemd and of subordinate ids."""
_COUNT = 1 << 28
_NOBODY = 65534
_NEEDED_TO_DROP = (0, 5, 6, 7)  # CAP_CHOWN, CAP_KILL, CAP_SETGID, CAP_SETUID: linux/capability.h


def user_for(uid: str) -> int | None:
    """The user id that a sandbox is to run as: one of its own where we are root, nobody's where ids are scarce.

    None where we cannot drop to another. A function of the uid, so that it need not be stored to be found again.
    """
    if os.geteuid() != 0 or not _may_drop():
        return None
    own = _FIRST + int.from_bytes(sha256(uid.encode()).digest()[:4]) % _COUNT
    return own if _is_mapped(own) else _NOBODY


def is_own(user: int) -> bool:
    """Whether one sandbox, and nobody else, runs as this user."""
    return _FIRST <= user < _FIRST + _COUNT


def may_use(user: int | None, path: Path, *, write: bool = False) -> bool:
    """Whether a user can go through every folder to `path` and enter or execute it, and write to it if asked.

    None is our own user. Groups and access control lists are not looked at.
    """
    if user is None:
        return os.access(path, os.X_OK | (os.W_OK if write else 0))
    real = path.resolve()
    if not real.exists():
        return False
    reachable = all(_allows(user, step, stat.S_IXOTH) for step in (real, *real.parents))
    return reachable and (not write or _allows(user, real, stat.S_IWOTH))


def _allows(user: int, path: Path, bit: int) -> bool:
    """`bit` as it is for others; the owner's is six places higher."""
    found = path.stat()
    return bool(found.st_mode & (bit << 6 if found.st_uid == user else bit))


def _may_drop() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("\nCapEff:")[2].split()[0], 16)
    return all(effective >> capability & 1 for capability in _NEEDED_TO_DROP)


def _is_mapped(user: int) -> bool:
    """Whether our user namespace has this user id."""
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(int(inside) <= user < int(inside) + int(length) for inside, _, length in ranges)
