"""`kubectl sandbox rm`."""

import asyncio
from typing import Annotated

import typer

from controller.cli import connection as to
from controller.cli.program import Failure


def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=to.complete_name)],
    wait: Annotated[float, typer.Option("--wait", min=0, max=300, help="Seconds until they must be gone.")] = 30,
    namespace: to.NamespaceOption = "",
    api: to.ApiOption = to.DEFAULT_API,
    token: to.TokenOption = "",
    kubeconfig: to.KubeconfigOption = "",
    in_clear: to.PlainOption = False,
) -> None:
    """Delete sandboxes and wait until they are gone."""
    connection = to.Connection(api, token, namespace, kubeconfig, in_clear)

    async def remove() -> list[str]:
        async with connection.client() as client:
            ids = [await connection.find(client, name) for name in names]
            gone = await asyncio.gather(*(client.delete(sandbox_id, wait) for sandbox_id in ids))
            return [name for name, is_gone in zip(names, gone, strict=True) if not is_gone]

    left = asyncio.run(remove())
    for name in names:
        if name not in left:
            typer.echo(f"sandbox {name} deleted")
    if left:
        raise Failure(f"not gone after {wait:g} s: {', '.join(left)}; the controller goes on with it")
