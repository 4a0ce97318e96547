"""What schemathesis cannot know of the requests that it makes."""

import re
from typing import Any
from uuid import uuid4

import schemathesis


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and re.fullmatch(r"[\x21-\x7e]{1,255}", key):
        case.headers["Idempotency-Key"] = uuid4().hex  # each made request is one of its own
    if "path" in (case.path_parameters or {}) and case.meta is not None and case.meta.phase.name == "stateful":
        case.path_parameters["path"] = "data/file"  # this phase judges the encoded path by the path's schema
    if isinstance(case.body, dict):
        _make_possible(case.body, creates=case.operation.path == "/sandbox/create")


def _make_possible(body: dict[str, Any], creates: bool) -> None:
    if isinstance(body.get("cwd"), str):
        body["cwd"] = ""  # a folder that is there
    for field, name in (("env", "name"), ("files", "path")):
        entries = body.get(field)
        if isinstance(entries, list) and all(isinstance(each, dict) and name in each for each in entries):
            # JSON Schema cannot say that each is there once.
            body[field] = list({repr(each[name]): each for each in entries}.values())
    wait = body.get("wait")
    if creates and (wait is None or (type(wait) in (int, float) and 0 <= wait <= 300)):
        body["wait"] = 0  # without waiting, hundreds of sandboxes are not started
