"""The parts of the embedded server that are pure: patches, field sets, paths, selectors, rules, formats."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.localkube import cel, core, fields, jsonpath, ownership, watching
from controller.localkube.admission import Options
from controller.localkube.failures import Failure
from controller.localkube.formats import has_format
from controller.localkube.kinds import Kinds
from controller.localkube.meta import now_text
from controller.localkube.ownership import Writer
from controller.localkube.patch import merge_patch, strategic_merge
from controller.localkube.registry import DeleteOptions, Registry
from controller.localkube.schema import default, prune, validate
from controller.localkube.store import Store
from controller.localkube.table import human_duration
from controller.localkube.values import clone, same

NAMES = st.sampled_from(["a", "b", "c.d", 'q"', "é"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([1.0, 0.5]) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=4)

# https://datatracker.ietf.org/doc/html/rfc7386#appendix-A
RFC_7386: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("value", "patch", "result"), RFC_7386)
def test_merge_patches_are_those_of_the_rfc(value: Any, patch: Any, result: Any) -> None:
    before = clone(value)
    assert same(merge_patch(value, patch), result)
    assert same(value, before)


ITEMS = {
    "properties": {
        "items": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object"},
        }
    }
}


@pytest.mark.parametrize(
    ("patch", "result"),
    [
        ([{"name": "b", "x": 2}], [{"name": "a", "x": 1}, {"name": "b", "x": 2}]),
        ([{"name": "a", "y": 2}], [{"name": "a", "x": 1, "y": 2}, {"name": "b"}]),
        ([{"name": "a", "$patch": "delete"}], [{"name": "b"}]),
        ([{"$patch": "replace"}, {"name": "c"}], [{"name": "c"}]),
    ],
)
def test_strategic_patches_find_items_by_their_keys(patch: list[Any], result: list[Any]) -> None:
    value = {"items": [{"name": "a", "x": 1}, {"name": "b"}]}
    assert strategic_merge(value, {"items": patch}, ITEMS) == {"items": result}


def test_strategic_patches_put_items_in_the_order_that_the_client_saw() -> None:
    value = {"items": [{"name": "a"}, {"name": "b"}]}
    patch = {"$setElementOrder/items": [{"name": "c"}, {"name": "a"}], "items": [{"name": "c"}]}
    assert strategic_merge(value, patch, ITEMS)["items"] == [{"name": "c"}, {"name": "a"}, {"name": "b"}]


def test_true_and_one_are_not_the_same() -> None:
    assert not same({"a": [True]}, {"a": [1]})
    assert not same(1, 1.0)
    assert same({"a": [1, None]}, {"a": [1, None]})


@given(OBJECTS)
def test_an_object_is_the_same_as_its_copy_and_differs_in_no_field(obj: dict[str, Any]) -> None:
    assert same(clone(obj), obj)
    assert fields.compare(obj, clone(obj), {}) == (set(), set())


@given(OBJECTS)
def test_field_sets_survive_their_written_form(obj: dict[str, Any]) -> None:
    paths = fields.paths_of(obj, {})
    assert fields.decode(fields.encode(paths)) == paths - {()}


@given(OBJECTS, OBJECTS)
def test_a_change_is_what_is_new_and_what_is_gone(old: dict[str, Any], new: dict[str, Any]) -> None:
    changed, removed = fields.compare(old, new, {})
    assert fields.compare(new, old, {})[1] <= changed
    assert not changed & removed
    assert (not changed and not removed) == same(old, new)


@given(OBJECTS, OBJECTS)
def test_what_one_writer_stops_applying_goes_and_what_another_applies_stays(
    mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """Two writers with fields of their own: after the first applies nothing, only the second's are left."""
    me, you = Writer("me", "Apply", "v1"), Writer("you", "Apply", "v1")
    schema = {"properties": {"mine": {}, "theirs": {}}}
    live = ownership.apply(None, {"mine": mine, "metadata": {}}, schema, me, "t1", force=False)
    live = ownership.apply(live, {"theirs": theirs, "metadata": {}}, schema, you, "t2", force=False)
    again = ownership.apply(live, {"theirs": theirs, "metadata": {}}, schema, you, "t3", force=False)
    assert same(again, live)
    left = ownership.apply(live, {"metadata": {}}, schema, me, "t4", force=False)
    assert "mine" not in left
    assert same(left["theirs"], theirs)


