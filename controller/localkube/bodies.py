"""What clients send and get, as JSON and YAML. Everything in a request's body is hostile until it is decoded here."""

import json
import math
import re
from typing import Any

import yaml

from controller.localkube import failures, protobuf
from controller.localkube.kinds import Kind
from controller.localkube.schema import child
from controller.localkube.values import type_name

MAX_BYTES = 3 * 1024 * 1024
"""kube-apiserver's limit for request bodies."""

MAX_DEPTH = 100
"""Levels of nesting; deeper bodies are refused. (kube-apiserver allows 10,000, Python's recursion does not.)"""


class _Loader(yaml.SafeLoader):
    """YAML as JSON knows it: no dates, no aliases, which could make a few bytes into gigabytes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[str] = []

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for name, _ in node.value:
            if name.value in names:
                self.repeated.append(f'line {name.start_mark.line + 1}: key "{name.value}" already set in map')
            names.add(name.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Repeated(dict[str, Any]):
    """An object of the body in which some fields stand twice."""

    repeated: tuple[str, ...] = ()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    obj = dict(pairs)
    if len(obj) == len(pairs):
        return obj
    marked = _Repeated(obj)
    names = [name for name, _ in pairs]
    marked.repeated = tuple(dict.fromkeys(name for name in names if names.count(name) > 1))
    return marked


def _no_constant(text: str) -> None:
    raise ValueError(f"invalid character '{text[0]}' looking for beginning of value")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"number {text[:40]} is out of range")
    return number


def _int(text: str) -> int | float:
    """As Go reads it: what does not fit into 64 bits is a float."""
    number = int(text) if len(text) <= 20 else _float(text)
    return number if -(2**63) <= number < 2**63 else float(number)


def decode(body: bytes, *, allow_yaml: bool = False) -> tuple[Any, tuple[str, ...]]:
    """The value in the body, and complaints about fields that stand in it twice. Raises ValueError."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise ValueError("invalid UTF-8") from error
    try:
        if allow_yaml and not text.lstrip().startswith(("{", "[", '"')):
            loader = _Loader(text)
            value, _ = _plain(loader.get_single_data(), "", 0)
            return value, tuple(loader.repeated)
        value = json.loads(
            text, object_pairs_hook=_pairs, parse_constant=_no_constant, parse_float=_float, parse_int=_int
        )
        return _plain(value, "", 0)
    except json.JSONDecodeError as error:
        at_end = not text[error.pos :].strip()
        raise ValueError("unexpected end of JSON input" if at_end else f"{error.msg} at offset {error.pos}") from error
    except yaml.YAMLError as error:
        raise ValueError(re.sub(r"\s+", " ", str(error))) from error
    except RecursionError as error:
        raise ValueError("exceeded max depth") from error


def _plain(value: Any, path: str, depth: int) -> tuple[Any, tuple[str, ...]]:
    """The value with nothing but JSON in it, and the repeated fields."""
    if depth > MAX_DEPTH:
        raise ValueError("exceeded max depth")
    repeated: tuple[str, ...] = ()
    if isinstance(value, dict):
        if isinstance(value, _Repeated):
            repeated = tuple(f'duplicate field "{child(path, name)}"' for name in value.repeated)
        result = {}
        for name, item in value.items():
            key = name if isinstance(name, str) else json.dumps(name)
            result[key], below = _plain(item, child(path, key), depth + 1)
            repeated += below
        return result, repeated
    if isinstance(value, list):
        items = []
        for index, item in enumerate(value):
            plain, below = _plain(item, f"{path}[{index}]", depth + 1)
            items.append(plain)
            repeated += below
        return items, repeated
    if isinstance(value, str) and not value.isascii():
        # "\ud800" is JSON but no text; as in Go, what cannot be text is replaced.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), ()
    if value is None or isinstance(value, str | int | float):
        return value, ()
    raise ValueError(f"a {type(value).__name__} is not JSON")


def decode_object(body: bytes, media_type: str, kind: Kind) -> tuple[dict[str, Any], tuple[str, ...]]:
    """An object that should be of the kind, and complaints about fields that stand in it twice. Raises Failure 400."""
    start = f"the object provided is unrecognized (must be of type {kind.kind}): "
    try:
        if not body.strip():
            raise ValueError("unexpected end of JSON input")
        if media_type == protobuf.MEDIA_TYPE:
            return protobuf.decode(body), ()
        value, repeated = decode(body, allow_yaml=True)
        if not isinstance(value, dict):
            raise ValueError(f"json: cannot unmarshal {type_name(value)} into an object")
    except ValueError as error:
        shown = body[:30].decode(errors="replace") + (" ..." if len(body) > 30 else "") if body else "<empty>"
        raise failures.bad_request(f"{start}couldn't get version/kind; json parse error: {error} ({shown})") from error
    if not kind.custom:  # the URL says what a built-in kind is
        value = {"apiVersion": kind.api_version, "kind": kind.kind, **value}
    if not value.get("kind"):
        raise failures.bad_request(f"{start}Object 'Kind' is missing in '{body[:256].decode(errors='replace')}'")
    return value, repeated


def encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def encode_yaml(value: Any) -> bytes:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return text.encode()
