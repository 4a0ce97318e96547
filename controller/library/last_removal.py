"""The backstop at the interpreter's exit: sandboxes that nobody removed are removed then.

A process that dies without one (SIGKILL) leaves that to the next start of the library, see `leftovers`.
"""

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401
import logging
import os
import threading
from collections.abc import Iterable

from controller.backends import BackendError
from controller.library.place import Place

log = logging.getLogger(__name__)

SECONDS = 15.0
"""For everything together; a removal takes about 0.1 s."""

_alive: dict[str, Place] = {}
_process = os.getpid()


def needed(sandbox_id: str, place: Place) -> None:
    """Remember a sandbox until `not_needed`."""
    global _process
    if _process != os.getpid():  # a forked child: the sandboxes so far are its parent's
        _alive.clear()
        _process = os.getpid()
    _alive[sandbox_id] = place


def not_needed(sandbox_id: str) -> None:
    """It is removed. Told twice is fine."""
    _alive.pop(sandbox_id, None)


def _remove_the_rest() -> None:
    if not _alive or _process != os.getpid():
        return
    try:
        asyncio.run(_remove(dict(_alive)))
    except TimeoutError:
        log.warning("%d sandboxes were not removed in %.0f s; the next start of the library does", len(_alive), SECONDS)


async def _remove(alive: dict[str, Place]) -> None:
    places = {id(place): place for place in alive.values()}
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as removals:
        for place in places.values():
            ids = [sandbox_id for sandbox_id in alive if alive[sandbox_id] is place]
            removals.create_task(_remove_from(place.reopened(), ids))


async def _remove_from(place: Place, ids: Iterable[str]) -> None:
    try:
        for sandbox_id in ids:
            try:
                await place.remove(sandbox_id)
            except BackendError as error:
                log.warning("sandbox %s was not removed at exit: %s", sandbox_id, error)
    finally:
        await place.close()


# Backends use thread pools, which end before `atexit` runs, by a hook of `threading` (private, used since Python 3.9).
# Hooks run last in, first out: registered after the pools' own (hence the import above), ours still has them.
getattr(threading, "_register_atexit", atexit.register)(_remove_the_rest)
