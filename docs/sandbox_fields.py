"""Writes docs/sandbox.md from the CRD: `python docs/sandbox_fields.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CRD = Path(__file__).parents[1] / "crds" / "sandboxes.yaml"
PAGE = Path(__file__).with_name("sandbox.md")
HEAD = """\
<!-- Written by docs/sandbox_fields.py from crds/sandboxes.yaml; change those. -->
# The fields of a Sandbox

{description}

`kubectl explain sandbox.spec` says the same. Manifests to try are in [`examples/`](../examples). The CRD needs
Kubernetes 1.29 or newer, whose CEL knows quantities.

## spec

{spec_description}

- All of `code`, `command`, `stdin`, `files` and `env` together is at most 131070 bytes; larger files go in over the
  HTTP API.
- `run` and `backend` cannot change. A change of `resources`, `lifetime` or `operatingMode` takes effect while it lives;
  any other is refused by name in the condition SpecApplied.
- Unknown fields are errors to `kubectl apply`, and dropped where validation is off. None makes it privileged.
"""


def _type(field: dict[str, Any]) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in field:
        return " \\| ".join(field["enum"])
    if field["type"] == "array":
        return f"list of {field['items']['type']}s"
    return str({"date-time": "time"}.get(field.get("format", ""), field["type"]))


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    return "" if default is None or default == {} else f"`{default}`" if default != "" else '`""`'


def _rows(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, field in schema["properties"].items():
        yield f"| `{path}{name}` | {_type(field)} | {_default(field)} | {field['description']} |"
        inner, suffix = (field["items"], "[].") if field.get("type") == "array" else (field, ".")
        if "properties" in inner:
            yield from _rows(inner, f"{path}{name}{suffix}")


def page() -> str:
    """The whole of docs/sandbox.md."""
    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec, status = schema["properties"]["spec"], schema["properties"]["status"]
    lines = [
        HEAD.format(description=schema["description"], spec_description=spec["description"]),
        "| field | type | default | |",
        "|---|---|---|---|",
        *_rows(spec),
        f"\n## status\n\n{status['description']}\n",
        "| field | type | |",
        "|---|---|---|",
        *(row.replace(" |  | ", " | ", 1) for row in _rows(status)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
