"""`kubectl sandbox run`."""

import asyncio
import secrets
from typing import Annotated, Any

import typer

from controller.cli import connection as to
from controller.cli import execution as how
from controller.cli.program import Failure


def run(
    command: how.CommandArgument = None,
    code: how.CodeOption = "",
    file: how.FileOption = "",
    language: how.LanguageOption = None,
    env: how.EnvOption = None,
    cwd: how.CwdOption = "",
    timeout: how.TimeoutOption = None,
    stdin: how.StdinOption = None,
    output: how.OutputOption = how.Format.text,
    raw: how.RawOption = False,
    image: Annotated[str, typer.Option("--image", help="Default: SANDBOX__IMAGE.")] = "",
    memory: Annotated[str, typer.Option("--memory", help="Such as 512Mi. Default: SANDBOX__MEMORY_LIMIT.")] = "",
    cpu: Annotated[str, typer.Option("--cpu", help="Cores, such as 500m. Default: SANDBOX__CPU_LIMIT.")] = "",
    network: Annotated[str, typer.Option("--network", help="Default: none.")] = "",
    runtime: Annotated[str, typer.Option("--runtime", help="OCI runtime, such as runsc.")] = "",
    isolated: Annotated[bool, typer.Option("--isolated", help="Never on mock: fail instead.")] = False,
    wait: Annotated[float, typer.Option("--wait", min=0, max=300, help="Seconds until it must be ready.")] = 60,
    namespace: to.NamespaceOption = "",
    api: to.ApiOption = to.DEFAULT_API,
    token: to.TokenOption = "",
    kubeconfig: to.KubeconfigOption = "",
    in_clear: to.PlainOption = False,
) -> None:
    """Run code in a new sandbox and delete it.

    Prints the output as it comes and exits with the program's exit code: kubectl sandbox run -c 'print(1)'
    """
    connection = to.Connection(api, token, namespace, kubeconfig, in_clear)
    body = how.program_body(command, code, file, language, env, cwd, timeout, "", stdin)
    limits = {key: value for key, value in (("memory", memory), ("cpu", cpu)) if value}
    fields = (
        ("image", image),
        ("network", network),
        ("runtime", runtime),
        ("isolation", "required" if isolated else ""),
    )
    spec: dict[str, Any] = {key: value for key, value in fields if value}
    if limits:
        spec["resources"] = {"limits": limits}

    async def created_run_deleted() -> int:
        name, chosen = f"run-{secrets.token_hex(4)}", connection.chosen_namespace()
        async with connection.client() as client:
            try:
                sandbox = await client.create({**spec, "name": name, "namespace": chosen}, wait)
            except asyncio.CancelledError:
                for made in (await client.list_sandboxes(chosen, name))[0]:
                    await client.delete(made["id"])
                raise
            try:
                for warning in sandbox["warnings"]:
                    typer.echo(f"sandbox: {to.printable(warning)}", err=True)
                if not sandbox["ready"]:
                    raise Failure(f"sandbox {name} is not ready after {wait:g} s: {to.printable(sandbox['message'])}")
                return await how.execute(client, sandbox["id"], body, output, raw)
            finally:
                await client.delete(sandbox["id"])

    raise typer.Exit(how.exit_code(created_run_deleted()))
