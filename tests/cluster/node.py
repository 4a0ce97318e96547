"""The node of the test's cluster, and what it lacks: addresses of Services, which are kube-proxy's work."""

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

BRIDGE = "cpbr0"


@dataclass(frozen=True)
class Node:
    folder: Path

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "run" / "kubeconfig"

    def kubectl(self, *words: str, stdin: str = "", seconds: float = 60) -> str:
        """What kubectl prints; it has to end well."""
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *words, "--output=json"))
        return found

    def bring(self, image: str) -> None:
        """Takes an image from Docker to the node's containerd, as `docker.io/library/IMAGE`."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            load = ["ctr", "-a", f"{self.folder}/containerd.sock", "-n", "k8s.io", "images", "import", "-"]
            subprocess.run(load, stdin=saved.stdout, stdout=subprocess.DEVNULL, check=True, timeout=300)

    @contextmanager
    def services(self) -> Iterator[None]:
        """While the block runs, the API server answers at its Service address, as every Pod expects."""
        # A bridge takes the lowest address of its ports unless it has one of its own: each Pod that goes would change it.
        subprocess.run(["ip", "link", "set", BRIDGE, "address", "02:00:0a:f4:4d:01"], check=True)
        server = urlsplit(yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"])
        address = self.get("service", "kubernetes", "--namespace=default")["spec"]["clusterIP"]
        with forwarded(address, 443, str(server.hostname), int(server.port or 443)):
            yield

    @contextmanager
    def service(self, name: str, namespace: str, port: int) -> Iterator[None]:
        """While the block runs, the Service's address leads to its Pod."""
        address = self.get("service", name, f"--namespace={namespace}")["spec"]["clusterIP"]
        endpoints = self.get("endpoints", name, f"--namespace={namespace}")["subsets"][0]
        with forwarded(address, port, endpoints["addresses"][0]["ip"], port):
            yield


@contextmanager
def forwarded(address: str, port: int, to_address: str, to_port: int) -> Iterator[None]:
    """Connections to an address that this makes are passed on."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError), closing(writer):  # one side has gone: so does the other
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(to_address, to_port)
        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))

    async def serve(serving: Future[Callable[[], object]]) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(connect, address, port):
            serving.set_result(lambda: loop.call_soon_threadsafe(stop.set))
            await stop.wait()

    subprocess.run(["ip", "address", "replace", f"{address}/32", "dev", BRIDGE], check=True)
    serving: Future[Callable[[], object]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(serve(serving)), daemon=True)
    thread.start()
    try:
        stop = serving.result(10)
        yield
        stop()
        thread.join(10)
    finally:
        subprocess.run(["ip", "address", "del", f"{address}/32", "dev", BRIDGE], check=True)
