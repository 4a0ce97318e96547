"""The model and the CRD give the same answer: one corpus of specs, and many that nobody wrote."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.model import SandboxSpec, parse_spec
from tests.model.conftest import Judge, Server, model
from tests.model.corpus import BAD, GOOD, Spec
from tests.model.mutations import mutated_specs


@pytest.mark.parametrize("what", GOOD)
def test_good_is_taken(judge: Judge, what: str) -> None:
    assert judge(GOOD[what]) == ""


@pytest.mark.parametrize("what", BAD)
def test_bad_is_refused_by_the_name_of_the_field(judge: Judge, what: str) -> None:
    field, spec = BAD[what]
    assert field in judge(spec)


@pytest.mark.parametrize("what", GOOD)
def test_what_the_server_stores_means_the_same(server: Server, what: str) -> None:
    assert parse_spec(server.create(GOOD[what])["spec"]) == parse_spec(GOOD[what])


def test_the_server_stores_the_models_defaults(server: Server) -> None:
    defaults = SandboxSpec().model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"env", "files"})
    assert server.create({})["spec"] == defaults


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutated_specs())
def test_specs_that_nobody_wrote_get_the_same_answer(server: Server, spec: Spec) -> None:
    assert (model(spec) == "") == (server.judge(spec) == ""), f"model: {model(spec)!r}, server: {server.judge(spec)!r}"


SECRET = "hunter2"


@pytest.mark.parametrize(
    "spec",
    [
        {"env": [{"name": "A", "value": f"{SECRET}\0"}]},
        {"env": [{"name": f"A={SECRET}", "value": ""}]},
        {"run": {"language": "bash", "code": f"{SECRET}\0"}},
        {"run": {"language": SECRET, "code": "x"}},
        {"run": {"command": ["x", f"{SECRET}\0"]}},
        {"files": [{"path": f"../{SECRET}"}]},
        {"image": f"{SECRET} {SECRET}"},
        {"resources": {"limits": {"memory": SECRET}}},
        {"lifetime": {"shutdownTime": SECRET}},
    ],
)
def test_the_models_errors_repeat_no_value(spec: Spec) -> None:
    assert model(spec)
    assert SECRET not in model(spec)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_json_is_a_spec_or_an_invalid_spec(document: object) -> None:
    assert isinstance(model(document), str)
    assert "\n" not in model(document)


def test_an_error_is_one_line_that_a_person_understands() -> None:
    assert model({"resources": {"limits": {"memory": 0}}}) == (
        "spec.resources.limits.memory: 0 is out of range: from 6Mi to 1Ti"
    )


def test_python_programs_may_use_pythons_names() -> None:
    assert SandboxSpec(operating_mode="Suspended").operating_mode == "Suspended"
