"""Which backend new sandboxes get. The choice is pure, from the settings and what was last seen of Docker; `detect` looks."""

import asyncio
import logging
from dataclasses import dataclass

from controller.backends import Backend, Health
from controller.model import BackendName, SandboxSpec
from controller.plan import Offer, Problem
from controller.settings import SandboxSettings, Settings

log = logging.getLogger(__name__)

NOT_ASKED = Health(False, "not_asked", "Docker is not looked for: SANDBOX__DOCKER_AUTO_DETECT=false")
NO_LIBRARY = Health(False, "no_library", "Docker library not available: install the Python package docker")

DISABLED = "Sandboxes are switched off: SANDBOX__ENABLED=false"


class DockerUnavailableError(RuntimeError):
    """Docker is required and does not answer; the text says what to do."""


@dataclass(frozen=True)
class Choice:
    """The state of the service: the backend of `backend: auto`, and why there is none."""

    status: str
    """docker, mock, kubernetes or disabled; as GET /sandbox/status says it."""
    auto: BackendName | None
    why: str = ""


def wants_docker(settings: SandboxSettings) -> bool:
    """Whether a daemon is looked for at all."""
    return settings.enabled and (settings.docker_required or (settings.docker_auto_detect and not settings.mock_mode))


def choose(settings: SandboxSettings, docker: Health) -> Choice:
    """What `auto` means now."""
    if not settings.enabled:
        return Choice("disabled", None, DISABLED)
    if settings.mock_mode and not settings.docker_required:
        return Choice("mock", BackendName.MOCK)
    if docker.available:
        return Choice("docker", BackendName.DOCKER)
    if settings.docker_required:
        return Choice(
            "docker", None, f"Docker is required (SANDBOX__DOCKER_REQUIRED=true) and not there: {docker.message}"
        )
    if not settings.mock_allowed:
        return Choice(
            "docker", None, f"Docker is not there, and mock is not allowed (SANDBOX__MOCK_ALLOWED): {docker.message}"
        )
    return Choice("mock", BackendName.MOCK)


def offer(spec: SandboxSpec, settings: SandboxSettings, docker: Health) -> Offer:
    """The backend for a new sandbox, or why it has to wait; it is never given less isolation than it asks for."""
    choice = choose(settings, docker)
    if choice.status == "disabled":
        return Offer(None, Problem("Disabled", choice.why))
    match spec.backend:
        case "kubernetes":
            return Offer(
                None, Problem("BackendUnavailable", "spec.backend: sandboxes as Pods are not part of this version")
            )
        case "docker" if not docker.available:
            return Offer(None, Problem("DockerUnavailable", f"spec.backend is docker, and {docker.message}"))
        case "docker":
            return Offer(BackendName.DOCKER)
        case "mock":
            wanted: BackendName | None = BackendName.MOCK
        case _:
            wanted = choice.auto
    if wanted is None:
        return Offer(None, Problem("DockerUnavailable", choice.why))
    if wanted is BackendName.MOCK and (refusal := mock_refusal(spec, settings)):
        return Offer(None, refusal)
    return Offer(wanted)


def mock_refusal(spec: SandboxSpec, settings: SandboxSettings) -> Problem | None:
    """Why a sandbox may not run on mock; asked before every start, whatever an annotation claims."""
    if not settings.enabled:
        return Problem("Disabled", DISABLED)
    if spec.isolation == "required":
        return Problem(
            "IsolationUnavailable",
            "spec.isolation is required, and only mock is there, which isolates nothing: start Docker",
        )
    if spec.runtime:
        return Problem(
            "IsolationUnavailable",
            f"spec.runtime asks for {spec.runtime}, and only mock is there, which isolates nothing: start Docker",
        )
    if not settings.mock_allowed:
        return Problem("MockNotAllowed", "Sandboxes on mock are not allowed here: SANDBOX__MOCK_ALLOWED=false")
    return None


def announce(choice: Choice, settings: SandboxSettings, docker: Health) -> None:
    """The log lines that people grep for."""
    log.info("Checking mock mode preference")
    if wants_docker(settings) and not docker.available:
        log.warning(
            docker.message
            if docker.status in ("timeout", "no_library")
            else "Docker daemon not available or not running"
        )
        if docker.status not in ("timeout", "no_library"):
            log.warning(docker.message)
        if choice.auto is BackendName.MOCK:
            log.warning("Falling back to mock sandbox manager")
    if choice.auto is BackendName.MOCK:
        log.warning("Using mock sandbox manager")


async def look_for_docker(settings: SandboxSettings, docker: Backend | None) -> Health:
    """Ask the daemon, again up to SANDBOX__DOCKER_MAX_RETRIES times. `docker` is None without the Python library."""
    if not wants_docker(settings):
        return NOT_ASKED
    if docker is None:
        return NO_LIBRARY
    health = await docker.probe()
    for attempt in range(settings.docker_max_retries):
        if health.available or health.status in ("no_socket", "permission_denied", "too_old"):  # waiting does not help
            break
        await asyncio.sleep(min(0.2 * 2**attempt, 2))
        health = await docker.probe()
    return health


@dataclass(frozen=True)
class Detected:
    """What `detect` found."""

    name: BackendName
    docker: Health


async def detect(settings: Settings) -> Detected:
    """Look once and choose, with the log lines that people grep for. Raises DockerUnavailableError where nothing may run."""
    sandbox = settings.sandbox
    backend = docker_backend(sandbox) if wants_docker(sandbox) else None
    health = await look_for_docker(sandbox, backend)
    if backend is not None:
        await backend.close()
    choice = choose(sandbox, health)
    announce(choice, sandbox, health)
    if choice.auto is None:
        raise DockerUnavailableError(choice.why)
    return Detected(choice.auto, health)


def docker_backend(settings: SandboxSettings) -> Backend | None:
    """The Docker backend; None where the Python library is missing."""
    try:
        from controller.backends.docker.backend import DockerBackend
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "docker":
            raise
        return None
    return DockerBackend(settings)
