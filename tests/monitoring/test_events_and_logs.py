"""What a person reads in `kubectl describe`, and what a machine reads in the log."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from controller.cluster.connection import Connection, configuration
from controller.cluster.recorder import Recorder
from controller.metrics import Metrics
from controller.model import sandbox_from_object
from tests.daemon_proxy import DaemonProxy
from tests.system.cluster import Cluster, python, until
from tests.system.conftest import Started
from tests.system.conftest import proxy as proxy
from tests.system.controller_process import ControllerProcess

SECRET = "s3cret-in-the-code"
KEY = "the-key-of-the-api-0123456789"


@pytest.fixture(scope="module")
def logged(
    embedded: Cluster, sandbox_image: str, start_controller: Started, proxy: DaemonProxy
) -> Iterator[ControllerProcess]:
    """A controller that writes JSON at its most talkative, on a daemon that can be lost."""
    assert sandbox_image
    env = {"LOG__FORMAT": "json", "LOG__LEVEL": "DEBUG", "SECURITY__SECRET_KEY": KEY, "DOCKER_HOST": proxy.url}
    yield start_controller(embedded, **env, SANDBOX__DOCKER_CONNECTION_TIMEOUT="1")
    proxy.recover()


def lines(controller: ControllerProcess) -> list[dict[str, str]]:
    return [json.loads(line) for line in controller.said.splitlines()]


def test_every_line_is_json_and_names_the_object_it_is_about(embedded: Cluster, logged: ControllerProcess) -> None:
    good, bad = embedded.create(python("print(1)")), embedded.create({"image": "nobody/has-this:1"})
    for sandbox in (good, bad):
        sandbox.until_ended()
        about = [line for line in lines(logged) if line.get("uid") == sandbox.uid]
        assert about
        assert {(line["namespace"], line["name"]) for line in about} == {(embedded.namespace, sandbox.name)}
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines(logged))


def test_no_secret_no_code_and_no_output_is_logged(embedded: Cluster, logged: ControllerProcess) -> None:
    code = f"import sys; print({SECRET!r}); print({SECRET!r}, file=sys.stderr); sys.exit(3)"
    env = [{"name": "PASSWORD", "value": SECRET}]
    embedded.create({**python(code), "env": env, "files": [{"path": "f", "content": SECRET}]}).until_ended()
    stays = embedded.create({"env": env})
    stays.until_ready()
    with httpx.Client(base_url=f"{logged.api}/sandbox/{stays.uid}", headers={"Authorization": f"Bearer {KEY}"}) as api:
        assert SECRET in api.post("/execute", json={"code": code, "env": {"B": SECRET}}, timeout=60).json()["stdout"]
        api.put("/files/a.txt", content=SECRET).raise_for_status()
        assert api.post("/execute", json={"code": SECRET, "timeout": "no"}).status_code == 422
    assert SECRET not in logged.said
    assert KEY not in logged.said


def test_events_tell_a_lost_daemon_and_its_return(
    embedded: Cluster, logged: ControllerProcess, proxy: DaemonProxy
) -> None:
    stays = embedded.create()
    stays.until_ready()
    proxy.vanish()
    lost = until("its loss is told", lambda: [e for e in stays.events() if e["reason"] == "DockerUnavailable"])
    assert lost[0]["type"] == "Warning"
    proxy.recover()
    back = until("its return is told", lambda: [e for e in stays.events() if e["reason"] == "BackendBack"])
    assert back[0]["type"] == "Normal"


def test_events_tell_that_a_sandbox_has_no_isolation(embedded: Cluster, logged: ControllerProcess) -> None:
    on_mock = embedded.create({**python("print(1)"), "backend": "mock"})
    told = until("it is told", lambda: [e for e in on_mock.events() if e["reason"] == "RunsOnMock"])
    assert told[0]["type"] == "Warning"
    assert "isolation" in told[0]["message"].lower()


def test_events_tell_why_a_start_failed_and_not_without_end(embedded: Cluster, logged: ControllerProcess) -> None:
    failed = embedded.create({"image": "nobody/has-this:1"})
    failed.until_ended()
    told = until("it is told", lambda: [e for e in failed.events() if e["reason"] == "ImageNotFound"])
    assert "nobody/has-this" in told[0]["message"]
    assert len(failed.events()) <= 10


async def test_an_object_gets_few_events_however_much_happens_to_it(embedded: Cluster) -> None:
    noisy, quiet = embedded.create(), embedded.create()
    connection = Connection(configuration(embedded.server.kubeconfig), Metrics())
    recorder, now = Recorder(connection), datetime.now(UTC)
    for number in range(100):
        recorder.record(sandbox_from_object(noisy.body), "Warning", "Noise", f"number {number}", now)
    recorder.record(sandbox_from_object(quiet.body), "Normal", "Quiet", "only one", now)
    recorder.record(sandbox_from_object(noisy.body), "Warning", "Later", "an hour later", now + timedelta(hours=1))
    writing = asyncio.create_task(recorder.run())
    await asyncio.to_thread(until, "the last was written", lambda: "Later" in {e["reason"] for e in noisy.events()})
    writing.cancel()
    connection.close()
    assert len(noisy.events()) == 11
    assert [event["reason"] for event in quiet.events()] == ["Quiet"]
