"""Where a walk is made, and what is seen there past the controller: containers, folders, processes."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker

from controller.backends.container import LABEL_INSTANCE
from tests.system.cluster import Cluster
from tests.system.controller_process import ControllerProcess


@dataclass
class Place:
    """A namespace, and the controller that takes care of it."""

    cluster: Cluster
    controller: ControllerProcess
    docker: docker.DockerClient | None
    """None: sandboxes run on mock."""

    def traces(self) -> dict[str, str]:
        """uid -> state of each container of the controller's; on mock, of each folder."""
        if self.docker is None:
            home = Path(self.controller.env["SANDBOX__STATE_FOLDER"]) / self.controller.instance
            return {entry.name: "there" for entry in home.iterdir()} if home.exists() else {}
        label = f"{LABEL_INSTANCE}={self.controller.instance}"
        rows = self.docker.api.containers(all=True, filters={"label": label})
        return {row["Names"][0].removeprefix("/sbx-"): row["State"] for row in rows}

    def trace_of_one(self, *, suspended: bool) -> str:
        """What `traces` has of a sandbox that is there."""
        return "there" if self.docker is None else "paused" if suspended else "running"


def count_living(marks: Iterable[str]) -> Counter[str]:
    """Mark -> how many processes of this machine have it among their arguments, those in containers too."""
    sought = {mark.encode() for mark in marks}
    return Counter(found.decode() for words in _command_lines() for found in sought & words)


def _command_lines() -> Iterator[set[bytes]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield set((entry / "cmdline").read_bytes().split(b"\0"))
            except (FileNotFoundError, ProcessLookupError):
                pass
