"""Who may do what."""

import asyncio
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr
from starlette.datastructures import Headers

from controller.api import Authenticator, ServeError, build_app
from controller.api.auth import REMEMBERED
from controller.backends import Backend
from controller.directory import Action, Identity, StoreUnavailable
from controller.settings import SecuritySettings, Settings, SettingsError, load_settings
from tests.api.conftest import Api, Serve, problem
from tests.api.memory import MemoryDirectory

UNKNOWN = "0b7e7f0e-5c1f-4a52-9d0c-2f5b8f0b6f55"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# --- the secret key ---


@pytest.fixture
def with_key() -> Authenticator:
    return Authenticator(SecretStr("s3cret"))


CALLS = [
    ("GET", "/sandbox/status"),
    ("GET", "/sandbox/docker-info"),
    ("POST", "/sandbox/create"),
    ("GET", "/sandbox"),
    ("GET", f"/sandbox/{UNKNOWN}"),
    ("DELETE", f"/sandbox/{UNKNOWN}"),
    ("POST", f"/sandbox/{UNKNOWN}/execute"),
    ("DELETE", f"/sandbox/{UNKNOWN}/executions/{'0' * 32}"),
    ("GET", f"/sandbox/{UNKNOWN}/files"),
    ("GET", f"/sandbox/{UNKNOWN}/files/a"),
    ("PUT", f"/sandbox/{UNKNOWN}/files/a"),
    ("GET", f"/sandbox/{UNKNOWN}/logs"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_without_credentials_every_call_is_401(
    serve: Serve, with_key: Authenticator, method: str, path: str
) -> None:
    async with serve(with_key) as api:
        answer = await api.client.request(method, path)
        problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["p@ss!w#rd", "{}\"'", "a" * 500, "with-line-break\n"])
async def test_every_key_that_a_header_can_carry_opens(serve: Serve, key: str) -> None:
    usable = SecuritySettings(secret_key=SecretStr(key)).usable_key()
    async with serve(Authenticator(usable)) as api:
        assert (await api.client.get("/sandbox/status", headers=bearer(key.strip()))).status_code == 200


@pytest.mark.parametrize("key", ["two words", "schl\u00fcssel", "nul\0"])
def test_a_key_that_no_header_can_carry_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    if "\0" not in key:
        monkeypatch.setenv("SECURITY__SECRET_KEY", key)
        with pytest.raises(SettingsError, match="SECURITY__SECRET_KEY") as refused:
            load_settings()
        assert key not in str(refused.value)
    with pytest.raises(ValueError, match="visible ASCII"):
        SecuritySettings(secret_key=SecretStr(key))


async def test_every_401_has_the_same_body(serve: Serve, with_key: Authenticator) -> None:
    wrong = [
        "",
        "Bearer",
        "Bearer x",
        "Bearer s3cret2",
        "Bearer s3cre",
        "Basic czNjcmV0",
        "s3cret",
        "Bearer a b",
    ]
    async with serve(with_key) as api:
        answers = [await api.client.get("/sandbox", headers={"Authorization": each}) for each in wrong]
        answers.append(await api.client.get("/sandbox"))
    assert {each.status_code for each in answers} == {401}
    assert len({each.content for each in answers}) == 1


async def test_the_key_may_do_everything(serve: Serve, with_key: Authenticator) -> None:
    async with serve(with_key, bearer("s3cret")) as api:
        uid = await api.create()
        assert (await api.execute(uid, code="print(1)")).json()["stdout"] == "1\n"


async def test_health_is_open_and_tells_no_secret(serve: Serve, with_key: Authenticator) -> None:
    async with serve(with_key) as api:
        answer = await api.client.get("/health")
        assert answer.status_code == 200
        assert "s3cret" not in answer.text


async def test_401_comes_before_the_body_is_looked_at(serve: Serve, with_key: Authenticator) -> None:
    async with serve(with_key) as api:
        problem(await api.client.post("/sandbox/create", content=b"x" * 100_000), 401, "unauthorized")


# --- nobody to ask ---


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "sandbox.example"])
@pytest.mark.parametrize("key", [None, "change-me", ""])
async def test_without_a_key_nothing_is_served_beyond_loopback(
    backend: Backend, settings: Settings, host: str, key: str | None
) -> None:
    usable = SecuritySettings(secret_key=SecretStr(key) if key is not None else None).usable_key()
    beyond = settings.model_copy(update={"api": settings.api.model_copy(update={"host": host})})
    with pytest.raises(ServeError, match=r"SECURITY__SECRET_KEY.*127\.0\.0\.1"):
        build_app(MemoryDirectory(backend), beyond, Authenticator(usable))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
