"""Why Docker is not there, told apart by what a person has to do, within the connection timeout."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from controller.backends import Health
from tests.conftest import missing
from tests.daemon_proxy import daemon_socket
from tests.docker.conftest import Opened

TIMEOUT = 0.5


async def look(open_backend: Opened, monkeypatch: pytest.MonkeyPatch, host: str, **env: str) -> Health:
    """What one look at that daemon tells."""
    for name in ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"DOCKER_HOST": host} | env).items():
        monkeypatch.setenv(name, value)
    return await open_backend(docker_connection_timeout=TIMEOUT).probe()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the path of a Unix socket."""
    with TemporaryDirectory(prefix="sbx-") as path:
        yield Path(path)


@pytest.fixture
def silent(folder: Path) -> Iterator[str]:
    """A socket that takes connections and never answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "silent.sock"))
        listener.listen()
        yield f"unix://{folder}/silent.sock"


@pytest.fixture
def old_daemon() -> Iterator[str]:
    """Says of itself that it is Docker 19.03."""

    class Old(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"ApiVersion": "1.40", "Version": "19.03.15"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Old) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_port}"
        server.shutdown()


async def test_a_daemon_that_answers_tells_what_it_is(
    open_backend: Opened, docker_client: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    health = await open_backend().probe()
    assert (health.available, health.status) == (True, "connected")
    assert {"version", "api_version", "runtimes", "storage_driver", "rootless", "cgroup_version"} <= set(health.info)


async def test_no_socket(open_backend: Opened, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    health = await look(open_backend, monkeypatch, f"unix://{folder}/none.sock")
    assert (health.available, health.status) == (False, "no_socket")
    assert "does not exist: install and start Docker" in health.message


async def test_nobody_listens(open_backend: Opened, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "dead.sock"))
    health = await look(open_backend, monkeypatch, f"unix://{folder}/dead.sock")
    assert (health.available, health.status) == (False, "refused")
    assert "nothing listens" in health.message


async def test_a_daemon_that_hangs_is_given_up_in_time(
    open_backend: Opened, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    began = time.monotonic()
    health = await look(open_backend, monkeypatch, silent)
    assert time.monotonic() - began < 5, "a timeout of half a second is meant"
    assert (health.available, health.status) == (False, "timeout")
    assert health.message.startswith("Docker connectivity check failed (Connection timeout)")


async def test_too_old_an_api(open_backend: Opened, monkeypatch: pytest.MonkeyPatch, old_daemon: str) -> None:
    health = await look(open_backend, monkeypatch, old_daemon)
    assert (health.available, health.status) == (False, "too_old")
    assert "1.40 is too old" in health.message and "20.10" in health.message


async def test_tls_with_one_who_speaks_none(
    open_backend: Opened, monkeypatch: pytest.MonkeyPatch, old_daemon: str, folder: Path
) -> None:
    authority = folder / "ca.pem"
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("no openssl", "apt-get install -y openssl")
    made = f"req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout {folder}/key.pem -out {authority}"
    subprocess.run([str(openssl), *made.split()], check=True, capture_output=True)
    (folder / "cert.pem").write_bytes(authority.read_bytes())
    health = await look(open_backend, monkeypatch, old_daemon, DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=str(folder))
    assert (health.available, health.status) == (False, "tls")
    assert "DOCKER_CERT_PATH" in health.message


async def test_tls_without_its_files(
    open_backend: Opened, monkeypatch: pytest.MonkeyPatch, old_daemon: str, folder: Path
) -> None:
    health = await look(open_backend, monkeypatch, old_daemon, DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=str(folder))
    assert (health.available, health.status) == (False, "tls")


def test_permission_denied(silent: str) -> None:
    """Asked as another user than the socket's."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user: run the tests as root")
    path = silent.removeprefix("unix://")
    os.chmod(path, 0o600)
    os.chmod(Path(path).parent, 0o755)
    code = textwrap.dedent("""
        import os, sys
        from controller.backends.docker.client import connect, diagnose
        os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[2]))
        try:
            connect(timeout=1)
        except Exception as error:
            health = diagnose(error)
            print(health.status, health.message, sep="|")
    """)
    nobody = pwd.getpwnam("nobody")
    done = subprocess.run(
        [sys.executable, "-c", code, str(nobody.pw_gid), str(nobody.pw_uid)],
        env={"DOCKER_HOST": silent, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    status, _, message = done.stdout.strip().partition("|")
    assert status == "permission_denied", done.stderr
    assert "as a member of the group docker" in message


def test_without_the_library_it_goes_on_and_says_so() -> None:
    code = textwrap.dedent("""
        import asyncio, logging, sys
        sys.modules["docker"] = None
        from controller.choose import announce, choose, docker_backend, look_for_docker
        from controller.settings import SandboxSettings
        logging.basicConfig(level=logging.INFO)
        settings = SandboxSettings()
        health = asyncio.run(look_for_docker(settings, docker_backend(settings)))
        announce(choose(settings, health), settings, health)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    for line in (
        "Checking mock mode preference",
        "Docker library not available",
        "Falling back to mock sandbox manager",
        "Using mock sandbox manager",
    ):
        assert line in done.stderr


async def test_without_docker_host_the_current_context_says_where_the_daemon_is(
    open_backend: Opened, monkeypatch: pytest.MonkeyPatch, folder: Path, docker_client: object
) -> None:
    context = {"Name": "other", "Metadata": {}, "Endpoints": {"docker": {"Host": f"unix://{folder}/other.sock"}}}
    place = folder / "contexts" / "meta" / sha256(b"other").hexdigest()
    place.mkdir(parents=True)
    (place / "meta.json").write_text(json.dumps(context))
    (folder / "config.json").write_text('{"currentContext": "other"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert (await open_backend().probe()).status == "no_socket"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{daemon_socket()}")
    assert (await open_backend().probe()).available
