"""Kubernetes Events: what a person wants to read in `kubectl describe`, never more than a few a minute for one object."""

import asyncio
import logging
import secrets
from collections import OrderedDict, deque
from datetime import UTC, datetime
from typing import Literal

from controller.cluster.connection import Connection
from controller.directory import DirectoryError
from controller.model import API_VERSION, KIND, Sandbox

log = logging.getLogger(__name__)

BURST, PERIOD = 10, 300.0
"""Events of one object in so many seconds; the rest is left out."""
REMEMBERED = 2000
"""Objects whose last Events are remembered."""
WAITING = 500
"""Events that wait to be written; more are left out."""
COMPONENT = "sandbox-controller"


class Recorder:
    """Writes Events in the background: nothing waits for one, and a lost one is no error."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._queue: asyncio.Queue[dict[str, object]] = asyncio.Queue(WAITING)
        self._last: OrderedDict[str, deque[float]] = OrderedDict()

    def record(
        self, sandbox: Sandbox, kind: Literal["Normal", "Warning"], reason: str, message: str, now: datetime
    ) -> None:
        """Queue one Event, unless its object had too many lately or the queue is full."""
        times = self._last.setdefault(sandbox.uid, deque(maxlen=BURST))
        self._last.move_to_end(sandbox.uid)
        while len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        if len(times) == BURST and now.timestamp() - times[0] < PERIOD:
            return
        times.append(now.timestamp())
        stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event: dict[str, object] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{sandbox.name[:200].rstrip('-.')}.{secrets.token_hex(8)}",
                "namespace": sandbox.namespace,
            },
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": sandbox.namespace,
                "name": sandbox.name,
                "uid": sandbox.uid,
            },
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": COMPONENT},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        if not self._queue.full():
            self._queue.put_nowait(event)

    async def run(self) -> None:
        """Write what is queued, until cancelled."""
        while True:
            event = await self._queue.get()
            namespace = event["metadata"]["namespace"]  # type: ignore[index]
            try:
                await self._connection.call("POST", f"/api/v1/namespaces/{namespace}/events", event)
            except DirectoryError as error:
                log.debug("an Event was not written: %s", error)
