"""Sets of fields, as `metadata.managedFields` records them (FieldsV1), and how objects differ in them.

A path is a tuple of FieldsV1 elements: `f:name` for a field, `k:{"key":"x"}` for an item of a keyed list, `v:"x"` for
one of a set. Granular maps and lists have paths below them; scalars and atomic values are leaves. The rules are those
of sigs.k8s.io/structured-merge-diff.
"""

import json
from typing import Any

from controller.localkube.schema import Schema, list_key
from controller.localkube.values import ABSENT, same

Path = tuple[str, ...]


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def children(value: Any, schema: Schema) -> dict[str, tuple[Any, Schema]] | None:
    """The parts that are owned one by one, with their schemas; None for a leaf."""
    if isinstance(value, dict) and schema.get("x-kubernetes-map-type") != "atomic":
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties")
        rest = rest if isinstance(rest, dict) else {}
        return {f"f:{name}": (item, properties.get(name, rest)) for name, item in value.items()}
    if isinstance(value, list) and schema.get("x-kubernetes-list-type") in ("set", "map"):
        prefix, parts = (schema["x-kubernetes-list-type"] == "map" and "k") or "v", {}
        for item in value:
            key = list_key(item, schema)
            if key is None:
                return None  # an item without its key: validation will refuse it
            parts[f"{prefix}:{_compact(key)}"] = (item, schema.get("items", {}))
        return parts
    return None


def paths_of(value: Any, schema: Schema, path: Path = ()) -> set[Path]:
    """The fields that somebody who applies this value wants to own."""
    parts = children(value, schema)
    if parts is None:
        return {path}
    found: set[Path] = set()
    for element, (item, sub) in parts.items():
        found |= paths_of(item, sub, (*path, element))
        is_named = element.startswith("f:") and element[2:] in schema.get("properties", {})
        if not is_named or item is None or item == {}:
            found.add((*path, element))
    return found


def _everything(value: Any, schema: Schema, path: Path) -> set[Path]:
    """Each path in the value, and those in between."""
    found = {path} if path else set()
    for element, (item, sub) in (children(value, schema) or {}).items():
        found |= _everything(item, sub, (*path, element))
    return found


def compare(old: Any, new: Any, schema: Schema, path: Path = ()) -> tuple[set[Path], set[Path]]:
    """What is added or changed in `new`, and what is gone."""
    if old is ABSENT:
        return _everything(new, schema, path), set()
    if new is ABSENT:
        return set(), _everything(old, schema, path)
    before, after = children(old, schema), children(new, schema)
    if before is None or after is None:
        return (set() if same(old, new) else {path}), set()
    changed: set[Path] = set()
    removed: set[Path] = set()
    absent: tuple[Any, Schema] = (ABSENT, {})
    for element in before.keys() | after.keys():
        one, other = before.get(element, absent), after.get(element, absent)
        more, less = compare(one[0], other[0], other[1] or one[1], (*path, element))
        changed |= more
        removed |= less
    return changed, removed


def encode(paths: set[Path]) -> dict[str, Any]:
    """As FieldsV1. A member that has members below it is marked by `.`."""
    root: dict[str, Any] = {}
    for path in sorted(paths):
        node = root
        for element in path:
            node = node.setdefault(element, {})
        node["."] = {}

    def tidy(node: dict[str, Any]) -> dict[str, Any]:
        return {} if node.keys() == {"."} else {name: tidy(sub) if name != "." else {} for name, sub in node.items()}

    return tidy(root)


def decode(fields: Any, path: Path = ()) -> set[Path]:
    """From FieldsV1; what is not well formed in it is left out."""
    if not isinstance(fields, dict):
        return set()
    found = {path} if path and (not fields or "." in fields) else set()
    for element, below in fields.items():
        if element != ".":
            found |= decode(below, (*path, element))
    return found


def display(path: Path) -> str:
    """For people: `.spec.env[name="x"].value`."""
    text = ""
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "k":
            text += "[" + ",".join(f"{name}={_compact(value)}" for name, value in json.loads(rest).items()) + "]"
        else:
            text += f"[={rest}]" if kind == "v" else f".{rest}"
    return text
