"""The OpenAPI document tells the truth: schemathesis makes requests of it, with every check it has."""

import asyncio
import sys
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from controller.api import Authenticator
from tests.api.conftest import Serve

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
CONFIG = """
hooks = "{hooks}"
auth.openapi.bearer.bearer = "s3cret"
# A sandbox that is up, for everything but its deletion.
parameters = {{ id = "{id}" }}

[[operations]]
include-path = "/sandbox/{{id}}"
include-method = "DELETE"
parameters = {{ id = "{other}" }}

[[operations]]
include-path = "/sandbox/create"
# A spec has rules that JSON Schema cannot say; the API server checks them with CEL.
checks.positive_data_acceptance.expected-statuses = [201, 409, 422]
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("examples", [5, pytest.param(100, marks=pytest.mark.long)])
async def test_requests_made_of_the_document_find_nothing_wrong(serve: Serve, tmp_path: Path, examples: int) -> None:
    async with serve(Authenticator(SecretStr("s3cret")), {"Authorization": "Bearer s3cret"}) as api:
        config = tmp_path / "schemathesis.toml"
        config.write_text(CONFIG.format(hooks=HOOKS, id=await api.create(), other=await api.create()))
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("schemathesis"),
            *("--config-file", config),
            *("run", f"{api.url}/openapi.json"),
            *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "--seed", "1", "--no-color"),
            *("--max-examples", str(examples), "--continue-on-failure", "--generation-database", "none"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode(errors="replace")[-8000:]


async def test_the_document_is_openapi_3_1_with_an_example_of_each_body(serve: Serve) -> None:
    async with serve() as api:
        document = (await api.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    for path in ("/sandbox/create", "/sandbox/{id}/execute"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert body["examples"]


async def test_the_examples_of_the_document_work(serve: Serve) -> None:
    async with serve() as api:
        document = (await api.client.get("/openapi.json")).json()
        uid = await api.create()
        for path, status in (("/sandbox/create", 201), ("/sandbox/{id}/execute", 200)):
            examples = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
            for example in examples.values():
                answer: httpx.Response = await api.client.post(path.format(id=uid), json=example["value"])
                assert answer.status_code == status, answer.text
