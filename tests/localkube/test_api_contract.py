"""Reading and writing objects: what is stored, what is refused and how, who owns which field, what deletion means."""

import json
from typing import Any

import pytest

from tests.localkube.servers import (
    API_VERSION,
    APPLY,
    GROUP,
    JSON,
    STRATEGIC,
    TABLE,
    Server,
    Widgets,
    causes,
    eventually,
    ok,
    owned,
    refused,
    warnings,
    widget,
)

# What is created


def test_the_server_adds_its_metadata(widgets: Widgets) -> None:
    metadata = widgets.create()["metadata"]
    assert metadata["generation"] == 1
    assert metadata["namespace"] == widgets.namespace
    assert len(metadata["uid"]) == 36
    assert metadata["resourceVersion"].isdigit()
    assert metadata["creationTimestamp"].endswith("Z")


def test_what_only_the_server_may_say_is_not_taken_from_clients(widgets: Widgets) -> None:
    given = {"uid": "mine", "generation": 7, "creationTimestamp": "2020-01-01T00:00:00Z", "selfLink": "/x"}
    metadata = widgets.create(deletionTimestamp="2020-01-01T00:00:00Z", **given)["metadata"]
    assert not {name for name, value in given.items() if metadata.get(name) == value}
    assert "deletionTimestamp" not in metadata


def test_defaults_are_filled_in(widgets: Widgets) -> None:
    assert widgets.create()["spec"] == {"size": 6, "max": 50, "limits": {"cpu": "1"}}


def test_a_null_counts_as_absent_where_it_may_not_be(widgets: Widgets) -> None:
    spec = widgets.create(spec={"size": 6, "max": None, "env": None, "when": None})["spec"]
    assert spec == {"size": 6, "max": 50, "when": None, "limits": {"cpu": "1"}}


