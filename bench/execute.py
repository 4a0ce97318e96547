"""How fast code runs in a sandbox that is up, next to others, in one run: `make bench` prints the table."""

import argparse
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import docker
import httpx
from peers import CODE, PEERS, Once, peer_image

from controller import SandboxManager
from controller.backends.container import Defaults, Image, container_name, create_body
from controller.model import Sandbox, SandboxSpec
from controller.settings import load_settings

IMAGE = "agent-sandbox:latest"
CLIENTS = SANDBOXES = 8
BLOCK = 20
RAW = "docker exec"
DEV = [sys.executable, "-c", "from controller.cli import main; main()", "dev"]


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def timed(once: Callable[[], object]) -> float:
    began = time.perf_counter()
    once()
    return (time.perf_counter() - began) * 1000


def in_turn(runs: dict[str, Once], count: int) -> dict[str, list[float]]:
    """Milliseconds of each, in blocks taken in turn, so that a noisy moment meets all of them.

    The first of each block is not timed: in it Docker still cleans up after the block of another.
    """
    for name, once in runs.items():
        answer = once()
        assert answer.strip() == "2", f"{name} answers {answer!r}"
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(0, count, BLOCK):
        for name, once in runs.items():
            once()
            times[name] += [timed(once) for _ in range(BLOCK)]
    return times


