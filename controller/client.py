"""A client of the HTTP API. Imports neither pydantic nor a backend: the kubectl plugin starts with it."""

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx

TYPE_PREFIX = "urn:agent-platform:problem:"
REPEAT_SECONDS = 0.75
"""For which a call that may be repeated is tried anew, where the controller is not reached or answers 503."""
RESTART_SECONDS = 30.0
"""The same for an execution, once the controller was reached: its key finds it again, so it outlives a restart."""
NOT_READY_SECONDS = 5.0
"""Of that, for a controller which is there and answers 503: it starts, or its Docker is away."""
BREAKS = 5
"""Of one stream, until it is given up: the controller restarts again and again, or the sandbox's place is lost."""
PAUSES = (0.25, 1.0)
"""Seconds before the second attempt, and at most before any."""
ANSWER_SECONDS = 30.0
"""For an answer to begin, on top of what was asked to take time (a creation, an execution)."""
LONGEST_EXECUTION = 86400.0
"""Seconds; the API takes no longer timeouts."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ApiError(Exception):
    """The API's answer is a problem document, or there is no answer: `kind` is `unreachable` then."""

    def __init__(self, kind: str, text: str, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        """The last part of the problem's `type`, such as `not-found`."""
        self.status = status
        self.retry_after = retry_after
        """Seconds, where the API told."""


class ApiClient:
    """The calls of the HTTP API as they are: bodies in, bodies out. Every method raises ApiError.

    `ask_token` is called once, when the API refuses a call without a token; it may raise to say why there is none.
    Raises ValueError for an address or a token that cannot be one.
    """

    def __init__(self, url: str, token: str | None = None, ask_token: Callable[[], str] | None = None) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = httpx.URL()
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"the address of the API must be like http://127.0.0.1:8000, and not {url!r}")
        self.url = url.rstrip("/")
        self._ask_token = None if token else ask_token
        self._was_reached = False
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": _bearer(token)} if token else {},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=5.0),
            verify=parsed.scheme == "https",  # reading the certificates takes 30 ms, which plain http can do without
            trust_env=parsed.host not in LOOPBACK,  # no proxy is asked for this machine
        )

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "ApiClient":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    # --- the service ---

    async def status(self) -> dict[str, Any]:
        """`status`, `docker_available`, `active_sandboxes`, maybe `warning`."""
        return await self._json("GET", "/sandbox/status")

    async def docker_info(self) -> dict[str, Any]:
        """`available`, `status` and what the daemon told."""
        return await self._json("GET", "/sandbox/docker-info")

    # --- sandboxes ---

    async def create(self, body: Mapping[str, Any], wait: float) -> dict[str, Any]:
        """Make a sandbox and wait for it; not repeated, for its name would be taken."""
        body = {**body, "wait": wait}
        return await self._json("POST", "/sandbox/create", body, timeout=wait + ANSWER_SECONDS, repeat=0)

    async def list_sandboxes(self, namespace: str = "", name: str = "") -> tuple[list[dict[str, Any]], int]:
        """Sandboxes that one may see, of a namespace, of a name; at most 1,000, and how many there are."""
        query = {key: value for key, value in (("namespace", namespace), ("name", name)) if value}
        found = await self._json("GET", "/sandbox", query={**query, "limit": "1000"})
        return [dict(each) for each in found["items"]], int(found["total"])

    async def get(self, sandbox_id: str) -> dict[str, Any]:
        return await self._json("GET", _path(sandbox_id))

    async def usage(self, sandbox_id: str) -> dict[str, Any]:
        """`memory` in bytes, `cpu_seconds` since its start, `processes`."""
        return await self._json("GET", _path(sandbox_id, "usage"))

    async def delete(self, sandbox_id: str, wait: float = 30.0) -> bool:
        """Ask for its deletion; gone already is fine. Whether it is gone, after `wait` seconds at most."""
        how: dict[str, Any] = {"query": {"wait": str(wait)}, "timeout": wait + ANSWER_SECONDS}
        try:
            async with self._answer("DELETE", _path(sandbox_id), **how) as answer:
                return answer.status_code != httpx.codes.ACCEPTED
        except ApiError as error:
            if error.kind != "not-found":
                raise
            return True

    # --- executions ---

    async def execute(self, sandbox_id: str, body: Mapping[str, Any], key: str = "") -> dict[str, Any]:
        """Run it, at most once per `key`, and return the result. Outlives a restart of the controller."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        path = _path(sandbox_id, "execute")
        return await self._json("POST", path, body, headers=headers, timeout=_longest(body), repeat=RESTART_SECONDS)

    async def stream(
        self, sandbox_id: str, body: Mapping[str, Any], key: str = ""
    ) -> AsyncGenerator[tuple[str, Any], None]:
        """Run it, at most once per `key`: `progress` with the `execution_id` and `elapsed_ms`, `stdout` and `stderr`
        with bytes, at last `result` with its body. Outlives a restart of the controller, too, and repeats no output."""
        how: dict[str, Any] = {"headers": {"Idempotency-Key": key or uuid.uuid4().hex}, "repeat": RESTART_SECONDS}
        told = {"stdout": 0, "stderr": 0}
        for broken in range(BREAKS + 1):
            begun, skip = False, dict(told)
            try:
                async with aclosing(
                    self._events("result", "POST", _path(sandbox_id, "execute"), body, **how)
                ) as events:
                    async for event, data in events:
                        begun = True
                        if event in told:
                            fresh = data[skip[event] :]
                            skip[event] -= len(data) - len(fresh)
                            told[event] += len(fresh)
                            data = fresh
                        if data:
                            yield event, data
                return
            except ApiError as error:
                if not begun or broken == BREAKS or error.kind not in ("unreachable", "unavailable"):
                    raise
            await asyncio.sleep(PAUSES[0])

    async def cancel(self, sandbox_id: str, execution_id: str) -> None:
        """End it; done already is fine."""
        await self._json("DELETE", _path(sandbox_id, "executions", execution_id))

    # --- files and logs ---

    async def write_file(self, sandbox_id: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Stream a file into the workspace; not repeated, for the chunks are gone."""
        headers = {"Content-Type": "application/octet-stream"}
        async with self._answer("PUT", _file(sandbox_id, path), chunks=chunks, headers=headers, repeat=0):
            pass

    async def read_file(self, sandbox_id: str, path: str) -> AsyncGenerator[bytes, None]:
        """Stream a file out of the workspace."""
        async with self._answer("GET", _file(sandbox_id, path)) as answer:
            async for chunk in answer.aiter_bytes():
                yield chunk

    async def list_files(self, sandbox_id: str, folder: str = "") -> tuple[list[dict[str, Any]], bool]:
        """`path` and `size` of the files in a folder of the workspace, at most 10,000; whether there are more."""
        found = await self._json("GET", _path(sandbox_id, "files"), query={"folder": folder} if folder else None)
        return [dict(each) for each in found["items"]], bool(found["truncated"])

    def logs(self, sandbox_id: str, follow: bool = False) -> AsyncGenerator[tuple[str, Any], None]:
        """The output of `run`: `stdout` and `stderr` with bytes, at last `end`; `follow` waits for what comes."""
        query = {"follow": "true"} if follow else None
        return self._events(
            "end", "GET", _path(sandbox_id, "logs"), query=query, timeout=None if follow else ANSWER_SECONDS
        )

    # --- one call ---

    async def _events(
        self, last: str, method: str, path: str, *what: Any, **how: Any
    ) -> AsyncGenerator[tuple[str, Any], None]:
        """Events until the one called `last`, with output as bytes."""
        how["headers"] = {**how.get("headers", {}), "Accept": "text/event-stream"}
        async with self._answer(method, path, *what, **how) as answer, aclosing(_events(answer)) as events:
            async for event, data in events:
                if event == "error":
                    raise _problem(data, 0)
                yield event, _output(data) if event in ("stdout", "stderr") else data
                if event == last:
                    return
        raise ApiError("unreachable", f"the connection to {self.url} ended before the output did")

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None, **how: Any) -> dict[str, Any]:
        async with self._answer(method, path, body, **how) as answer:
            content = await answer.aread()
        try:
            return dict(json.loads(content)) if content else {}
        except ValueError:
            raise ApiError("not-the-api", f"{self.url} answers, but not as this API; is the address right?") from None

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        chunks: AsyncIterator[bytes] | None = None,
        timeout: float | None = ANSWER_SECONDS,
        repeat: float = REPEAT_SECONDS,
    ) -> AsyncIterator[httpx.Response]:
        """The answer's head has come, and it is a good one; its body is still to be read.

        For `repeat` seconds it is asked again where the controller is not reached or is not ready.
        """
        request = self._http.build_request(
            method,
            path,
            params=query,
            headers=headers,
            content=chunks,
            json=body,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=5.0, read=timeout),
        )
        answer = await self._sent(request, repeat)
        try:
            yield answer
        except httpx.TransportError as error:
            raise ApiError("unreachable", f"the connection to {self.url} was lost: {_told(error)}") from error
        finally:
            await answer.aclose()

    async def _sent(self, request: httpx.Request, repeat: float) -> httpx.Response:
        now = asyncio.get_running_loop().time
        pause, longest_pause = PAUSES
        since: dict[int, float] = {}
        while True:
            try:
                answer = await self._http.send(request, stream=True)
            except httpx.TransportError as error:
                problem = ApiError("unreachable", f"{self.url} was not reached: {_told(error)}. Is the controller up?")
                problem.__cause__ = error
            else:
                self._was_reached = True
                if answer.is_success:
                    return answer
                problem = await _refusal(answer, self.url)
                if problem.status == 401 and self._ask_token is not None:
                    token, self._ask_token = self._ask_token(), None
                    self._http.headers["Authorization"] = request.headers["Authorization"] = _bearer(token)
                    continue
            longest = NOT_READY_SECONDS if problem.status else RESTART_SECONDS if self._was_reached else REPEAT_SECONDS
            until = since.setdefault(problem.status, now()) + min(repeat, longest)
            if problem.status not in (0, 503) or now() + pause > until:
                raise problem
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest_pause)


