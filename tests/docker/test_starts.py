"""Starts that find something missing, meet what is there, or are cut off in the middle."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import docker
import pytest

from controller.backends import Observation, Refused, RunState, Unavailable
from controller.backends.docker.backend import DockerBackend
from controller.model import Sandbox
from tests.backends.words import finished, python, sandbox, until
from tests.daemon_proxy import DaemonProxy
from tests.docker.conftest import Opened

NOWHERE = "localhost:1/no/such:image"


def containers(client: docker.DockerClient, uid: str) -> list[str]:
    """States of the containers of that sandbox."""
    found = client.containers.list(all=True, filters={"name": f"sbx-{uid}"}, ignore_removed=True)
    return [container.status for container in found]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch, docker_client: docker.DockerClient) -> Iterator[DaemonProxy]:
    """In front of the daemon for every backend that is opened after this."""
    with TemporaryDirectory(prefix="sbx-") as folder, DaemonProxy(Path(folder)) as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.url)
        yield proxy


async def test_an_image_that_is_nowhere_is_refused_with_what_to_do(
    open_backend: Opened, backend: DockerBackend
) -> None:
    wanted = sandbox(image=NOWHERE)
    with pytest.raises(Refused, match=NOWHERE) as refused:
        await open_backend(docker_max_retries=1).start(wanted)
    assert refused.value.reason == "ImageNotFound"
    assert "docker load" in str(refused.value)


async def test_where_pulling_is_off_nothing_is_pulled(open_backend: Opened, backend: DockerBackend) -> None:
    began = time.monotonic()
    with pytest.raises(Refused, match="SANDBOX__PULL_IMAGES"):
        await open_backend(pull_images=False).start(sandbox(image=NOWHERE))
    assert time.monotonic() - began < 2


async def test_a_registry_that_never_answers_keeps_no_other_sandbox_from_starting(
    open_backend: Opened, backend: DockerBackend, sandbox_image: str
) -> None:
    one_by_one = open_backend(start_concurrency=1, image=sandbox_image)
    with socket.create_server(("127.0.0.1", 0)) as registry:
        registry.settimeout(20)
        image = f"localhost:{registry.getsockname()[1]}/no/such:image"
        pulling = asyncio.create_task(one_by_one.start(sandbox(image=image)))
        asked, _ = await asyncio.to_thread(registry.accept)
        with asked:
            async with asyncio.timeout(10):
                await one_by_one.start(python("pass"))
        assert not pulling.done()
        pulling.cancel()


@pytest.mark.parametrize(
    ("wanted", "reason", "field"),
    [
        (sandbox(runtime="nope"), "RuntimeNotFound", "spec.runtime"),
        (sandbox(network="nope"), "NetworkNotFound", "spec.network"),
    ],
)
async def test_what_the_daemon_does_not_have_is_refused_by_name(
    backend: DockerBackend, docker_client: docker.DockerClient, wanted: Sandbox, reason: str, field: str
) -> None:
    with pytest.raises(Refused, match=field) as refused:
        await backend.start(wanted)
    assert refused.value.reason == reason
    assert containers(docker_client, wanted.uid) == []


@pytest.fixture
def broken_image(docker_client: docker.DockerClient, sandbox_image: str) -> Iterator[str]:
    """One whose agent is not where it says."""
    container = docker_client.containers.create(sandbox_image)
    image = container.commit("agent-sandbox-test", "broken", changes='ENTRYPOINT []\nCMD ["/no/such/agent"]')
    container.remove()
    yield "agent-sandbox-test:broken"
    docker_client.images.remove(image.id, force=True)


async def test_a_start_that_fails_leaves_nothing_behind(
    backend: DockerBackend, docker_client: docker.DockerClient, broken_image: str
) -> None:
    wanted = sandbox(image=broken_image)
    with pytest.raises(Refused, match="/no/such/agent"):
        await backend.start(wanted)
    assert containers(docker_client, wanted.uid) == []


async def test_a_folder_that_vanished_before_the_start_leaves_nothing_behind(
    backend: DockerBackend, docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    wanted = sandbox(workspace={"host_path": str(tmp_path / "gone")})
    with pytest.raises(Refused, match="gone"):
        await backend.start(wanted)
    assert containers(docker_client, wanted.uid) == []


async def test_what_is_created_already_is_adopted_and_started_once(
    backend: DockerBackend, open_backend: Opened, docker_client: docker.DockerClient, sandbox_image: str
) -> None:
    wanted = python("print('once')")
    first, second = backend, open_backend(image=sandbox_image)
    both = await asyncio.gather(first.start(wanted), second.start(wanted), return_exceptions=True)
    assert any(isinstance(seen, Observation) for seen in both), both
    seen = await finished(first, wanted.uid)
    assert seen.tail is not None and seen.tail.stdout == "once\n"
    assert containers(docker_client, wanted.uid) == ["exited"]


async def test_a_name_that_another_installation_has_is_left_alone(
    backend: DockerBackend, open_backend: Opened, docker_client: docker.DockerClient, sandbox_image: str
) -> None:
    wanted = sandbox()
    await backend.start(wanted)
    other = open_backend(image=sandbox_image, instance="another")
    for act in (other.start(wanted), other.remove(wanted.uid), other.observe(wanted.uid)):
        with pytest.raises(Refused, match="another installation"):
            await act
    assert containers(docker_client, wanted.uid) == ["running"]


async def test_while_the_daemon_is_gone_nothing_is_told_as_absent(proxy: DaemonProxy, backend: DockerBackend) -> None:
    wanted = sandbox()
    await backend.start(wanted)
    proxy.vanish()
    with pytest.raises(Unavailable):
        await backend.observe(wanted.uid)
    with pytest.raises(Unavailable):
        await backend.list()
    assert (await backend.probe()).available is False
    proxy.recover()
    seen = await backend.observe(wanted.uid)
    assert seen is not None and seen.state is RunState.RUNNING
    await until("it takes code again", lambda: _is_ready(backend, wanted.uid))


async def _is_ready(backend: DockerBackend, uid: str) -> bool:
    seen = await backend.observe(uid)
    return seen is not None and seen.ready


async def test_a_daemon_that_hangs_is_told_within_the_connection_timeout(
    proxy: DaemonProxy, backend: DockerBackend, open_backend: Opened
) -> None:
    impatient = open_backend(docker_connection_timeout=0.5)
    assert (await impatient.probe()).available
    proxy.hang()
    for _ in range(5):  # also when earlier questions still hang
        began = time.monotonic()
        health = await impatient.probe()
        assert (health.available, health.status) == (False, "timeout")
        assert time.monotonic() - began < 3
    proxy.recover()
    await until("it answers again", lambda: _answers(impatient))


async def test_nobody_waits_longer_for_a_daemon_that_was_found_silent(
    proxy: DaemonProxy, backend: DockerBackend, open_backend: Opened
) -> None:
    impatient = open_backend(docker_connection_timeout=0.5)
    assert await impatient.observe("nobody") is None
    proxy.hang()
    looks = [asyncio.create_task(impatient.observe("nobody")) for _ in range(20)]
    await asyncio.sleep(0)  # so that they have begun
    began = time.monotonic()
    await impatient.probe()
    for look in looks:
        with pytest.raises(Unavailable, match="does not answer"):
            await look
    assert time.monotonic() - began < 5
    proxy.recover()
    await until("it answers again", lambda: _answers(impatient))


async def _answers(backend: DockerBackend) -> bool:
    return (await backend.probe()).available


async def test_a_start_that_is_cut_off_runs_once_in_the_end(proxy: DaemonProxy, backend: DockerBackend) -> None:
    wanted = python("import time; time.sleep(0.5); print('once')")
    start = asyncio.create_task(backend.start(wanted))
    for _ in range(3):
        await asyncio.sleep(0.05)  # a moment within the start, whichever
        proxy.vanish()
        proxy.recover()
    await asyncio.gather(start, return_exceptions=True)

    async def started() -> bool:
        try:
            await backend.start(wanted)
        except Unavailable:
            return False
        return True

    await until("it is started", started)
    seen = await finished(backend, wanted.uid)
    assert seen.tail is not None and (seen.exit_code, seen.tail.stdout) == (0, "once\n")


async def test_what_happened_just_before_a_stream_of_events_is_told_by_it(backend: DockerBackend) -> None:
    wanted = python("pass")
    await backend.start(wanted)
    await finished(backend, wanted.uid)
    events = backend.events()
    async with asyncio.timeout(10):
        assert await anext(events) == wanted.uid
    await events.aclose()  # type: ignore[attr-defined]
