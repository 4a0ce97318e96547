"""Structural schemas (the OpenAPI v3 subset of CRDs): prune, default, validate.

Each walk takes the value and its schema side by side. The texts are kube-apiserver's.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from controller.localkube import cel
from controller.localkube.failures import Cause, duplicate, invalid_value, required, unsupported
from controller.localkube.formats import has_format
from controller.localkube.values import ABSENT, clone, same, type_name

Schema = dict[str, Any]

_META = {"apiVersion", "kind", "metadata"}


def child(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _sub_schema(schema: Schema, name: str) -> Schema | None:
    """The schema of one field, an empty one if anything goes there, None if the field is unknown."""
    if name in schema.get("properties", {}):
        found: Schema = schema["properties"][name]
        return found
    additional = schema.get("additionalProperties")
    if isinstance(additional, dict):
        return additional
    if additional or schema.get("x-kubernetes-preserve-unknown-fields"):
        return {"x-kubernetes-preserve-unknown-fields": True}
    if schema.get("x-kubernetes-embedded-resource") and name in _META:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return None


def prune(value: Any, schema: Schema, path: str = "") -> tuple[Any, list[str]]:
    """The value without the fields that the schema does not know, and the paths of those."""
    if isinstance(value, dict):
        kept, unknown = {}, []
        for name, item in value.items():
            sub = _sub_schema(schema, name)
            if sub is None:
                unknown.append(child(path, name))
                continue
            kept[name], below = prune(item, sub, child(path, name))
            unknown += below
        return kept, unknown
    if isinstance(value, list):
        items, unknown = [], []
        for index, item in enumerate(value):
            pruned, below = prune(item, _item_schema(schema), f"{path}[{index}]")
            items.append(pruned)
            unknown += below
        return items, unknown
    return value, []


def _item_schema(schema: Schema) -> Schema:
    items: Schema | None = schema.get("items")
    return items if items is not None else {"x-kubernetes-preserve-unknown-fields": True}


def default(value: Any, schema: Schema) -> Any:
    """The value with the schema's defaults filled in; a null that may not be one counts as absent."""
    if isinstance(value, dict):
        result = {}
        for name, item in value.items():
            sub = _sub_schema(schema, name) or {}
            if item is None and not sub.get("nullable") and _drops_nulls(schema, name):
                continue
            result[name] = default(item, sub)
        for name, sub in schema.get("properties", {}).items():
            if name not in result and "default" in sub:
                result[name] = default(clone(sub["default"]), sub)
        return result
    if isinstance(value, list):
        return [default(item, _item_schema(schema)) for item in value]
    return value


def _drops_nulls(schema: Schema, name: str) -> bool:
    """kube-apiserver keeps a null in places whose type the schema leaves open."""
    sub = schema.get("properties", {}).get(name)
    if sub is None:
        sub = schema.get("additionalProperties")
    return isinstance(sub, dict) and ("type" in sub or bool(sub.get("x-kubernetes-int-or-string")))


def validate(value: Any, schema: Schema, path: str = "", old: Any = ABSENT) -> list[Cause]:
    """What is wrong with the value, without CEL rules. What an update leaves as it was is not held against it."""
    if old is not ABSENT and same(value, old):
        return []
    return list(_causes(value, schema, path, old))


