"""The part of kubectl's JSONPath that printer columns use: `.a.b`, `['a']`, `[0]`, `[*]`, `[?(@.x=="y")]`."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

Step = Callable[[Any], Iterable[Any]]

_STEP = re.compile(
    r"""\.(?P<name>(?:\\.|[^.\[\\])+) | \[(?P<quoted>'[^']*'|"[^"]*")\] | \[(?P<index>-?\d+)\] | (?P<all>\[\*\]|\.\*)
      | \[\?\(@(?P<inner>\.[^=!<>]+?)\s*(?P<operator>==|!=)\s*(?P<literal>"[^"]*"|'[^']*'|[^)]+)\)\]""",
    re.VERBOSE,
)


@lru_cache(maxsize=512)
def parse(path: str) -> tuple[Step, ...]:
    """Raises ValueError, which names the path and what in it is not understood."""
    steps: list[Step] = []
    position = 0
    while position < len(path):
        found = _STEP.match(path, position)
        if not found:
            raise ValueError(f"JSONPath {path!r} is not supported from {path[position:]!r} on")
        steps.append(_step(found))
        position = found.end()
    return tuple(steps)


def find(path: str, value: Any) -> list[Any]:
    """All that the path leads to, in order."""
    values = [value]
    for step in parse(path):
        values = [result for item in values for result in step(item)]
    return values


def _step(found: re.Match[str]) -> Step:
    if found["all"]:
        return _children
    if found["index"] is not None:
        index = int(found["index"])
        return lambda value: value[index : index + 1 or None] if isinstance(value, list) else ()
    if found["inner"]:
        return _filter(found["inner"], found["operator"], found["literal"].strip())
    name = found["quoted"][1:-1] if found["quoted"] else re.sub(r"\\(.)", r"\1", found["name"])
    if name == "*":
        return _children
    return lambda value: [value[name]] if isinstance(value, dict) and name in value else ()


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield from value.values() if isinstance(value, dict) else value


def _filter(inner: str, operator: str, literal: str) -> Step:
    wanted = literal[1:-1] if literal[0] in "'\"" else json.loads(literal)

    def step(value: Any) -> Iterator[Any]:
        for item in _children(value):
            if any((result == wanted) == (operator == "==") for result in find(inner, item)):
                yield item

    return step
