"""Deleting all Sandbox objects, as an uninstallation does."""

import asyncio
from datetime import UTC, datetime, timedelta

from controller.cluster.connection import Gone, Stale
from controller.cluster.store import Store
from controller.model import Sandbox, sandbox_from_object

POLL_SECONDS = 0.5


async def delete_all(store: Store, timeout: float) -> list[Sandbox]:
    """Delete them and wait until they are gone; gives those that are left after `timeout` seconds.

    A running controller has to take its finalizers off. Raises DirectoryError.
    """
    end = datetime.now(UTC) + timedelta(seconds=timeout)
    while True:
        try:
            left = [sandbox_from_object(body) for body in await store.objects()]
        except Gone:  # there is no CRD, and so no object
            return []
        for sandbox in left:
            if sandbox.deleted_at is None:
                try:
                    await store.delete(sandbox)
                except (Gone, Stale):
                    continue
        if not left or datetime.now(UTC) >= end:
            return left
        await asyncio.sleep(POLL_SECONDS)
