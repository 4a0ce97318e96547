"""`sandbox-controller doctor`: is everything there that is needed, and what to do where it is not."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.program import Failure

if TYPE_CHECKING:
    from controller.cluster.connection import Connection
    from controller.settings import SandboxSettings

Line = tuple[str, bool, str]
"""What was looked at, whether it is well, and what was found or is to be done."""


def doctor(
    kubeconfig: Annotated[Path | None, typer.Option(help="Kubeconfig file; default as for `run`.")] = None,
) -> None:
    """Check Docker, the sandbox image, the cluster, the CRD and our rights in it: each is OK, or says what to do."""
    well = True
    for name, good, text in _lines(kubeconfig):
        typer.echo(f"{'OK  ' if good else 'FAIL'}  {name:<9} {text}")
        well &= good
    if not well:
        raise typer.Exit(1)


def _lines(kubeconfig: Path | None) -> Iterator[Line]:
    import asyncio

    from controller.settings import SettingsError, load_settings

    try:
        settings = load_settings()
    except SettingsError as error:
        raise Failure(str(error)) from None
    yield from asyncio.run(_docker(settings.sandbox))
    yield from asyncio.run(_cluster(kubeconfig, settings.watch_namespaces))


async def _docker(settings: "SandboxSettings") -> list[Line]:
    from controller.backends import BackendError
    from controller.choose import NO_LIBRARY

    try:
        from controller.backends.docker.backend import DockerBackend
    except ImportError:
        return [("docker", False, NO_LIBRARY.message)]
    backend = DockerBackend(settings)
    try:
        health = await backend.probe()
        if not health.available:
            return [("docker", False, health.message)]
        runtimes = ", ".join(str(each) for each in health.info["runtimes"])  # type: ignore[attr-defined]
        docker: Line = ("docker", True, f"{health.message}; runtimes {runtimes}")
        try:
            image = await backend.images.get(settings.image)
        except BackendError as error:
            return [docker, ("image", False, str(error))]
        agent = "carries the agent" if image.has_agent else "has no agent: executions go through docker exec"
        return [docker, ("image", True, f"{settings.image} is there and {agent}")]
    finally:
        await backend.close()


async def _cluster(kubeconfig: Path | None, namespaces: tuple[str, ...]) -> list[Line]:
    from controller.cluster.connection import Connection, Gone, NoCluster, configuration
    from controller.directory import DirectoryError
    from controller.metrics import Metrics
    from controller.model import API_VERSION, GROUP, PLURAL

    try:
        connection = Connection(configuration(kubeconfig), Metrics())
    except NoCluster as error:
        return [("cluster", False, str(error))]
    found: list[Line] = []
    try:
        version = await connection.call("GET", "/version")
        found.append(("cluster", True, f"{connection.configuration.host} answers, {version.get('gitVersion', '?')}"))
        try:
            await connection.call("GET", f"/apis/{API_VERSION}")
            found.append(("crd", True, f"{PLURAL}.{GROUP} is installed"))
        except Gone:
            found.append(("crd", False, "not installed: kubectl apply -f crds/sandboxes.yaml"))
        missing = []
        for verb, resource in RIGHTS:
            for namespace in namespaces or ("",):
                if not await _may(connection, verb, resource, namespace):
                    missing.append(f"{verb} {resource}" + (f" in {namespace}" if namespace else ""))
        text = "all that is needed" if not missing else "missing: " + ", ".join(missing) + "; see docs/install.md"
        found.append(("rights", not missing, text))
    except DirectoryError as error:
        found.append(("cluster", False, str(error)))
    finally:
        connection.close()
    return found


RIGHTS = (
    *((verb, "sandboxes") for verb in ("get", "list", "watch", "create", "patch", "delete")),
    ("patch", "sandboxes/status"),
    ("create", "events"),
)


async def _may(connection: "Connection", verb: str, resource: str, namespace: str) -> bool:
    from controller.model import GROUP

    name, _, subresource = resource.partition("/")
    attributes = {"verb": verb, "resource": name, "subresource": subresource, "namespace": namespace}
    if name != "events":
        attributes["group"] = GROUP
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    answer = await connection.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
    return bool(answer["status"]["allowed"])
