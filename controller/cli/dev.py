"""`sandbox-controller dev`: the controller with no cluster."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.program import Failure

NEXT = """\
{state}
Kubernetes API  {kubernetes}   (development only: this machine, no authentication)
HTTP API        {api}
metrics         {operations}/metrics

Type next, in another terminal:
  export KUBECONFIG={kubeconfig}
  kubectl apply -f examples/hello.yaml
  kubectl get sbx -w
  kubectl describe sbx hello
"""


def dev(
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Where to write the kubeconfig; default: ~/.sandbox-controller/kubeconfig.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the objects in this folder; default: they are gone when it stops.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the Kubernetes API; 0: any free one.")] = 0,
) -> None:
    """Run the controller and a small Kubernetes API in one process: `kubectl apply` works with no cluster."""
    from controller.api import ServeError
    from controller.choose import DockerUnavailableError
    from controller.dev import default_folder
    from controller.dev import dev as dev_controller
    from controller.localkube import FolderInUseError
    from controller.logs import configure
    from controller.model import MOCK_WARNING
    from controller.settings import SettingsError, load_settings

    async def serve() -> None:
        settings = load_settings()
        configure(settings.log)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        path = (kubeconfig or default_folder() / "kubeconfig").absolute()
        async with dev_controller(settings, kubeconfig=path, folder=folder, port=port) as urls:
            state = f"Sandboxes run on {urls['backend']}." + (f" {MOCK_WARNING}." if urls["backend"] == "mock" else "")
            typer.echo(NEXT.format(state=state, kubeconfig=path, **urls))
            await stop.wait()

    try:
        asyncio.run(serve())
    except (SettingsError, DockerUnavailableError, ServeError, FolderInUseError) as error:
        raise Failure(str(error)) from None
