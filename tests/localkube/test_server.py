"""The embedded server as a program: what it keeps, whom it answers, how fast it is."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.localkube import FolderInUseError, LocalKube
from controller.localkube.failures import Failure
from controller.localkube.values import clone
from tests.localkube.servers import API_VERSION, APPLY, CRD, MERGE, STRATEGIC, Server, Widgets, ok, refused, widget


@contextmanager
def serving(kube: LocalKube, folder: Path) -> Iterator[Widgets]:
    """The widgets of the default namespace."""
    with kube.running():
        kube.write_kubeconfig(folder / "kubeconfig")
        yield Widgets(Server.of("embedded", folder / "kubeconfig"), "default")


def test_it_serves_while_the_block_runs() -> None:
    kube = LocalKube([CRD])
    with kube.running() as address:
        assert kube.kubeconfig()["clusters"][0]["cluster"]["server"] == address
        assert httpx.get(f"{address}/readyz").text == "ok"
    with pytest.raises(RuntimeError, match="not running"):
        kube.kubeconfig()
    host, _, port = address.removeprefix("http://").partition(":")
    with pytest.raises(OSError), socket.create_connection((host, int(port)), timeout=1):
        pass


def test_the_kubeconfig_is_for_its_owner_alone(tmp_path: Path) -> None:
    kube = LocalKube()
    path = tmp_path / "kubeconfig"
    path.write_text("old")
    path.chmod(0o644)
    with kube.running():
        kube.write_kubeconfig(path)
        config = yaml.safe_load(path.read_text())
        assert config == kube.kubeconfig()
    assert config["current-context"] == "sandbox-controller-dev"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_keeps_objects_and_versions(tmp_path: Path) -> None:
    with serving(LocalKube([CRD], tmp_path / "data"), tmp_path) as widgets:
        kept = widgets.create("kept", finalizers=["a.b/c"])
        widgets.create("gone")
        ok(widgets.delete("gone"))
        version = widgets.list()["metadata"]["resourceVersion"]
    with serving(LocalKube([CRD], tmp_path / "data"), tmp_path) as widgets:
        assert widgets.list()["items"] == [kept]
        assert int(widgets.list()["metadata"]["resourceVersion"]) >= int(version)
        with widgets.watch(f"resourceVersion={int(version) - 1}") as events:
            assert next(events)["object"]["code"] == 410
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()} == {0o600}


PROGRAM = """
import pathlib, sys, time, yaml
from controller.localkube import LocalKube
folder = pathlib.Path(sys.argv[1])
kube = LocalKube([yaml.safe_load(open(sys.argv[2]))], folder / "data")
with kube.running():
    kube.write_kubeconfig(folder / "kubeconfig")
    print("up", flush=True)
    time.sleep(600)
