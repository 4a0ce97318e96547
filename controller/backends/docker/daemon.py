"""The Docker daemon as asyncio sees it: docker-py's blocking calls, in lanes of threads.

Starts, pulls, removals and looks have a lane each, so that a slow registry delays no other start, slow starts delay no
deletion, and a hung daemon no health answer.
"""

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import docker

from controller.backends import Health, Unavailable
from controller.backends.docker.client import connect, diagnose, translated
from controller.settings import SandboxSettings

T = TypeVar("T")

CALL_DEADLINE = 75
"""Seconds until a call is given up: the client's own read timeout (60) and a wait for a free thread."""


class Daemon:
    """The local daemon, or DOCKER_HOST's; connected to at first use."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._probe_seconds = settings.docker_connection_timeout
        self._client: docker.APIClient | None = None
        self._connecting = threading.Lock()
        self._lanes = {
            lane: ThreadPoolExecutor(threads, thread_name_prefix=f"docker-{lane}")
            for lane, threads in (
                ("start", settings.start_concurrency),
                ("remove", 4),
                ("pull", 4),
                ("look", 6),
                ("probe", 2),
            )
        }
        self._awaited: set[asyncio.Future[Any]] = set()
        """Answers that somebody waits for."""
        self.node = ""
        """Its name for its machine, as it last told."""

    def api(self) -> docker.APIClient:
        """The client, made at first use. Blocking; raises Unavailable."""
        with self._connecting:
            if self._client is None:
                with translated("connecting to Docker"):
                    self._client = connect()
            return self._client

    async def call(
        self, lane: str, what: str, act: Callable[[docker.APIClient], T], deadline: float = CALL_DEADLINE
    ) -> T:
        """Run `act` in a thread of `lane`, its errors as the port's, for `deadline` seconds at most.

        Once a probe has found the daemon silent, nobody waits for it any longer: the thread ends by its own timeout.
        """

        def work() -> T:
            client = self.api()
            with translated(what):
                return act(client)

        answer = asyncio.get_running_loop().run_in_executor(self._lanes[lane], work)
        self._awaited.add(answer)
        try:
            async with asyncio.timeout(deadline):
                return await answer
        except TimeoutError:
            raise Unavailable(f"{what}: Docker gave no answer for {deadline:g} s", "DockerUnavailable") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # it is the caller who is cancelled, not the answer
            raise Unavailable(f"{what}: Docker does not answer", "DockerUnavailable") from None
        finally:
            self._awaited.discard(answer)

    async def probe(self) -> Health:
        """As the port has it. Where it does not answer, all who wait for an answer are told at once."""
        health = await self._probe()
        if not health.available:
            for answer in list(self._awaited):
                answer.cancel()
        return health

    async def _probe(self) -> Health:
        timeout = self._probe_seconds

        def look() -> Health:
            try:
                client = connect(timeout=math.ceil(timeout), pool_size=1)
            except Exception as error:  # noqa: BLE001 - whatever keeps Docker away is the answer, not a failure
                return diagnose(error)
            try:
                version, info = client.version(), client.info()
            except Exception as error:  # noqa: BLE001 - as above
                return diagnose(error)
            finally:
                client.close()
            facts = {
                "version": version["Version"],
                "api_version": version["ApiVersion"],
                "runtimes": sorted(info["Runtimes"]),
                "storage_driver": info["Driver"],
                "rootless": any("rootless" in option for option in info["SecurityOptions"]),
                "cgroup_version": info.get("CgroupVersion", "1"),
                "node": info["Name"],
            }
            self.node = info["Name"]
            return Health(True, "connected", f"Docker {version['Version']} answers", facts)

        try:
            async with asyncio.timeout(3 * timeout):
                return await asyncio.get_running_loop().run_in_executor(self._lanes["probe"], look)
        except TimeoutError as error:
            return diagnose(error)

    def close(self) -> None:
        """Let go of the connection and the threads; answers that nobody waits for are given up."""
        for lane in self._lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()
