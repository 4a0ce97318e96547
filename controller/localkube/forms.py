"""The forms in which objects are answered: whole, as a table, or their metadata alone; in JSON or YAML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from controller.localkube import failures, table
from controller.localkube.kinds import Kind
from controller.localkube.store import Object

MEDIA_TYPES = ("application/json", "application/yaml")


@dataclass(frozen=True)
class Form:
    media_type: str = "application/json"
    transform: str = ""
    """`Table`, `PartialObjectMetadata` or "": the objects themselves."""
    include: str = "Metadata"
    """What the rows of a table carry of their objects: `None`, `Metadata` or `Object`."""

    def one(self, kind: Kind, obj: Object, now: datetime, *, headers: bool = True) -> Object:
        """`headers`: a table says what its columns are (in a watch only the first does)."""
        if self.transform == "Table":
            metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            return table.table([obj], kind.columns, metadata, now, self.include, headers=headers)
        return table.partial(obj) if self.transform else obj

    def many(self, kind: Kind, objects: Sequence[Object], metadata: Object, now: datetime) -> Object:
        """`metadata` of the list."""
        if self.transform == "Table":
            return table.table(objects, kind.columns, metadata, now, self.include)
        api_version, list_kind = kind.api_version, kind.list_kind
        if self.transform:
            objects = [table.partial(obj) for obj in objects]
            api_version, list_kind = "meta.k8s.io/v1", "PartialObjectMetadataList"
        return {"apiVersion": api_version, "kind": list_kind, "metadata": metadata, "items": list(objects)}


def form(accept: str, query: Mapping[str, str]) -> Form:
    """The first of the wanted forms that there is. Raises Failure 406."""
    include = query.get("includeObject", "Metadata")
    for wanted in (accept or "*/*").split(","):
        media_type, *parameters = (part.strip() for part in wanted.split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        transform = given.get("as", "").removesuffix("List")
        if transform and (transform not in ("Table", "PartialObjectMetadata") or given.get("v", "v1") != "v1"):
            continue
        if media_type in ("*/*", "application/*"):
            return Form(transform=transform, include=include)
        if media_type in MEDIA_TYPES:
            return Form(media_type, transform, include)
    raise failures.not_acceptable(MEDIA_TYPES)
