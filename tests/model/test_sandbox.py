"""A Sandbox from an object of the API server."""

from datetime import UTC, datetime
from typing import Any

import pytest

from controller.model import BACKEND_ANNOTATION, FINALIZER, BackendName, SandboxSpec, sandbox_from_object


def body(**parts: Any) -> dict[str, Any]:
    metadata = {"uid": "u", "name": "n", "namespace": "ns", "generation": 2} | parts.pop("metadata", {})
    return {"metadata": metadata} | parts


def test_an_object_that_says_nothing_has_all_defaults() -> None:
    sandbox = sandbox_from_object(body())
    assert (sandbox.spec, sandbox.invalid, sandbox.backend, sandbox.status) == (SandboxSpec(), "", None, {})


def test_its_times_are_aware() -> None:
    times = {"creationTimestamp": "2026-01-02T03:04:05Z", "deletionTimestamp": "2026-01-02T03:04:06Z"}
    sandbox = sandbox_from_object(body(metadata=times))
    assert sandbox.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert sandbox.deleted_at == datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)


def test_an_invalid_object_is_still_a_sandbox_that_can_be_deleted() -> None:
    sandbox = sandbox_from_object(body(spec={"image": "a b"}, metadata={"finalizers": ["f"]}))
    assert sandbox.invalid.startswith("spec.image: must be the name of an image")
    assert (sandbox.uid, sandbox.finalizers, sandbox.spec) == ("u", ("f",), SandboxSpec())


@pytest.mark.parametrize("spec", ["x", [], 5, {"run": "x"}])
def test_a_spec_that_is_no_object_is_invalid_and_not_an_exception(spec: Any) -> None:
    assert sandbox_from_object(body(spec=spec)).invalid.startswith("spec")


def claimed(backend: str) -> dict[str, Any]:
    return {"annotations": {BACKEND_ANNOTATION: backend}, "finalizers": [FINALIZER]}


def test_its_backend_is_the_one_in_the_annotation() -> None:
    assert sandbox_from_object(body(metadata=claimed("docker"))).backend is BackendName.DOCKER


def test_an_annotation_without_our_finalizer_is_not_ours() -> None:
    sandbox = sandbox_from_object(body(metadata={"annotations": {BACKEND_ANNOTATION: "mock"}}))
    assert (sandbox.backend, sandbox.invalid) == (None, "")


def test_the_status_outranks_the_annotation() -> None:
    annotations = {BACKEND_ANNOTATION: "mock"}
    sandbox = sandbox_from_object(body(metadata={"annotations": annotations}, status={"backend": "docker"}))
    assert sandbox.backend is BackendName.DOCKER


def test_before_a_backend_is_decided_the_annotation_counts() -> None:
    sandbox = sandbox_from_object(body(metadata=claimed("docker"), status={"backend": "none"}))
    assert sandbox.backend is BackendName.DOCKER


def test_an_annotation_of_an_unknown_backend_makes_it_invalid() -> None:
    sandbox = sandbox_from_object(body(metadata=claimed("vm\n")))
    assert sandbox.backend is None
    assert sandbox.invalid == "metadata.annotations.agent-platform.dev/backend: must be one of docker, kubernetes, mock"
