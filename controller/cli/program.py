"""From a table of commands to a program: lazy imports, errors in one line, exit codes."""

import errno
import os
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

OWN_ERROR = 125
"""Exit code for errors of the command itself, as docker has it: no program in a sandbox ended with it by chance."""

PIPE_CLOSED = 141
"""Exit code where nobody reads the output any more: 128 + SIGPIPE, as shells have it."""

Table = Mapping[str, Any]
"""Name -> `module:function`, or (help, table) for a group."""


class Failure(typer.TyperException):
    """An expected error: one line on stderr that says what happened and what to do, and exit code 125."""

    exit_code = OWN_ERROR


def run_program(name: str, help_text: str, table: Table) -> None:
    """Run the command that sys.argv names and exit."""
    _open_closed_streams()
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


def _open_closed_streams() -> None:
    # A descriptor that is closed at the start would be given to the next file or socket.
    for number, stream in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, stream, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 - for good


def _with_ends(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, ended in its own words where its output goes nowhere: nobody reads it, or the disk is full."""

    @wraps(command)
    def ended(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ENOSPC):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
            if error.errno == errno.EPIPE:
                raise typer.Exit(PIPE_CLOSED) from None
            raise Failure(f"the output was not written: {error.strerror}") from None

    return ended


def _command(name: str, entry: Any) -> Any:
    if not isinstance(entry, str):
        help_text, table = entry
        group = program(help_text, table, root=False)
        group.name = name
        return group
    module, function = entry.split(":")
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    app.command(name)(_with_ends(getattr(import_module(module), function)))
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
