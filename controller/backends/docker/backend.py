"""The Docker backend: the port over docker-py."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any, TypeVar

import docker
from docker.errors import APIError

from controller.backends import (
    BackendError,
    Executions,
    Health,
    Limits,
    NotFound,
    NotRunning,
    Observation,
    OutputChunk,
    Refused,
    RunState,
    Tail,
    Unavailable,
    Usage,
)
from controller.backends.agent.executions import AgentExecutions
from controller.backends.agent.link import Stream
from controller.backends.container import (
    LABEL_INSTANCE,
    LABEL_MODE,
    LABEL_UID,
    MODE_EXEC,
    MODE_RUN,
    Defaults,
    Image,
    container_name,
    create_body,
)
from controller.backends.docker.attach import DockerStream, attach, start_exec
from controller.backends.docker.client import ignoring, status_of
from controller.backends.docker.daemon import Daemon
from controller.backends.docker.exec import ExecExecutions
from controller.backends.docker.executions import DockerExecutions
from controller.backends.docker.images import DockerImages
from controller.backends.docker.observation import observation_of, observation_of_row
from controller.backends.docker.streams import read_ends, read_events, read_logs
from controller.backends.tail import TAIL_BYTES, tail_of
from controller.model import BackendName, Sandbox
from controller.settings import SandboxSettings

T = TypeVar("T")

ATTACH_SECONDS = 5.0
WAKING = ["die", "oom", "destroy", "pause", "unpause", "start"]
EVENTS_OVERLAP = 5.0
"""Seconds of the past that a stream of events begins with: what happened after the last one broke off."""


class DockerBackend:
    """Sandboxes as containers of the local (or DOCKER_HOST's) daemon."""

    name = BackendName.DOCKER

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._defaults = Defaults.of(settings)
        self._daemon = Daemon(settings)
        self._call = self._daemon.call
        self.images = DockerImages(self._call, settings)
        self._agents = AgentExecutions(self._attach, settings.max_executions)
        self._execs = ExecExecutions(self._open_exec, self._exec_exit_code, settings.max_executions)
        self.executions = DockerExecutions(self._way)
        self._modes: dict[str, str] = {}
        """uid -> mode of its running container, as last seen."""
        self._starts = asyncio.Semaphore(settings.start_concurrency)

    @property
    def reconnects(self) -> int:
        return self._agents.reconnects

    async def probe(self) -> Health:
        return await self._daemon.probe()

    # --- looking ---

    async def _inspect(self, uid: str, lane: str = "look") -> dict[str, Any] | None:
        def look(client: docker.APIClient) -> dict[str, Any] | None:
            try:
                return dict(client.inspect_container(container_name(uid)))
            except APIError as error:
                if status_of(error) == HTTPStatus.NOT_FOUND:
                    return None
                raise

        found = await self._call(lane, f"looking at container {container_name(uid)}", look)
        if found is not None and found["Config"]["Labels"].get(LABEL_INSTANCE) != self._settings.instance:
            raise Refused(
                f"container {container_name(uid)} belongs to another installation; remove it by hand", "NameTaken"
            )
        return found

    async def observe(self, uid: str) -> Observation | None:
        inspected = await self._inspect(uid)
        return None if inspected is None else await self._observed(inspected)

    async def _observed(self, inspected: dict[str, Any]) -> Observation:
        seen = replace(observation_of(inspected), node=self._daemon.node)
        mode = inspected["Config"]["Labels"].get(LABEL_MODE, MODE_RUN)
        if seen.state is RunState.EXITED and mode == MODE_RUN:
            return replace(seen, tail=await self._tail(seen.uid))
        if mode == MODE_RUN:
            return seen
        if seen.state is not RunState.RUNNING:
            self._modes.pop(seen.uid, None)
            return replace(seen, path="exec" if mode == MODE_EXEC else "agent")
        self._modes[seen.uid] = mode
        if mode == MODE_EXEC:
            return replace(seen, path="exec", ready=True, idle_since=self._execs.idle_since(seen.uid))
        ready = await self._agents.ready(seen.uid)
        return replace(seen, path="agent", ready=ready, idle_since=self._agents.idle_since(seen.uid))

    # --- executions ---

    async def _way(self, uid: str) -> Executions:
        """How code gets into that sandbox. Raises NotFound, NotRunning, Unavailable."""
        if uid not in self._modes:
            seen = await self.observe(uid)
            if seen is None:
                raise NotFound(f"there is no container {container_name(uid)}")
            if uid not in self._modes:
                raise NotRunning(f"container {container_name(uid)} takes no code now: it is {seen.state}")
        return self._execs if self._modes[uid] == MODE_EXEC else self._agents

    async def _attach(self, uid: str) -> Stream:
        client = await asyncio.to_thread(self._daemon.api)
        return await attach(client, container_name(uid), ATTACH_SECONDS)

    async def _open_exec(self, uid: str, argv: list[str], env: dict[str, str]) -> tuple[str, DockerStream]:
        name = container_name(uid)
        created = await self._call(
            "look",
            f"making an exec in {name}",
            lambda client: client.exec_create(name, argv, stdin=True, environment=env, workdir="/"),
        )
        return created["Id"], await start_exec(self._daemon.api(), created["Id"], ATTACH_SECONDS)

    async def _exec_exit_code(self, exec_id: str) -> int | None:
        found = await self._call("look", "asking for the end of an exec", lambda client: client.exec_inspect(exec_id))
        return None if found["Running"] else found["ExitCode"]

    async def _tail(self, uid: str) -> Tail:
        """What the exited program printed. The log driver keeps 1 MiB, so that is the most that is read."""

        what = f"reading the output of {container_name(uid)}"
        return tail_of(
            *await self._call("look", what, lambda client: read_ends(client, container_name(uid), TAIL_BYTES))
        )

    async def list(self) -> list[Observation]:
        def look(client: docker.APIClient) -> list[dict[str, Any]]:
            return list(client.containers(all=True, filters={"label": f"{LABEL_INSTANCE}={self._settings.instance}"}))

        rows = await self._call("look", "listing containers", look)
        return [observation_of_row(row) for row in rows if LABEL_UID in row["Labels"]]

    # --- acting ---

    async def start(self, sandbox: Sandbox) -> Observation:
        name = sandbox.spec.image or self._defaults.image
        await self.images.get(name)  # before it is its turn: a slow registry holds up nobody else
        async with self._starts:  # waiting here counts for no deadline
            return await self._start(sandbox, await self.images.get(name))

    async def _start(self, sandbox: Sandbox, image: Image) -> Observation:
        await self._check(sandbox)
        name, body = container_name(sandbox.uid), create_body(sandbox, self._defaults, image)

        def create(client: docker.APIClient) -> bool:
            """Whether it is new; else it is adopted, however far another start of it came."""
            try:
                client.create_container_from_config(body, name)
            except APIError as error:
                if status_of(error) != HTTPStatus.CONFLICT:
                    raise
                return False
            return True

        is_new = await self._call("start", f"creating container {name}", create)
        found = None if is_new else await self._inspect(sandbox.uid, "start")
        if is_new or (found is not None and observation_of(found).state is RunState.CREATED):
            await self._start_created(sandbox)
            found = await self._inspect(sandbox.uid, "start")
        if found is None:
            raise BackendError(f"container {name} vanished while it was started", "ContainerVanished")
        return await self._observed(found)

    async def _start_created(self, sandbox: Sandbox) -> None:
        name = container_name(sandbox.uid)
        try:
            await self._call("start", f"starting container {name}", lambda client: client.start(name))
        except Unavailable:
            raise  # it may have started: the next look tells
        except BackendError as error:  # Docker leaves a failed start behind as `created`
            await self.remove(sandbox.uid)
            raise Refused(str(error), error.reason if error.reason != "NotFound" else "Refused") from error

    async def _check(self, sandbox: Sandbox) -> None:
        """Refuse, by name, a runtime or network that the daemon does not have: its own errors come late and say less."""
        runtime, network = sandbox.spec.runtime, sandbox.spec.network
        if runtime:
            have = sorted((await self._call("look", "asking for runtimes", lambda client: client.info()))["Runtimes"])
            if runtime not in have:
                raise Refused(
                    f"spec.runtime: the daemon has no runtime {runtime!r}, only {', '.join(have)}", "RuntimeNotFound"
                )
        if network != "none":
            rows = await self._call("look", "asking for networks", lambda client: client.networks())
            have = sorted(row["Name"] for row in rows)
            if network not in have:
                raise Refused(
                    f"spec.network: the daemon has no network {network!r}, only {', '.join(have)}", "NetworkNotFound"
                )

    async def suspend(self, uid: str) -> None:
        name = container_name(uid)
        self._modes.pop(uid, None)
        self._agents.hold(uid)
        await self._unless(uid, RunState.PAUSED, f"suspending {name}", lambda client: client.pause(name))

    async def resume(self, uid: str) -> None:
        name = container_name(uid)
        await self._unless(uid, RunState.RUNNING, f"resuming {name}", lambda client: client.unpause(name))
        self._agents.release(uid)

    async def usage(self, uid: str) -> Usage:
        name = container_name(uid)

        def read(client: docker.APIClient) -> dict[str, Any]:
            return dict(client.stats(name, decode=None, stream=False, one_shot=True))

        told = await self._call("look", f"measuring {name}", read)
        memory = told.get("memory_stats", {})
        if not memory.get("usage"):
            raise NotRunning(f"container {name} does not run")
        # As `docker stats` has it; the name of the counter tells the cgroup version.
        inactive = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))
        return Usage(
            memory=max(0, memory["usage"] - inactive),
            cpu_seconds=told["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
            processes=told["pids_stats"].get("current", 0),
        )

    async def kill(self, uid: str) -> None:
        name = container_name(uid)
        await self._unless(uid, RunState.EXITED, f"killing {name}", lambda client: client.kill(name), lane="remove")
        self._agents.forget(uid)  # who follows an execution learns at once that it is lost

    async def _unless(
        self, uid: str, state: RunState, what: str, act: Callable[[docker.APIClient], object], lane: str = "look"
    ) -> None:
        """Act; where Docker refuses, all is well if the container is in `state` already.

        Docker learns of a pause from events that it may read late, and then refuses ("already paused") what is right; it
        is asked once more.
        """
        for last in (False, True):
            try:
                await self._call(lane, what, act)
                return
            except BackendError as error:
                if isinstance(error, Unavailable):
                    raise
                found = await self._inspect(uid, lane)
                if found is None:
                    raise NotFound(f"{what}: there is no such container") from error
                if observation_of(found).state is state:
                    return
                if last:
                    raise

    async def update(self, uid: str, limits: Limits) -> None:
        name = container_name(uid)
        body = {
            "Memory": limits.memory,
            "MemorySwap": limits.memory,
            "NanoCpus": limits.nano_cpus,
            "PidsLimit": limits.pids,
        }

        def act(client: Any) -> None:
            answer = client._post_json(
                client._url("/containers/{0}/update", name), data=body
            )  # docker-py knows no NanoCpus here
            client._raise_for_status(answer)

        try:
            await self._call("look", f"updating the limits of {name}", act)
        except Unavailable:
            raise
        except BackendError as error:
            raise Refused(f"spec.resources.limits: {error}", "LimitsRefused") from error

    async def remove(self, uid: str) -> None:
        name = container_name(uid)
        self._modes.pop(uid, None)
        self._agents.forget(uid)
        self._execs.forget(uid)
        found = await self._inspect(uid, "remove")
        if found is None:
            return

        def act(client: docker.APIClient) -> None:
            # 409: a removal is under way; the wait below sees its end
            ignoring(
                HTTPStatus.NOT_FOUND,
                HTTPStatus.CONFLICT,
                call=lambda: client.remove_container(found["Id"], v=True, force=True),
            )

        await self._call("remove", f"removing {name}", act)
        for _ in range(100):
            if await self._inspect(uid, "remove") is None:
                return
            await asyncio.sleep(0.1)
        raise BackendError(f"container {name} is still there 10 s after its removal", "RemovalStuck")

    # --- streams ---

    async def logs(self, uid: str, follow: bool = False) -> AsyncIterator[OutputChunk]:
        inspected = await self._inspect(uid)
        if inspected is None:
            raise NotFound(f"no container {container_name(uid)}")
        if inspected["Config"]["Labels"].get(LABEL_MODE) != MODE_RUN:
            return
        follow = follow and observation_of(inspected).state is not RunState.EXITED
        async for stream, data in read_logs(self._daemon.api(), inspected["Id"], follow=follow):
            yield OutputChunk(stream, data)

    async def events(self) -> AsyncIterator[str]:
        filters = {"type": ["container"], "event": WAKING, "label": [f"{LABEL_INSTANCE}={self._settings.instance}"]}
        since = int(time.time() - EVENTS_OVERLAP)
        async for event in read_events(await asyncio.to_thread(self._daemon.api), filters, since):
            uid = event.get("Actor", {}).get("Attributes", {}).get(LABEL_UID)
            if uid and event.get("Action") == "die":
                self._agents.forget(uid)
            if uid:
                yield uid

    async def close(self) -> None:
        self._agents.close()
        self._execs.close()
        self._daemon.close()
