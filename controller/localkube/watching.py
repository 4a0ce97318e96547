"""Watches: the changes of the store, as a client's stream of events."""

import asyncio
import base64
import json
import math
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from controller.localkube import bodies, events, failures
from controller.localkube.kinds import Kind
from controller.localkube.selectors import Selector
from controller.localkube.store import Change, Object, Store

BOOKMARK_SECONDS = 30.0
"""Between bookmarks on a stream that asked for them (kube-apiserver: about 60)."""

MIN_TIMEOUT_SECONDS = 1800
"""A watch without a timeout ends after one to two times this, as on kube-apiserver (--min-request-timeout)."""

INITIAL_END = {"k8s.io/initial-events-end": "true"}


@dataclass(frozen=True)
class Watch:
    kind: Kind
    namespace: str | None
    selects: Selector
    version: int | None
    """Start after it; None: start with all objects that there are."""
    bookmarks: bool
    initial_events: bool
    """The client wants the objects first, and a bookmark at their end."""
    timeout: float | None
    """Seconds."""
    show: Callable[[Object], Object]
    """Gives an event's object the form that the client asked for."""


class Watches:
    """All streams of a server, so that they can be ended together."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: set[asyncio.Event] = set()
        self._closed = False

    def close(self) -> None:
        """Ends each stream now."""
        self._closed = True
        for wake in self._open:
            wake.set()

    async def stream(self, watch: Watch) -> AsyncIterator[bytes]:
        """JSON lines. No queue: a stream follows the store's log, and ends with a 410 if it falls too far behind."""
        store, clock = self._store, asyncio.get_running_loop().time
        # Before the first await, so that no change falls between the list and the log.
        cursor = store.version if watch.version is None or watch.initial_events else watch.version
        first = [_line("ADDED", watch.show(obj)) for obj in self._objects(watch)] if cursor != watch.version else []
        if watch.initial_events:
            first.append(_line("BOOKMARK", _bookmark(watch.kind, cursor, INITIAL_END)))
        if first:
            yield b"".join(first)

        end = clock() + (watch.timeout or MIN_TIMEOUT_SECONDS * (1 + random.random()))  # noqa: S311 (spreads reconnects)
        next_bookmark = clock() + BOOKMARK_SECONDS if watch.bookmarks else math.inf
        wake = asyncio.Event()
        self._open.add(wake)
        try:
            with store.listening(wake.set):
                while not self._closed:
                    wake.clear()
                    try:
                        changes = store.since(cursor)
                    except failures.Failure as failure:
                        yield _line("ERROR", failure.status)
                        return
                    if changes:
                        cursor = changes[-1].version
                        lines = [line for change in changes if (line := _event(watch, change))]
                        if lines:
                            yield b"".join(lines)
                        continue
                    now = clock()
                    if watch.bookmarks and now >= min(end, next_bookmark):
                        next_bookmark = now + BOOKMARK_SECONDS
                        yield _line("BOOKMARK", _bookmark(watch.kind, cursor))
                    if now >= end:
                        return
                    await _woken(wake, min(end, next_bookmark) - now)
        finally:
            self._open.discard(wake)

    def _objects(self, watch: Watch) -> list[Object]:
        shown = (
            events.from_storage(watch.kind, obj) for obj in self._store.objects(watch.kind.resource, watch.namespace)
        )
        return [obj for obj in shown if watch.selects(obj)]


async def _woken(wake: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        pass  # time for a bookmark, or for the end


def _event(watch: Watch, change: Change) -> bytes | None:
    if change.resource != watch.kind.resource or watch.namespace not in (None, change.key[0]):
        return None
    new = events.from_storage(watch.kind, change.object)
    old = events.from_storage(watch.kind, change.previous) if change.previous else None
    before = old is not None and watch.selects(old)
    after = change.type != "DELETED" and watch.selects(new)
    if after:
        return _line("MODIFIED" if before else "ADDED", watch.show(new))
    if not before:
        return None
    if change.type != "DELETED" and old is not None:  # it left the selection: its last state there
        new = {**old, "metadata": {**old["metadata"], "resourceVersion": str(change.version)}}
    return _line("DELETED", watch.show(new))


def _line(type: str, obj: Any) -> bytes:
    return bodies.encode({"type": type, "object": obj}) + b"\n"


def _bookmark(kind: Kind, version: int, annotations: dict[str, str] | None = None) -> Object:
    metadata: Object = {"resourceVersion": str(version), "creationTimestamp": None}
    if annotations:
        metadata["annotations"] = annotations
    return {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}


def continue_token(version: int, last: Object) -> str:
    """Where a list that was cut goes on: after `last`, as things were at `version`."""
    metadata = last["metadata"]
    token = {"v": "meta.k8s.io/v1", "rv": version, "start": [metadata.get("namespace", ""), metadata["name"]]}
    return base64.urlsafe_b64encode(json.dumps(token).encode()).decode().rstrip("=")


def continued(token: str) -> tuple[int, tuple[str, str]]:
    """The version and the last key of the part before. Raises Failure 400."""
    try:
        value = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = value["start"]
        return int(value["rv"]), (str(namespace), str(name))
    except (ValueError, TypeError, KeyError) as error:
        raise failures.bad_request(f"invalid continue token: continue key is not valid: {error}") from error
