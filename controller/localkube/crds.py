"""CustomResourceDefinitions: what the server adds to them, and what it says of them in their status."""

from datetime import datetime

from controller.localkube import meta
from controller.localkube.store import Object

RESOURCE = ("apiextensions.k8s.io", "customresourcedefinitions")


def established(crd: Object, now: datetime) -> Object:
    """With the defaults of `spec`, and a status that says its kind is served."""
    spec = crd["spec"]
    names = {"singular": spec["names"]["kind"].lower(), "listKind": f"{spec['names']['kind']}List", **spec["names"]}
    state = {
        "Established": ("InitialNamesAccepted", "the initial names have been accepted"),
        "NamesAccepted": ("NoConflicts", "no conflicts found"),
    }
    return {
        **crd,
        "spec": {"conversion": {"strategy": "None"}, **spec, "names": names},
        "status": {
            "acceptedNames": names,
            "conditions": [
                {
                    "type": type,
                    "status": "True",
                    "reason": reason,
                    "message": message,
                    "lastTransitionTime": meta.now_text(now),
                }
                for type, (reason, message) in state.items()
            ],
            "storedVersions": [version["name"] for version in spec["versions"] if version.get("storage")],
        },
    }
