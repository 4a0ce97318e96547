"""As whom the commands speak to the API, and what they never tell whom."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from controller.cli.connection import Connection, context_namespace, kubeconfig_token, printable
from controller.cli.program import Failure
from controller.client import ApiClient, ApiError
from tests.cli.conftest import ROOT, Ran

Plugin = Callable[..., Ran]


@pytest.fixture
def asking() -> Iterator[tuple[str, list[str | None]]]:
    """The address of an API that wants a token, and what it was told."""
    told: list[str | None] = []

    class Asking(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append(self.headers.get("Authorization"))
            body = (
                {"items": [], "total": 0}
                if told[-1]
                else {"type": "urn:agent-platform:problem:unauthorized", "title": "No"}
            )
            self.send_response(200 if told[-1] else 401)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Asking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", told
    server.shutdown()
    server.server_close()


def test_the_kubeconfigs_token_is_told_when_it_is_asked_for(plugin: Plugin, asking: tuple[str, list[str]]) -> None:
    address, told = asking
    assert plugin("ls", SANDBOX_API=address).returncode == 0
    assert told == [None, "Bearer from-the-kubeconfig"]


def test_a_token_of_its_own_is_told_at_once(plugin: Plugin, asking: tuple[str, list[str]]) -> None:
    address, told = asking
    assert plugin("ls", SANDBOX_API=address, SANDBOX_TOKEN="mine").returncode == 0
    assert told == ["Bearer mine"]


def test_an_exec_plugin_of_the_kubeconfig_makes_the_token(plugin: Plugin, asking, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    address, told = asking
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "from-a-program"},
    }
    program = tmp_path / "login"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(credential)}'\n")
    program.chmod(0o755)
    kubeconfig = tmp_path / "with-exec"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\n"
        "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n"
        f"users: [{{name: u, user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: {program}}}}}}}]\n"
        "contexts: [{name: here, context: {cluster: c, user: u}}]\n"
    )
    assert plugin("ls", SANDBOX_API=address, KUBECONFIG=str(kubeconfig)).returncode == 0
    assert told == [None, "Bearer from-a-program"]


def test_without_any_token_it_says_how_to_get_one(
    plugin: Plugin, asking: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, _ = asking
    ran = plugin("ls", SANDBOX_API=address, KUBECONFIG=str(tmp_path / "none"))
    assert ran.returncode == 125 and "SANDBOX_TOKEN" in ran.stderr


@pytest.mark.parametrize(
    "address", ["http://sandbox.example.org:8000", "http://10.0.0.1", "http://localhost.example.org"]
)
def test_the_clusters_token_goes_to_no_other_machine_in_clear(address: str, environment: dict[str, str]) -> None:
    kubeconfig = environment["KUBECONFIG"]
    with pytest.raises(Failure, match="in clear"):
        Connection(address, "", "", kubeconfig, in_clear=False)._kubeconfig_token()
    assert Connection(address, "", "", kubeconfig, in_clear=True)._kubeconfig_token() == "from-the-kubeconfig"
    https = address.replace("http://", "https://")
    assert Connection(https, "", "", kubeconfig, in_clear=False)._kubeconfig_token() == "from-the-kubeconfig"


def test_of_several_kubeconfigs_the_first_word_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("current-context: b\n")
    second.write_text(
        "current-context: a\ncontexts:\n"
        "- {name: a, context: {namespace: of-a}}\n- {name: b, context: {namespace: of-b}}\n"
    )
    assert context_namespace([first, second]) == "of-b"
    assert context_namespace([]) == ""


def test_a_kubeconfig_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("a: [")
    with pytest.raises(Failure, match="broken"):
        context_namespace([broken])


@pytest.mark.parametrize("user", ["{username: a, password: s3cret}", "{client-certificate-data: YQ==}", "{}"])
def test_only_a_token_is_a_token(tmp_path: Path, user: str) -> None:
    assert kubeconfig_token(str(kubeconfig_of(tmp_path, user))) == ""


def test_a_token_in_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"gives no token: .*/nonexistent"):
        kubeconfig_token(str(kubeconfig_of(tmp_path, "{tokenFile: /nonexistent}")))


def kubeconfig_of(folder: Path, user: str) -> Path:
    (folder / "config").write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\n"
        "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n"
        "contexts: [{name: here, context: {cluster: c, user: u}}]\n"
        f"users: [{{name: u, user: {user}}}]\n"
    )
    return folder / "config"


@pytest.mark.parametrize("text", ["token: 's3cret", "a: 1\n  token: s3cret: 2", "{token: s3cret"])
def test_nothing_of_a_broken_kubeconfig_is_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(Failure, match=r"config is not YAML: line \d+") as told:
        context_namespace([tmp_path / "config"])
    assert "s3cret" not in str(told.value) and "\n" not in str(told.value)


def test_texts_from_elsewhere_cannot_command_the_terminal() -> None:
    assert printable("a\x1b[31mb\u202ec\n") == "a\ufffd[31mb\ufffdc\ufffd"


def test_the_plugin_starts_without_the_heavy_packages() -> None:
    code = (
        "import sys; sys.argv = ['kubectl-sandbox', 'ls', '--api', 'http://127.0.0.1:1']\n"
        "from controller.cli import kubectl_main\n"
        "try: kubectl_main()\n"
        "except SystemExit: pass\n"
        "print(*{'kubernetes', 'docker', 'kopf', 'fastapi', 'controller.settings'} & sys.modules.keys())"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert ran.stdout.strip() == ""


async def test_a_stream_that_breaks_off_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.client.PAUSES", (0.01, 0.01))
    asked = 0

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        writer.write(head + b'event: progress\ndata: {"elapsed_ms": 1}\n\n')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(break_off, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, ApiClient(f"http://{host}:{port}") as client, asyncio.timeout(10):
        with pytest.raises(ApiError) as given_up:
            async for event, _ in client.stream("one", {"code": "1"}):
                assert event == "progress"
    assert (given_up.value.kind, asked) == ("unreachable", 6)
