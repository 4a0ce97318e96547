"""What is served, as clients discover it: group by group, or all at once (aggregated discovery)."""

from collections.abc import Iterable

from controller.localkube.kinds import Kind, Kinds
from controller.localkube.store import Object

VERSION = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+localkube",
    "gitCommit": "",
    "gitTreeState": "",
    "buildDate": "",
    "goVersion": "",
    "compiler": "",
    "platform": "",
}
"""The Kubernetes whose behaviour this server has; clients choose their own by it."""

STATUS_VERBS = ("get", "patch", "update")


def core_versions(host: str) -> Object:
    """`host` as the client wrote it, with the port."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}],
    }


def group_list(kinds: Kinds) -> Object:
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(kinds, name) for name in kinds.groups() if name],
    }


def group(kinds: Kinds, name: str) -> Object | None:
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(kinds, name)} if kinds.of_group(name) else None


def _versions(kinds: Kinds, name: str) -> list[str]:
    return list(dict.fromkeys(kind.version for kind in kinds.of_group(name)))


def _group(kinds: Kinds, name: str) -> Object:
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in _versions(kinds, name)]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def resource_list(kinds: Kinds, name: str, version: str) -> Object | None:
    found = kinds.of_group(name, version)
    if not found:
        return None
    resources = [resource for kind in found for resource in _resources(kind)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": found[0].api_version, "resources": resources}


def _resources(kind: Kind) -> Iterable[Object]:
    names: Object = {"shortNames": list(kind.short_names)} if kind.short_names else {}
    if kind.categories:
        names["categories"] = list(kind.categories)
    common = {"namespaced": kind.namespaced, "kind": kind.kind}
    yield {"name": kind.plural, "singularName": kind.singular, **common, "verbs": list(kind.verbs), **names}
    if kind.has_status:
        yield {"name": f"{kind.plural}/status", "singularName": "", **common, "verbs": list(STATUS_VERBS)}


def aggregated(kinds: Kinds, names: Iterable[str], version: str) -> Object:
    """An APIGroupDiscoveryList of the groups; `version` of its own format, `v2` or `v2beta1`."""
    items = []
    for name in names:
        versions = [
            {
                "version": served,
                "resources": [_aggregated_resource(kind) for kind in kinds.of_group(name, served)],
                "freshness": "Current",
            }
            for served in _versions(kinds, name)
        ]
        items.append(
            {
                "metadata": {"name": name, "creationTimestamp": None} if name else {"creationTimestamp": None},
                "versions": versions,
            }
        )
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _aggregated_resource(kind: Kind) -> Object:
    response_kind = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    resource: Object = {
        "resource": kind.plural,
        "responseKind": response_kind,
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        resource["shortNames"] = list(kind.short_names)
    if kind.categories:
        resource["categories"] = list(kind.categories)
    if kind.has_status:
        resource["subresources"] = [
            {"subresource": "status", "responseKind": response_kind, "verbs": list(STATUS_VERBS)}
        ]
    return resource
