"""Watches: no change is missed, none comes twice, and no stream hangs on."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.localkube import LocalKube
from tests.localkube.servers import CRD, GROUP, TABLE, Server, Widgets, ok, refused, widget


def names(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"]["name"]) for event in events]


def test_a_watch_from_a_list_has_what_came_after_it(widgets: Widgets) -> None:
    widgets.create("before")
    version = widgets.list()["metadata"]["resourceVersion"]
    widgets.create("one")
    with widgets.watch(f"resourceVersion={version}") as events:
        seen = [next(events)]
        ok(widgets.patch({"spec": {"size": 7}}))
        seen.append(next(events))
        ok(widgets.delete())
        seen.append(next(events))
    assert names(seen) == [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one")]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in seen]
    assert versions == sorted(set(versions))
    assert seen[2]["object"]["spec"]["size"] == 7


def test_a_watch_from_nowhere_begins_with_what_is_there(widgets: Widgets) -> None:
    widgets.create("one")
    widgets.create("two")
    with widgets.watch("resourceVersion=0") as events:
        assert names([next(events), next(events)]) == [("ADDED", "one"), ("ADDED", "two")]
        widgets.create("three")
        assert names([next(events)]) == [("ADDED", "three")]


def test_objects_enter_and_leave_a_selection(widgets: Widgets) -> None:
    version = widgets.create("one")["metadata"]["resourceVersion"]
    with widgets.watch(f"resourceVersion={version}&labelSelector=color%3Dred") as events:
        for labels in ({"color": "red"}, {"color": "red", "more": "x"}, {"color": None}, {"color": "red"}):
            ok(widgets.patch({"metadata": {"labels": labels}}))
        widgets.create("two")
        ok(widgets.delete())
        seen = [next(events) for _ in range(5)]
    assert [event["type"] for event in seen] == ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]
    assert {event["object"]["metadata"]["name"] for event in seen} == {"one"}
    left = seen[2]["object"]["metadata"]
    assert left["labels"] == {"color": "red", "more": "x"}
    assert int(left["resourceVersion"]) > int(seen[1]["object"]["metadata"]["resourceVersion"])


def test_one_object_is_watched_by_its_name(widgets: Widgets) -> None:
    version = widgets.list()["metadata"]["resourceVersion"]
    with widgets.watch(f"resourceVersion={version}&fieldSelector=metadata.name%3Dtwo") as events:
        widgets.create("one")
        widgets.create("two")
        assert names([next(events)]) == [("ADDED", "two")]


def test_other_namespaces_and_kinds_are_not_seen(widgets: Widgets) -> None:
    version = widgets.list()["metadata"]["resourceVersion"]
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    with widgets.watch(f"resourceVersion={version}") as events:
        ok(widgets.server.call("POST", widgets.core("configmaps"), config), 201)
        elsewhere = f"/apis/{GROUP}/v1/namespaces/default/widgets"
        ok(widgets.server.call("POST", elsewhere, widget(f"x-{widgets.namespace}")), 201)
        ok(widgets.server.call("DELETE", f"{elsewhere}/x-{widgets.namespace}"))
        widgets.create("one")
        assert names([next(events)]) == [("ADDED", "one")]


def test_the_last_finalizer_ends_an_object_for_its_watchers(widgets: Widgets) -> None:
    version = widgets.create("one", finalizers=["a.b/c"])["metadata"]["resourceVersion"]
    with widgets.watch(f"resourceVersion={version}") as events:
        ok(widgets.delete())
        ok(widgets.patch({"metadata": {"finalizers": []}}))
        assert names([next(events), next(events)]) == [("MODIFIED", "one"), ("DELETED", "one")]


def test_a_watch_ends_at_its_timeout_after_a_bookmark_of_what_it_did_not_show(widgets: Widgets) -> None:
    version = widgets.create("one")["metadata"]["resourceVersion"]
    began = time.monotonic()
    query = f"resourceVersion={version}&timeoutSeconds=5&allowWatchBookmarks=true&fieldSelector=metadata.name%3Done"
    with widgets.watch(query) as events:
        other = widgets.create("two")["metadata"]["resourceVersion"]
        seen = list(events)
    assert 1 < time.monotonic() - began < 15
    assert {(event["type"], event["object"]["kind"]) for event in seen} == {("BOOKMARK", "Widget")}
    assert int(seen[-1]["object"]["metadata"]["resourceVersion"]) >= int(other)


def test_tables_are_watched_with_the_columns_once(widgets: Widgets) -> None:
    widgets.create("one")
    widgets.create("two")
    with widgets.watch("resourceVersion=0", Accept=TABLE) as events:
        first, second = next(events)["object"], next(events)["object"]
    assert (first["kind"], len(first["columnDefinitions"]), first["rows"][0]["cells"][0]) == ("Table", 6, "one")
    assert (second["columnDefinitions"], second["rows"][0]["cells"][0]) == (None, "two")


def test_a_malformed_version_is_refused(widgets: Widgets) -> None:
    status = widgets.server.call("GET", widgets.path(query="watch=true&resourceVersion=abc")).json()
    assert (status["kind"], status["status"]) == ("Status", "Failure")


# Of the embedded server alone: what the real one does after minutes, or not at all in its test configuration.


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Widgets]:
    """A server of its own, with a short memory."""
    kube = LocalKube([CRD], history=50)
    with kube.running():
        kube.write_kubeconfig(tmp_path / "kubeconfig")
        yield Widgets(Server.of("embedded", tmp_path / "kubeconfig"), "default")


def test_a_version_that_is_forgotten_is_expired(kube: Widgets) -> None:
    version = kube.create("one")["metadata"]["resourceVersion"]
    for size in range(1, 60):
        ok(kube.patch({"spec": {"size": size, "max": 90}}))
    with kube.watch(f"resourceVersion={version}") as events:
        (event,) = events
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    refused(
        kube.server.call("GET", kube.path(query=f"resourceVersion={version}&resourceVersionMatch=Exact")),
        410,
        "Expired",
    )


def test_a_page_of_a_forgotten_version_is_expired(kube: Widgets) -> None:
    for number in range(3):
        kube.create(f"w{number}")
    token = kube.list("limit=1")["metadata"]["continue"]
    for size in range(1, 60):
        ok(kube.patch({"spec": {"size": size, "max": 90}}, name="w0"))
    refused(kube.server.call("GET", kube.path(query=f"limit=1&continue={token}")), 410, "Expired")


def test_initial_events_end_with_a_bookmark(kube: Widgets) -> None:
    kube.create("one")
    query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    with kube.watch(query) as events:
        added, bookmark = next(events), next(events)
    assert names([added]) == [("ADDED", "one")]
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_many_writers_and_watchers_agree(kube: Widgets) -> None:
    wanted = {f"w{number}" for number in range(40)}
    orders: list[list[str]] = [[], []]

    def follow(order: list[str]) -> None:
        with kube.watch() as events:
            while len(order) < len(wanted):
                order.append(next(events)["object"]["metadata"]["name"])

    def write(first: int) -> None:
        server = Server.of("embedded", kube.server.kubeconfig)
        for number in range(first, first + 10):
            ok(server.call("POST", kube.path(), widget(f"w{number}")), 201)

    threads = [threading.Thread(target=follow, args=(order,)) for order in orders]
    threads += [threading.Thread(target=write, args=(number,)) for number in (0, 10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [set(order) for order in orders] == [wanted, wanted]


def test_open_watches_do_not_hold_up_the_end(tmp_path: Path) -> None:
    kube = LocalKube([CRD])
    opened = threading.Event()
    seen: list[dict[str, Any]] = []

    def follow(widgets: Widgets) -> None:
        with widgets.watch() as events:
            opened.set()
            seen.extend(events)

    with kube.running():
        kube.write_kubeconfig(tmp_path / "kubeconfig")
        widgets = Widgets(Server.of("embedded", tmp_path / "kubeconfig"), "default")
        follower = threading.Thread(target=follow, args=(widgets,))
        follower.start()
        assert opened.wait(10)
        began = time.monotonic()
    follower.join(10)
    assert not follower.is_alive() and seen == []
    assert time.monotonic() - began < 3