def test_names_are_made_up_from_a_prefix(widgets: Widgets) -> None:
    names = {ok(widgets.post(widget(None, generateName="w-")), 201)["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("w-") and len(name) == 7 for name in names)


def test_a_name_is_taken_once(widgets: Widgets) -> None:
    widgets.create()
    status = refused(widgets.post(widget()), 409, "AlreadyExists")
    assert status["message"] == f'widgets.{GROUP} "one" already exists'
    assert status["details"] == {"name": "one", "group": GROUP, "kind": "widgets"}


def test_unknown_fields_are_dropped_with_a_warning(widgets: Widgets) -> None:
    body = {**widget(spec={"size": 6, "more": 1, "env": [{"name": "a", "extra": 1}]}, more="x"), "other": 1}
    answer = widgets.post(body)
    assert set(warnings(answer)) == {
        'unknown field "metadata.more"',
        'unknown field "other"',
        'unknown field "spec.more"',
        'unknown field "spec.env[0].extra"',
    }
    created = ok(answer, 201)
    assert created["spec"]["env"] == [{"name": "a", "value": ""}]
    assert "other" not in created and "more" not in created["spec"] and "more" not in created["metadata"]


def test_strict_validation_refuses_unknown_and_repeated_fields(widgets: Widgets) -> None:
    text = json.dumps(widget(spec={"size": 6, "more": 1})).replace('"size": 6', '"size": 6, "size": 7')
    message = refused(widgets.post(text, "fieldValidation=Strict"), 400, "BadRequest")["message"]
    assert message == (
        'Widget in version "v1" cannot be handled as a Widget: strict decoding error: '
        'duplicate field "spec.size", unknown field "spec.more"'
    )
    assert warnings(widgets.post(text)) == ['duplicate field "spec.size"', 'unknown field "spec.more"']


def test_ignoring_validation_warns_of_nothing(widgets: Widgets) -> None:
    answer = widgets.post(widget(spec={"size": 6, "more": 1}), "fieldValidation=Ignore")
    assert ok(answer, 201)["spec"]["size"] == 6
    assert warnings(answer) == []


def test_yaml_is_understood_and_its_repeated_keys_warned_of(widgets: Widgets) -> None:
    text = f"apiVersion: {API_VERSION}\nkind: Widget\nmetadata: {{name: one}}\nspec: {{size: 5, size: 6}}\n"
    answer = widgets.server.call("POST", widgets.path(), text, "application/yaml")
    assert ok(answer, 201)["spec"]["size"] == 6
    assert warnings(answer) == ['line 4: key "size" already set in map']


def test_a_dry_run_answers_like_a_write_and_stores_nothing(widgets: Widgets) -> None:
    created = ok(widgets.post(widget(), "dryRun=All"), 201)
    assert created["spec"]["max"] == 50 and created["metadata"]["uid"]
    refused(widgets.server.call("GET", widgets.path("one")), 404, "NotFound")
    assert widgets.post(widget(spec={"size": 0}), "dryRun=All").status_code == 422
    stored = widgets.create()
    assert ok(widgets.patch({"spec": {"size": 9}}, query="dryRun=All"))["spec"]["size"] == 9
    assert widgets.delete(query="dryRun=All").status_code == 200
    assert widgets.get() == stored


# What is refused

BAD_SPECS: list[tuple[dict[str, Any], tuple[str, str, str]]] = [
    ({}, ("spec.size", "FieldValueRequired", "Required value")),
    ({"size": None}, ("spec.size", "FieldValueRequired", "Required value")),
    (
        {"size": "6"},
        (
            "spec.size",
            "FieldValueTypeInvalid",
            'Invalid value: "string": spec.size in body must be of type integer: "string"',
        ),
    ),
    (
        {"size": True},
        (
            "spec.size",
            "FieldValueTypeInvalid",
            'Invalid value: "boolean": spec.size in body must be of type integer: "boolean"',
        ),
    ),
    (
        {"size": 1.5},
        (
            "spec.size",
            "FieldValueTypeInvalid",
            'Invalid value: "number": spec.size in body must be of type integer: "number"',
        ),
    ),
    (
        {"size": 0},
        (
            "spec.size",
            "FieldValueInvalid",
            "Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ),
    ),
    (
        {"size": 200, "max": 300},
        (
            "spec.size",
            "FieldValueInvalid",
            "Invalid value: 200: spec.size in body should be less than or equal to 100",
        ),
    ),
    (
        {"color": "blue"},
        (
            "spec.color",
            "FieldValueNotSupported",
            'Unsupported value: "blue": supported values: "red", "green", "pink"',
        ),
    ),
    (
        {"name": "x"},
        ("spec.name", "FieldValueInvalid", 'Invalid value: "x": spec.name in body should be at least 2 chars long'),
    ),
    ({"name": "abcdefghijk"}, ("spec.name", "FieldValueTooLong", "Too long: may not be more than 10 bytes")),
    (
        {"name": "Ab"},
        ("spec.name", "FieldValueInvalid", "Invalid value: \"Ab\": spec.name in body should match '^[a-z]+$'"),
    ),
    (
        {"name": "ab\n"},
        ("spec.name", "FieldValueInvalid", "Invalid value: \"ab\\n\": spec.name in body should match '^[a-z]+$'"),
    ),
    ({"tags": list("abcd")}, ("spec.tags", "FieldValueTooMany", "Too many: 4: must have at most 3 items")),
    ({"tags": ["a", "a"]}, ("spec.tags[1]", "FieldValueDuplicate", 'Duplicate value: "a"')),
    ({"env": [{"name": "a"}, {"name": "a"}]}, ("spec.env[1]", "FieldValueDuplicate", 'Duplicate value: {"name":"a"}')),
    ({"env": [{"value": "x"}]}, ("spec.env[0].name", "FieldValueRequired", "Required value")),
    (
        {"env": {}},
        (
            "spec.env",
            "FieldValueTypeInvalid",
            'Invalid value: "object": spec.env in body must be of type array: "object"',
        ),
    ),
    (
        {"env": [None]},
        (
            "spec.env[0]",
            "FieldValueTypeInvalid",
            'Invalid value: "null": spec.env[0] in body must be of type object: "null"',
        ),
    ),
    (
        {"labels": {"a": 1}},
        (
            "spec.labels.a",
            "FieldValueTypeInvalid",
            'Invalid value: "integer": spec.labels.a in body must be of type string: "integer"',
        ),
    ),
    (
        {"labels": dict.fromkeys("abcde", "x")},
        ("spec.labels", "FieldValueTooMany", "Too many: 5: must have at most 4 items"),
    ),
    (
        {"quantity": "5Gi"},
        (
            "spec.quantity",
            "FieldValueInvalid",
            "Invalid value: \"5Gi\": spec.quantity in body should match '^[0-9]+(Mi)?$'",
        ),
    ),
    (
        {"quantity": 1.5},
        (
            "spec.quantity",
            "FieldValueTypeInvalid",
            'Invalid value: "number": spec.quantity in body must be of type integer,string: "number"',
        ),
    ),
    (
        {"when": "noon"},
        (
            "spec.when",
            "FieldValueTypeInvalid",
            'Invalid value: "noon": spec.when in body must be of type date-time: "noon"',
        ),
    ),
    (
        {"limits": {"ratio": 0.7}},
        (
            "spec.limits.ratio",
            "FieldValueInvalid",
            "Invalid value: 0.7: spec.limits.ratio in body should be a multiple of 0.5",
        ),
    ),
    (
        {"limits": {"ratio": 0}},
        (
            "spec.limits.ratio",
            "FieldValueInvalid",
            "Invalid value: 0: spec.limits.ratio in body should be greater than 0",
        ),
    ),
    # CEL
    ({"size": 60}, ("spec.size", "FieldValueForbidden", "Forbidden: size must not exceed max")),
    ({"color": "pink"}, ("spec", "FieldValueInvalid", "Invalid value: no pink widgets")),
    ({"once": "second"}, ("spec.once", "FieldValueInvalid", 'Invalid value: "second": must begin with first')),
]


@pytest.mark.parametrize(("spec", "cause"), BAD_SPECS, ids=[json.dumps(spec)[:60] for spec, _ in BAD_SPECS])
def test_a_spec_that_breaks_the_schema_is_refused_by_the_field(
    widgets: Widgets, spec: dict[str, Any], cause: tuple[str, str, str]
) -> None:
    complete = spec if not spec or "size" in spec else {"size": 6, **spec}
    assert cause in causes(widgets.post(widget(spec=complete)))
    assert widgets.list()["items"] == []


@pytest.mark.parametrize("quantity", [5, "5", "5Mi"])
def test_an_int_or_string_may_be_either(widgets: Widgets, quantity: int | str) -> None:
    assert widgets.create(spec={"size": 6, "quantity": quantity})["spec"]["quantity"] == quantity


def test_everything_that_is_wrong_is_said_at_once(widgets: Widgets) -> None:
    answer = widgets.post(widget("Bad_Name", {"size": 0, "color": "blue", "name": "x"}))
    fields = {field for field, _, _ in causes(answer)}
    assert {"metadata.name", "spec.size", "spec.color", "spec.name"} <= fields
    status = answer.json()
    assert status["message"].startswith(f'Widget.{GROUP} "Bad_Name" is invalid: [')
    assert (status["details"]["name"], status["details"]["kind"]) == ("Bad_Name", "Widget")


def test_rules_are_not_tried_on_an_object_that_breaks_the_schema(widgets: Widgets) -> None:
    skipped = (
        "some validation rules were not checked because the object was invalid; "
        "correct the existing errors to complete validation"
    )
    found = causes(widgets.post(widget(spec={"color": "pink"})))
    assert ("<nil>", "FieldValueInvalid", f"Invalid value: null: {skipped}") in found
    assert "spec" not in {field for field, _, _ in found}


BAD_METADATA = [
    ({"name": "A_b"}, "metadata.name"),
    ({"name": "x" * 254}, "metadata.name"),
    ({"name": ""}, "metadata.name"),
    ({"generateName": "Bad_"}, "metadata.generateName"),
    ({"labels": {"a b": "c"}}, "metadata.labels"),
    ({"labels": {"a": "b c"}}, "metadata.labels"),
    ({"labels": {"a": "x" * 64}}, "metadata.labels"),
    ({"labels": {"x/y/z": "b"}}, "metadata.labels"),
    ({"annotations": {"a b": "c"}}, "metadata.annotations"),
    ({"annotations": {"a": "x" * 300_000}}, "metadata.annotations"),
    ({"finalizers": ["a b/c"]}, "metadata.finalizers"),
    ({"ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "n"}]}, "metadata.ownerReferences.uid"),
]


@pytest.mark.parametrize(("metadata", "field"), BAD_METADATA, ids=[json.dumps(bad)[:50] for bad, _ in BAD_METADATA])
def test_malformed_metadata_is_refused_by_the_field(widgets: Widgets, metadata: dict[str, Any], field: str) -> None:
    body = widget()
    body["metadata"] |= metadata
    assert field in {found for found, _, _ in causes(widgets.post(body))}


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ("x", "json: cannot unmarshal string into Go value of type v1.ObjectMeta"),
        ({"name": 5}, "json: cannot unmarshal number into Go struct field ObjectMeta.name of type string"),
        ({"labels": {"a": 1}}, "json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string"),
    ],
)
def test_metadata_of_the_wrong_type_cannot_be_decoded(widgets: Widgets, metadata: Any, problem: str) -> None:
    message = refused(widgets.post({**widget(), "metadata": metadata}), 400, "BadRequest")["message"]
    assert message == f'Widget in version "v1" cannot be handled as a Widget: {problem}'


@pytest.mark.parametrize(
    "body",
    ["", "{", "[1]", '"x"', "5", "null", '{"apiVersion": "v1"}', "a: b\n", "\xff".encode("latin-1"), "[" * 100_000],
)
def test_a_body_that_is_no_object_is_a_bad_request(widgets: Widgets, body: str | bytes) -> None:
    refused(widgets.post(body), 400, "BadRequest")


@pytest.mark.parametrize(
    "body", [{**widget(), "apiVersion": "v1"}, {**widget(), "apiVersion": f"{GROUP}/v2"}, {"kind": "Widget"}]
)
def test_the_api_version_must_be_that_of_the_url(widgets: Widgets, body: dict[str, Any]) -> None:
    message = refused(widgets.post(body), 400, "BadRequest")["message"]
    assert message.endswith(f"does not match the expected API version ({API_VERSION})")


def test_the_kind_must_be_that_of_the_url(widgets: Widgets) -> None:
    assert ("kind", "FieldValueInvalid", 'Invalid value: "Gadget": must be Widget') in causes(
        widgets.post({**widget(), "kind": "Gadget"})
    )


def test_the_namespace_must_be_that_of_the_url(widgets: Widgets) -> None:
    message = refused(widgets.post(widget(namespace="elsewhere")), 400, "BadRequest")["message"]
    assert message == "the namespace of the provided object does not match the namespace sent on the request"


def test_a_namespace_must_exist_before_something_is_put_there(server: Server) -> None:
    path = f"/apis/{API_VERSION}/namespaces/nowhere/widgets"
    status = refused(server.call("POST", path, widget()), 404, "NotFound")
    assert status["message"] == 'namespaces "nowhere" not found'
    assert ok(server.call("GET", path))["items"] == []


def test_a_body_above_the_limit_is_too_large(widgets: Widgets) -> None:
    status = refused(widgets.post("x" * (3 * 1024 * 1024 + 1)), 413, "RequestEntityTooLarge")
    assert status["message"] == "Request entity too large: limit is 3145728"


def test_other_media_types_are_not_read_and_not_written(widgets: Widgets) -> None:
    refused(widgets.server.call("POST", widgets.path(), widget(), "text/plain"), 415, "UnsupportedMediaType")
    refused(widgets.server.call("GET", widgets.path(), Accept="text/html"), 406, "NotAcceptable")


def test_what_is_not_there_is_not_found(widgets: Widgets) -> None:
    status = refused(widgets.server.call("GET", widgets.path("none")), 404, "NotFound")
    assert status["message"] == f'widgets.{GROUP} "none" not found'
    assert status["details"] == {"name": "none", "group": GROUP, "kind": "widgets"}
    for path in (f"/apis/{API_VERSION}/nothing", "/apis/nothing/v1/nothing", f"/apis/{GROUP}/v2"):
        assert widgets.server.call("GET", path).status_code == 404


def test_options_are_checked_too(widgets: Widgets) -> None:
    assert causes(widgets.post(widget(), "dryRun=Some")) == {
        ("dryRun", "FieldValueNotSupported", 'Unsupported value: ["Some"]: supported values: "All"')
    }
    assert {field for field, _, _ in causes(widgets.post(widget(), "fieldValidation=Some"))} == {"fieldValidation"}


# Updates


def test_the_generation_counts_changes_of_the_spec_alone(widgets: Widgets) -> None:
    widgets.create()
    assert ok(widgets.patch({"metadata": {"labels": {"a": "b"}}}))["metadata"]["generation"] == 1
    assert ok(widgets.patch({"status": {"phase": "Run"}}, subresource="status"))["metadata"]["generation"] == 1
    assert ok(widgets.patch({"spec": {"size": 7}}))["metadata"]["generation"] == 2
    assert ok(widgets.patch({"metadata": {"generation": 77}}))["metadata"]["generation"] == 2


def test_a_write_that_changes_nothing_makes_no_new_version(widgets: Widgets) -> None:
    before = widgets.create(labels={"a": "b"})
    assert ok(widgets.patch({"spec": {"size": 6}})) == before
    assert ok(widgets.patch({"metadata": {"labels": {"a": "b"}}})) == before
    assert ok(widgets.patch({"spec": {"size": 9}}, subresource="status")) == before
    assert ok(widgets.put(before)) == before


def test_versions_rise_with_each_change(widgets: Widgets) -> None:
    versions = [int(widgets.create()["metadata"]["resourceVersion"])]
    for size in (1, 2, 3):
        versions.append(int(ok(widgets.patch({"spec": {"size": size}}))["metadata"]["resourceVersion"]))
    assert versions == sorted(set(versions))


def test_the_main_endpoint_leaves_the_status_alone(widgets: Widgets) -> None:
    created = ok(widgets.post({**widget(), "status": {"phase": "Mine"}}), 201)
    assert "status" not in created
    ok(widgets.patch({"status": {"phase": "Run"}}, subresource="status"))
    assert ok(widgets.patch({"status": {"phase": "Mine"}, "spec": {"size": 7}}))["status"] == {"phase": "Run"}
    current = widgets.get()
    replaced = ok(widgets.put({**current, "status": {"phase": "Mine"}, "spec": {"size": 8}}))
    assert (replaced["spec"]["size"], replaced["status"]) == (8, {"phase": "Run"})


def test_the_status_endpoint_leaves_the_rest_alone(widgets: Widgets) -> None:
    created = widgets.create()
    change = {
        "status": {"phase": "Run"},
        "spec": {"size": 9},
        "metadata": {"labels": {"a": "b"}, "finalizers": ["a/b"]},
    }
    changed = ok(widgets.patch(change, subresource="status"))
    assert changed["status"] == {"phase": "Run"}
    assert changed["spec"] == created["spec"]
    assert "labels" not in changed["metadata"] and "finalizers" not in changed["metadata"]
    assert widgets.patch({"status": {"count": "many"}}, subresource="status").status_code == 422


def test_an_update_of_an_older_version_is_a_conflict(widgets: Widgets) -> None:
    old = widgets.create()
    ok(widgets.patch({"spec": {"size": 7}}))
    status = refused(widgets.put({**old, "spec": {"size": 8}}), 409, "Conflict")
    assert status["message"] == (
        f'Operation cannot be fulfilled on widgets.{GROUP} "one": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    version = old["metadata"]["resourceVersion"]
    refused(widgets.patch({"metadata": {"resourceVersion": version}, "spec": {"size": 8}}), 409, "Conflict")
    refused(widgets.put({**old, "status": {"phase": "x"}}, subresource="status"), 409, "Conflict")
    assert widgets.get()["spec"]["size"] == 7


def test_an_update_must_name_its_version(widgets: Widgets) -> None:
    widgets.create()
    cause = ("metadata.resourceVersion", "FieldValueInvalid", "Invalid value: 0: must be specified for an update")
    assert causes(widgets.put(widget())) == {cause}


def test_names_and_uids_do_not_change(widgets: Widgets) -> None:
    widgets.create()
    message = refused(widgets.patch({"metadata": {"name": "two"}}), 400, "BadRequest")["message"]
    assert message == "the name of the object (two) does not match the name on the URL (one)"
    assert ("metadata.uid", "FieldValueInvalid", 'Invalid value: "x": field is immutable') in causes(
        widgets.patch({"metadata": {"uid": "x"}})
    )


def test_transition_rules_see_the_old_value(widgets: Widgets) -> None:
    widgets.create(spec={"size": 6, "once": "first", "name": "ab"})
    ok(widgets.patch({"spec": {"fixed": "x", "once": "second"}}))
    assert causes(widgets.patch({"spec": {"fixed": "y"}})) == {
        ("spec.fixed", "FieldValueInvalid", 'Invalid value: "y": is immutable')
    }
    assert causes(widgets.patch({"spec": {"name": None}})) == {
        ("spec", "FieldValueInvalid", "Invalid value: name may not be taken away")
    }
    ok(widgets.patch({"spec": {"fixed": None}}))
    ok(widgets.patch({"spec": {"fixed": "y"}}))


def test_transition_rules_find_list_items_by_their_keys(widgets: Widgets) -> None:
    widgets.create(spec={"size": 6, "env": [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]})
    ok(widgets.patch({"spec": {"env": [{"name": "b", "value": "2"}, {"name": "a", "value": "1"}]}}))
    found = causes(widgets.patch({"spec": {"env": [{"name": "c", "value": "9"}, {"name": "a", "value": "3"}]}}))
    assert {field for field, _, _ in found} == {"spec.env[1]"}


# Patches


def test_a_merge_patch_takes_away_what_is_null(widgets: Widgets) -> None:
    widgets.create(spec={"size": 6, "color": "red", "tags": ["a", "b"]}, labels={"a": "b", "c": "d"})
    patched = ok(widgets.patch({"spec": {"color": None, "tags": ["c"]}, "metadata": {"labels": {"a": None}}}))
    assert patched["spec"]["tags"] == ["c"] and "color" not in patched["spec"]
    assert patched["metadata"]["labels"] == {"c": "d"}


def test_a_json_patch_is_all_or_nothing(widgets: Widgets) -> None:
    widgets.create()
    change = {"op": "replace", "path": "/spec/size", "value": 9}
    for failing in ({"op": "test", "path": "/spec/size", "value": 99}, {"op": "remove", "path": "/spec/none"}):
        refused(widgets.patch([change, failing], JSON), 422, "Invalid")
    assert widgets.get()["spec"]["size"] == 6
    assert ok(widgets.patch([{"op": "test", "path": "/spec/size", "value": 6}, change], JSON))["spec"]["size"] == 9


@pytest.mark.parametrize(
    ("patch", "content_type"),
    [
        ("{", "application/merge-patch+json"),
        ("[1]", "application/merge-patch+json"),
        ("{", JSON),
        ('[{"op": "x", "path": "/a"}]', JSON),
    ],
)
def test_a_malformed_patch_is_a_bad_request(widgets: Widgets, patch: str, content_type: str) -> None:
    widgets.create()
    refused(widgets.patch(patch, content_type), 400, "BadRequest")


@pytest.mark.parametrize("content_type", ["text/plain", STRATEGIC])
def test_custom_resources_take_no_other_patches(widgets: Widgets, content_type: str) -> None:
    widgets.create()
    message = refused(widgets.patch({}, content_type), 415, "UnsupportedMediaType")["message"]
    assert "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml" in message


def test_a_patch_of_nothing_is_not_found(widgets: Widgets) -> None:
    refused(widgets.patch({"spec": {"size": 7}}), 404, "NotFound")


def test_strict_validation_holds_for_patches(widgets: Widgets) -> None:
    widgets.create()
    answer = widgets.patch({"spec": {"more": 1}})
    assert (answer.status_code, warnings(answer)) == (200, ['unknown field "spec.more"'])
    message = refused(widgets.patch({"spec": {"more": 1}}, query="fieldValidation=Strict"), 422, "Invalid")["message"]
    assert 'strict decoding error: unknown field "spec.more"' in message


# Server-side apply


def test_applying_creates_and_owns_what_was_said_and_no_default(widgets: Widgets) -> None:
    created = ok(widgets.apply({"size": 6}, "me", labels={"a": "b"}), 201)
    assert created["spec"]["max"] == 50
    fields = {"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:size": {}}}
    assert owned(created) == {("me", "Apply", ""): fields}


def test_an_update_owns_what_it_changed(widgets: Widgets) -> None:
    created = ok(widgets.server.call("POST", widgets.path(query="fieldManager=me"), widget()), 201)
    everything = {"f:spec": {".": {}, "f:limits": {".": {}, "f:cpu": {}}, "f:max": {}, "f:size": {}}}
    assert owned(created) == {("me", "Update", ""): everything}
    changed = ok(widgets.patch({"spec": {"size": 7}}, query="fieldManager=you"))
    assert owned(changed)["you", "Update", ""] == {"f:spec": {"f:size": {}}}
    assert "f:size" not in owned(changed)["me", "Update", ""]["f:spec"]
    status = ok(widgets.patch({"status": {"phase": "x"}}, query="fieldManager=you", subresource="status"))
    assert owned(status)["you", "Update", "status"] == {"f:status": {".": {}, "f:phase": {}}}


def test_applying_what_another_owns_is_a_conflict_unless_forced(widgets: Widgets) -> None:
    ok(widgets.apply({"size": 6}, "one"), 201)
    status = refused(widgets.apply({"size": 7}, "two"), 409, "Conflict")
    assert status["message"] == 'Apply failed with 1 conflict: conflict with "one": .spec.size'
    assert status["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".spec.size"}
    ]
    forced = ok(widgets.apply({"size": 7}, "two", force=True))
    assert forced["spec"]["size"] == 7
    assert owned(forced)["two", "Apply", ""] == {"f:spec": {"f:size": {}}}
    assert "f:spec" not in owned(forced).get(("one", "Apply", ""), {})


def test_conflicts_with_updates_name_the_version(widgets: Widgets) -> None:
    ok(
        widgets.server.call("POST", widgets.path(query="fieldManager=me"), widget(spec={"size": 6, "color": "red"})),
        201,
    )
    status = refused(widgets.apply({"size": 7, "color": "green"}, "two"), 409, "Conflict")
    assert status["message"] == (
        f'Apply failed with 2 conflicts: conflicts with "me" using {API_VERSION}:\n- .spec.color\n- .spec.size'
    )


def test_the_same_value_may_have_two_owners(widgets: Widgets) -> None:
    ok(widgets.apply({"size": 6, "color": "red"}, "one"), 201)
    ok(widgets.apply({"size": 6, "color": "red"}, "two"))
    left = ok(widgets.apply({"size": 6}, "one"))
    assert left["spec"]["color"] == "red"
    assert "color" not in ok(widgets.apply({"size": 6}, "two"))["spec"]


def test_what_is_no_longer_applied_is_taken_away(widgets: Widgets) -> None:
    ok(widgets.apply({"size": 6, "color": "red", "labels": {"a": "b"}}, "me", labels={"x": "y"}), 201)
    applied = ok(widgets.apply({"size": 6}, "me"))
    assert applied["spec"] == {"size": 6, "max": 50, "limits": {"cpu": "1"}}
    assert "labels" not in applied["metadata"]


def test_keyed_lists_and_sets_are_shared_by_item(widgets: Widgets) -> None:
    ok(widgets.apply({"size": 6, "env": [{"name": "a", "value": "1"}], "tags": ["x"]}, "one"), 201)
    both = ok(widgets.apply({"size": 6, "env": [{"name": "b", "value": "2"}], "tags": ["y"]}, "two"))
    assert both["spec"]["env"] == [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]
    assert both["spec"]["tags"] == ["x", "y"]
    item = {'k:{"name":"b"}': {".": {}, "f:name": {}, "f:value": {}}}
    assert owned(both)["two", "Apply", ""] == {"f:spec": {"f:env": item, "f:size": {}, "f:tags": {'v:"y"': {}}}}
    left = ok(widgets.apply({"size": 6}, "two"))
    assert (left["spec"]["env"], left["spec"]["tags"]) == ([{"name": "a", "value": "1"}], ["x"])


def test_status_is_applied_through_its_endpoint(widgets: Widgets) -> None:
    ok(widgets.apply({"size": 6}, "me"), 201)
    body = {**widget(spec={"size": 9}), "status": {"phase": "Run"}}
    applied = ok(widgets.patch(body, APPLY, "fieldManager=me", subresource="status"))
    assert (applied["spec"]["size"], applied["status"]) == (6, {"phase": "Run"})
    assert owned(applied) == {
        ("me", "Apply", ""): {"f:spec": {"f:size": {}}},
        ("me", "Apply", "status"): {"f:status": {"f:phase": {}}},
    }


def test_applying_the_same_again_makes_no_new_version(widgets: Widgets) -> None:
    first = ok(widgets.apply({"size": 6, "env": [{"name": "a"}]}, "me"), 201)
    assert ok(widgets.apply({"size": 6, "env": [{"name": "a"}]}, "me")) == first


def test_applying_needs_a_manager_and_a_matching_object(widgets: Widgets) -> None:
    assert causes(widgets.patch(widget(), APPLY)) == {
        ("fieldManager", "FieldValueRequired", "Required value: is required for apply patch")
    }
    query = "fieldManager=me"
    refused(widgets.patch(widget("two"), APPLY, query), 400, "BadRequest")
    refused(widgets.patch({**widget(), "kind": "Gadget"}, APPLY, query), 400, "BadRequest")
    refused(widgets.patch(widget(managedFields=[{"manager": "x"}]), APPLY, query), 400, "BadRequest")
    answer = widgets.patch(widget(spec={"size": 6, "more": 1}), APPLY, query)
    assert answer.json()["message"].endswith(".spec.more: field not declared in schema")


# Deletion


def test_deleting_ends_an_object_and_says_which(widgets: Widgets) -> None:
    uid = widgets.create()["metadata"]["uid"]
    status = ok(widgets.delete())
    assert (status["kind"], status["status"]) == ("Status", "Success")
    assert status["details"] == {"name": "one", "group": GROUP, "kind": "widgets", "uid": uid}
    refused(widgets.delete(), 404, "NotFound")


def test_finalizers_hold_an_object_until_they_are_gone(widgets: Widgets) -> None:
    created = widgets.create(finalizers=["a.b/c", "d.e/f"])
    marked = ok(widgets.delete())
    assert marked["kind"] == "Widget"
    assert marked["metadata"]["deletionTimestamp"] and marked["metadata"]["deletionGracePeriodSeconds"] == 0
    assert marked["metadata"]["generation"] == created["metadata"]["generation"] + 1
    assert ok(widgets.delete()) == marked
    ok(widgets.patch({"spec": {"size": 7}}))
    ok(widgets.patch({"metadata": {"finalizers": ["d.e/f"]}}))
    last = ok(widgets.patch({"metadata": {"finalizers": []}}))
    assert "finalizers" not in last["metadata"]
    refused(widgets.server.call("GET", widgets.path("one")), 404, "NotFound")


def test_an_object_being_deleted_takes_no_new_finalizers_and_keeps_its_name(widgets: Widgets) -> None:
    widgets.create(finalizers=["a.b/c"])
    ok(widgets.delete())
    why = "no new finalizers can be added if the object is being deleted, found new finalizers"
    detail = f'Forbidden: {why} []string{{"x.y/z"}}'
    assert causes(widgets.patch({"metadata": {"finalizers": ["a.b/c", "x.y/z"]}})) == {
        ("metadata.finalizers", "FieldValueForbidden", detail)
    }
    message = refused(widgets.post(widget()), 409, "AlreadyExists")["message"]
    assert message == f'object is being deleted: widgets.{GROUP} "one" already exists'


def test_finalizers_without_a_domain_are_warned_of(widgets: Widgets) -> None:
    answer = widgets.post(widget(finalizers=["mine"]))
    assert answer.status_code == 201
    assert warnings(answer)[0].startswith('metadata.finalizers: "mine": prefer a domain-qualified finalizer name')


def test_preconditions_of_a_deletion_are_kept(widgets: Widgets) -> None:
    metadata = widgets.create()["metadata"]
    refused(widgets.delete(body={"preconditions": {"uid": "other"}}), 409, "Conflict")
    refused(widgets.delete(body={"preconditions": {"resourceVersion": "1"}}), 409, "Conflict")
    conditions = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
    ok(widgets.delete(body={"preconditions": conditions}))


@pytest.mark.parametrize(("policy", "stays"), [("Background", False), ("Orphan", True)])
def test_what_depends_on_an_object_goes_with_it_unless_orphaned(widgets: Widgets, policy: str, stays: bool) -> None:
    def create(name: str, *owners: dict[str, Any]) -> dict[str, Any]:
        references = [{"apiVersion": "v1", "kind": "ConfigMap", **owner} for owner in owners]
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": references}}
        metadata = ok(widgets.server.call("POST", widgets.core("configmaps"), body), 201)["metadata"]
        return {"name": name, "uid": metadata["uid"]}

    def owners(name: str) -> list[str] | None:
        answer = widgets.server.call("GET", widgets.core("configmaps", name))
        if answer.status_code == 404:
            return None
        return [owner["name"] for owner in answer.json()["metadata"].get("ownerReferences", ())]

    owner, other = create("owner"), create("other")
    create("shared", owner, other)
    create("child", owner)
    query = f"propagationPolicy={policy}"
    assert widgets.server.call("DELETE", widgets.core("configmaps", "owner", query)).status_code == 200
    eventually(lambda: owners("child") == ([] if stays else None), "the dependent is looked after", 60)
    assert owners("owner") is None or stays
    assert "other" in (owners("shared") or ())


def test_a_collection_is_deleted_by_selector(widgets: Widgets) -> None:
    for name in ("one", "two", "three"):
        widgets.create(name, labels={"first": name[0]})
    gone = ok(widgets.server.call("DELETE", widgets.path(query="labelSelector=first%3Dt")))
    assert {item["metadata"]["name"] for item in gone["items"]} == {"two", "three"}
    assert [item["metadata"]["name"] for item in widgets.list()["items"]] == ["one"]


# Lists


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("color=red", {"one"}),
        ("color==red", {"one"}),
        ("color!=red", {"two", "three"}),
        ("color in (red, green)", {"one", "two"}),
        ("color notin (red)", {"two", "three"}),
        ("color", {"one", "two"}),
        ("!color", {"three"}),
        ("color,size>3", {"two"}),
        ("size<3", {"one"}),
        ("", {"one", "two", "three"}),
    ],
)
def test_labels_select(widgets: Widgets, selector: str, names: set[str]) -> None:
    widgets.create("one", labels={"color": "red", "size": "2"})
    widgets.create("two", labels={"color": "green", "size": "5"})
    widgets.create("three")
    answer = widgets.server.http.get(widgets.path(), params={"labelSelector": selector})
    assert {item["metadata"]["name"] for item in ok(answer)["items"]} == names


def test_fields_select_by_name_and_namespace_alone(widgets: Widgets) -> None:
    widgets.create("one")
    widgets.create("two")
    for selector, names in (("metadata.name=one", ["one"]), ("metadata.name!=one", ["two"])):
        found = widgets.server.http.get(widgets.path(), params={"fieldSelector": selector})
        assert [item["metadata"]["name"] for item in ok(found)["items"]] == names
    elsewhere = widgets.server.http.get(
        f"/apis/{API_VERSION}/widgets", params={"fieldSelector": f"metadata.namespace={widgets.namespace}"}
    )
    assert len(ok(elsewhere)["items"]) == 2
    refused(widgets.server.call("GET", widgets.path(query="fieldSelector=spec.size%3D6")), 400, "BadRequest")
    refused(widgets.server.call("GET", widgets.path(query="labelSelector=a%3D%3D%3Db")), 400, "BadRequest")


def test_a_list_comes_in_pages_that_fit_together(widgets: Widgets) -> None:
    for number in range(5):
        widgets.create(f"w{number}")
    first = widgets.list("limit=2")
    assert first["metadata"]["remainingItemCount"] == 3
    widgets.create("w5")
    ok(widgets.delete("w4"))
    names = [item["metadata"]["name"] for item in first["items"]]
    page = first
    while token := page["metadata"].get("continue"):
        page = widgets.list(f"limit=2&continue={token}")
        names += [item["metadata"]["name"] for item in page["items"]]
    assert names == ["w0", "w1", "w2", "w3", "w4"]
    refused(widgets.server.call("GET", widgets.path(query="limit=2&continue=abc")), 400, "BadRequest")


def test_a_list_of_all_namespaces_has_those_of_each(widgets: Widgets) -> None:
    widgets.create()
    listed = ok(widgets.server.call("GET", f"/apis/{API_VERSION}/widgets"))
    assert listed["kind"] == "WidgetList"
    assert ("one", widgets.namespace) in {(i["metadata"]["name"], i["metadata"]["namespace"]) for i in listed["items"]}


def test_a_list_at_an_exact_version_is_as_it_was_then(widgets: Widgets) -> None:
    version = widgets.create()["metadata"]["resourceVersion"]
    ok(widgets.patch({"spec": {"size": 7}}))
    widgets.create("two")
    then = widgets.list(f"resourceVersion={version}&resourceVersionMatch=Exact")
    assert [item["spec"]["size"] for item in then["items"]] == [6]
    refused(widgets.server.call("GET", widgets.path(query="resourceVersion=abc")), 400, "BadRequest")


def test_tables_have_the_columns_of_the_definition(widgets: Widgets) -> None:
    widgets.create(spec={"size": 6, "color": "red"})
    conditions = [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]
    ok(widgets.patch({"status": {"phase": "Run", "conditions": conditions}}, subresource="status"))
    table = ok(widgets.server.call("GET", widgets.path(), Accept=TABLE))
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    columns = [(c["name"], c["type"], c["priority"]) for c in table["columnDefinitions"]]
    assert columns == [
        ("Name", "string", 0),
        ("Phase", "string", 0),
        ("Size", "integer", 0),
        ("Ready", "string", 0),
        ("Color", "string", 1),
        ("Age", "date", 0),
    ]
    (row,) = table["rows"]
    assert row["cells"][:5] == ["one", "Run", 6, "True", "red"]
    assert row["object"]["kind"] == "PartialObjectMetadata" and "spec" not in row["object"]
    one = ok(widgets.server.call("GET", widgets.path("one", "includeObject=Object"), Accept=TABLE))
    assert one["rows"][0]["object"]["spec"]["size"] == 6


def test_metadata_can_be_had_alone(widgets: Widgets) -> None:
    uid = widgets.create()["metadata"]["uid"]
    accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
    one = ok(widgets.server.call("GET", widgets.path("one"), Accept=accept))
    assert (one["kind"], one["metadata"]["uid"], "spec" in one) == ("PartialObjectMetadata", uid, False)
    listed = ok(widgets.server.call("GET", widgets.path(), Accept=accept.replace("Metadata;", "MetadataList;")))
    assert (listed["kind"], len(listed["items"])) == ("PartialObjectMetadataList", 1)


# Built-in kinds


def test_a_namespace_takes_what_is_in_it_along(widgets: Widgets) -> None:
    widgets.create()
    ok(
        widgets.server.call(
            "POST", widgets.core("configmaps"), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
        ),
        201,
    )
    path = f"/api/v1/namespaces/{widgets.namespace}"
    marked = ok(widgets.server.call("DELETE", path))
    assert marked["status"]["phase"] == "Terminating"
    eventually(lambda: widgets.server.call("GET", path).status_code == 404, "the namespace is gone", 60)
    assert widgets.list()["items"] == []


def test_a_terminating_namespace_waits_for_finalizers_and_takes_nothing_new(widgets: Widgets) -> None:
    widgets.create(finalizers=["a.b/c"])
    path = f"/api/v1/namespaces/{widgets.namespace}"
    ok(widgets.server.call("DELETE", path))
    eventually(lambda: "deletionTimestamp" in widgets.get()["metadata"], "the widget is marked", 60)
    refused(widgets.post(widget("two")), 403, "Forbidden")
    assert ok(widgets.server.call("GET", path))["status"]["phase"] == "Terminating"
    ok(widgets.patch({"metadata": {"finalizers": None}}))
    eventually(lambda: widgets.server.call("GET", path).status_code == 404, "the namespace is gone", 60)


def test_the_default_namespaces_are_there_to_stay(server: Server) -> None:
    names = {item["metadata"]["name"] for item in ok(server.call("GET", "/api/v1/namespaces"))["items"]}
    assert {"default", "kube-system"} <= names
    message = refused(server.call("DELETE", "/api/v1/namespaces/default"), 403, "Forbidden")["message"]
    assert message == 'namespaces "default" is forbidden: this namespace may not be deleted'


def test_secrets_take_plain_text_and_keep_it_encoded(widgets: Widgets) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}
    created = ok(widgets.server.call("POST", widgets.core("secrets"), secret), 201)
    assert (created["data"], created["type"], "stringData" in created) == ({"a": "Yg=="}, "Opaque", False)
    patched = widgets.server.call("PATCH", widgets.core("secrets", "s"), {"stringData": {"c": "d"}}, STRATEGIC)
    assert ok(patched)["data"] == {"a": "Yg==", "c": "ZA=="}


