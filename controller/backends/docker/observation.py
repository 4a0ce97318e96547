"""What Docker tells of a container, in the words of the port."""

import json
from datetime import UTC, datetime
from typing import Any

from controller.backends import Limits, Observation, RunState
from controller.backends.container import LABEL_NAME, LABEL_NAMESPACE, LABEL_SPEC, LABEL_UID
from controller.model import BackendName, Isolation

STATES = {
    "created": RunState.CREATED,
    "running": RunState.RUNNING,
    "restarting": RunState.RUNNING,
    "paused": RunState.PAUSED,
}
NEVER = "0001-01-01T00:00:00Z"


def parse_time(text: str) -> datetime | None:
    """Docker's RFC 3339 with nanoseconds; its zero time means never."""
    if not text or text == NEVER:
        return None
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{(fraction + '000000')[:6]}").replace(tzinfo=UTC)


def observation_of(inspected: dict[str, Any]) -> Observation:
    """One answer of `GET /containers/ID/json` in the words of the port; `ready`, `path` and `tail` are not in it."""
    state, host, labels = inspected["State"], inspected["HostConfig"], inspected["Config"]["Labels"]
    return Observation(
        uid=labels[LABEL_UID],
        namespace=labels[LABEL_NAMESPACE],
        name=labels[LABEL_NAME],
        backend=BackendName.DOCKER,
        state=STATES.get(state["Status"], RunState.EXITED),
        container_id=inspected["Id"],
        container_name=inspected["Name"].removeprefix("/"),
        image=inspected["Image"],
        isolation=Isolation.GVISOR if "runsc" in host.get("Runtime", "") else Isolation.CONTAINER,
        limits=Limits(
            nano_cpus=host.get("NanoCpus") or None,
            memory=host.get("Memory") or None,
            pids=host.get("PidsLimit") or None,
            network=host["NetworkMode"],
        ),
        fixed=json.loads(labels.get(LABEL_SPEC, "{}")),
        created_at=parse_time(inspected["Created"]),
        started_at=parse_time(state["StartedAt"]),
        finished_at=parse_time(state["FinishedAt"]),
        exit_code=state["ExitCode"] if STATES.get(state["Status"]) is None else None,
        oom_killed=state["OOMKilled"],
    )


def observation_of_row(row: dict[str, Any]) -> Observation:
    """One row of `GET /containers/json`, which tells less."""
    return Observation(
        uid=row["Labels"][LABEL_UID],
        namespace=row["Labels"].get(LABEL_NAMESPACE, ""),
        name=row["Labels"].get(LABEL_NAME, ""),
        backend=BackendName.DOCKER,
        state=STATES.get(row["State"], RunState.EXITED),
        container_id=row["Id"],
        container_name=row["Names"][0].removeprefix("/") if row["Names"] else "",
        created_at=datetime.fromtimestamp(row["Created"], UTC),
    )