def _bearer(token: str) -> str:
    # Checked here: whatever refuses a header later shows it in its error, and a token is a secret.
    token = token.strip()  # files and variables often end with a line break
    if not token.isascii() or not token.isprintable():
        raise ValueError("the token has characters that no token has: line breaks, control characters or non-ASCII")
    return f"Bearer {token}"


async def _refusal(answer: httpx.Response, url: str) -> ApiError:
    try:
        problem = _problem(json.loads(await answer.aread()), answer.status_code)
    except (ValueError, KeyError, TypeError, httpx.TransportError):
        return ApiError(
            "not-the-api", f"{url} answers {answer.status_code}, but not as this API; is the address right?"
        )
    finally:
        await answer.aclose()
    wait = answer.headers.get("Retry-After", "")
    problem.retry_after = float(wait) if wait.isdigit() else None
    return problem


def _problem(document: Any, status: int) -> ApiError:
    kind = str(document["type"]).removeprefix(TYPE_PREFIX)
    return ApiError(kind, str(document.get("detail") or document["title"]), status)


def _output(data: dict[str, Any]) -> bytes:
    return base64.b64decode(data["data"]) if data["encoding"] == "base64" else str(data["data"]).encode()


async def _events(answer: httpx.Response) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html, as this API sends them."""
    event, data = "message", ""
    async for line in _lines(answer):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data += value
        elif not line and data:
            yield event, json.loads(data)
            event, data = "message", ""


async def _lines(answer: httpx.Response) -> AsyncGenerator[str, None]:
    # For httpx U+2028, U+0085 and others end a line, too; output may hold them, and JSON leaves them as they are.
    rest = b""
    async for chunk in answer.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")


def _path(sandbox_id: str, *parts: str) -> str:
    return "/".join(["/sandbox", quote(sandbox_id, safe=""), *(quote(part, safe="/") for part in parts)])


def _file(sandbox_id: str, path: str) -> str:
    # Refused here, because `..` would not reach the API: it would make another address of this one.
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ApiError("invalid", f"{path!r} must be a path below the workspace, without '..', '.' or empty parts")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ApiError("invalid", f"{path!r} must be a path in UTF-8") from None
    return _path(sandbox_id, "files", path)


def _longest(body: Mapping[str, Any]) -> float:
    """Seconds that an execution's answer may take; the server's default timeout is not known here."""
    return float(body.get("timeout") or LONGEST_EXECUTION) + ANSWER_SECONDS


def _told(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__
