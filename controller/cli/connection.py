"""Where the API is, as whom to speak to it, and which namespace is meant: from options, environment and kubeconfig."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from controller.cli.program import Failure

if TYPE_CHECKING:
    from controller.client import ApiClient

DEFAULT_API = "http://127.0.0.1:8000"
ApiOption = Annotated[str, typer.Option("--api", envvar="SANDBOX_API", help="Address of the controller's HTTP API.")]
TokenOption = Annotated[
    str,
    typer.Option(
        "--token",
        envvar="SANDBOX_TOKEN",
        show_envvar=True,
        help="Secret key or Kubernetes token. Default, where the API asks for one: the kubeconfig's.",
    ),
]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="Default: that of the kubeconfig's current context.")
]
KubeconfigOption = Annotated[
    str, typer.Option("--kubeconfig", envvar="KUBECONFIG", show_envvar=True, help="Default: ~/.kube/config.")
]
PlainOption = Annotated[
    bool,
    typer.Option("--send-token-in-clear", help="Send the kubeconfig's token over plain http to another machine too."),
]


@dataclass(frozen=True)
class Connection:
    """The options that every command takes."""

    api: str
    token: str = field(repr=False)
    namespace: str
    kubeconfig: str
    in_clear: bool

    @asynccontextmanager
    async def client(self) -> "AsyncIterator[ApiClient]":
        """A client of the API, whose errors become a Failure."""
        sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # its own CLI, half of its import's time
        from controller.client import ApiClient, ApiError

        try:
            opened = ApiClient(self.api, self.token or None, self._kubeconfig_token)
        except ValueError as error:
            raise Failure(str(error)) from error
        try:
            async with opened as client:
                yield client
        except ApiError as error:
            raise Failure(printable(str(error))) from error

    def chosen_namespace(self) -> str:
        """From -n, else the kubeconfig's current context, else that of the Pod this runs in, else `default`."""
        if self.namespace:
            return self.namespace
        in_pod = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
        return context_namespace(self._kubeconfig_files()) or (in_pod.read_text() if in_pod.exists() else "default")

    async def find(self, client: "ApiClient", name: str) -> str:
        """The id of the sandbox of that name. Raises Failure."""
        namespace = self.chosen_namespace()
        found, _ = await client.list_sandboxes(namespace, name)
        if not found:
            raise Failure(f"there is no sandbox {name} in namespace {namespace}; `kubectl sandbox ls -A` lists all")
        return str(found[0]["id"])

    def _kubeconfig_files(self) -> list[Path]:
        paths = self.kubeconfig.split(os.pathsep) if self.kubeconfig else ["~/.kube/config"]
        return [file for path in paths if path and (file := Path(path).expanduser()).is_file()]

    def _kubeconfig_token(self) -> str:
        """The bearer token of the kubeconfig's user, also from an exec plugin. Raises Failure.

        It opens the whole cluster, so it is not sent where others could read it.
        """
        address = urlsplit(self.api)
        if (
            address.scheme != "https"
            and address.hostname not in ("localhost", "127.0.0.1", "::1")
            and not self.in_clear
        ):
            raise Failure(
                f"{self.api} asks for a token, and the kubeconfig's would go there in clear: use https or"
                " `kubectl port-forward`, give a --token of its own, or accept it by --send-token-in-clear"
            )
        files = self._kubeconfig_files()
        if not files:
            raise Failure(f"{self.api} asks for a token: give --token or SANDBOX_TOKEN, or a kubeconfig")
        token = kubeconfig_token(os.pathsep.join(map(str, files)))
        if not token:
            raise Failure(
                f"{self.api} asks for a token and the kubeconfig's user has none (a client certificate does not do):"
                " set SANDBOX_TOKEN=$(kubectl create token SERVICEACCOUNT)"
            )
        return token


def kubeconfig_token(files: str) -> str:
    """The token of the current context's user, empty where it has none. Raises Failure."""
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.config.kube_config import load_kube_config

    class Taken:
        def __init__(self) -> None:
            self.api_key: dict[str, str] = {}

    taken = Taken()
    try:
        load_kube_config(config_file=files, client_configuration=taken)
    except (ConfigException, OSError) as error:
        raise Failure(f"the kubeconfig gives no token: {error}") from error
    scheme, _, token = next(iter(taken.api_key.values()), "").partition(" ")
    return token if scheme == "Bearer" else ""  # else it is Basic, with a password


def context_namespace(files: list[Path]) -> str:
    """The namespace of the current context, empty where it names none. Of several files the first word counts.

    Read here, for the kubernetes package takes a quarter of a second to import. Raises Failure.
    """
    if not files:
        return ""
    import yaml

    configs: list[dict[str, Any]] = []
    for file in files:
        try:
            config = yaml.safe_load(file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"the kubeconfig {file} cannot be read: {error}") from error
        except yaml.YAMLError as error:  # its own text shows the line, which may be the token's
            mark = getattr(error, "problem_mark", None)
            where = f": line {mark.line + 1}" if mark else ""
            raise Failure(f"the kubeconfig {file} is not YAML{where}") from None
        configs += [config] if isinstance(config, dict) else []
    current = next((config["current-context"] for config in configs if config.get("current-context")), None)
    for config in configs:
        for context in config.get("contexts") or []:
            if context.get("name") == current:
                return str((context.get("context") or {}).get("namespace") or "")
    return ""


def printable(text: str) -> str:
    """Text from elsewhere without control characters, which could command the terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def complete_name(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of sandboxes, for the shell; none where the API does not answer at once."""
    import asyncio

    given = ctx.params
    connection = Connection(
        given.get("api") or DEFAULT_API,
        given.get("token") or "",
        given.get("namespace") or "",
        given.get("kubeconfig") or "",
        False,
    )

    async def names() -> list[str]:
        async with asyncio.timeout(1), connection.client() as client:
            found, _ = await client.list_sandboxes(connection.chosen_namespace())
            return [str(each["name"]) for each in found]

    try:
        return [name for name in asyncio.run(names()) if name.startswith(incomplete)]
    except (Failure, TimeoutError):
        return []


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The sandbox.", autocompletion=complete_name)]