def _causes(value: Any, schema: Schema, path: str, old: Any) -> Iterator[Cause]:
    wanted = "integer,string" if schema.get("x-kubernetes-int-or-string") else schema.get("type")
    if value is None and schema.get("nullable"):
        return
    if wanted and not _has_type(value, wanted):
        name = type_name(value)
        text = f'Invalid value: "{name}": {path} in body must be of type {wanted}: "{name}"'
        yield Cause(path, "FieldValueTypeInvalid", text)
        return
    yield from _enum(value, schema, path)
    if isinstance(value, str):
        yield from _string(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(value, schema, path)
    elif isinstance(value, list):
        yield from _array(value, schema, path, old)
    elif isinstance(value, dict):
        yield from _object(value, schema, path, old)
    yield from _combinations(value, schema, path)


def _has_type(value: Any, wanted: str) -> bool:
    name = type_name(value)
    if name == "number":
        return "number" in wanted or ("integer" in wanted and value.is_integer())
    return name in wanted.split(",") or (name == "integer" and wanted == "number")


def _enum(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    choices = schema.get("enum")
    if choices is not None and not any(same(value, choice) for choice in choices):
        yield unsupported(path, value, choices)


@lru_cache(maxsize=512)
def _pattern(pattern: str) -> re.Pattern[str]:
    # Go's `$` and `\z` mean the end of the text, Python's `$` also matches before a last newline.
    return re.compile(re.sub(r"(?<!\\)\$$", r"\\Z", pattern).replace(r"\z", r"\Z"))


def _string(value: str, schema: Schema, path: str) -> Iterator[Cause]:
    # The real server stops at the first of these, too.
    if (longest := schema.get("maxLength")) is not None and len(value) > longest:
        yield Cause(path, "FieldValueTooLong", f"Too long: may not be more than {longest} bytes")
    elif (shortest := schema.get("minLength")) is not None and len(value) < shortest:
        yield invalid_value(path, value, f"{path} in body should be at least {shortest} chars long")
    elif "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield invalid_value(path, value, f"{path} in body should match '{schema['pattern']}'")
    if "format" in schema and not has_format(value, schema["format"]):
        text = f'Invalid value: "{value}": {path} in body must be of type {schema["format"]}: "{value}"'
        yield Cause(path, "FieldValueTypeInvalid", text)


def _number(value: float, schema: Schema, path: str) -> Iterator[Cause]:
    step, low, high = schema.get("multipleOf"), schema.get("minimum"), schema.get("maximum")
    if step and abs(value / step - round(value / step)) > 1e-9:
        yield invalid_value(path, value, f"{path} in body should be a multiple of {step}")
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        what = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield invalid_value(path, value, f"{path} in body should be {what} {high}")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        what = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield invalid_value(path, value, f"{path} in body should be {what} {low}")
    width = {"int32": 31, "int64": 63}.get(schema.get("format", ""))
    if width and isinstance(value, int) and not -(2**width) <= value < 2**width:
        yield invalid_value(path, value, f"{path} in body must be of type {schema['format']}: {value}")


def _array(value: list[Any], schema: Schema, path: str, old: Any) -> Iterator[Cause]:
    if (most := schema.get("maxItems")) is not None and len(value) > most:
        yield Cause(path, "FieldValueTooMany", f"Too many: {len(value)}: must have at most {most} items")
    if (least := schema.get("minItems")) is not None and len(value) < least:
        yield invalid_value(path, len(value), f"{path} in body should have at least {least} items")
    for index, item in enumerate(value):
        before = matching_item(item, schema, old)
        yield from validate(item, _item_schema(schema), f"{path}[{index}]", before)
    seen: list[Any] = []
    for index, item in enumerate(value):
        key = list_key(item, schema)
        if key is None:
            continue
        if any(same(key, other) for other in seen):
            yield duplicate(f"{path}[{index}]", key)
        seen.append(key)


def list_key(item: Any, schema: Schema) -> Any:
    """What tells the items of a set or map list apart: the item itself, or its key fields. None for other lists."""
    match schema.get("x-kubernetes-list-type"):
        case "set":
            return item
        case "map" if isinstance(item, dict):
            properties = _item_schema(schema).get("properties", {})
            keys = {}
            for name in schema["x-kubernetes-list-map-keys"]:
                if name in item:
                    keys[name] = item[name]
                elif "default" in properties.get(name, {}):
                    keys[name] = properties[name]["default"]
            return keys or None
        case _:
            return None


def matching_item(item: Any, schema: Schema, others: Any) -> Any:
    """The item of `others` with the same key, ABSENT if there is none or items have no keys."""
    key = list_key(item, schema)
    if key is None or not isinstance(others, list):
        return ABSENT
    return next((other for other in others if same(list_key(other, schema), key)), ABSENT)


def _object(value: dict[str, Any], schema: Schema, path: str, old: Any) -> Iterator[Cause]:
    for name in schema.get("required", ()):
        if name not in value:
            yield required(child(path, name))
    if (most := schema.get("maxProperties")) is not None and len(value) > most:
        yield Cause(path, "FieldValueTooMany", f"Too many: {len(value)}: must have at most {most} items")
    if (least := schema.get("minProperties")) is not None and len(value) < least:
        yield invalid_value(path, len(value), f"{path} in body should have at least {least} properties")
    for name, item in value.items():
        sub = _sub_schema(schema, name)
        if sub is not None:
            before = old.get(name, ABSENT) if isinstance(old, dict) else ABSENT
            yield from validate(item, sub, child(path, name), before)


def _combinations(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    for sub in schema.get("allOf", ()):
        yield from validate(value, sub, path)
    # The anyOf of an int-or-string only repeats its type.
    choices = [] if schema.get("x-kubernetes-int-or-string") else schema.get("anyOf", [])
    if choices and all(validate(value, sub, path) for sub in choices):
        yield invalid_value(path, value, f"{path} in body must validate at least one schema (anyOf)")
    if "oneOf" in schema and sum(not validate(value, sub, path) for sub in schema["oneOf"]) != 1:
        yield invalid_value(path, value, f"{path} in body must validate one and only one schema (oneOf)")
    if "not" in schema and not validate(value, schema["not"], path):
        yield invalid_value(path, value, f"{path} in body must not validate the schema (not)")


_BLOCKING = {
    "FieldValueNotSupported",
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
}


def is_blocking(cause: Cause) -> bool:
    """Whether CEL rules could fail for this reason alone, so that they are not even tried."""
    return cause.reason in _BLOCKING


def has_rules(schema: Any) -> bool:
    """Whether there is a CEL rule anywhere in the schema."""
    if isinstance(schema, dict):
        return "x-kubernetes-validations" in schema or any(has_rules(sub) for sub in schema.values())
    return isinstance(schema, list) and any(has_rules(sub) for sub in schema)


def check_rules(value: Any, schema: Schema, path: str, old: Any) -> Iterator[Cause]:
    """What the CEL rules of the schema and its parts say about the value."""
    if value is None:
        return
    for rule in schema.get("x-kubernetes-validations", ()):
        yield from cel.check(rule, value, schema, path, old)
    if isinstance(value, dict):
        for name, item in value.items():
            sub = _sub_schema(schema, name)
            if sub:
                before = old.get(name, ABSENT) if isinstance(old, dict) else ABSENT
                yield from check_rules(item, sub, child(path, name), before)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from check_rules(item, _item_schema(schema), f"{path}[{index}]", matching_item(item, schema, old))
