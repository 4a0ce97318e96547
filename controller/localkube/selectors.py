"""Label and field selectors."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from controller.localkube import failures, jsonpath
from controller.localkube.store import Object

Selector = Callable[[Object], bool]

_REQUIREMENT = re.compile(
    r"\s*(?:(?P<absent>!)\s*(?P<absent_key>[\w./-]+)"
    r"|(?P<set_key>[\w./-]+)\s+(?P<set_operator>in|notin)\s*\((?P<values>[^()]*)\)"
    r"|(?P<key>[\w./-]+)\s*(?:(?P<operator>==|=|!=|>|<)\s*(?P<value>[\w.-]*))?)\s*(?:,|$)"
)


def by_labels(text: str) -> Selector:
    """`a=b,c!=d,e in (f,g),!h,i`. Raises Failure 400."""
    requirements = []
    position = 0
    while position < len(text):
        found = _REQUIREMENT.match(text, position)
        if not found:
            raise failures.bad_request(f"unable to parse requirement: found '{text[position:]}', expected: identifier")
        requirements.append(_requirement(found))
        position = found.end()
    return lambda obj: all(holds(obj["metadata"].get("labels") or {}) for holds in requirements)


def _requirement(found: re.Match[str]) -> Callable[[Mapping[str, str]], bool]:
    if found["absent"]:
        gone = found["absent_key"]
        return lambda labels: gone not in labels
    if found["set_key"]:
        key, values = found["set_key"], {value.strip() for value in found["values"].split(",")}
        if found["set_operator"] == "in":
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: labels.get(key) not in values
    key, value = found["key"], found["value"]
    match found["operator"]:
        case None:
            return lambda labels: key in labels
        case "!=":
            return lambda labels: labels.get(key) != value
        case ">" | "<" as operator:
            return lambda labels: _compares(labels.get(key), operator, value)
        case _:
            return lambda labels: labels.get(key) == value


def _compares(label: str | None, operator: str, value: str) -> bool:
    try:
        return label is not None and (int(label) > int(value) if operator == ">" else int(label) < int(value))
    except ValueError:
        return False


def by_fields(text: str, selectable: Mapping[str, str]) -> Selector:
    """`metadata.name=a,b!=c`; `selectable` has the kind's own fields (name and JSONPath). Raises Failure 400."""
    paths = {"metadata.name": ".metadata.name", "metadata.namespace": ".metadata.namespace", **selectable}
    requirements: list[tuple[str, bool, str]] = []
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", part)
        if not found:
            raise failures.bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        name, operator, value = found.groups()
        if name not in paths:
            raise failures.bad_request(f"field label not supported: {name}")
        requirements.append((paths[name], operator != "!=", value))
    return lambda obj: all((_text(jsonpath.find(path, obj)) == value) == equal for path, equal, value in requirements)


def _text(found: list[Any]) -> str:
    return str(found[0]) if found else ""


def all_of(selectors: Iterable[Selector]) -> Selector:
    chosen = tuple(selectors)
    return lambda obj: all(select(obj) for select in chosen)
