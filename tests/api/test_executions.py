"""From what somebody asks for to the request of the port."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import executions
from controller.backends import ExecRequest, ExecResult, OutputChunk, Unavailable
from controller.executions import Program, keyed_id, request_for, run
from controller.model import Reason
from controller.settings import SandboxSettings

UID = "0b7e7f0e-5c1f-4a52-9d0c-2f5b8f0b6f55"


def request(settings: SandboxSettings | None = None, key: str = "k", **fields: Any) -> Any:
    return request_for(UID, Program.model_validate(fields), settings or SandboxSettings(), key)


def test_a_request_is_known_again_by_a_controller_with_other_defaults() -> None:
    changed = SandboxSettings(timeout=77, output_limit=2048)
    assert request(code="x").digest == request(changed, code="x").digest
    assert request(changed, code="x").timeout == 77


def test_both_forms_of_env_and_files_are_the_same_request() -> None:
    as_object = request(code="x", env={"A": "1"}, files={"f": "text"}, stdin="in")
    as_list = request(
        code="x",
        env=[{"name": "A", "value": "1"}],
        files=[{"path": "f", "content_base64": "dGV4dA=="}],
        stdin_base64="aW4=",
    )
    assert as_object.digest == as_list.digest
    assert as_list.files == {"f": b"text"}


def test_without_a_key_each_request_is_an_execution_of_its_own() -> None:
    assert request(key="", code="x").id != request(key="", code="x").id
    assert request(key="k", code="x").id == request(key="k", code="y").id == keyed_id(UID, "k")


def test_a_key_in_another_sandbox_is_another_execution() -> None:
    assert keyed_id("a", "b") != keyed_id("b", "a")
    assert keyed_id("a", "bc") != keyed_id("ab", "c")


class Unruly:
    """A backend that keeps to none of the port's promises."""

    def __init__(self, *items: OutputChunk | ExecResult, hangs: bool = False) -> None:
        self._items, self._hangs = items, hangs

    async def execute(self, uid: str, request: ExecRequest) -> AsyncIterator[OutputChunk | ExecResult]:
        for item in self._items:
            yield item
        if self._hangs:
            await asyncio.Event().wait()


async def test_output_beyond_the_limit_ends_here_whatever_a_backend_lets_through() -> None:
    result = ExecResult("id", 0, Reason.COMPLETED, 1, "agent", dropped_stdout=5)
    chunks = [OutputChunk("stdout", b"x" * 1000) for _ in range(5)]
    wanted = request(SandboxSettings(output_limit=1024), code="x")
    outcome = await run(Unruly(*chunks, OutputChunk("stderr", b"e"), result), UID, wanted)  # type: ignore[arg-type]
    assert (len(outcome.stdout), outcome.stderr) == (1024, b"e")
    assert (outcome.result.dropped_stdout, outcome.truncated) == (5 * 1000 - 1024 + 5, True)


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_backend_that_tells_no_result_is_unavailable(monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:
    monkeypatch.setattr(executions, "GRACE", 0.1)
    with pytest.raises(Unavailable, match="no result"):
        await run(Unruly(hangs=hangs), UID, request(code="x", timeout=0.1))  # type: ignore[arg-type]


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
programs = st.fixed_dictionaries(
    {"code": texts.filter(bool)},
    optional={
        "language": st.sampled_from(["python", "bash"]),
        "stdin": texts,
        "cwd": texts,
        "timeout": st.sampled_from([1.0, 2.0]),
        "env": st.dictionaries(st.sampled_from(["A", "B"]), texts),
        "files": st.dictionaries(st.sampled_from(["a", "b/c"]), texts),
    },
)


@given(programs, programs)
def test_requests_have_one_digest_exactly_where_they_ask_for_the_same(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    same = _asked(one) == _asked(other)
    assert (request(**one).digest == request(**other).digest) == same


def _asked(program: dict[str, Any]) -> dict[str, Any]:
    defaults = {"language": "python", "stdin": "", "cwd": "", "timeout": None, "env": {}, "files": {}}
    return {**defaults, **program}
