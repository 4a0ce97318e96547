"""`kubectl sandbox top`."""

import asyncio
import json
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import connection as to
from controller.cli.table import rows_of_text

if TYPE_CHECKING:
    from controller.client import ApiClient

INTERVAL = 1.0
"""Seconds between the two looks that processor time is taken from."""
AT_ONCE = 8
"""Questions to the API."""


class Format(StrEnum):
    table = "table"
    json = "json"


def top(
    everywhere: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Of every namespace you may list.")
    ] = False,
    output: Annotated[Format, typer.Option("--output", "-o")] = Format.table,
    namespace: to.NamespaceOption = "",
    api: to.ApiOption = to.DEFAULT_API,
    token: to.TokenOption = "",
    kubeconfig: to.KubeconfigOption = "",
    in_clear: to.PlainOption = False,
) -> None:
    """Show what running sandboxes use, measured for one second."""
    connection = to.Connection(api, token, namespace, kubeconfig, in_clear)
    where = "" if everywhere else connection.chosen_namespace()

    async def measured() -> list[dict[str, Any]]:
        async with connection.client() as client:
            sandboxes = [each for each in (await client.list_sandboxes(where))[0] if each["phase"] == "Running"]
            first = await _looks(client, sandboxes)
            await asyncio.sleep(INTERVAL)
            second = await _looks(client, sandboxes)
        both = first.keys() & second.keys()
        return [used(each, first[each["id"]], second[each["id"]]) for each in sandboxes if each["id"] in both]

    sandboxes = asyncio.run(measured())
    if output is Format.json:
        typer.echo(json.dumps({"items": sandboxes}))
    elif not sandboxes:
        typer.echo(f"no sandbox runs in {f'namespace {where}' if where else 'any namespace'}", err=True)
    else:
        typer.echo(rows_of_text(table(sandboxes, everywhere)))


Look = tuple[float, dict[str, Any]]
"""A time in seconds, and the usage then."""


async def _looks(client: "ApiClient", sandboxes: list[dict[str, Any]]) -> dict[str, Look]:
    """By id; without those that ended meanwhile."""
    from controller.client import ApiError

    turn = asyncio.Semaphore(AT_ONCE)

    async def look(sandbox_id: str) -> Look | None:
        async with turn:
            try:
                return time.monotonic(), await client.usage(sandbox_id)
            except ApiError as error:
                if error.kind not in ("not-found", "not-running"):
                    raise
                return None

    found = await asyncio.gather(*(look(each["id"]) for each in sandboxes))
    return {each["id"]: seen for each, seen in zip(sandboxes, found, strict=True) if seen is not None}


def used(sandbox: dict[str, Any], first: Look, second: Look) -> dict[str, Any]:
    """What a sandbox used between two looks: cores, and at the second one bytes and processes."""
    seconds = max(second[0] - first[0], 1e-6)
    cores = max(0.0, second[1]["cpu_seconds"] - first[1]["cpu_seconds"]) / seconds
    return {
        "namespace": sandbox["namespace"],
        "name": sandbox["name"],
        "id": sandbox["id"],
        "cores": round(cores, 3),
        "memory": second[1]["memory"],
        "memory_limit": (sandbox.get("limits") or {}).get("memory"),
        "processes": second[1]["processes"],
    }


def table(sandboxes: list[dict[str, Any]], namespaces: bool) -> list[list[str]]:
    """As `kubectl top` has it, the largest first."""
    head = ["NAMESPACE", "NAME", "CPU(cores)", "MEMORY(bytes)", "LIMIT", "PROCESSES"]
    rows = [
        [
            each["namespace"],
            each["name"],
            f"{each['cores'] * 1000:.0f}m",
            f"{each['memory'] / 2**20:.0f}Mi",
            str(each["memory_limit"] or "none"),
            str(each["processes"]),
        ]
        for each in sorted(sandboxes, key=lambda each: each["memory"], reverse=True)
    ]
    return [row if namespaces else row[1:] for row in [head, *rows]]
