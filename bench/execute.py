"""How fast code runs in a sandbox that is up, next to others, in one run: `make bench` prints the table."""

import argparse
import asyncio
import os
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import docker
import httpx
from peers import CODE, PEERS, Once, peer_image

from controller import SandboxManager
from controller.backends.container import Defaults, Image, create_body
from controller.dev import dev
from controller.model import Sandbox, SandboxSpec
from controller.settings import Settings, load_settings

IMAGE = "agent-sandbox:latest"
CLIENTS = SANDBOXES = 8


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def timed(once: Callable[[], object]) -> float:
    began = time.perf_counter()
    once()
    return (time.perf_counter() - began) * 1000


def in_turn(runs: dict[str, Once], count: int) -> dict[str, list[float]]:
    """Milliseconds of each, taken in turn, so that a noisy moment meets all of them."""
    for name, once in runs.items():
        answer = once()
        assert answer.strip() == "2", f"{name} answers {answer!r}"
        once()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(count):
        for name, once in runs.items():
            times[name].append(timed(once))
    return times


class Served:
    """A controller with an API of its own, in a thread of this process, so that its memory can be read."""

    def __init__(self, settings: Settings) -> None:
        api = settings.api.model_copy(update={"port": 0, "metrics_port": 0})
        sandbox = settings.sandbox.model_copy(update={"instance": f"bench-{os.getpid()}"})
        self._settings = settings.model_copy(update={"api": api, "sandbox": sandbox})
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True).start()

    @asynccontextmanager
    async def _dev(self) -> AsyncIterator[str]:
        with TemporaryDirectory() as folder:
            async with dev(self._settings, kubeconfig=Path(folder) / "kubeconfig") as urls:
                yield urls["api"]

    @contextmanager
    def running(self) -> Iterator[str]:
        context = self._dev()
        yield asyncio.run_coroutine_threadsafe(context.__aenter__(), self._loop).result(60)
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), self._loop).result(60)


def created(client: httpx.Client) -> str:
    answer = client.post("/sandbox/create", json={"name": f"bench-{uuid.uuid4().hex[:8]}"}, timeout=90)
    answer.raise_for_status()
    return str(answer.json()["id"])


def execute(client: httpx.Client, sandbox: str, code: str = CODE, **more: object) -> dict[str, object]:
    answer = client.post(f"/sandbox/{sandbox}/execute", json={"code": code, **more}, timeout=90)
    answer.raise_for_status()
    return dict(answer.json())


def rate(url: str, seconds: float) -> float:
    """Executions per second of CLIENTS clients, each with a sandbox of its own."""
    with httpx.Client(base_url=url) as client:
        sandboxes = [created(client) for _ in range(SANDBOXES)]

        def work(sandbox: str) -> int:
            done = 0
            with httpx.Client(base_url=url) as mine:
                execute(mine, sandbox)
                while time.monotonic() < until:
                    execute(mine, sandbox)
                    done += 1
            return done

        until = time.monotonic() + seconds
        with ThreadPoolExecutor(CLIENTS) as pool:
            total = sum(pool.map(work, sandboxes))
        for sandbox in sandboxes:
            client.delete(f"/sandbox/{sandbox}", timeout=60)
    return total / seconds


def memory() -> float:
    """MiB of this process, controller and clients."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def flood(url: str) -> float:
    """MiB that the process grows by while a program prints 200 MB under a cap of 1 MiB."""
    with httpx.Client(base_url=url) as client:
        sandbox = created(client)
        small = "import sys; sys.stdout.write('x' * 2_000_000)"
        execute(client, sandbox, small)  # what one answer of the full size needs, is needed before
        before = memory()
        result = execute(
            client, sandbox, "import sys\nfor _ in range(200): sys.stdout.write('x' * 1_000_000)", timeout=60
        )
        assert result["truncated"] and len(str(result["stdout"])) == 2**20
        grown = memory() - before
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
        url = stack.enter_context(Served(load_settings()).running())
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
        for name, times in in_turn(runs, options.runs).items():
            shown = f"{quantile(times, 0.5):.1f} / {quantile(times, 0.99):.1f} ms"
            rows.append((f"`{CODE}`, {name}, p50 / p99", shown, aims.get(name, "")))
        client.delete(f"/sandbox/{mine}", timeout=60)
        rows.append((f"executions per second, HTTP, {CLIENTS} clients", f"{rate(url, options.seconds):.0f}", "300"))
        rows.append(("memory for 200 MB of output under 1 MiB", f"+{flood(url):.1f} MiB", "8 MiB"))
        over, left = overshoot(url)
        rows.append(("beyond a deadline of 1 s, processes left", f"{over:.2f} s, {left}", "0.3 s, 0"))
    ours, raw = cold(20)
    rows.append(
        (
            "create → output → deleted, over raw create+start+remove",
            f"{ours:.0f} / {raw:.0f} ms = {ours / raw:.2f}",
            "1.3",
        )
    )

    print("\n| | measured | aim |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