def test_built_in_kinds_need_no_version_to_be_replaced(widgets: Widgets) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}}
    ok(widgets.server.call("POST", widgets.core("configmaps"), config), 201)
    changed = ok(widgets.server.call("PUT", widgets.core("configmaps", "c"), {**config, "data": {"c": "d"}}))
    assert changed["data"] == {"c": "d"}


def test_strategic_patches_merge_keyed_lists(widgets: Widgets) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "1"}
    metadata = {"name": "c", "finalizers": ["a.b/c"], "ownerReferences": [owner]}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "secrets": [{"name": "a"}]}
    path = widgets.core("serviceaccounts", "c")
    ok(widgets.server.call("POST", widgets.core("serviceaccounts"), account), 201)
    change = {"metadata": {"finalizers": ["d.e/f"]}, "secrets": [{"name": "b"}]}
    patched = ok(widgets.server.call("PATCH", path, change, STRATEGIC))
    assert set(patched["metadata"]["finalizers"]) == {"a.b/c", "d.e/f"}
    assert {"a", "b"} <= {item["name"] for item in patched["secrets"]}  # a real cluster adds a token
    change = {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["d.e/f", "a.b/c"]},
        "secrets": [{"$patch": "delete", "name": "a"}],
    }
    patched = ok(widgets.server.call("PATCH", path, change, STRATEGIC))
    assert "finalizers" not in patched["metadata"]
    assert {"name": "b"} in patched["secrets"] and {"name": "a"} not in patched["secrets"]


