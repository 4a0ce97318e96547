"""The watch on Sandbox objects: the only module that knows kopf.

kopf brings events and nothing else: no handler of its own writes to objects, so neither annotations nor finalizers of its
making appear. It has a thread and a loop of its own: it installs signal handlers in a main thread, and takes some answers
of the API server (a 504 for a version that is not there yet, say) for its own end; then it is begun anew.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import kopf
from kubernetes.client import Configuration

from controller.model import GROUP, PLURAL, VERSION

log = logging.getLogger(__name__)

SERVER_TIMEOUT = 300
"""Seconds of one watch request; the server ends it then."""
INACTIVITY_TIMEOUT = 75
"""Seconds without an event or a bookmark (which come each minute) after which the stream counts as dead."""
BEGIN_AGAIN = 2.0
"""Seconds until kopf is begun anew after it gave up."""

Event = Mapping[str, Any]


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.watching.server_timeout = SERVER_TIMEOUT
    settings.watching.client_timeout = SERVER_TIMEOUT + 30
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = INACTIVITY_TIMEOUT
    settings.watching.reconnect_backoff = 0.5
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None
    settings.queueing.exit_timeout = 1
    return settings


def _registry(seen: Callable[[Event], None], credentials: Configuration) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        bearer = credentials.auth_settings().get("BearerToken", {}).get("value") or ""  # refreshed, if it has to be
        return kopf.ConnectionInfo(
            server=credentials.host,
            ca_path=credentials.ssl_ca_cert,
            insecure=not credentials.verify_ssl,
            token=bearer.rpartition(" ")[2] or None,  # after "Bearer ", or "bearer " in a Pod
            certificate_path=credentials.cert_file,
            private_key_path=credentials.key_file,
            username=credentials.username or None,
            password=credentials.password or None,
        )

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def event(event: Event, **_: Any) -> None:
        seen(event)

    return registry


class Watch:
    """The watch of some namespaces (none: of all)."""

    def __init__(self, credentials: Configuration, namespaces: tuple[str, ...], seen: Callable[[Event], None]) -> None:
        self._credentials, self._namespaces, self._seen = credentials, namespaces, seen
        self._stop = threading.Event()
        self.listed = threading.Event()
        """Set while kopf watches."""

    async def run(self) -> None:
        """Watch until cancelled; `seen` is called on the caller's loop."""
        loop = asyncio.get_running_loop()

        def hand_over(event: Event) -> None:
            loop.call_soon_threadsafe(self._seen, event)

        thread = threading.Thread(target=self._watch_again_and_again, args=(hand_over,), name="kopf", daemon=True)
        thread.start()
        try:
            await asyncio.Event().wait()
        finally:
            self._stop.set()
            await asyncio.to_thread(thread.join, 5)

    def _watch_again_and_again(self, seen: Callable[[Event], None]) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(
                    kopf.operator(
                        registry=_registry(seen, self._credentials),
                        settings=_settings(),
                        standalone=True,
                        clusterwide=not self._namespaces,
                        namespaces=self._namespaces,
                        stop_flag=self._stop,
                        ready_flag=self.listed,
                    )
                )
            except Exception as error:  # noqa: BLE001 - whatever ends kopf, the watch goes on
                log.warning("the watch ended and is begun anew: %s: %s", type(error).__name__, error)
            self.listed.clear()
            self._stop.wait(BEGIN_AGAIN)