"""


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    crd = Path(__file__).with_name("widgets.yaml")
    with subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path, crd], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "up\n"
            widgets = Widgets(Server.of("embedded", tmp_path / "kubeconfig"), "default")
            for number in range(20):
                widgets.create(f"w{number}")
        finally:
            process.send_signal(signal.SIGKILL)
    with serving(LocalKube([CRD], tmp_path / "data"), tmp_path) as widgets:
        assert len(widgets.list()["items"]) == 20


def test_a_folder_has_one_server(tmp_path: Path) -> None:
    with (
        serving(LocalKube([CRD], tmp_path / "data"), tmp_path),
        pytest.raises(FolderInUseError, match="another server"),
    ):
        LocalKube([CRD], tmp_path / "data")


def test_a_newer_definition_replaces_the_stored_one(tmp_path: Path) -> None:
    newer = clone(CRD)
    newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["more"] = {
        "type": "string"
    }
    with serving(LocalKube([CRD], tmp_path / "data"), tmp_path) as widgets:
        widgets.create("old")
    with serving(LocalKube([newer], tmp_path / "data"), tmp_path) as widgets:
        assert widgets.create("new", {"size": 6, "more": "x"})["spec"]["more"] == "x"
        assert widgets.get("old")["spec"]["size"] == 6


@pytest.mark.parametrize(
    "rule",
    [
        "self.size <=",
        "'a' matches",
        "self.?size.hasValue()",
        "oldSelf.optMap(o, o.size).orValue(1) > 0",
        "whatever(self)",
    ],
)
def test_a_rule_that_cannot_be_checked_is_refused_not_skipped(rule: str) -> None:
    crd = clone(CRD)
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    properties["spec"]["x-kubernetes-validations"].append({"rule": rule})
    with pytest.raises(Failure, match="compilation failed"):
        LocalKube([crd])


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "evil@127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_web_page_gets_nothing(embedded: Server, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/api/v1/secrets"), ("POST", "/api/v1/namespaces"), ("GET", "/healthz")):
        refused(embedded.call(method, path, {} if method == "POST" else None, **headers), 403, "Forbidden")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]:80"])
def test_this_machine_is_answered_by_each_of_its_names(embedded: Server, host: str) -> None:
    assert embedded.call("GET", "/healthz", Host=host).status_code == 200


def test_yaml_that_would_grow_is_refused(embedded: Server) -> None:
    layers = "a: &a [x, x]\n" + "".join(
        f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    path = "/apis/contract.test.agent-platform.dev/v1/namespaces/default/widgets"
    answer = embedded.call("POST", path, layers, "application/yaml")
    assert "aliases are not allowed" in refused(answer, 400, "BadRequest")["message"]


def test_numbers_and_text_that_json_cannot_carry_are_not_stored(embedded: Server) -> None:
    path = "/apis/contract.test.agent-platform.dev/v1/namespaces/default/widgets"
    for number in ("NaN", "Infinity", "1e999"):
        text = httpx.Request("POST", "/", json=widget(spec={"size": 6, "free": {"a": 0}})).content.decode()
        refused(embedded.call("POST", path, text.replace('"a":0', f'"a":{number}')), 400, "BadRequest")
    lone = widget("lone", {"size": 6, "free": {"a": "\ud800"}})
    assert ok(embedded.call("POST", path, lone), 201)["spec"]["free"] == {"a": "\ufffd"}
    ok(embedded.call("DELETE", f"{path}/lone"))


ODD = st.sampled_from(
    [None, True, -1, 1.5, 2**70, "", "x", "2026-01-01T00:00:00Z", "é", [], {}, [None], [[]], {"": ""}, {"a": {}}]
)
FIELDS = ("size", "env", "tags", "labels", "limits", "when", "free", "name", "apiVersion", "kind", "metadata", "spec")
META = ("name", "labels", "annotations", "finalizers", "ownerReferences", "managedFields", "resourceVersion", "uid")
HOSTILE = st.fixed_dictionaries(
    {"apiVersion": st.just(API_VERSION) | ODD, "kind": st.just("Widget") | ODD},
    optional={
        "metadata": ODD | st.dictionaries(st.sampled_from(META), ODD | st.lists(ODD, max_size=2), max_size=4),
        "spec": ODD | st.dictionaries(st.sampled_from(FIELDS), ODD | st.lists(ODD, max_size=2), max_size=4),
        "status": ODD,
        "$patch": ODD,
        "$retainKeys": ODD,
        "$setElementOrder/spec": ODD,
        "$deleteFromPrimitiveList/spec": ODD,
    },
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    HOSTILE,
    st.sampled_from(["POST", "PUT", "DELETE", MERGE, APPLY, STRATEGIC]),
    st.sampled_from(["widgets", "secrets"]),
)
def test_no_body_makes_the_server_fail(embedded: Server, body: dict[str, Any], how: str, plural: str) -> None:
    root = f"/apis/{API_VERSION}" if plural == "widgets" else "/api/v1"
    path = f"{root}/namespaces/default/{plural}"
    method = how if how.isupper() else "PATCH"
    place = path if method == "POST" else f"{path}/hostile"
    answer = embedded.call(method, f"{place}?fieldManager=x", body, how if method == "PATCH" else "application/json")
    # Two refusals of the real server are 500s, too; see the contract.
    known = ("resourceVersion should not be set", "failed to create typed patch object")
    assert answer.status_code < 500 or answer.json()["message"].startswith(known), answer.text


def test_two_hundred_objects_at_once_are_quickly_written_and_seen(tmp_path: Path) -> None:
    with serving(LocalKube([CRD], tmp_path / "data"), tmp_path) as widgets, widgets.watch() as events:
        began = time.perf_counter()
        for number in range(200):
            widgets.create(f"w{number}")
        for number in range(200):
            ok(widgets.patch({"status": {"phase": "Run"}}, name=f"w{number}", subresource="status"))
        written = time.perf_counter() - began
        seen = [next(events) for _ in range(400)]
    assert len({event["object"]["metadata"]["resourceVersion"] for event in seen}) == 400
    # About 2 ms each on a quiet machine; this is against an accidental square, not a benchmark.
    assert written / 400 < 0.05


def test_memory_stays_bounded_under_endless_writes() -> None:
    kube = LocalKube([CRD], history=10)
    store = kube._store
    with serving(kube, Path(os.environ.get("TMPDIR", "/tmp"))) as widgets:  # the kubeconfig is not needed afterwards
        widgets.create()
        for size in range(1, 50):
            ok(widgets.patch({"spec": {"size": size}}))
    assert store.version - store.oldest == 10
