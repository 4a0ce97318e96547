"""`sandbox-controller delete-all`: nothing of any sandbox is left when it returns, so that the controller can go too."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.program import Failure

NAMED = 5
"""Sandboxes that an error names."""


def delete_all(
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until nothing may be left.")] = 120,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Kubeconfig file; default: the Pod's own account, $KUBECONFIG, ~/.kube/config.")
    ] = None,
) -> None:
    """Delete the Sandbox objects of the watched namespaces and wait until the controller has removed all traces.

    For uninstalling, while the controller still runs. WATCH_NAMESPACES says which namespaces; empty: all.
    """
    from controller.cluster import deletion
    from controller.cluster.connection import Connection, NoCluster, configuration
    from controller.cluster.store import Store
    from controller.directory import DirectoryError
    from controller.metrics import Metrics
    from controller.model import FINALIZER, PLURAL, Sandbox
    from controller.settings import SettingsError, load_settings

    async def left_over() -> list[Sandbox]:
        connection = Connection(configuration(kubeconfig), Metrics())
        try:
            return await deletion.delete_all(Store(connection, load_settings().watch_namespaces), timeout)
        finally:
            connection.close()

    try:
        left = asyncio.run(left_over())
    except (SettingsError, NoCluster, DirectoryError) as error:
        raise Failure(str(error)) from None
    if left:
        names = [f"{sandbox.namespace}/{sandbox.name}" for sandbox in left]
        shown = ", ".join(names[:NAMED] + ["…"] * (len(names) > NAMED))
        raise Failure(
            f"after {timeout:g} s there are still {len(left)} sandboxes: {shown}. Does the controller run, and does its backend "
            "answer? Then try again. If they never will, take the finalizer off each, and its container stays behind: "
            f"kubectl -n NAMESPACE patch {PLURAL} NAME --type=json "
            f"""-p '[{{"op": "remove", "path": "/metadata/finalizers"}}]'   (the finalizer is {FINALIZER})"""
        )
    typer.echo("no sandbox is left")