@given(OBJECTS)
def test_pruning_leaves_only_what_the_schema_knows(obj: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": {"type": "string"}}}}
    pruned, unknown = prune(obj, schema)
    assert set(pruned) <= {"a"}
    assert {name for name in obj if name != "a"} <= set(unknown)
    assert prune(pruned, schema) == (pruned, [])
    assert default(pruned, schema) is not pruned


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, 2, 4),
        ({"anyOf": [{"enum": [1]}, {"enum": [2]}]}, 2, 3),
        ({"oneOf": [{"minimum": 1}, {"minimum": 5}]}, 3, 7),
        ({"not": {"enum": ["x"]}}, "y", "x"),
        ({"type": "array", "minItems": 1}, [1], []),
        ({"type": "object", "minProperties": 1}, {"a": 1}, {}),
        ({"type": "integer", "format": "int32"}, 2**31 - 1, 2**31),
        ({"type": "string", "nullable": True}, None, 5),
        ({"type": "number"}, 5, "5"),
        ({"type": "number", "maximum": 5, "exclusiveMaximum": True}, 4.9, 5),
    ],
)
def test_schemas_combine(schema: dict[str, Any], good: Any, bad: Any) -> None:
    assert validate(good, schema) == []
    assert validate(bad, schema)


def test_what_an_update_leaves_as_it_was_is_not_held_against_it() -> None:
    schema = {"properties": {"a": {"maximum": 3}, "b": {"maximum": 3}}}
    assert validate({"a": 9, "b": 1}, schema, "", {"a": 9}) == []
    assert [cause.field for cause in validate({"a": 9, "b": 9}, schema, "", {"a": 9})] == ["b"]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date-time", "2026-01-01T00:00:00.123456Z", "2026-01-01"),
        ("date-time", "2026-01-01T00:00:00+01:00", "2026-13-01T00:00:00Z"),
        ("duration", "1h30m", "1x"),
        ("duration", "-1.5s", ""),
        ("date", "2026-01-01", "today"),
        ("ipv4", "127.0.0.1", "127.0.0.256"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
        ("byte", "YQ==", "?"),
        ("uri", "http://a/b", "a b"),
        ("cidr", "10.0.0.0/8", "10.0.0.0/99"),
    ],
)
def test_formats_are_told_apart(name: str, good: str, bad: str) -> None:
    assert has_format(good, name)
    assert not has_format(bad, name)
    assert has_format(bad, "no such format")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".a.b", [1]),
        (".a['b']", [1]),
        (".none.b", []),
        (".list[0].n", ["x"]),
        (".list[-1].n", ["y"]),
        (".list[*].n", ["x", "y"]),
        ('.list[?(@.n=="y")].v', [2]),
        (".list[?(@.v!=2)].n", ["x"]),
        (r".labels.a\.b/c", ["z"]),
    ],
)
def test_paths_lead_to_values(path: str, found: list[Any]) -> None:
    value = {"a": {"b": 1}, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}], "labels": {"a.b/c": "z"}}
    assert jsonpath.find(path, value) == found


def test_a_path_that_is_not_understood_is_refused() -> None:
    with pytest.raises(ValueError, match="not supported"):
        jsonpath.parse(".a[?(@.b in c)]")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (49 * 3600, "2d1h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (800 * 86400, "2y70d"),
        (3000 * 86400, "8y"),
    ],
)
def test_ages_are_written_as_kubectl_writes_them(seconds: int, text: str) -> None:
    assert human_duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("rule", "value", "schema"),
    [
        ("quantity(self).isLessThan(quantity('1Gi'))", "512Mi", {}),
        ("isQuantity(self) && !isQuantity('1x')", "1.5", {}),
        ("self < timestamp('2027-01-01T00:00:00Z')", "2026-01-01T00:00:00Z", {"type": "string", "format": "date-time"}),
        ("self > duration('1m')", "1h", {"type": "string", "format": "duration"}),
        ("self / 2.0 == 1.5", 3, {"type": "number"}),
        ("self.x__dash__y == 1", {"x-y": 1}, {"properties": {"x-y": {"type": "integer"}}}),
        ("self.__namespace__ == 'a'", {"namespace": "a"}, {"properties": {"namespace": {"type": "string"}}}),
        ("self.find('[0-9]+') == '12' && self.findAll('[a-z]') == ['a', 'b']", "a12b", {}),
        ("self.isSorted() && self.sum() == 6", [1, 2, 3], {}),
    ],
)
def test_kubernetes_has_functions_and_types_of_its_own(rule: str, value: Any, schema: dict[str, Any]) -> None:
    assert list(cel.check({"rule": rule}, value, schema, "spec")) == []
    (cause,) = cel.check({"rule": f"!({rule})", "message": "no"}, value, schema, "spec")
    assert cause.message.endswith("no")


