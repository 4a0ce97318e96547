"""The backends of this controller, and what is known of them now: asked again and again, told to who waits for it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

from controller.backends import Backend, BackendError, Health, Unavailable
from controller.choose import Choice, announce, choose, look_for_docker, wants_docker
from controller.metrics import Metrics
from controller.model import BackendName
from controller.settings import SandboxSettings

log = logging.getLogger(__name__)

PROBE_EVERY = 2.0
"""Seconds between two health questions: a lost daemon shows within seconds."""
REOPEN_AFTER = 1.0
"""Seconds until a lost stream of events is opened again."""


class Fleet:
    """`docker` is None where its Python library is missing."""

    def __init__(self, settings: SandboxSettings, metrics: Metrics, *, docker: Backend | None, mock: Backend) -> None:
        self._settings, self._metrics = settings, metrics
        self._docker, self._mock = docker, mock
        self.docker_health = Health(False, "not_asked", "Docker was not asked yet")

    @property
    def choice(self) -> Choice:
        """The state of the service."""
        return choose(self._settings, self.docker_health)

    async def open(self) -> None:
        """The first look, with retries and the log lines that tell its outcome."""
        self._note(await look_for_docker(self._settings, self._docker))
        announce(self.choice, self._settings, self.docker_health)

    def get(self, name: BackendName) -> Backend:
        """The backend of that name. Raises Unavailable while it does not answer: nothing queues up behind a hung daemon."""
        if name is BackendName.MOCK:
            return self._mock
        if name is BackendName.DOCKER and self._docker is not None:
            if not self.docker_health.available:
                raise Unavailable(self.docker_health.message, "DockerUnavailable")
            return self._docker
        raise Unavailable(f"the backend {name} is not part of this installation", "BackendUnavailable")

    def available(self) -> list[Backend]:
        """The backends that answer now."""
        return [self._mock] + ([self._docker] if self._docker and self.docker_health.available else [])

    async def monitor(self, changed: Callable[[], None]) -> None:
        """Ask Docker again and again, until cancelled; `changed` is called when it is lost or comes back."""
        while wants_docker(self._settings) and self._docker is not None:
            await asyncio.sleep(PROBE_EVERY)
            before = self.docker_health.available
            began = time.perf_counter()
            health = await self._docker.probe()
            if health.available:
                self._metrics.ping.observe(time.perf_counter() - began)
            self._note(health)
            if before != health.available:
                log.log(logging.INFO if health.available else logging.ERROR, "Docker: %s", health.message)
                changed()

    def _note(self, health: Health) -> None:
        self.docker_health = health
        self._metrics.docker_wanted.set(wants_docker(self._settings))
        self._metrics.docker_up.set(health.available)
        self._metrics.mock.set(self.choice.auto is BackendName.MOCK)

    async def follow(self, woken: Callable[[str], None]) -> None:
        """Call `woken` with the uid of each sandbox that changes by itself, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for backend in (self._mock, self._docker):
                if backend is not None:
                    group.create_task(self._follow_one(backend, woken))

    async def _follow_one(self, backend: Backend, woken: Callable[[str], None]) -> None:
        while True:
            if backend in self.available():
                try:
                    events: AsyncIterator[str] = backend.events()
                    async for uid in events:
                        woken(uid)
                except BackendError as error:
                    log.debug("events of %s: %s", backend.name, error)
            await asyncio.sleep(REOPEN_AFTER)

    async def close(self) -> None:
        for backend in (self._mock, self._docker):
            if backend is not None:
                await backend.close()
