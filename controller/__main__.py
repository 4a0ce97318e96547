"""Composition root: settings -> backends -> reconciler -> watch and API, each part started and stopped in order."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from kubernetes.client import Configuration

from controller import tracing
from controller.api import Authenticator, build_app, serving
from controller.backends.mock.backend import MockBackend
from controller.choose import DockerUnavailableError, docker_backend
from controller.cluster.connection import Connection
from controller.cluster.recorder import Recorder
from controller.cluster.reviews import ClusterReviewer
from controller.cluster.store import Store
from controller.fleet import Fleet
from controller.handlers import Watch
from controller.measured import MeasuredBackend
from controller.metrics import Metrics
from controller.operations import build_operations, show_objects
from controller.reconcile import Reconciler
from controller.service import Service
from controller.settings import Settings
from controller.sweep import Sweeper

log = logging.getLogger(__name__)

DRAIN_SECONDS = 10.0
"""For passes that are under way at a stop; what is cut is taken up at the next start."""


@asynccontextmanager
async def running(settings: Settings, cluster: Configuration) -> AsyncIterator[dict[str, str]]:
    """The whole controller, while the block runs; gives its URLs, `api` and `operations`, and its `backend`.

    Raises DockerUnavailableError where Docker is required and absent, ServeError where the API would be unsafe.
    """
    sandbox = settings.sandbox
    async with AsyncExitStack() as stack:
        stack.callback(tracing.switch_on())
        metrics = Metrics()
        docker = docker_backend(sandbox)
        fleet = Fleet(
            sandbox,
            metrics,
            docker=docker and MeasuredBackend(docker, metrics),
            mock=MeasuredBackend(MockBackend(sandbox), metrics),
        )
        stack.push_async_callback(fleet.close)
        await fleet.open()
        if sandbox.docker_required and not fleet.docker_health.available:
            raise DockerUnavailableError(fleet.choice.why)
        connection = Connection(cluster, metrics)
        stack.callback(connection.close)
        store, recorder = Store(connection, settings.watch_namespaces), Recorder(connection)
        reconciler = Reconciler(sandbox, fleet, store, recorder, metrics)
        show_objects(metrics, reconciler.sandboxes, lambda: datetime.now(UTC))
        sweeper = Sweeper(reconciler, store, fleet, metrics, settings.watch_namespaces)

        def seen(event: Mapping[str, Any]) -> None:
            body = event["object"]
            sweeper.brought(body)
            if event["type"] == "DELETED":
                reconciler.forget(body["metadata"]["uid"])
            else:
                reconciler.see(body)

        watch = Watch(cluster, settings.watch_namespaces, seen)
        key = settings.security.usable_key()
        service = Service(reconciler, store, fleet, sweeper.swept.is_set)
        app = build_app(service, settings, Authenticator(key, ClusterReviewer(connection) if key else None))
        operations = build_operations(metrics, fleet, watch, sweeper, sandbox)
        at_metrics = settings.api.model_copy(
            update={"host": settings.api.metrics_host, "port": settings.api.metrics_port}
        )

        group = await stack.enter_async_context(_Background())
        group.start("events", recorder.run)
        group.start("watch", watch.run)
        group.start("sweep", sweeper.run)
        group.start("monitor", lambda: fleet.monitor(reconciler.wake_all))
        group.start("follow", lambda: fleet.follow(reconciler.wake))
        urls = {
            "backend": fleet.choice.auto or "none",
            "operations": await stack.enter_async_context(serving(operations, at_metrics)),
            "api": await stack.enter_async_context(serving(app, settings.api)),
        }
        log.info("serving the API at %s, metrics and probes at %s", urls["api"], urls["operations"])
        if key is None:
            log.warning("without SECURITY__SECRET_KEY the API serves this machine only, and asks for no credentials")
        yield urls
        await reconciler.drain(DRAIN_SECONDS)


class _Background:
    """Tasks that run as long as the controller; one that fails is a mistake of ours and is told loudly."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Callable[[], Any]) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work(), name=name)
        task.add_done_callback(_tell_failure)
        self._tasks.append(task)

    async def __aenter__(self) -> "_Background":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("%s failed: the controller stops", task.get_name(), exc_info=error)
        signal.raise_signal(signal.SIGTERM)


async def run_until_stopped(settings: Settings, cluster: Configuration) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(settings, cluster):
        await stop.wait()
        log.info("stopping; sandboxes live on")
