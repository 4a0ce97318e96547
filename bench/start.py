"""How long from a Sandbox object to Ready, over what Docker itself takes for the same container: `make bench` prints it."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import docker
import httpx
import yaml

from controller.backends.container import AGENT_LABEL, Defaults, Image, container_name, create_body
from controller.localkube import LocalKube
from controller.model import API_VERSION, KIND, PLURAL, Sandbox, SandboxSpec
from controller.settings import SandboxSettings

IMAGE = "agent-sandbox:latest"
NAMESPACE = "default"
THREADS = 8
DEADLINE = 300.0
"""Seconds until anything counts as never."""
RUN = [sys.executable, "-c", "from controller.cli import main; main()", "run"]
CRD = Path(__file__).parents[1] / "crds" / "sandboxes.yaml"


class Docker:
    """The raw SDK: create and start of the container that the controller would make."""

    def __init__(self, image: str) -> None:
        self._client = docker.APIClient(version="auto", max_pool_size=2 * THREADS)
        config = self._client.inspect_image(image)["Config"]
        command = (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()))
        self._image = Image(image, (config.get("Labels") or {}).get(AGENT_LABEL) == "1", command)
        self._defaults = Defaults.of(SandboxSettings(image=image, instance=f"bench-raw-{os.getpid()}"))

    def start(self) -> str:
        uid = str(uuid4())
        name, wanted = container_name(uid), Sandbox(uid=uid, name=uid, namespace=NAMESPACE, spec=SandboxSpec())
        self._client.create_container_from_config(create_body(wanted, self._defaults, self._image), name)
        self._client.start(name)
        return name

    def remove(self, name: str) -> None:
        self._client.remove_container(name, force=True)


class Cluster:
    """Sandbox objects of one API server: made, watched until they are ready, deleted."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self._http = httpx.Client(
            base_url=cluster["server"],
            headers=headers,
            verify=cluster.get("certificate-authority", True),
            timeout=DEADLINE,
            limits=httpx.Limits(max_connections=4 * THREADS),
        )
        self._path = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/{PLURAL}"
        self._changed = threading.Condition()
        self._ready: dict[str, float] = {}
        self._gone: set[str] = set()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        version = self._http.get(self._path).raise_for_status().json()["metadata"]["resourceVersion"]
        query = {"watch": "true", "resourceVersion": version}
        with self._http.stream("GET", self._path, params=query, timeout=None) as answer:
            for line in answer.iter_lines():
                now, event = time.perf_counter(), json.loads(line)
                name, status = event["object"]["metadata"]["name"], event["object"].get("status", {})
                with self._changed:
                    if event["type"] == "DELETED":
                        self._gone.add(name)
                    elif any(
                        each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", ())
                    ):
                        self._ready.setdefault(name, now)
                    self._changed.notify_all()

    def create(self) -> str:
        name = f"bench-{uuid4().hex[:10]}"
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": {"backend": "docker"}}
        self._http.post(self._path, json=body).raise_for_status()
        return name

    def wait_ready(self, name: str) -> float:
        """When it was: seconds of `time.perf_counter`."""
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._ready, DEADLINE):
                raise TimeoutError(f"{name} was not ready after {DEADLINE:g} s")
            return self._ready[name]

    def delete(self, name: str) -> None:
        self._http.delete(f"{self._path}/{name}").raise_for_status()
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._gone, DEADLINE):
                raise TimeoutError(f"{name} was not gone after {DEADLINE:g} s")


@contextmanager
def controller(kubeconfig: Path, image: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A controller process of its own, once it is ready."""
    env = os.environ | {
        "KUBECONFIG": str(kubeconfig),
        "WATCH_NAMESPACES": NAMESPACE,
        "API__PORT": "0",
        "API__METRICS_HOST": "127.0.0.1",
        "API__METRICS_PORT": "0",
        "SANDBOX__INSTANCE": f"bench-{os.getpid()}",
        "SANDBOX__IMAGE": image,
        "SANDBOX__STATE_FOLDER": str(folder),
    }
    process = subprocess.Popen(RUN, env=env, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def one_at_a_time(raw: Docker, cluster: Cluster, count: int) -> tuple[list[float], list[float]]:
    """Seconds of each, in turn, so that a noisy moment meets both; removals are not timed."""
    ours, theirs = [], []
    for _ in range(count):
        began = time.perf_counter()
        container = raw.start()
        theirs.append(time.perf_counter() - began)
        raw.remove(container)
        began = time.perf_counter()
        name = cluster.create()
        ours.append(cluster.wait_ready(name) - began)
        cluster.delete(name)
    return ours, theirs


def at_once(
    make: Callable[[], str], done: Callable[[str], object], remove: Callable[[str], object], count: int
) -> float:
    """Seconds until all are up; removals are not timed."""
    with ThreadPoolExecutor(THREADS) as threads:
        began = time.perf_counter()
        names = list(threads.map(lambda _: make(), range(count)))
        for name in names:
            done(name)
        took = time.perf_counter() - began
        list(threads.map(remove, names))
    return took


def p(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, help="a cluster with the CRD; default: the embedded API server")
    parser.add_argument("--image", default=IMAGE)
    parser.add_argument("--count", type=int, default=30, help="starts one at a time")
    parser.add_argument("--crowd", type=int, default=100, help="starts at once")
    parser.add_argument("--rounds", type=int, default=3, help="crowds of each kind, in turn")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="sbx-bench-")))
        kubeconfig = asked.kubeconfig
        if kubeconfig is None:
            kubeconfig = folder / "kubeconfig"
            kube = LocalKube(crds=[yaml.safe_load(CRD.read_text())])
            stack.enter_context(kube.running())
            kube.write_kubeconfig(kubeconfig)
        state = folder / "state"
        state.mkdir()
        raw, cluster = Docker(asked.image), Cluster(kubeconfig)
        stack.enter_context(controller(kubeconfig, asked.image, state))
        warm = cluster.create()
        cluster.wait_ready(warm)
        cluster.delete(warm)
        raw.remove(raw.start())

        ours, theirs = one_at_a_time(raw, cluster, asked.count)
        print("| seconds | object to Ready | SDK's create + start | ratio | aim |")
        print("|---|---|---|---|---|")
        for label, share, aim in (("p50", 0.5, "≤ 1.25"), ("p95", 0.95, "")):
            a, b = p(ours, share), p(theirs, share)
            print(f"| one at a time, {label} of {asked.count} | {a:.3f} | {b:.3f} | {a / b:.2f} | {aim} |")
        crowds, raws = [], []
        for _ in range(asked.rounds if asked.crowd else 0):
            raws.append(at_once(raw.start, lambda _: None, raw.remove, asked.crowd))
            crowds.append(at_once(cluster.create, cluster.wait_ready, cluster.delete, asked.crowd))
        if crowds:
            a, b = statistics.median(crowds), statistics.median(raws)
            print(f"| {asked.crowd} at once, median of {asked.rounds} | {a:.2f} | {b:.2f} | {a / b:.2f} | ≤ 1.15 |")


if __name__ == "__main__":
    main()
