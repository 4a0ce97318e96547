"""`kubectl sandbox exec`."""

import typer

from controller.cli import connection as to
from controller.cli import execution as how


def exec_(
    name: to.NameArgument,
    command: how.CommandArgument = None,
    code: how.CodeOption = "",
    file: how.FileOption = "",
    language: how.LanguageOption = None,
    env: how.EnvOption = None,
    cwd: how.CwdOption = "",
    timeout: how.TimeoutOption = None,
    state: how.StateOption = "",
    stdin: how.StdinOption = None,
    output: how.OutputOption = how.Format.text,
    raw: how.RawOption = False,
    namespace: to.NamespaceOption = "",
    api: to.ApiOption = to.DEFAULT_API,
    token: to.TokenOption = "",
    kubeconfig: to.KubeconfigOption = "",
    in_clear: to.PlainOption = False,
) -> None:
    """Run code in a sandbox that is up.

    Prints the output as it comes and exits with the program's exit code:
    kubectl sandbox exec NAME -- python3 -c 'print(1)'
    """
    connection = to.Connection(api, token, namespace, kubeconfig, in_clear)
    body = how.program_body(command, code, file, language, env, cwd, timeout, state, stdin)

    async def run() -> int:
        async with connection.client() as client:
            return await how.execute(client, await connection.find(client, name), body, output, raw)

    raise typer.Exit(how.exit_code(run()))
