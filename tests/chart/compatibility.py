"""Whether a CRD takes every object that an older one took: told from the schemas alone, so rather too strict than too lax."""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]
UPPER = ("maximum", "maxLength", "maxItems", "maxProperties")
LOWER = ("minimum", "minLength", "minItems", "minProperties")
FIXED = ("type", "pattern", "format", "default", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields")


def narrowings(old: Schema, new: Schema) -> list[str]:
    """What the CRD `new` refuses, reads otherwise or serves no more, of that which `old` took; empty: nothing."""
    versions = {version["name"]: version for version in new["spec"]["versions"]}
    found = []
    for version in old["spec"]["versions"]:
        name = version["name"]
        if not version["served"]:
            continue
        if name not in versions or not versions[name]["served"]:
            found.append(f"{name} is served no more")
            continue
        schemas = (each["schema"]["openAPIV3Schema"] for each in (version, versions[name]))
        found += _narrowed(*schemas, path=name)
    return found


def _narrowed(old: Schema, new: Schema, path: str) -> Iterator[str]:
    for word in FIXED:
        if old.get(word) != new.get(word) and not (word == "pattern" and word not in new):
            yield f"{path}: {word} was {old.get(word)!r} and is {new.get(word)!r}"
    for word in UPPER:
        if word in new and new[word] < old.get(word, float("inf")):
            yield f"{path}: {word} was {old.get(word)} and is {new[word]}"
    for word in LOWER:
        if word in new and new[word] > old.get(word, float("-inf")):
            yield f"{path}: {word} was {old.get(word)} and is {new[word]}"
    if "enum" in new and not set(old.get("enum", [object()])) <= set(new["enum"]):
        yield f"{path}: of {old.get('enum')} only {new['enum']} is left"
    if more := set(new.get("required", ())) - set(old.get("required", ())):
        yield f"{path}: {sorted(more)} is required now"
    if rules := _rules(new) - _rules(old):
        yield f"{path}: new rules {sorted(rules)}"
    for name, inner in old.get("properties", {}).items():
        if name not in new.get("properties", {}):
            yield f"{path}.{name} is gone"
        else:
            yield from _narrowed(inner, new["properties"][name], f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if isinstance(old.get(word), dict):
            yield from _narrowed(old[word], new.get(word, {}), f"{path}[]")


def _rules(schema: Schema) -> set[str]:
    return {" ".join(rule["rule"].split()) for rule in schema.get("x-kubernetes-validations", ())}
