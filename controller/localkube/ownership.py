"""Who owns which field: `metadata.managedFields` after an update, and server-side apply with its conflicts.

https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from controller.localkube.failures import Failure
from controller.localkube.fields import Path, children, compare, decode, display, encode, paths_of
from controller.localkube.schema import Schema
from controller.localkube.store import Object
from controller.localkube.values import ABSENT, clone

_UNOWNED = {
    ("f:apiVersion",),
    ("f:kind",),
    ("f:metadata",),
    *(
        ("f:metadata", f"f:{name}")
        for name in (
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "generation",
            "managedFields",
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        )
    ),
}
"""What belongs to the server."""


@dataclass(frozen=True)
class Writer:
    """The identity under which a request writes."""

    manager: str
    operation: str
    """`Apply` or `Update`."""
    api_version: str
    subresource: str = ""


@dataclass(frozen=True)
class Owned:
    writer: Writer
    paths: frozenset[Path]
    time: str


def owners(obj: Object | None) -> list[Owned]:
    entries = obj["metadata"].get("managedFields", ()) if obj else ()
    return [
        Owned(
            Writer(
                entry.get("manager", ""),
                entry.get("operation", ""),
                entry.get("apiVersion", ""),
                entry.get("subresource", ""),
            ),
            frozenset(decode(entry.get("fieldsV1"))),
            entry.get("time", ""),
        )
        for entry in entries
    ]


def managed_fields(all_owned: Iterable[Owned]) -> list[Object]:
    """As they stand in the object: those who own nothing are left out."""
    entries = []
    for owned in sorted(
        all_owned,
        key=lambda owned: (owned.writer.operation, owned.time, owned.writer.manager, owned.writer.subresource),
    ):
        writer = owned.writer
        if not owned.paths and writer.operation == "Update":
            continue
        entry = {
            "apiVersion": writer.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": encode(set(owned.paths)),
            "manager": writer.manager,
            "operation": writer.operation,
            "time": owned.time,
        }
        entries.append({**entry, "subresource": writer.subresource} if writer.subresource else entry)
    return entries


def after_update(old: Object | None, new: Object, schema: Schema, writer: Writer, now: str) -> list[Object]:
    """managedFields once `writer` has turned `old` into `new`: what it changed is its own now, and nobody else's."""
    changed, removed = compare({} if old is None else old, new, schema)
    return managed_fields(_transferred(owners(old), changed - _UNOWNED, removed, writer, now))


def _transferred(
    all_owned: list[Owned], changed: set[Path], removed: set[Path], writer: Writer, now: str
) -> list[Owned]:
    result = []
    mine = Owned(writer, frozenset(), now)
    for owned in all_owned:
        if owned.writer == writer:
            mine = owned
        else:
            result.append(replace(owned, paths=owned.paths - changed - removed))
    paths = frozenset((mine.paths | changed) - removed)
    return [*result, replace(mine, paths=paths, time=mine.time if paths == mine.paths else now)]


def apply(live: Object | None, config: Object, schema: Schema, writer: Writer, now: str, *, force: bool) -> Object:
    """The live object with the configuration applied, managedFields included.

    Raises Failure 409 for conflicts with other writers, unless `force` takes their fields over.
    """
    base: Object = live if live is not None else {"metadata": {}}
    wanted = paths_of(config, schema) - _UNOWNED
    before = owners(live)
    last: frozenset[Path] = next((owned.paths for owned in before if owned.writer == writer), frozenset())
    others = [owned for owned in before if owned.writer != writer]

    merged: Object = _merged(base, config, schema)
    if last:
        kept = _with_parents(wanted.union(*(owned.paths for owned in others)))
        merged = _without(merged, schema, _with_parents(last) - kept - {("f:metadata",)})

    changed, removed = compare(base, merged, schema)
    changed -= _UNOWNED
    conflicts = [(owned.writer, owned.paths & changed) for owned in others if owned.paths & changed]
    if conflicts and not force:
        raise _conflict(conflicts)
    result = [replace(owned, paths=owned.paths - changed - removed) for owned in others]
    unchanged = next((owned for owned in before if owned.writer == writer and owned.paths == wanted), None)
    result.append(unchanged or Owned(writer, frozenset(wanted), now))
    merged["metadata"] = {**merged["metadata"], "managedFields": managed_fields(result)}
    return merged


def _with_parents(paths: Iterable[Path]) -> set[Path]:
    return {path[:length] for path in paths for length in range(1, len(path) + 1)}


def _conflict(conflicts: list[tuple[Writer, frozenset[Path]]]) -> Failure:
    causes, texts = [], []
    for writer, paths in conflicts:
        who = f'"{writer.manager}"'
        if writer.operation == "Update":
            who += f' with subresource "{writer.subresource}"' if writer.subresource else ""
            who += f" using {writer.api_version}"
        shown = sorted(map(display, paths))
        causes += [
            {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": field} for field in shown
        ]
        texts.append(
            f"conflict with {who}: {shown[0]}" if len(shown) == 1 else "\n- ".join([f"conflicts with {who}:", *shown])
        )
    count = "1 conflict" if len(causes) == 1 else f"{len(causes)} conflicts"
    return Failure(409, "Conflict", f"Apply failed with {count}: " + "\n".join(texts), {"causes": causes})


def _merged(live: Any, config: Any, schema: Schema) -> Any:
    new, old = children(config, schema), children(live, schema) if live is not ABSENT else None
    if new is None or old is None:
        return clone(config)
    parts = {
        element: _merged(old[element][0] if element in old else ABSENT, item, sub)
        for element, (item, sub) in new.items()
    }
    if isinstance(config, dict):
        return {**live, **{element[2:]: value for element, value in parts.items()}}
    # The applied order counts only where it contradicts the live one.
    common = [element for element in old if element in new]
    if common == [element for element in new if element in old]:
        order = [*old, *(element for element in new if element not in old)]
    else:
        order = [*new, *(element for element in old if element not in new)]
    return [parts[element] if element in parts else old[element][0] for element in order]


def _without(value: Any, schema: Schema, doomed: set[Path], path: Path = ()) -> Any:
    """The value without what is doomed. The keys of list items stay as long as the items do."""
    parts = children(value, schema)
    if parts is None:
        return value
    kept = {
        element: _without(item, sub, doomed, (*path, element))
        for element, (item, sub) in parts.items()
        if (*path, element) not in doomed or (path and _is_key(path[-1], element))
    }
    return {element[2:]: item for element, item in kept.items()} if isinstance(value, dict) else list(kept.values())


def _is_key(item: str, element: str) -> bool:
    return item.startswith("k:") and f'"{element[2:]}":' in item
