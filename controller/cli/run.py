"""`sandbox-controller run`: the controller, against a cluster."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.program import Failure


def run(
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Kubeconfig file; default: the Pod's own account, $KUBECONFIG, ~/.kube/config.")
    ] = None,
) -> None:
    """Run the controller until it is told to stop (SIGTERM or Ctrl-C); sandboxes live on."""
    from controller.__main__ import run_until_stopped
    from controller.api import ServeError
    from controller.choose import DockerUnavailableError
    from controller.cluster.connection import NoCluster, configuration
    from controller.logs import configure
    from controller.settings import SettingsError, load_settings
    from controller.tracing import TracesMissing

    try:
        settings = load_settings()
        configure(settings.log)
        asyncio.run(run_until_stopped(settings, configuration(kubeconfig)))
    except (SettingsError, NoCluster, DockerUnavailableError, ServeError, TracesMissing) as error:
        raise Failure(str(error)) from None
