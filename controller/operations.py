"""Port 8080: `/metrics`, `/healthz`, `/readyz`. No secrets, no names of objects."""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from controller.fleet import Fleet
from controller.handlers import Watch
from controller.metrics import Metrics
from controller.model import Phase, Sandbox
from controller.settings import SandboxSettings
from controller.sweep import Sweeper

WAITING = (Phase.PENDING, Phase.STARTING, Phase.TERMINATING, Phase.UNKNOWN)
"""Phases that are meant to pass."""


def show_objects(metrics: Metrics, sandboxes: Callable[[], list[Sandbox]], clock: Callable[[], datetime]) -> None:
    """Objects by phase and backend, and how long some of them wait, read when Prometheus asks."""

    def count() -> dict[tuple[str, ...], float]:
        return dict(Counter((each.namespace, str(phase_of(each)), str(each.backend or "none")) for each in sandboxes()))

    metrics.read_at_scrape(
        "sandbox_objects",
        "Sandbox objects by namespace, phase and backend.",
        ("sandbox_namespace", "phase", "backend"),
        count,
    )
    metrics.read_at_scrape(
        "sandbox_longest_wait_seconds",
        "How long the object that waits longest has been Pending, Starting, Terminating or Unknown.",
        ("phase",),
        lambda: longest_waits(sandboxes(), clock()),
    )


def longest_waits(sandboxes: Iterable[Sandbox], now: datetime) -> dict[tuple[str, ...], float]:
    """Seconds by phase, 0 where nothing waits. What waits for its owner, with an invalid spec, does not count."""
    waits: dict[tuple[str, ...], float] = {(str(phase),): 0.0 for phase in WAITING}
    for sandbox in sandboxes:
        phase, since = phase_of(sandbox), _waiting_since(sandbox)
        if phase in WAITING and not sandbox.invalid and since is not None:
            waits[(str(phase),)] = max(waits[(str(phase),)], (now - since).total_seconds())
    return waits


def phase_of(sandbox: Sandbox) -> Phase:
    return Phase.TERMINATING if sandbox.deleted_at else Phase(sandbox.status.get("phase") or Phase.PENDING)


def _waiting_since(sandbox: Sandbox) -> datetime | None:
    if sandbox.deleted_at is not None:
        return sandbox.deleted_at
    if sandbox.status.get("phase") == Phase.UNKNOWN:
        ready = next((each for each in sandbox.status.get("conditions", ()) if each["type"] == "Ready"), None)
        return ready and datetime.fromisoformat(ready["lastTransitionTime"])
    return sandbox.created_at


def build_operations(
    metrics: Metrics, fleet: Fleet, watch: Watch, sweeper: Sweeper, settings: SandboxSettings
) -> Starlette:
    """The application of the operations port."""

    async def show_metrics(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        """Ready: objects were listed, the watch runs, and the backend that is required answers."""
        parts = {
            "listed": sweeper.swept.is_set(),
            "watching": watch.listed.is_set(),
            "backend": not settings.docker_required or fleet.docker_health.available,
        }
        return JSONResponse({"ready": all(parts.values()), **parts}, status_code=200 if all(parts.values()) else 503)

    return Starlette(
        routes=[Route("/metrics", show_metrics), Route("/healthz", healthz), Route("/readyz", readyz)],
    )