@dataclass(frozen=True)
class Served:
    """A controller process of its own: its API's URL and its pid."""

    url: str
    pid: int

    def memory(self) -> float:
        """MiB that it holds."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def served() -> Iterator[Served]:
    env = os.environ | {
        "API__PORT": "0",
        "API__METRICS_HOST": "127.0.0.1",
        "API__METRICS_PORT": "0",
        "SANDBOX__INSTANCE": f"bench-{os.getpid()}",
        "PYTHONUNBUFFERED": "1",
    }
    with TemporaryDirectory() as folder:
        command = [*DEV, "--kubeconfig", f"{folder}/kubeconfig"]
        with subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            url = next(line.split()[2] for line in process.stdout if line.startswith("HTTP API"))
            try:
                yield Served(url, process.pid)
            finally:
                process.terminate()


def created(client: httpx.Client) -> str:
    answer = client.post("/sandbox/create", json={"name": f"bench-{uuid.uuid4().hex[:8]}"}, timeout=90)
    answer.raise_for_status()
    return str(answer.json()["id"])


def execute(client: httpx.Client, sandbox: str, code: str = CODE, **more: object) -> dict[str, object]:
    answer = client.post(f"/sandbox/{sandbox}/execute", json={"code": code, **more}, timeout=90)
    answer.raise_for_status()
    return dict(answer.json())


def rates(url: str, seconds: float) -> tuple[float, float]:
    """Executions per second of CLIENTS clients, each with a sandbox of its own: through the API, and by `docker exec`."""

    def through_api(sandbox: str) -> int:
        with httpx.Client(base_url=url) as client:
            return _until(until, lambda: execute(client, sandbox))

    def by_docker(sandbox: str) -> int:
        client = docker.APIClient()
        command = ["python3", "-c", CODE]
        name = container_name(sandbox)
        return _until(until, lambda: client.exec_start(client.exec_create(name, command)["Id"]))

    counts = []
    with httpx.Client(base_url=url) as client, ThreadPoolExecutor(CLIENTS) as pool:
        sandboxes = [created(client) for _ in range(SANDBOXES)]
        for way in (through_api, by_docker):
            until = time.monotonic() + seconds
            counts.append(sum(pool.map(way, sandboxes)))
        for sandbox in sandboxes:
            client.delete(f"/sandbox/{sandbox}", timeout=60)
    return counts[0] / seconds, counts[1] / seconds


def _until(end: float, once: Callable[[], object]) -> int:
    done = 0
    once()
    while time.monotonic() < end:
        once()
        done += 1
    return done


def flood(controller: Served) -> float:
    """MiB that the controller grows by while a program prints 200 MB under a cap of 1 MiB."""
    with httpx.Client(base_url=controller.url) as client:
        sandbox = created(client)
        small = "import sys; sys.stdout.write('x' * 2_000_000)"
        execute(client, sandbox, small)  # what one answer of the full size needs, is needed before
        before = controller.memory()
        result = execute(
            client, sandbox, "import sys\nfor _ in range(200): sys.stdout.write('x' * 1_000_000)", timeout=60
        )
        assert result["truncated"] and len(str(result["stdout"])) == 2**20
        grown = controller.memory() - before
        client.delete(f"/sandbox/{sandbox}", timeout=60)
    return grown


def overshoot(url: str) -> tuple[float, int]:
    """Seconds beyond a deadline of 1 s, and the processes left, of a program that ignores SIGTERM and forks."""
    program = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for _ in range(5):\n  if os.fork() == 0: os.setsid(); time.sleep(3600)\ntime.sleep(3600)"
    )
    with httpx.Client(base_url=url) as client:
        sandbox = created(client)
        count = "import glob; print(len(glob.glob('/proc/[0-9]*')))"
        before = int(str(execute(client, sandbox, count)["stdout"]))
        began = time.perf_counter()
        result = execute(client, sandbox, program, timeout=1)
        over = time.perf_counter() - began - 1
        assert result["reason"] == "Timeout"
        left = int(str(execute(client, sandbox, count)["stdout"])) - before
        client.delete(f"/sandbox/{sandbox}", timeout=60)
    return over, left


def cold(count: int) -> tuple[float, float]:
    """Median milliseconds of create → first output → deleted, by the library and by the raw SDK's create+start+remove."""
    client = docker.APIClient()
    defaults = Defaults.of(load_settings().sandbox)
    image = client.inspect_image(IMAGE)
    command = tuple((image["Config"]["Entrypoint"] or []) + (image["Config"]["Cmd"] or []))
    manager = SandboxManager()

    def ours() -> None:
        with manager.create(image=IMAGE) as sandbox:
            assert sandbox.execute(CODE).stdout.strip() == "2"

    def raw() -> None:
        sandbox = Sandbox(uid=uuid.uuid4().hex, name="raw", namespace="bench", spec=SandboxSpec(image=IMAGE))
        container = client.create_container_from_config(
            create_body(sandbox, defaults, Image(image["Id"], True, command))
        )
        client.start(container["Id"])
        client.remove_container(container["Id"], force=True, v=True)

    ours(), raw()
    times = [(timed(ours), timed(raw)) for _ in range(count)]
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()

    rows: list[tuple[str, str, str]] = []
    with ExitStack() as stack:
        manager = SandboxManager()
        sandbox = stack.enter_context(manager.create(image=IMAGE))
        controller = stack.enter_context(served())
        url = controller.url
        client = stack.enter_context(httpx.Client(base_url=url))
        mine = created(client)
        runs: dict[str, Once] = {
            "library": lambda: sandbox.execute(CODE).stdout,
            "HTTP, keep-alive": lambda: str(execute(client, mine)["stdout"]),
        }
        if not options.no_peers:
            image = peer_image(IMAGE)
            runs |= {name: stack.enter_context(peer(image)) for name, peer in PEERS.items()}
        aims = {"library": "3 / 10", "HTTP, keep-alive": "6 / 15"}
        measured = in_turn(runs, options.runs)
        for name, times in measured.items():
            shown = f"{quantile(times, 0.5):.1f} / {quantile(times, 0.99):.1f} ms"
            if RAW in measured and name != RAW:
                shown += f", {quantile(times, 0.5) / quantile(measured[RAW], 0.5):.3f} × {RAW}"
            rows.append((f"`{CODE}`, {name}, p50 / p99", shown, aims.get(name, "")))
        client.delete(f"/sandbox/{mine}", timeout=60)
        ours, theirs = rates(url, options.seconds)
        rows.append((f"executions per second, HTTP, {CLIENTS} clients", f"{ours:.0f}", "300"))
        rows.append(
            (f"the same by `docker exec`, {CLIENTS} threads", f"{theirs:.0f}, {ours / theirs:.1f} times fewer", "")
        )
        rows.append(("memory for 200 MB of output under 1 MiB", f"+{flood(controller):.1f} MiB", "8 MiB"))
        over, left = overshoot(url)
        rows.append(("beyond a deadline of 1 s, processes left", f"{over:.2f} s, {left}", "0.3 s, 0"))
    cold_ours, raw = cold(20)
    rows.append(
        (
            "create → output → deleted, over raw create+start+remove",
            f"{cold_ours:.0f} / {raw:.0f} ms = {cold_ours / raw:.2f}",
            "1.3",
        )
    )

    print("\n| | measured | aim |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
