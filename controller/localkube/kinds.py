"""The kinds of objects that are served: the few built-in ones and whatever CRDs add."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from controller.localkube import cel, failures
from controller.localkube.meta import OBJECT_META
from controller.localkube.schema import Schema, has_rules
from controller.localkube.store import Object, Resource
from controller.localkube.table import AGE, NAME, Column, path_column
from controller.localkube.values import clone

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Kind:
    """One kind in one version."""

    group: str
    version: str
    plural: str
    kind: str
    schema: Schema
    """The whole object's, with apiVersion, kind and metadata."""
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    columns: tuple[Column, ...] = (NAME, AGE)
    verbs: tuple[str, ...] = ALL_VERBS
    has_status: bool = False
    custom: bool = False
    """Comes from a CRD: has a generation, takes no strategic merge patch."""
    selectable: Mapping[str, str] = field(default_factory=dict)
    """Field selectors beside metadata's: name and JSONPath."""

    @property
    def resource(self) -> Resource:
        # Events are one resource, seen through two API groups.
        return ("", "events") if self.plural == "events" else (self.group, self.plural)

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def list_kind(self) -> str:
        return f"{self.kind}List"

    @cached_property
    def has_rules(self) -> bool:
        return has_rules(self.schema)


def whole_schema(schema: Schema) -> Schema:
    """A kind's schema with what all objects have; what it says itself about the name stays."""
    metadata = clone(OBJECT_META)
    for name, more in schema.get("properties", {}).get("metadata", {}).get("properties", {}).items():
        metadata["properties"][name] = {**metadata["properties"].get(name, {}), **more}
    api_version = "Versioned schema of this representation of an object, as group/version."
    common = {
        "apiVersion": {"type": "string", "description": api_version},
        "kind": {"type": "string", "description": "The REST resource this object represents, in CamelCase."},
        "metadata": metadata,
    }
    return {**schema, "properties": {**schema.get("properties", {}), **common}}


def from_crd(crd: Object) -> list[Kind]:
    """The served versions of a CustomResourceDefinition that its own schema allows.

    Raises Failure 422 for a rule, a column or a shape that this server cannot serve.
    """
    name = crd["metadata"].get("name", "")
    try:
        spec = crd["spec"]
        names = spec["names"]
        if name != f"{names['plural']}.{spec['group']}":
            raise ValueError(
                f'metadata.name must be spec.names.plural+"."+spec.group, which is {names["plural"]}.{spec["group"]}'
            )
        return [
            Kind(
                group=spec["group"],
                version=version["name"],
                plural=names["plural"],
                kind=names["kind"],
                schema=whole_schema(_checked(version["schema"]["openAPIV3Schema"])),
                namespaced=spec["scope"] == "Namespaced",
                short_names=tuple(names.get("shortNames", ())),
                categories=tuple(names.get("categories", ())),
                columns=_columns(version),
                has_status="status" in version.get("subresources", {}),
                custom=True,
                selectable={
                    field["jsonPath"].lstrip("."): field["jsonPath"] for field in version.get("selectableFields", ())
                },
            )
            for version in spec["versions"]
            if version["served"]
        ]
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # a schema may have any shape
        cause = failures.invalid_value("spec", {}, str(error))
    raise failures.invalid("apiextensions.k8s.io", "CustomResourceDefinition", name, [cause])


def _columns(version: Object) -> tuple[Column, ...]:
    columns = version.get("additionalPrinterColumns")
    if columns is None:
        return (NAME, AGE)
    return (
        NAME,
        *(
            path_column(
                column["name"],
                column["jsonPath"],
                column["type"],
                column.get("format", ""),
                column.get("description", ""),
                column.get("priority", 0),
            )
            for column in columns
        ),
    )


def _checked(schema: Schema) -> Schema:
    """The schema, once all its rules compile. Raises ValueError."""
    pending: list[Any] = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            for rule in part.get("x-kubernetes-validations", ()):
                cel.compiled(rule["rule"])
                cel.compiled(rule.get("messageExpression", "''"))
            pending += part.values()
        elif isinstance(part, list):
            pending += part
    return schema


class Kinds:
    """All kinds, found by group, version and plural."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds = {(kind.group, kind.version, kind.plural): kind for kind in kinds}

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        return self._kinds.get((group, version, plural))

    def all(self) -> list[Kind]:
        return list(self._kinds.values())

    def of_group(self, group: str, version: str | None = None) -> list[Kind]:
        return [kind for kind in self.all() if kind.group == group and version in (None, kind.version)]

    def groups(self) -> list[str]:
        return list(dict.fromkeys(kind.group for kind in self.all()))

    def serving(self, resource: Resource) -> Kind | None:
        """Some version by which objects of the resource can be handled."""
        return next((kind for kind in self.all() if kind.resource == resource), None)

    def of(self, resource: Resource) -> Kind:
        """The same for a resource that is always there."""
        kind = self.serving(resource)
        if kind is None:
            raise LookupError(f"no kind serves {resource}")
        return kind

    def replace(self, old: Iterable[Kind], new: Iterable[Kind]) -> None:
        """Serves `new` instead of `old`."""
        for kind in old:
            self._kinds.pop((kind.group, kind.version, kind.plural), None)
        for kind in new:
            self._kinds[kind.group, kind.version, kind.plural] = kind
