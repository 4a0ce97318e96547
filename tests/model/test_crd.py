"""What the CRD says that a spec alone can't show: changes, status, sizes, columns."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client

from controller.model import GROUP, PLURAL, VERSION, Isolation, Phase, Reason
from tests.model.conftest import Server, complaint, crd
from tests.model.corpus import GOOD, Spec, python

NAME = "model-test"
STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "phase": "Running",
    "docker_available": True,
    "backend": "docker",
    "warnings": ["w"],
    "isolation": "container",
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "TakesCode",
            "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
            "observedGeneration": 1,
        }
    ],
    "container": {"name": "sbx-1", "id": "c", "image": "sha256:0", "node": "n"},
    "limits": {"cpu": "1", "memory": "512Mi", "pids": 128, "network": "none"},
    "startedAt": "2026-01-02T03:04:05.123456Z",
    "finishedAt": "2026-01-02T03:04:05Z",
    "expiresAt": "2026-01-02T03:04:05Z",
    "result": {
        "exitCode": 0,
        "reason": "Completed",
        "stdout": "x" * 16384,
        "stderr": "",
        "truncated": False,
        "durationMs": 41,
    },
}


@pytest.fixture
def made(server: Server) -> Iterator[Server]:
    """A server with a sandbox that has a program."""
    server.create(python(), name=NAME, dry_run=False)
    yield server
    server.delete(NAME)


def refusal(server: Server, spec: Spec) -> str:
    with pytest.raises(client.ApiException) as caught:
        server.patch(NAME, spec)
    return complaint(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"code": "print(2)"}, {"stdin": "x"}, {"timeoutSeconds": 5}, {"code": None, "language": None, "command": ["x"]}],
)
def test_a_program_cannot_be_changed(made: Server, change: Spec) -> None:
    assert "spec.run: Forbidden: run cannot be changed" in refusal(made, {"run": change})


def test_a_program_cannot_be_removed(made: Server) -> None:
    assert "run cannot be added or removed" in refusal(made, {"run": None})


def test_a_program_cannot_be_added(server: Server) -> None:
    server.create({}, name=NAME, dry_run=False)
    try:
        assert "run cannot be added or removed" in refusal(server, python())
    finally:
        server.delete(NAME)


def test_the_backend_cannot_be_changed(made: Server) -> None:
    assert "spec.backend: Forbidden: backend cannot be changed" in refusal(made, {"backend": "mock"})


def test_the_rest_can_be_changed(made: Server) -> None:
    assert made.patch(NAME, {"operatingMode": "Suspended"})["spec"]["operatingMode"] == "Suspended"


def test_every_field_of_the_status_is_kept_and_no_other(made: Server) -> None:
    stored = made.sandboxes.patch_namespaced_custom_object_status(
        GROUP,
        VERSION,
        "default",
        PLURAL,
        NAME,
        {"status": STATUS | {"secret": "x"}, "spec": {"image": "other"}},
        _content_type="application/merge-patch+json",
    )
    assert stored["status"] == STATUS
    assert "image" not in stored["spec"]


def test_the_largest_object_stays_below_256_kib(server: Server) -> None:
    sizes = {what: len(json.dumps(server.create(spec), ensure_ascii=False).encode()) for what, spec in GOOD.items()}
    assert max(sizes.values()) + len(json.dumps(STATUS)) < 192 * 1024, sizes


def test_the_words_of_the_status_are_the_models() -> None:
    version = crd()["spec"]["versions"][0]
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    assert status["phase"]["enum"] == list(Phase)
    assert status["isolation"]["enum"] == list(Isolation)
    assert status["result"]["properties"]["reason"]["enum"] == list(Reason)


def test_the_columns_are_those_of_the_contract() -> None:
    columns = crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"].upper() for column in columns if not column.get("priority")] == [
        "PHASE", "READY", "BACKEND", "DOCKER", "AGE",
    ]  # fmt: skip
    assert [column["name"].upper() for column in columns if column.get("priority")] == [
        "IMAGE", "ISOLATION", "REASON", "EXIT",
    ]  # fmt: skip


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}", inner
        yield from fields(inner, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")


def test_every_field_is_explained() -> None:
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert [path for path, field in fields(schema, "") if len(field.get("description", "")) < 10] == []


def test_every_text_and_list_of_a_spec_is_capped() -> None:
    spec = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    uncapped = [
        path
        for path, field in fields(spec, "spec")
        if (field.get("type") == "string" and "maxLength" not in field and "enum" not in field)
        or (field.get("type") == "array" and "maxItems" not in field)
    ]
    assert uncapped == []
