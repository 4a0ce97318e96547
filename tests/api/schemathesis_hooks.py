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
    if isinstance(case.body, dict) and isinstance(case.body.get("cwd"), str):
        case.body["cwd"] = ""  # a folder that is there
    if case.operation.path == "/sandbox/create" and isinstance(case.body, dict):
        wait = case.body.get("wait")
        if wait is None or (type(wait) in (int, float) and 0 <= wait <= 300):
            case.body["wait"] = 0  # without waiting, hundreds of sandboxes are not started