def test_events_are_seen_through_both_groups(widgets: Widgets) -> None:
    about = {"kind": "Widget", "name": "one", "namespace": widgets.namespace, "apiVersion": API_VERSION}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "one.1"},
        "involvedObject": about,
        "reason": "Started",
        "message": "it started",
        "type": "Normal",
        "source": {"component": "tests"},
        "count": 1,
    }
    ok(widgets.server.call("POST", widgets.core("events"), event), 201)
    newer = ok(widgets.server.call("GET", f"/apis/events.k8s.io/v1/namespaces/{widgets.namespace}/events/one.1"))
    assert (newer["apiVersion"], newer["note"], newer["regarding"]["name"]) == ("events.k8s.io/v1", "it started", "one")
    for selector, count in (("involvedObject.name=one,involvedObject.kind=Widget", 1), ("involvedObject.name=two", 0)):
        found = widgets.server.http.get(widgets.core("events"), params={"fieldSelector": selector})
        assert len(ok(found)["items"]) == count


def test_leases_are_held_and_renewed(widgets: Widgets) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{widgets.namespace}/leases"
    spec = {"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": spec}
    created = ok(widgets.server.call("POST", path, lease), 201)
    assert created["spec"] == spec
    renewed = {**created, "spec": {**spec, "renewTime": "2026-01-01T00:00:05.000000Z"}}
    ok(widgets.server.call("PUT", f"{path}/l", renewed))
    refused(
        widgets.server.call("PUT", f"{path}/l", {**renewed, "spec": {**spec, "holderIdentity": "you"}}), 409, "Conflict"
    )


