"""Port 8080: `/metrics`, `/healthz`, `/readyz`. No secrets, no names of objects."""

from collections import Counter

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from controller.fleet import Fleet
from controller.handlers import Watch
from controller.metrics import Metrics
from controller.reconcile import Reconciler
from controller.settings import SandboxSettings
from controller.sweep import Sweeper


def count_objects(metrics: Metrics, reconciler: Reconciler) -> None:
    """Objects by phase and backend, counted when Prometheus asks."""

    def count() -> dict[tuple[str, str], int]:
        sandboxes = [life.sandbox for life in reconciler.lives.values()]
        return Counter((str(each.status.get("phase", "Pending")), str(each.backend or "none")) for each in sandboxes)

    metrics.count_at_scrape("sandbox_objects", "Sandbox objects by phase and backend.", ("phase", "backend"), count)


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
