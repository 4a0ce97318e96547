"""`sandbox-controller demo`: the main job once, from nothing to its metrics, on this machine."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import typer

from controller.cli.program import Failure

EXAMPLE = "examples/hello.yaml"
WAIT_SECONDS = 60.0
SHOWN_METRICS = (
    "sandbox_docker_up ",
    "sandbox_mock_mode ",
    "sandbox_objects{",
    "sandbox_results_total{",
    "sandbox_api_writes_total{",
)


def demo() -> None:
    """Start the controller with an API of its own, apply a Sandbox, show what became of it, and stop."""
    from controller.choose import DockerUnavailableError
    from controller.logs import configure
    from controller.settings import SettingsError, load_settings

    try:
        settings = load_settings()
        configure(settings.log.model_copy(update={"level": "WARNING"}))
        api = settings.api.model_copy(update={"port": 0, "metrics_port": 0})
        sandbox = settings.sandbox.model_copy(update={"instance": "demo"})
        asyncio.run(_show(settings.model_copy(update={"api": api, "sandbox": sandbox})))
    except (SettingsError, DockerUnavailableError) as error:
        raise Failure(str(error)) from None
    except TimeoutError:
        raise Failure(
            f"the demo's sandbox did not end within {WAIT_SECONDS:g} s; see `sandbox-controller doctor`"
        ) from None


async def _show(settings: Any) -> None:
    import yaml

    from controller.cluster.connection import Connection, configuration
    from controller.cluster.store import Store
    from controller.dev import dev
    from controller.metrics import Metrics

    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = Path(folder) / "kubeconfig"
        async with dev(settings, kubeconfig=kubeconfig) as urls:
            typer.echo(f"The controller runs; its Kubernetes API is {urls['kubernetes']}.\n\n$ cat {EXAMPLE}")
            text = Path(EXAMPLE).read_text()  # noqa: ASYNC240 - a small file, and nothing else waits
            typer.echo("\n".join(line for line in text.splitlines() if not line.startswith("#")))
            document = yaml.safe_load(text)
            connection = Connection(configuration(kubeconfig), Metrics())
            store = Store(connection)
            try:
                name = document["metadata"]["name"]
                await store.create("default", name, document["spec"])
                async with asyncio.timeout(WAIT_SECONDS):
                    body = await _finished(store, name)
                typer.echo(f"\n$ kubectl get sbx {name} -o wide")
                await _table(connection, name)
                typer.echo(f"\n$ kubectl get sbx {name} -o yaml     # its status")
                typer.echo(yaml.safe_dump(_shown(body["status"]), sort_keys=False).rstrip())
                typer.echo(f"\n$ curl {urls['operations']}/metrics")
                await _metrics(urls["operations"])
            finally:
                await _deleted(store, connection)
                connection.close()
    for warning in body["status"]["warnings"]:
        typer.echo(f"\nWARNING: {warning}")
    typer.echo("\nIt is all stopped again. Type next:\n  .venv/bin/sandbox-controller dev        # the same, to stay")
    if shutil.which("kubectl"):
        typer.echo(
            "  export KUBECONFIG=~/.sandbox-controller/kubeconfig     # in another terminal\n"
            f"  kubectl apply -f {EXAMPLE}\n  kubectl get sbx -o wide"
        )


async def _finished(store: Any, name: str) -> dict[str, Any]:
    while True:
        for body in await store.objects():
            if body["metadata"]["name"] == name and body.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                return dict(body)
        await asyncio.sleep(0.1)


async def _deleted(store: Any, connection: Any) -> None:
    """Leave nothing behind: the objects go, and with them their containers."""
    from controller.model import sandbox_from_object

    async with asyncio.timeout(WAIT_SECONDS):
        for body in await store.objects():
            await store.delete(sandbox_from_object(body))
        while await store.objects():  # noqa: ASYNC110 - another process removes them
            await asyncio.sleep(0.1)


async def _table(connection: Any, name: str) -> None:
    """The columns that `kubectl get -o wide` shows, from the server that makes them."""
    from controller.model import API_VERSION, PLURAL

    path = f"/apis/{API_VERSION}/namespaces/default/{PLURAL}/{name}"
    table = await connection.call("GET", path, accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    rows = [[column["name"].upper() for column in table["columnDefinitions"]]]
    rows += [["" if cell is None else str(cell)[:24] for cell in row["cells"]] for row in table["rows"]]
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    for row in rows:
        typer.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


async def _metrics(operations: str) -> None:
    import httpx

    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{operations}/metrics")).text
    typer.echo("\n".join(line for line in text.splitlines() if line.startswith(SHOWN_METRICS)))


def _shown(status: dict[str, Any]) -> dict[str, Any]:
    first = ("phase", "docker_available", "backend", "warnings", "isolation", "limits", "result")
    return {key: status[key] for key in first if key in status}
