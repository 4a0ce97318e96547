"""What an API server was asked, from its audit log."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
"""Who asked for what, and whether they might; no bodies."""

Use = tuple[str, str, str]
"""API group, resource with subresource, verb."""


@dataclass(frozen=True)
class Audited:
    """An API server in `folder` that writes an audit log."""

    folder: Path

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def policy(self) -> Path:
        return self.folder / "audit-policy.json"

    @property
    def log(self) -> Path:
        return self.folder / "audit.log"

    def requests(self, user: str) -> Iterator[dict[str, Any]]:
        """Those of one user."""
        for line in self.log.read_text().splitlines():
            event = json.loads(line)
            if event["user"].get("username") == user:
                yield event

    def uses(self, user: str) -> set[Use]:
        """What the user asked for and got."""
        return {
            use_of(event["objectRef"], event["verb"])
            for event in self.requests(user)
            if "objectRef" in event and event["annotations"]["authorization.k8s.io/decision"] == "allow"
        }

    def refused(self, user: str) -> list[str]:
        """The requests that no right allowed."""
        return [
            f"{event['verb']} {event['requestURI']}"
            for event in self.requests(user)
            if event["annotations"].get("authorization.k8s.io/decision") == "forbid"
        ]


def use_of(ref: dict[str, str], verb: str) -> Use:
    return ref.get("apiGroup", ""), "/".join(filter(None, (ref["resource"], ref.get("subresource")))), verb


def granted(rules: list[dict[str, Any]]) -> set[Use]:
    """What the rules of a role allow."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
