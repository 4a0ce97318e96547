"""Creating, listing, reading and deleting sandboxes, and the state of the service."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from controller.model import MOCK_WARNING
from controller.settings import Settings
from tests.api.conftest import Api, Serve, problem


async def test_what_is_created_suspended_is_not_waited_for(api: Api) -> None:
    async with asyncio.timeout(5):
        answer = await api.client.post("/sandbox/create", json={"operating_mode": "Suspended", "wait": 60})
    assert (answer.status_code, answer.json()["ready"]) == (201, False)


async def test_create_waits_until_code_can_be_run_and_returns_the_id(api: Api) -> None:
    answer = await api.client.post("/sandbox/create", json={"name": "scratch", "env": [{"name": "A", "value": "b"}]})

    assert answer.status_code == 201
    made = answer.json()
    assert UUID(made["id"])
    assert (made["name"], made["namespace"], made["phase"], made["ready"]) == ("scratch", "default", "Running", True)
    assert (made["backend"], made["docker_available"], made["warnings"]) == ("mock", False, [MOCK_WARNING])
    assert answer.headers["location"] == f"/sandbox/{made['id']}"
    assert (await api.client.get(answer.headers["location"])).json() == made


async def test_a_sandbox_needs_nothing_but_an_empty_body(api: Api) -> None:
    one, other = await api.create(), await api.create()
    names = {sandbox.name for sandbox in api.directory.list()}
    assert one != other
    assert len(names) == 2


async def test_the_older_body_sets_the_hosts_folder(api: Api) -> None:
    uid = await api.create(workspace_path="/srv/demo", wait=0)
    assert api.directory.objects[uid].spec.workspace.host_path == "/srv/demo"


async def test_fields_of_spec_arrive_in_the_object_and_nothing_else(api: Api) -> None:
    spec = {"operating_mode": "Suspended", "lifetime": {"max_seconds": 60}, "run": {"command": ["true"]}}
    made: dict[str, Any] = {}
    create = api.directory.create

    async def spy(namespace: str, name: str, spec: Any) -> Any:
        made.update(spec)
        return await create(namespace, name, spec)

    api.directory.create = spy  # type: ignore[method-assign]
    await api.create(name="a", wait=0, **spec)
    assert made == {"operatingMode": "Suspended", "lifetime": {"maxSeconds": 60}, "run": {"command": ["true"]}}


async def test_a_sandbox_that_cannot_start_says_why(api: Api, settings: Settings) -> None:
    state = settings.sandbox.state_folder
    assert state is not None
    folder = state / settings.sandbox.instance
    folder.mkdir()
    folder.chmod(0o777)  # the backend refuses a folder that others can write to
    made = (await api.client.post("/sandbox/create", json={})).json()
    folder.chmod(0o711)
    assert made["ready"] is False
    assert made["phase"] == "Failed"
    assert "SANDBOX__STATE_FOLDER" in made["message"]


async def test_variables_and_code_are_not_told_again(api: Api) -> None:
    uid = await api.create(env=[{"name": "TOKEN", "value": "hunter2"}], run={"command": ["echo", "hunter2"]})
    assert "hunter2" not in (await api.client.get(f"/sandbox/{uid}")).text
    assert "hunter2" not in (await api.client.get("/sandbox")).text


async def test_a_taken_name_is_409(api: Api) -> None:
    await api.create(name="a")
    problem(await api.client.post("/sandbox/create", json={"name": "a"}), 409, "name-taken")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "With Capitals"}, "body.name"),
        ({"name": "../etc"}, "body.name"),
        ({"namespace": "a/b"}, "body.namespace"),
        ({"privileged": True}, "body.privileged"),
        ({"image": "a b"}, "body.image"),
        ({"wait": -1}, "body.wait"),
        ({"wait": 1e9}, "body.wait"),
        ({"workspace_path": "/etc"}, "body.workspace_path"),
        ({"workspace_path": "../x"}, "body.workspace_path"),
        ({"workspace_path": "/srv/a", "workspace": {"host_path": "/srv/b"}}, "body"),
        ({"resources": {"limits": {"memory": "0"}}}, "body.resources.limits.memory"),
    ],
)
async def test_the_wrong_field_is_named(api: Api, body: dict[str, Any], field: str) -> None:
    answer = await api.client.post("/sandbox/create", json=body)
    assert problem(answer, 422, "invalid")["errors"][0]["field"] == field
    assert api.directory.objects == {}


async def test_a_namespace_that_is_not_watched_is_refused(serve: Serve, settings: Any) -> None:
    settings.__dict__["watch_namespaces"] = ("team-a", "team-b")
    async with serve() as api:
        uid = await api.create(wait=0)
        assert api.directory.objects[uid].namespace == "team-a"
        problem(await api.client.post("/sandbox/create", json={"namespace": "other"}), 422, "invalid")


async def test_lists_are_by_namespace_and_name(api: Api) -> None:
    for namespace, name in (("b", "one"), ("a", "two"), ("a", "one")):
        await api.directory.create(namespace, name, {})

    async def found(query: str) -> list[str]:
        answer = await api.client.get(f"/sandbox{query}")
        return [f"{each['namespace']}/{each['name']}" for each in answer.json()["items"]]

    assert await found("") == ["a/one", "a/two", "b/one"]
    assert await found("?namespace=a") == ["a/one", "a/two"]
    assert await found("?name=one") == ["a/one", "b/one"]
    assert await found("?namespace=a&name=two") == ["a/two"]
    assert await found("?limit=1") == ["a/one"]
    assert (await api.client.get("/sandbox?limit=1")).json()["total"] == 3


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "namespace=..", "name=%00", "name=A"])
async def test_wrong_queries_are_422(api: Api, query: str) -> None:
    problem(await api.client.get(f"/sandbox?{query}"), 422, "invalid")


async def test_a_deleted_sandbox_is_gone(api: Api) -> None:
    uid = await api.create()
    assert (await api.client.delete(f"/sandbox/{uid}")).status_code == 204
    problem(await api.client.get(f"/sandbox/{uid}"), 404, "not-found")
    problem(await api.client.delete(f"/sandbox/{uid}"), 404, "not-found")
    problem(await api.execute(uid, code="print(1)"), 404, "not-found")


async def test_a_delete_that_does_not_wait_is_202_and_the_sandbox_terminates(api: Api) -> None:
    uid = await api.create()
    assert (await api.client.delete(f"/sandbox/{uid}?wait=0")).status_code == 202
    seen = (await api.client.get(f"/sandbox/{uid}")).json()
    assert (seen["phase"], seen["ready"]) == ("Terminating", False)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_id_is_404(api: Api, method: str) -> None:
    problem(await api.client.request(method, f"/sandbox/{uuid4()}"), 404, "not-found")


async def test_status_says_mock_and_warns(api: Api) -> None:
    assert (await api.client.get("/sandbox/status")).json() == {
        "status": "mock",
        "docker_available": False,
        "active_sandboxes": 0,
        "warning": MOCK_WARNING,
    }
    assert (await api.client.get("/sandbox/docker-info")).json()["available"] is False


@pytest.mark.parametrize(("method", "path"), [("PATCH", "/sandbox"), ("PUT", "/sandbox/create"), ("POST", "/health")])
async def test_an_address_says_which_methods_it_takes(api: Api, method: str, path: str) -> None:
    answer = await api.client.request(method, path)
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"]


async def test_405_names_every_method_of_the_address(api: Api) -> None:
    answer = await api.client.patch(f"/sandbox/{uuid4()}")
    assert answer.headers["allow"] == "DELETE, GET"
