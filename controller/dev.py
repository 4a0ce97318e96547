"""The controller with a Kubernetes API of its own in the same process: all of it on this machine, for development."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from controller.__main__ import running
from controller.cluster.connection import configuration
from controller.localkube import LocalKube
from controller.resources import crd
from controller.settings import Settings


def default_folder() -> Path:
    """Where `dev` puts its kubeconfig."""
    return Path.home() / ".sandbox-controller"


@asynccontextmanager
async def dev(
    settings: Settings, *, kubeconfig: Path, folder: Path | None = None, port: int = 0
) -> AsyncIterator[Mapping[str, str]]:
    """Serve both while the block runs; gives what `running` gives, and the URL `kubernetes`.

    `folder` keeps the objects; None: they are gone with the process. Raises what `running` and LocalKube raise.
    """
    kube = LocalKube([crd()], folder)
    with kube.running(port=port) as address:
        kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        kube.write_kubeconfig(kubeconfig)
        async with running(settings, configuration(kubeconfig)) as urls:
            yield {"kubernetes": address, **urls}
