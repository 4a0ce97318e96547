"""What a request asks for: which objects, in which way, and in which form it wants the answer."""

from collections.abc import Mapping
from dataclasses import dataclass

from controller.localkube import failures
from controller.localkube.kinds import Kind, Kinds


@dataclass(frozen=True)
class Target:
    """The objects that a URL names: one, or all of a namespace, or all."""

    kind: Kind
    namespace: str | None
    """None: all namespaces. Cluster-scoped objects have ""."""
    name: str | None = None
    subresource: str = ""


def target(kinds: Kinds, group: str, version: str, rest: str) -> Target | None:
    """`rest` is the path below group and version. None: nothing is there. Raises Failure 404 for other subresources."""
    parts = [part for part in rest.split("/") if part]
    if len(parts) >= 3 and parts[0] == "namespaces":
        kind = kinds.find(group, version, parts[2])
        if kind and kind.namespaced:
            return _target(kind, parts[1], parts[3:])
    kind = kinds.find(group, version, parts[0]) if parts else None
    if kind is None:
        return None
    if not kind.namespaced:
        return _target(kind, "", parts[1:])
    # Across namespaces, objects can only be listed.
    return _target(kind, None, []) if len(parts) == 1 else None


def _target(kind: Kind, namespace: str | None, rest: list[str]) -> Target:
    name, *below = rest or [""]
    if below and not (below == ["status"] and kind.has_status):
        raise failures.not_found(kind.group, kind.plural, name)
    return Target(kind, namespace, name or None, below[0] if below else "")


def flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("1", "true")


def version(query: Mapping[str, str], name: str = "resourceVersion") -> int | None:
    """The wanted resource version; None for "any". Raises Failure 400."""
    text = query.get(name, "")
    if text in ("", "0"):
        return None
    if not (text.isascii() and text.isdigit()):
        problem = f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise failures.bad_request(f"invalid resource version: {problem}")
    return int(text)


def number(query: Mapping[str, str], name: str) -> int | None:
    """Raises Failure 400."""
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise failures.bad_request(f'{name}: Invalid value: "{text}": must be a whole number')
    return int(text)


def dry_run(query: Mapping[str, str], options: str) -> bool:
    """Raises Failure 422. `options` names the kind of options for the error."""
    text = query.get("dryRun")
    if text not in (None, "", "All"):
        cause = failures.Cause(
            "dryRun", "FieldValueNotSupported", f'Unsupported value: ["{text}"]: supported values: "All"'
        )
        raise failures.invalid("meta.k8s.io", options, "", [cause])
    return text == "All"


def field_validation(query: Mapping[str, str], options: str) -> str:
    """Raises Failure 422."""
    text = query.get("fieldValidation") or "Warn"
    if text not in ("Ignore", "Warn", "Strict"):
        cause = failures.unsupported("fieldValidation", text, ["", "Ignore", "Strict", "Warn"])
        raise failures.invalid("meta.k8s.io", options, "", [cause])
    return text
