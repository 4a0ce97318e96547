"""From a table of commands to a program: lazy imports, errors in one line, exit codes."""

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

OWN_ERROR = 125
"""Exit code for errors of the command itself, as docker has it: no program in a sandbox ended with it by chance."""

Table = Mapping[str, Any]
"""Name -> `module:function`, or (help, table) for a group."""


class Failure(typer.TyperException):
    """An expected error: one line on stderr that says what happened and what to do, and exit code 125."""

    exit_code = OWN_ERROR


def run_program(name: str, help_text: str, table: Table) -> None:
    """Run the command that sys.argv names and exit."""
    try:
        code = program(help_text, table)(prog_name=name, standalone_mode=False)
    except typer.TyperException as error:
        typer.echo(f"Error: {error.format_message()}", err=True)
        sys.exit(OWN_ERROR)
    except typer.Abort:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def program(help_text: str, table: Table, root: bool = True) -> TyperGroup:
    """The group that imports a command of `table` when it is needed."""

    class Lazy(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(table)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return _command(cmd_name, table[cmd_name]) if cmd_name in table else None

    app = typer.Typer(
        cls=Lazy, help=help_text, add_completion=root, rich_markup_mode=None, pretty_exceptions_enable=False
    )

    @app.callback(invoke_without_command=True)
    def without_command(ctx: typer.Context) -> None:
        if ctx.invoked_subcommand is None:
            typer.echo(ctx.get_help())

    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def _command(name: str, entry: Any) -> Any:
    if not isinstance(entry, str):
        help_text, table = entry
        group = program(help_text, table, root=False)
        group.name = name
        return group
    module, function = entry.split(":")
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    app.command(name)(getattr(import_module(module), function))
    return typer.main.get_command(app)


def kubectl_completion(name: str, help_text: str, table: Table) -> None:
    """Answer kubectl, which gives the words so far, the unfinished one last: a candidate a line, then `:directive`.

    4 is ShellCompDirectiveNoFileComp of cobra (https://pkg.go.dev/github.com/spf13/cobra#ShellCompDirective).
    """
    from typer._click.shell_completion import CompletionItem, ShellComplete

    class Kubectl(ShellComplete):
        name = "kubectl"
        source_template = ""

        def source_vars(self) -> dict[str, Any]:
            return {}

        def get_completion_args(self) -> tuple[list[str], str]:
            *words, unfinished = sys.argv[1:] or [""]
            return words, unfinished

        def format_completion(self, item: CompletionItem) -> str:
            return f"{item.value}\t{item.help}" if item.help else str(item.value)

    if candidates := Kubectl(program(help_text, table), {}, name, "").complete():
        typer.echo(candidates)
    typer.echo(":4")