def test_a_rule_that_fails_to_run_refuses_the_value() -> None:
    (cause,) = cel.check({"rule": "self.a > 1", "message": "too small"}, {}, {}, "spec")
    assert cause.message == 'Invalid value: "object": no such key: a evaluating rule: too small'


def test_versions_that_are_forgotten_are_expired() -> None:
    store = Store(history=3)
    began = store.version
    for number in range(5):
        store.put(("", "configmaps"), {"metadata": {"namespace": "a", "name": f"c{number}"}})
    assert [change.version for change in store.since(store.version - 3)] == [began + 3, began + 4, began + 5]
    assert len(store.objects(("", "configmaps"), version=store.version - 3)) == 2
    for version in (began, store.version - 4):
        with pytest.raises(Failure, match="too old resource version"):
            store.since(version)


def test_a_store_without_a_past_knows_the_present() -> None:
    store = Store()
    assert store.since(store.version) == []
    with pytest.raises(Failure):
        store.since(store.version - 1)


def test_events_are_forgotten_after_an_hour() -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    registry = Registry(Store(), Kinds(core.KINDS), began)
    kind = registry.kinds.of(("", "events"))
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "e-"}}
    for minutes in (0, 30, 61):
        registry.create(kind, "default", event, Options("me"), began + timedelta(minutes=minutes))
    times = [event["metadata"]["creationTimestamp"] for event in registry.store.objects(("", "events"))]
    assert sorted(times) == ["2026-01-01T00:30:00Z", "2026-01-01T01:01:00Z"]


def test_a_chain_of_dependents_goes_with_its_beginning() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    registry = Registry(Store(), Kinds(core.KINDS), now)
    kind = registry.kinds.of(("", "configmaps"))
    uids: dict[str, str] = {}
    for name, owners in {"z": "", "a": "z", "b": "za", "c": "zab"}.items():
        references = [{"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uids[owner]} for owner in owners]
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": references}}
        written = registry.create(kind, "default", config, Options("me"), now)
        uids[name] = written.object["metadata"]["uid"]
    registry.delete(kind, "default", "z", DeleteOptions(), now)
    assert registry.store.objects(kind.resource) == []


def test_nobody_sees_what_a_failing_journal_did_not_keep() -> None:
    class Full:
        def load(self) -> tuple[int, list[Any]]:
            return 7, [(("", "configmaps"), {"metadata": {"name": "old", "namespace": "a"}})]

        def record(self, change: Any) -> None:
            raise OSError("disk full")

        def close(self) -> None: ...

    store = Store(Full())
    with pytest.raises(OSError, match="disk full"):
        store.put(("", "configmaps"), {"metadata": {"name": "new", "namespace": "a"}})
    assert (store.version, len(store.objects(("", "configmaps")))) == (7, 1)


def test_now_is_written_in_utc() -> None:
    assert now_text(datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)) == "2026-01-02T03:04:05Z"


async def test_a_watch_without_bookmarks_sleeps_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "BOOKMARK_SECONDS", 0.0)
    quiet = watching.Watch(core.KINDS[0], None, lambda obj: True, 1, False, False, 0.5, lambda obj: obj)
    before = time.process_time()
    assert [line async for line in watching.Watches(Store()).stream(quiet)] == []
    assert time.process_time() - before < 0.1