def test_a_token_that_nobody_issued_is_not_authenticated(server: Server) -> None:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "abc"}}
    answered = ok(server.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review), 201)
    assert not answered["status"].get("authenticated")


def test_the_administrator_may_do_everything(server: Server) -> None:
    attributes = {"verb": "create", "group": GROUP, "resource": "widgets", "namespace": "default"}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answered = ok(server.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review), 201)
    assert answered["status"]["allowed"] is True


# Discovery


def test_a_custom_resource_is_discovered_with_its_names(server: Server) -> None:
    group = ok(server.call("GET", f"/apis/{GROUP}"))
    assert group["preferredVersion"] == {"groupVersion": API_VERSION, "version": "v1"}
    assert GROUP in {item["name"] for item in ok(server.call("GET", "/apis"))["groups"]}
    resources = {item["name"]: item for item in ok(server.call("GET", f"/apis/{API_VERSION}"))["resources"]}
    found = resources["widgets"]
    assert (found["kind"], found["namespaced"], found["singularName"]) == ("Widget", True, "widget")
    assert (found["shortNames"], found["categories"]) == (["wd"], ["contract"])
    assert set(found["verbs"]) == {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
    assert set(resources["widgets/status"]["verbs"]) == {"get", "patch", "update"}


def test_the_server_is_healthy_and_says_its_version(server: Server) -> None:
    for path in ("/healthz", "/readyz", "/livez"):
        answer = server.call("GET", path)
        assert (answer.status_code, answer.text) == (200, "ok")
    assert ok(server.call("GET", "/version"))["gitVersion"].startswith("v1.")


def test_a_new_definition_is_served_and_a_deleted_one_is_not(server: Server) -> None:
    kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    group = "more.contract.test.agent-platform.dev"
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    names = {"plural": "gadgets", "kind": "Gadget"}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"gadgets.{group}"},
        "spec": {"group": group, "scope": "Cluster", "names": names, "versions": [version]},
    }
    try:
        server.install(crd)
        state = ok(server.call("GET", f"{kinds}/gadgets.{group}"))["status"]
        assert {"Established": "True", "NamesAccepted": "True"}.items() <= {
            c["type"]: c["status"] for c in state["conditions"]
        }.items()
        assert state["acceptedNames"]["listKind"] == "GadgetList"
        gadget = {"apiVersion": f"{group}/v1", "kind": "Gadget", "metadata": {"generateName": "g-"}}
        assert "namespace" not in ok(server.call("POST", f"/apis/{group}/v1/gadgets", gadget), 201)["metadata"]
    finally:
        server.call("DELETE", f"{kinds}/gadgets.{group}")
    eventually(lambda: server.call("GET", f"/apis/{group}/v1/gadgets").status_code != 200, "it is gone")