async def test_loopback_needs_no_key(backend: Backend, settings: Settings, host: str) -> None:
    at_home = settings.model_copy(update={"api": settings.api.model_copy(update={"host": host})})
    assert build_app(MemoryDirectory(backend), at_home, Authenticator())


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example:8000"},
        {"Host": "127.0.0.1.attacker.example"},
        {"Host": "[::1"},
        {"Host": ""},
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
async def test_without_a_key_a_web_page_is_refused(api: Api, headers: dict[str, str]) -> None:
    problem(await api.client.get("/sandbox", headers=headers), 403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
async def test_without_a_key_this_machine_is_answered(api: Api, host: str) -> None:
    assert (await api.client.get("/sandbox", headers={"Host": host})).status_code == 200


async def test_a_form_of_a_web_page_creates_nothing(api: Api) -> None:
    answer = await api.client.post("/sandbox/create", content=b'{"name":"a"}', headers={"Content-Type": "text/plain"})
    problem(answer, 415, "unsupported-media-type")


# --- a cluster ---


@dataclass
class Cluster:
    """Tokens and rights, as a cluster has them."""

    users: dict[str, str]
    rights: set[tuple[str, str, str, str]]
    """User, verb, subresource, namespace ('' is all)."""
    asked: list[object] = field(default_factory=list)
    fails: bool = False

    async def identify(self, token: str) -> Identity | None:
        self.asked.append(token)
        if self.fails:
            raise StoreUnavailable("the cluster does not answer")
        return Identity(self.users[token]) if token in self.users else None

    async def allows(self, identity: Identity, action: Action) -> bool:
        self.asked.append(action)
        right = (identity.user, action.verb, action.subresource)
        return (*right, action.namespace) in self.rights or (*right, "") in self.rights


def rights(user: str, *verbs: str, namespace: str = "team-a") -> set[tuple[str, str, str, str]]:
    """`get` or `create/execute`."""
    return {(user, verb, subresource, namespace) for verb, _, subresource in (each.partition("/") for each in verbs)}


@pytest.fixture
def cluster() -> Cluster:
    everything = ("create", "get", "list", "delete", "create/execute", "get/files", "update/files", "get/logs")
    return Cluster(
        {"alice-token": "alice", "bob-token": "bob", "viewer-token": "viewer", "admin-token": "admin"},
        rights("alice", *everything)
        | rights("bob", *everything, namespace="team-b")
        | rights("viewer", "get", "list")
        | rights("admin", *everything, namespace=""),
    )


async def test_a_token_does_what_its_rights_allow(serve: Serve, cluster: Cluster) -> None:
    async with serve(Authenticator(reviewer=cluster), bearer("alice-token")) as api:
        uid = await api.create(namespace="team-a")
        assert (await api.execute(uid, code="print(1)")).status_code == 200
        assert (await api.client.put(f"/sandbox/{uid}/files/a", content=b"1")).status_code == 204
        assert (await api.client.get(f"/sandbox/{uid}/files/a")).content == b"1"
        assert (await api.client.get(f"/sandbox/{uid}/logs")).status_code == 200
        assert (await api.client.delete(f"/sandbox/{uid}")).status_code == 204


async def test_another_tenants_sandbox_looks_like_none(serve: Serve, cluster: Cluster) -> None:
    async with serve(Authenticator(reviewer=cluster), bearer("bob-token")) as api:
        theirs = (await api.directory.create("team-a", "theirs", {})).uid
        for method, path in CALLS[4:]:
            answer = await api.client.request(method, path.replace(UNKNOWN, theirs))
            unknown = await api.client.request(method, path)
            assert answer.status_code == unknown.status_code == 404
            assert answer.text.replace(theirs, UNKNOWN) == unknown.text


async def test_who_may_look_but_not_touch_is_told_which_right_is_missing(serve: Serve, cluster: Cluster) -> None:
    async with serve(Authenticator(reviewer=cluster), bearer("viewer-token")) as api:
        uid = (await api.directory.create("team-a", "a", {})).uid
        assert (await api.client.get(f"/sandbox/{uid}")).status_code == 200
        document = problem(await api.execute(uid, code="print(1)"), 403, "forbidden")
        assert "create sandboxes/execute in namespace team-a" in document["detail"]
        problem(await api.client.delete(f"/sandbox/{uid}"), 403, "forbidden")


async def test_a_sandbox_is_made_where_one_may(serve: Serve, cluster: Cluster) -> None:
    async with serve(Authenticator(reviewer=cluster), bearer("bob-token")) as api:
        problem(await api.client.post("/sandbox/create", json={"namespace": "team-a"}), 403, "forbidden")
        assert api.directory.objects == {}


async def test_lists_show_the_namespaces_that_one_may_list(serve: Serve, cluster: Cluster) -> None:
    async with serve(Authenticator(reviewer=cluster)) as api:
        for namespace in ("team-a", "team-b", "team-c"):
            await api.directory.create(namespace, "one", {})

        async def namespaces(token: str) -> set[str]:
            answer = await api.client.get("/sandbox", headers=bearer(token))
            return {each["namespace"] for each in answer.json()["items"]}

        assert await namespaces("alice-token") == {"team-a"}
        assert await namespaces("bob-token") == {"team-b"}
        assert await namespaces("admin-token") == {"team-a", "team-b", "team-c"}
        problem(await api.client.get("/sandbox?namespace=team-b", headers=bearer("alice-token")), 403, "forbidden")


async def test_an_unknown_token_is_the_same_401(serve: Serve, cluster: Cluster) -> None:
    async with serve(Authenticator(SecretStr("s3cret"), cluster)) as api:
        answers = [await api.client.get("/sandbox", headers=each) for each in ({}, bearer("nobody-token"), bearer("x"))]
    assert [each.status_code for each in answers] == [401] * 3
    assert len({each.content for each in answers}) == 1


async def test_the_key_works_beside_a_cluster_and_is_never_shown_to_it(serve: Serve, cluster: Cluster) -> None:
    async with serve(Authenticator(SecretStr("s3cret"), cluster), bearer("s3cret")) as api:
        assert (await api.client.get("/sandbox")).status_code == 200
    assert cluster.asked == []


async def test_a_cluster_that_does_not_answer_is_503(serve: Serve, cluster: Cluster) -> None:
    cluster.fails = True
    async with serve(Authenticator(reviewer=cluster), bearer("alice-token")) as api:
        answer = await api.client.get("/sandbox")
        problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"]
        cluster.fails = False
        assert (await api.client.get("/sandbox")).status_code == 200


async def test_the_cluster_is_asked_once_in_ten_seconds(serve: Serve, cluster: Cluster) -> None:
    clock = Clock()
    async with serve(Authenticator(reviewer=cluster, clock=clock), bearer("viewer-token")) as api:
        await asyncio.gather(*(api.client.get("/sandbox?namespace=team-a") for _ in range(10)))
        asked = len(cluster.asked)
        clock.now += 9
        await api.client.get("/sandbox?namespace=team-a")
        assert (asked, len(cluster.asked)) == (2, 2)

        cluster.rights.clear()
        clock.now += 2
        assert (await api.client.get("/sandbox?namespace=team-a")).status_code == 403


async def test_a_flood_of_tokens_takes_bounded_memory(cluster: Cluster) -> None:
    authenticator = Authenticator(reviewer=cluster)
    for number in range(REMEMBERED + 100):
        with pytest.raises(Exception, match="Bearer"):
            await authenticator.identify(Headers(bearer(f"guess-{number}")))
    assert len(authenticator._remembered._answers) == REMEMBERED


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now
