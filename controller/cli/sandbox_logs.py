"""`kubectl sandbox logs`."""

import asyncio
import sys
from typing import Annotated

import typer

from controller.cli import connection as to
from controller.cli.execution import RawOption, Writer


def logs(
    name: to.NameArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the program ends.")] = False,
    raw: RawOption = False,
    namespace: to.NamespaceOption = "",
    api: to.ApiOption = to.DEFAULT_API,
    token: to.TokenOption = "",
    kubeconfig: to.KubeconfigOption = "",
    in_clear: to.PlainOption = False,
) -> None:
    """Print the output of a sandbox's `run`."""
    connection = to.Connection(api, token, namespace, kubeconfig, in_clear)
    writers = {"stdout": Writer(sys.stdout, raw), "stderr": Writer(sys.stderr, raw)}

    async def printed() -> None:
        async with connection.client() as client:
            async for event, data in client.logs(await connection.find(client, name), follow):
                if event in writers:
                    writers[event].write(data)

    try:
        asyncio.run(printed())
    finally:
        for writer in writers.values():
            writer.finish()
