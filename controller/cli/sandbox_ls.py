"""`kubectl sandbox ls`."""

import asyncio
import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from controller.cli import connection as to
from controller.cli.table import age, rows_of_text


class Format(StrEnum):
    table = "table"
    wide = "wide"
    json = "json"
    name = "name"


def ls(
    everywhere: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Of every namespace that you may list.")
    ] = False,
    output: Annotated[
        Format, typer.Option("--output", "-o", help="wide adds the id and the isolation.")
    ] = Format.table,
    namespace: to.NamespaceOption = "",
    api: to.ApiOption = to.DEFAULT_API,
    token: to.TokenOption = "",
    kubeconfig: to.KubeconfigOption = "",
    in_clear: to.PlainOption = False,
) -> None:
    """List sandboxes."""
    connection = to.Connection(api, token, namespace, kubeconfig, in_clear)
    where = "" if everywhere else connection.chosen_namespace()

    async def found() -> tuple[list[dict[str, Any]], int]:
        async with connection.client() as client:
            return await client.list_sandboxes(where)

    sandboxes, total = asyncio.run(found())
    if output is Format.json:
        typer.echo(json.dumps({"items": sandboxes, "total": total}))
    elif output is Format.name:
        typer.echo("".join(f"{each['name']}\n" for each in sandboxes), nl=False)
    elif not sandboxes:
        typer.echo(f"no sandboxes in {f'namespace {where}' if where else 'any namespace'}", err=True)
    else:
        typer.echo(rows_of_text(table(sandboxes, everywhere, output is Format.wide, datetime.now(UTC))))
    if len(sandboxes) < total:
        typer.echo(f"{total - len(sandboxes)} more are not shown; choose a namespace", err=True)


def table(sandboxes: list[dict[str, Any]], namespaces: bool, wide: bool, now: datetime) -> list[list[str]]:
    """The head and a row for each sandbox."""
    columns: list[tuple[str, Any]] = [
        ("NAME", lambda each: each["name"]),
        ("PHASE", lambda each: each["phase"]),
        ("READY", lambda each: each["ready"]),
        ("BACKEND", lambda each: each["backend"]),
        ("AGE", lambda each: age(each["created_at"], now)),
    ]
    if namespaces:
        columns.insert(0, ("NAMESPACE", lambda each: each["namespace"]))
    if wide:
        columns += [
            ("ISOLATION", lambda each: each["isolation"]),
            ("ID", lambda each: each["id"]),
            ("MESSAGE", lambda each: each["message"]),
        ]
    return [[head for head, _ in columns], *([str(value(each)) for _, value in columns] for each in sandboxes)]
