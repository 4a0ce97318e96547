"""Objects, their versions and the log of what changed. No I/O but the optional journal, no clock, no asyncio.

Objects handed in or out are never changed afterwards, neither here nor by callers: a new version is a new object.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from controller.localkube import failures

Object = dict[str, Any]
Resource = tuple[str, str]
"""API group and plural name. The versions of a resource share their objects."""
Key = tuple[str, str]
"""Namespace ("" when cluster-scoped) and name."""

HISTORY = 2000
"""Changes to remember: enough for a client that reconnects, and few MB even with large objects."""


@dataclass(frozen=True)
class Change:
    version: int
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    resource: Resource
    key: Key
    object: Object
    previous: Object | None


class Journal(Protocol):
    """Where changes are made durable before anyone sees them."""

    def load(self) -> tuple[int, list[tuple[Resource, Object]]]: ...

    def record(self, change: Change) -> None: ...

    def close(self) -> None: ...


def key_of(obj: Object) -> Key:
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Store:
    """All objects in their newest version, and the last `history` changes (a count) for watches and old lists."""

    def __init__(self, journal: Journal | None = None, history: int = HISTORY) -> None:
        self._journal = journal
        self._objects: dict[Resource, dict[Key, Object]] = {}
        self._log: deque[Change] = deque(maxlen=history)
        self._listeners: set[Callable[[], None]] = set()
        # 1 and not 0, because to a client "0" means "any version".
        self.version = 1
        if journal:
            version, objects = journal.load()
            self.version = max(self.version, version)
            for resource, obj in objects:
                self._objects.setdefault(resource, {})[key_of(obj)] = obj

    @property
    def oldest(self) -> int:
        """The oldest version whose later changes are all still known."""
        return self._log[0].version - 1 if self._log else self.version

    def get(self, resource: Resource, key: Key) -> Object | None:
        return self._objects.get(resource, {}).get(key)

    def objects(self, resource: Resource, namespace: str | None = None, version: int | None = None) -> list[Object]:
        """Objects by namespace and name, of all namespaces if None, as they were at `version` (default: now).

        Raises Failure 410 if that version is too long ago.
        """
        objects = self._objects.get(resource, {})
        if version is not None and version < self.version:
            objects = dict(objects)
            for change in reversed(self.since(version)):
                if change.resource != resource:
                    continue
                if change.previous is None:
                    del objects[change.key]
                else:
                    objects[change.key] = change.previous
        return [obj for key, obj in sorted(objects.items()) if namespace is None or key[0] == namespace]

    def owned_by(self, uid: str, namespace: str | None = None) -> list[tuple[Resource, Key]]:
        """What names that object as an owner, in all namespaces if None. Looks at each object: so nothing is sorted."""
        return [
            (resource, key)
            for resource, objects in self._objects.items()
            for key, obj in objects.items()
            if (owners := obj["metadata"].get("ownerReferences"))
            and namespace in (None, key[0])
            and any(owner["uid"] == uid for owner in owners)
        ]

    def resources(self) -> list[Resource]:
        return list(self._objects)

    def put(self, resource: Resource, obj: Object) -> Object:
        """Stores a copy that carries the next resource version, and returns it."""
        key = key_of(obj)
        previous = self.get(resource, key)
        stored = self._stamped(obj)
        self._commit(Change(self.version + 1, "MODIFIED" if previous else "ADDED", resource, key, stored, previous))
        self._objects.setdefault(resource, {})[key] = stored
        self._tell()
        return stored

    def remove(self, resource: Resource, obj: Object) -> None:
        """Removes it; watchers see `obj` as the last state, with the version of its removal."""
        key = key_of(obj)
        previous = self._objects[resource][key]
        self._commit(Change(self.version + 1, "DELETED", resource, key, self._stamped(obj), previous))
        del self._objects[resource][key]
        self._tell()

    def since(self, version: int) -> list[Change]:
        """All changes after `version`. Raises Failure 410 if some of them are forgotten."""
        if version < self.oldest:
            raise failures.expired(f"too old resource version: {version} ({self.oldest})")
        # Versions follow one another without gaps, so the position in the log can be computed.
        missed = self.version - version
        return [self._log[i] for i in range(max(0, len(self._log) - missed), len(self._log))]

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Calls `listener` after every change, until the block ends."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        if self._journal:
            self._journal.close()

    def _stamped(self, obj: Object) -> Object:
        return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version + 1)}}

    def _commit(self, change: Change) -> None:
        if self._journal:
            self._journal.record(change)
        self.version = change.version
        self._log.append(change)

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()
