"""Addresses: what an id may look like, so that anything else is a 404 before any code of ours sees it."""

from typing import Annotated

from fastapi import Path
from starlette.convertors import Convertor, register_url_convertor


class _Text(Convertor[str]):
    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _SandboxId(_Text):
    regex = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


class _ExecutionId(_Text):
    regex = "[0-9a-f]{32}"


register_url_convertor("sandbox_id", _SandboxId())
register_url_convertor("execution_id", _ExecutionId())

SANDBOX = "/sandbox/{id:sandbox_id}"

SandboxId = Annotated[
    str,
    Path(
        alias="id",
        pattern=f"^{_SandboxId.regex}$",
        description="The uid of the object.",
        examples=["0b7e7f0e-5c1f-4a52-9d0c-2f5b8f0b6f55"],
    ),
]
ExecutionId = Annotated[
    str,
    Path(
        alias="execution_id",
        pattern=f"^{_ExecutionId.regex}$",
        description="From a `progress` event, a result, or an idempotency key: see docs/http-api.md.",
        examples=["5f0c6a0d9a5e4b1f8f3d0e6c7b2a1908"],
    ),
]
