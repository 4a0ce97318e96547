"""The same job, `print(1+1)` in a container that is up, done by others, each as its own documentation does it.

Every function yields a callable that runs it once. They are installed by the dependency group `bench`.
"""

import asyncio
import io
import socket
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.error import URLError

import docker

CODE = "print(1+1)"
Once = Callable[[], str]


@contextmanager
def docker_exec(image: str) -> Iterator[Once]:
    """docker-py's own `exec_run`."""
    client = docker.from_env()
    container = client.containers.run(image, ["sleep", "infinity"], entrypoint=[], detach=True, init=True)
    try:
        yield lambda: str(container.exec_run(["python3", "-c", CODE]).output.decode())
    finally:
        container.remove(force=True)
        client.close()


@contextmanager
def llm_sandbox(image: str) -> Iterator[Once]:
    from llm_sandbox import SandboxSession

    config = {"init": True}
    with SandboxSession(
        lang="python", image=image, skip_environment_setup=True, runtime_configs=config, keep_template=True
    ) as session:
        yield lambda: str(session.run(CODE).stdout)


@contextmanager
def autogen(image: str) -> Iterator[Once]:
    from autogen_core import CancellationToken
    from autogen_core.code_executor import CodeBlock
    from autogen_ext.code_executors.docker import DockerCommandLineCodeExecutor

    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory() as folder:
        executor = DockerCommandLineCodeExecutor(image=image, work_dir=folder, auto_remove=True)
        loop.run_until_complete(executor.start())
        blocks = [CodeBlock(language="python", code=CODE)]
        try:
            yield lambda: str(loop.run_until_complete(executor.execute_code_blocks(blocks, CancellationToken())).output)
        finally:
            loop.run_until_complete(executor.stop())
            loop.close()


@contextmanager
def swe_rex(image: str) -> Iterator[Once]:
    """Its server in the container, from this machine's installed package; the client over a published port."""
    from swerex.runtime.abstract import Command
    from swerex.runtime.remote import RemoteRuntime

    client = docker.from_env()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    container = client.containers.run(
        image,
        ["python3", "-m", "swerex.server", "--host", "0.0.0.0", "--port", "8000", "--auth-token", "bench"],
        entrypoint=[],
        detach=True,
        init=True,
        ports={"8000/tcp": ("127.0.0.1", port)},
        volumes={sysconfig.get_path("purelib"): {"bind": "/peer", "mode": "ro"}},
        environment={"PYTHONPATH": "/peer"},
    )
    loop = asyncio.new_event_loop()
    try:
        _await_port(port)
        runtime = RemoteRuntime(host="http://127.0.0.1", port=port, auth_token="bench")
        command = Command(command=["python3", "-c", CODE])
        yield lambda: str(loop.run_until_complete(runtime.execute(command)).stdout)
    finally:
        loop.close()
        container.remove(force=True)
        client.close()


def _await_port(port: int, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
            return
        except URLError as error:
            if getattr(error, "code", None):
                return
            time.sleep(0.2)
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"nothing answers at port {port}")


def peer_image(image: str) -> str:
    """`image` as the others need it: they call `python`, and AutoGen's files are read by root only."""
    client = docker.from_env()
    dockerfile = f"FROM {image}\nUSER 0\nRUN ln -sf python3 /usr/bin/python\n"
    client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=PEER_IMAGE, rm=True)
    client.close()
    return PEER_IMAGE


PEER_IMAGE = "agent-sandbox-peers:bench"
PEERS = {"docker exec": docker_exec, "SWE-ReX": swe_rex, "AutoGen": autogen, "llm-sandbox": llm_sandbox}
