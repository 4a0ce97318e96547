"""What `kubectl get` prints: Table objects, whose columns the server knows."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from controller.localkube import jsonpath
from controller.localkube.formats import date_time
from controller.localkube.store import Object


@dataclass(frozen=True)
class Column:
    name: str
    cell: Callable[[Object, datetime], Any]
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0

    @property
    def definition(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


def human_duration(age: timedelta) -> str:
    """As `k8s.io/apimachinery/pkg/util/duration.HumanDuration` prints it."""
    seconds = int(age.total_seconds())
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < -1:
        return "<invalid>"
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    if minutes < 10:
        return f"{minutes}m" + (f"{seconds % 60}s" if seconds % 60 else "")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h" + (f"{minutes % 60}m" if minutes % 60 else "")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d" + (f"{hours % 24}h" if hours % 24 else "")
    if days < 730:
        return f"{days}d"
    if days < 2920:
        return f"{days // 365}y" + (f"{days % 365}d" if days % 365 else "")
    return f"{days // 365}y"


def age_of(text: str | None, now: datetime) -> str:
    """How long ago an RFC 3339 time was."""
    if not text:
        return "<unknown>"
    try:
        return human_duration(now - date_time(text))
    except ValueError:
        return "<invalid>"


def path_column(
    name: str, path: str, type: str = "string", format: str = "", description: str = "", priority: int = 0
) -> Column:
    """A column of a CRD. Raises ValueError for a JSONPath it does not understand."""
    jsonpath.parse(path)

    def cell(obj: Object, now: datetime) -> Any:
        found = jsonpath.find(path, obj)
        return _cell(found[0], type, now) if found else None

    return Column(
        name,
        cell,
        type,
        format,
        description or f"Custom resource definition column (in JSONPath format): {path}",
        priority,
    )


def _cell(value: Any, type: str, now: datetime) -> Any:
    match type:
        case "date":
            return age_of(value, now) if isinstance(value, str) else None
        case "integer" if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
        case "number" if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        case "boolean" if isinstance(value, bool):
            return value
        case "string":
            return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        case _:
            return None


_NAME_DESCRIPTION = (
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow"
    " a client to request the generation of an appropriate name automatically. Name is primarily intended for creation"
    " idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"
)
NAME = Column("Name", lambda obj, now: obj["metadata"]["name"], format="name", description=_NAME_DESCRIPTION)
AGE = Column("Age", lambda obj, now: age_of(obj["metadata"].get("creationTimestamp"), now), "date")


def partial(obj: Object) -> Object:
    """The metadata alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def table(
    objects: Sequence[Object],
    columns: Sequence[Column],
    list_meta: dict[str, Any],
    now: datetime,
    include: str = "Metadata",
    *,
    headers: bool = True,
) -> Object:
    """`include`: what each row carries of its object, `None`, `Metadata` or `Object`."""
    rows: list[Object] = []
    for obj in objects:
        row: Object = {"cells": [column.cell(obj, now) for column in columns]}
        if include != "None":
            row["object"] = obj if include == "Object" else partial(obj)
        rows.append(row)
    definitions = [column.definition for column in columns] if headers else None
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "columnDefinitions": definitions,
        "rows": rows,
    }
