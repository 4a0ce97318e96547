"""`kubectl sandbox cp`."""

import asyncio
import re
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Annotated

import typer

from controller.cli import connection as to
from controller.cli.execution import Writer
from controller.cli.program import Failure

if TYPE_CHECKING:
    from controller.client import ApiClient

CHUNK = 65536


def cp(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A path, NAME:PATH, or - for stdin.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A path, NAME:PATH, or - for stdout.")],
    namespace: to.NamespaceOption = "",
    api: to.ApiOption = to.DEFAULT_API,
    token: to.TokenOption = "",
    kubeconfig: to.KubeconfigOption = "",
    in_clear: to.PlainOption = False,
) -> None:
    """Copy files into a sandbox or out of it.

    PATH is below the workspace; a folder is copied with all that is in it:
    kubectl sandbox cp in.csv NAME:data/in.csv
    """
    connection = to.Connection(api, token, namespace, kubeconfig, in_clear)
    from_sandbox, to_sandbox = _sandbox_and_path(source), _sandbox_and_path(target)
    if (from_sandbox is None) == (to_sandbox is None):
        raise Failure(
            "exactly one of SOURCE and TARGET is in a sandbox: NAME:PATH (give a local name with ':' as ./NAME)"
        )

    into_folder = Path(target).is_dir()

    async def copy() -> None:
        from controller.client import ApiError

        async with connection.client() as client:
            try:
                if to_sandbox is not None:
                    await _upload(client, source, await connection.find(client, to_sandbox[0]), to_sandbox[1])
                elif from_sandbox is not None:
                    sandbox_id = await connection.find(client, from_sandbox[0])
                    await _download(client, sandbox_id, from_sandbox[1].rstrip("/"), target, into_folder)
            except ApiError as error:
                raise Failure(to.printable(f"{source} was not copied to {target}: {error}")) from error

    asyncio.run(copy())


def _sandbox_and_path(text: str) -> tuple[str, str] | None:
    name, colon, path = text.partition(":")
    if not colon or "/" in name or not name:
        return None
    return name, re.sub("^/workspace(?=/|$)", "", path).lstrip("/")


async def _upload(client: "ApiClient", source: str, sandbox_id: str, target: str) -> None:
    if source == "-":
        if not target or target.endswith("/"):
            raise Failure("stdin has no name of its own: give NAME:PATH")
        await client.write_file(sandbox_id, target, _chunks(sys.stdin.buffer))
        return
    for file, path in _files(Path(source), target):
        try:
            with file.open("rb") as opened:
                await client.write_file(sandbox_id, path, _chunks(opened))
        except OSError as error:
            raise Failure(f"{file} cannot be read: {error.strerror}") from error


def _files(local: Path, target: str) -> list[tuple[Path, str]]:
    """A file, or the files below a folder, each with its path in the workspace."""
    found = sorted(file for file in local.rglob("*") if file.is_file()) if local.is_dir() else [local]
    into_folder = not target or target.endswith("/")
    root = PurePosixPath(target, local.resolve().name) if into_folder else PurePosixPath(target)
    return [(file, str(root / file.relative_to(local))) for file in found]


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, CHUNK):
        yield chunk


async def _download(client: "ApiClient", sandbox_id: str, source: str, target: str, into_folder: bool) -> None:
    from controller.client import ApiError

    if target == "-":
        writer = Writer(sys.stdout, raw=False)
        async with aclosing(client.read_file(sandbox_id, source)) as chunks:
            async for chunk in chunks:
                writer.write(chunk)
        writer.finish()
        return
    local = Path(target, PurePosixPath(source).name) if into_folder else Path(target)
    try:
        if source:
            await _download_file(client, sandbox_id, source, local)
            return
    except ApiError as error:
        if error.kind not in ("not-found", "refused", "path-forbidden"):
            raise
        not_a_file = error
    listed, truncated = await client.list_files(sandbox_id, source)
    if truncated:
        raise Failure(
            f"more than {len(listed)} files are in {source or 'the workspace'}: copy its folders, or a tar of it"
        )
    if source and not listed:
        raise not_a_file
    for path in (str(each["path"]) for each in listed):
        await _download_file(client, sandbox_id, path, local / below(source, path))


def below(folder: str, path: str) -> PurePosixPath:
    """`path`, which a sandbox told, relative to `folder`. Raises Failure where it is not below it."""
    pure = PurePosixPath(path)
    if ".." in pure.parts or not pure.is_relative_to(folder) or "\0" in path:
        raise Failure(f"the sandbox names a file outside of the folder that was asked for: {to.printable(path)}")
    return pure.relative_to(folder)


async def _download_file(client: "ApiClient", sandbox_id: str, source: str, target: Path) -> None:
    unfinished, final = _written_at(target)
    try:
        async with aclosing(client.read_file(sandbox_id, source)) as chunks:
            first = await anext(chunks, b"")  # what is not there leaves no trace here
            final.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(first)
                async for chunk in chunks:
                    file.write(chunk)
        if unfinished != final:
            unfinished.replace(final)
    except OSError as error:
        raise Failure(f"{target} cannot be written: {error.strerror}") from error
    finally:
        if unfinished != final:
            with suppress(OSError):  # it was moved, or never made
                unfinished.unlink()


def _written_at(target: Path) -> tuple[Path, Path]:
    """Where it is written, and where it is moved when it is whole. A device or a pipe is written as it comes."""
    if target.exists() and not target.is_file():
        return target, target
    final = target.resolve()  # what a link leads to is replaced, and not the link
    return final.with_name(f".{final.name}.{secrets.token_hex(4)}"), final
