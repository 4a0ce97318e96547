"""Who a token belongs to, and what they may do: TokenReview and SubjectAccessReview."""

from collections.abc import Mapping
from typing import Any

from controller.cluster.connection import Body, Connection
from controller.directory import Action, DirectoryError, Identity, StoreUnavailable
from controller.model import GROUP, PLURAL, VERSION


class ClusterReviewer:
    """The cluster's word, uncached; see `controller.directory.Reviewer`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def identify(self, token: str) -> Identity | None:
        """Who it is, None for a token that is not valid. Raises StoreUnavailable."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        status = (await self._review("/apis/authentication.k8s.io/v1/tokenreviews", body))["status"]
        if not status.get("authenticated"):
            return None
        user = status.get("user", {})
        extra = {key: tuple(values) for key, values in user.get("extra", {}).items()}
        return Identity(user.get("username", ""), user.get("uid", ""), tuple(user.get("groups", ())), extra)

    async def allows(self, identity: Identity, action: Action) -> bool:
        """Whether they may. Raises StoreUnavailable."""
        attributes = {
            "group": GROUP,
            "version": VERSION,
            "resource": PLURAL,
            "verb": action.verb,
            "subresource": action.subresource,
            "namespace": action.namespace,
            "name": action.name,
        }
        spec = {
            "user": identity.user,
            "uid": identity.uid,
            "groups": list(identity.groups),
            "extra": {key: list(values) for key, values in identity.extra.items()},
            "resourceAttributes": {key: value for key, value in attributes.items() if value},
        }
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        status = (await self._review("/apis/authorization.k8s.io/v1/subjectaccessreviews", body))["status"]
        return bool(status.get("allowed"))

    async def _review(self, path: str, body: Mapping[str, Any]) -> Body:
        try:
            return await self._connection.call("POST", path, body)
        except StoreUnavailable:
            raise
        except DirectoryError as error:  # our own account may not ask: nobody can be let in
            raise StoreUnavailable(f"tokens cannot be checked: {error}") from error
