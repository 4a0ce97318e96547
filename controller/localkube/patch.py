"""The patch formats of the API, except server-side apply: JSON patch, merge patch, strategic merge patch."""

from typing import Any

import jsonpatch
import jsonpointer

from controller.localkube import failures
from controller.localkube.schema import Schema
from controller.localkube.store import Object
from controller.localkube.values import clone, same

MAX_OPERATIONS = 10_000
"""Operations in one JSON patch; kube-apiserver's limit."""


def json_patch(obj: Object, operations: Any) -> Object:
    """RFC 6902. Raises Failure 400 for a malformed patch, 413 for too long a one, 422 if it does not fit the object."""
    if not isinstance(operations, list):
        raise failures.bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch"
        )
    if len(operations) > MAX_OPERATIONS:
        raise failures.Failure(
            413,
            "RequestEntityTooLarge",
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}",
        )
    try:
        result: Object = jsonpatch.JsonPatch(operations).apply(clone(obj))
    except (jsonpatch.InvalidJsonPatch, AttributeError, TypeError) as error:
        raise failures.bad_request(f"error decoding patch: {error}") from error
    except (jsonpatch.JsonPatchConflict, jsonpatch.JsonPatchTestFailed, jsonpointer.JsonPointerException) as error:
        raise failures.unprocessable() from error
    return result


def merge_patch(value: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return clone(patch)
    result = dict(value) if isinstance(value, dict) else {}
    for name, item in patch.items():
        if item is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), item)
    return result


def strategic_patch(obj: Object, patch: Any, schema: Schema) -> Any:
    """A strategic merge patch of a whole object. Raises Failure 400 for a malformed directive."""
    try:
        return strategic_merge(obj, patch, schema)
    except (TypeError, AttributeError, LookupError) as error:
        raise failures.bad_request(f"error decoding patch: malformed directive: {error}") from error


def strategic_merge(value: Any, patch: Any, schema: Schema) -> Any:
    """Merge patch that merges lists which have keys.

    Directives: `$patch`, `$deleteFromPrimitiveList`, `$setElementOrder`, `$retainKeys`.
    https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
    """
    if not isinstance(patch, dict):
        return clone(patch)
    if patch.get("$patch") == "replace":
        return {name: clone(item) for name, item in patch.items() if name != "$patch"}
    if patch.get("$patch") == "delete":
        return {}
    result = dict(value) if isinstance(value, dict) else {}
    if "$retainKeys" in patch:
        result = {name: item for name, item in result.items() if name in patch["$retainKeys"]}
    for name, item in patch.items():
        directive, _, field = name.partition("/")
        if directive == "$deleteFromPrimitiveList":
            result[field] = [old for old in result.get(field, ()) if not any(same(old, gone) for gone in item)]
        elif name.startswith("$"):
            continue
        elif item is None:
            result.pop(name, None)
        else:
            sub = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            result[name] = _strategic_item(result.get(name), item, sub if isinstance(sub, dict) else {})
    for name, order in patch.items():
        directive, _, field = name.partition("/")
        if directive == "$setElementOrder" and field in result:
            result[field] = _ordered(result[field], order)
    return result


def _strategic_item(value: Any, patch: Any, schema: Schema) -> Any:
    list_type = schema.get("x-kubernetes-list-type")
    if not isinstance(patch, list):
        return strategic_merge(value, patch, schema)
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [clone(item) for item in patch if "$patch" not in item]
    if list_type == "set":
        have = list(value or ())
        return have + [item for item in patch if not any(same(item, old) for old in have)]
    if list_type == "map":
        return _merged_items(list(value or ()), patch, schema)
    return clone(patch)


def _merged_items(items: list[Any], patch: list[Any], schema: Schema) -> list[Any]:
    keys = schema["x-kubernetes-list-map-keys"]
    for change in patch:
        at = next(
            (i for i, item in enumerate(items) if all(same(item.get(key), change.get(key)) for key in keys)), None
        )
        if change.get("$patch") == "delete":
            if at is not None:
                del items[at]
        elif at is None:
            items.append(clone(change))
        else:
            items[at] = strategic_merge(items[at], change, schema.get("items", {}))
    return items


def _ordered(items: list[Any], order: list[Any]) -> list[Any]:
    """`items` in the order that the client saw, those it did not know at the end."""

    def position(item: Any) -> int:
        for index, known in enumerate(order):
            if isinstance(known, dict) and isinstance(item, dict):
                if known.items() <= item.items():
                    return index
            elif same(known, item):
                return index
        return len(order)

    return sorted(items, key=position)
