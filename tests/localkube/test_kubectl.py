"""Stock kubectl on both servers: the commands that the README tells people to type, and those they type anyway."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.localkube.servers import API_VERSION, Widgets, eventually, ok, widget

Kubectl = Callable[..., str]

MANIFEST = """\
apiVersion: contract.test.agent-platform.dev/v1
kind: Widget
metadata: {name: one, labels: {app: x}}
spec: {size: 3, color: red}
"""


@pytest.fixture
def run(widgets: Widgets, kubectl: str, tmp_path: Path) -> Kubectl:
    """Runs kubectl in the test's namespace and returns its output; `fails` turns it around."""

    def run(*args: str, stdin: str | None = None, fails: bool = False, editor: str = "false") -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "KUBECONFIG": str(widgets.server.kubeconfig),
            "KUBE_EDITOR": editor,
        }
        done = subprocess.run(
            [kubectl, "-n", widgets.namespace, *args],
            input=stdin, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, f"{args}: {done.stdout}{done.stderr}"
        return done.stdout + (done.stderr if fails else "")

    return run


def test_apply_creates_changes_and_leaves_alone(run: Kubectl) -> None:
    assert run("apply", "-f", "-", stdin=MANIFEST).endswith("/one created\n")
    assert run("apply", "-f", "-", stdin=MANIFEST).endswith("/one unchanged\n")
    assert run("apply", "-f", "-", stdin=MANIFEST.replace(", color: red", "")).endswith("/one configured\n")
    assert json.loads(run("get", "wd", "one", "-o", "json"))["spec"] == {"size": 3, "max": 50, "limits": {"cpu": "1"}}


def test_server_side_apply_reports_conflicts(run: Kubectl) -> None:
    assert "serverside-applied" in run("apply", "--server-side", "-f", "-", stdin=MANIFEST)
    other = ("apply", "--server-side", "--field-manager=other", "-f", "-")
    changed = MANIFEST.replace("3", "4")
    assert 'conflict with "kubectl": .spec.size' in run(*other, stdin=changed, fails=True)
    assert "serverside-applied" in run(*other, "--force-conflicts", stdin=changed)


def test_what_is_wrong_is_printed_by_the_field(run: Kubectl) -> None:
    said = run("apply", "-f", "-", stdin=MANIFEST.replace("size: 3", "size: 0"), fails=True)
    assert "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1" in said
    said = run("create", "--validate=strict", "-f", "-", stdin=MANIFEST.replace("size: 3", "sise: 3"), fails=True)
    assert "unknown field" in said and "sise" in said


def test_get_prints_the_columns_and_selects(run: Kubectl, widgets: Widgets) -> None:
    run("create", "-f", "-", stdin=MANIFEST)
    widgets.create("two", {"size": 4})
    ok(
        widgets.patch(
            {"status": {"phase": "Run", "conditions": [{"type": "Ready", "status": "True"}]}}, subresource="status"
        )
    )
    rows = [line.split() for line in run("get", "wd").splitlines()]
    assert rows[0] == ["NAME", "PHASE", "SIZE", "READY", "AGE"]
    assert rows[1][:4] == ["one", "Run", "3", "True"]
    assert "COLOR" in run("get", "widgets", "-o", "wide").splitlines()[0]
    assert run("get", "wd", "-l", "app=x", "-o", "name").split() == ["widget.contract.test.agent-platform.dev/one"]
    assert run("get", "wd", "--field-selector", "metadata.name=two", "-o", "jsonpath={.items[*].spec.size}") == "4"
    assert yaml.safe_load(run("get", "wd", "one", "-o", "yaml"))["spec"]["color"] == "red"
    assert "one" in run("get", "contract")
    assert "NotFound" in run("get", "wd", "none", fails=True)


def test_patch_label_annotate_edit_and_replace_change_an_object(run: Kubectl, widgets: Widgets) -> None:
    run("create", "-f", "-", stdin=MANIFEST)
    run("patch", "wd", "one", "--type=merge", "-p", '{"spec":{"size":5}}')
    run("patch", "wd", "one", "--type=json", "-p", '[{"op":"replace","path":"/spec/color","value":"green"}]')
    run("patch", "wd", "one", "--subresource=status", "--type=merge", "-p", '{"status":{"phase":"Run"}}')
    run("label", "wd", "one", "a=b", "app-")
    run("annotate", "wd", "one", "c=d")
    run("edit", "wd", "one", editor="sed -i s/max:.50/max:\\ 60/")
    found = widgets.get()
    assert (found["spec"], found["status"]) == (
        {"size": 5, "max": 60, "color": "green", "limits": {"cpu": "1"}},
        {"phase": "Run"},
    )
    assert (found["metadata"]["labels"], found["metadata"]["annotations"]) == ({"a": "b"}, {"c": "d"})
    run("replace", "-f", "-", stdin=MANIFEST)
    assert widgets.get()["spec"]["size"] == 3


def test_wait_sees_conditions_paths_and_the_end(run: Kubectl, widgets: Widgets) -> None:
    widgets.create(finalizers=["a.b/c"])
    conditions = [{"type": "Ready", "status": "True"}]
    ok(widgets.patch({"status": {"phase": "Run", "conditions": conditions}}, subresource="status"))
    run("wait", "wd/one", "--for=condition=Ready", "--timeout=20s")
    run("wait", "wd/one", "--for=jsonpath={.status.phase}=Run", "--timeout=20s")
    run("delete", "wd", "one", "--wait=false")
    assert "timed out" in run("wait", "wd/one", "--for=delete", "--timeout=1s", fails=True)
    ok(widgets.patch({"metadata": {"finalizers": None}}))
    run("wait", "wd/one", "--for=delete", "--timeout=20s")


def test_a_watch_prints_each_change(run: Kubectl, widgets: Widgets, kubectl: str) -> None:
    widgets.create()
    command = [kubectl, "-n", widgets.namespace, "get", "wd", "--watch", "--output-watch-events", "--no-headers"]
    environment = {**os.environ, "KUBECONFIG": str(widgets.server.kubeconfig)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().split()[:2] == ["ADDED", "one"]
            ok(widgets.patch({"spec": {"size": 9}}))
            assert process.stdout.readline().split()[:3] == ["MODIFIED", "one", "9"]
            ok(widgets.delete())
            assert process.stdout.readline().split()[:2] == ["DELETED", "one"]
        finally:
            process.kill()


def test_describe_shows_the_events(run: Kubectl, widgets: Widgets) -> None:
    uid = widgets.create()["metadata"]["uid"]
    about = {"kind": "Widget", "name": "one", "namespace": widgets.namespace, "uid": uid, "apiVersion": API_VERSION}
    times = {"firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1}
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "one.1"}, "involvedObject": about, **times}
    event |= {"reason": "Started", "message": "it started", "type": "Normal", "source": {"component": "tests"}}
    ok(widgets.server.call("POST", widgets.core("events"), event), 201)
    assert "it started" in run("describe", "wd", "one")
    assert "it started" in run("events", "--for", "wd/one")
    header, row = (line.split() for line in run("get", "events").splitlines())
    assert header == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert row[1:] == ["Normal", "Started", "widget/one", "it", "started"]


def test_typed_commands_work_though_they_speak_protobuf(run: Kubectl, widgets: Widgets) -> None:
    run("create", "configmap", "c", "--from-literal=a=b")
    run("create", "secret", "generic", "s", "--from-literal=a=b")
    run("create", "serviceaccount", "r")
    assert run("get", "cm", "c", "-o", "jsonpath={.data.a}") == "b"
    assert run("get", "secret", "s", "-o", "jsonpath={.data.a} {.type}") == "Yg== Opaque"
    assert run("auth", "can-i", "create", "widgets") == "yes\n"
    name = f"{widgets.namespace}-more"
    run("create", "namespace", name)
    run("delete", "namespace", name, "--wait=false")


def test_deletion_waits_and_takes_selectors(run: Kubectl, widgets: Widgets) -> None:
    run("create", "-f", "-", stdin=MANIFEST)
    widgets.create("two")
    run("delete", "wd", "-l", "app=x")
    assert run("get", "wd", "-o", "name").split() == ["widget.contract.test.agent-platform.dev/two"]
    run("delete", "wd", "--all", "--grace-period=0", "--cascade=background", "--wait=false")
    eventually(lambda: widgets.list()["items"] == [], "it is deleted")


def test_a_dry_run_on_the_server_and_a_diff_change_nothing(run: Kubectl, widgets: Widgets) -> None:
    assert "created (server dry run)" in run("create", "--dry-run=server", "-f", "-", stdin=MANIFEST)
    assert widgets.list()["items"] == []
    run("create", "-f", "-", stdin=MANIFEST)
    assert "+  size: 4" in run("diff", "-f", "-", stdin=MANIFEST.replace("3", "4"), fails=True)
    assert widgets.get()["spec"]["size"] == 3


def test_the_kind_is_listed_with_its_short_name_and_definition(run: Kubectl) -> None:
    row = run("api-resources", "--api-group=contract.test.agent-platform.dev", "--no-headers").split()
    assert row == ["widgets", "wd", "contract.test.agent-platform.dev/v1", "true", "Widget"]
    assert "widgets.contract.test.agent-platform.dev" in run("get", "crd")
    assert "Server Version" in run("version")
    assert run("get", "--raw", "/healthz") == "ok"


@pytest.mark.parametrize(
    "server", ["embedded"], indirect=True
)  # the real one for tests cannot explain custom resources
def test_explain_prints_descriptions_types_and_enums(run: Kubectl) -> None:
    assert "A widget for tests." in run("explain", "widgets")
    said = run("explain", "wd.spec")
    assert "size\t<integer> -required-\n    How big." in said
    assert "enum: red, green, pink" in said
    assert "cpu\t<string>" in run("explain", "wd", "--recursive")
    assert "data\t<map[string]string>" in run("explain", "configmap")


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_manifest_is_validated_before_it_is_sent(run: Kubectl) -> None:
    body = yaml.safe_dump({**widget("one"), "more": 1})
    assert 'unknown field "more"' in run("apply", "-f", "-", stdin=body, fails=True)
