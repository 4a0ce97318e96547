"""Who asks, and what they may do: the secret key, a Kubernetes token, or nobody but this machine.

With neither a key nor a cluster to ask, everybody who reaches the API may do everything, so it is served on loopback
only, and answers no web page: a browser on this machine would carry the page's requests (DNS rebinding, CSRF).
"""

import asyncio
import hashlib
import hmac
import ipaddress
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.datastructures import Headers

from controller.api.problems import Kind, Problem
from controller.directory import Action, Identity, Reviewer, StoreUnavailable, Subresource, Verb

T = TypeVar("T")
_BEARER = re.compile(r"[Bb]earer +([\x21-\x7e]+)")
"""More than RFC 6750 allows: a key that somebody chose has what they like."""
REMEMBER_SECONDS = 10.0
"""How long an answer of the cluster counts: a withdrawn right is gone after that."""
REMEMBERED = 2048
REVIEW_SECONDS = 5.0
REVIEWS_AT_ONCE = 16


@dataclass(frozen=True)
class Caller:
    """Somebody whose credentials are valid."""

    identity: Identity | None = None
    """None: the holder of the key, or this machine; may do everything."""


class Authenticator:
    """Checks credentials and rights. Give it a key, a reviewer, both, or neither (then `open_to_loopback`)."""

    def __init__(
        self,
        key: SecretStr | None = None,
        reviewer: Reviewer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = _digest(key.get_secret_value()) if key else None
        self._reviewer = reviewer
        self._remembered = _Remembered(clock)

    @property
    def open_to_loopback(self) -> bool:
        """Nobody is asked for credentials: serve loopback only."""
        return self._key is None and self._reviewer is None

    async def identify(self, headers: Headers) -> Caller:
        """Who sends these headers. Raises Problem (401, always the same; 403 for a web page), StoreUnavailable."""
        if self.open_to_loopback:
            _refuse_web_pages(headers)
            return Caller()
        match = _BEARER.fullmatch(headers.get("authorization", ""))
        if match is None:
            raise unauthorized()
        digest = _digest(match[1])
        if self._key is not None and hmac.compare_digest(digest, self._key):
            return Caller()
        if self._reviewer is None:
            raise unauthorized()
        token, reviewer = match[1], self._reviewer
        identity = await self._remembered.answer(digest, lambda: reviewer.identify(token))
        if identity is None:
            raise unauthorized()
        return Caller(identity)

    async def allows(self, caller: Caller, action: Action) -> bool:
        """Whether the caller may do that. Raises StoreUnavailable when the cluster does not say."""
        identity, reviewer = caller.identity, self._reviewer
        if identity is None or reviewer is None:
            return identity is None
        who = (identity.user, identity.uid, identity.groups, tuple(sorted(identity.extra.items())))
        return await self._remembered.answer((who, action), lambda: reviewer.allows(identity, action))


def unauthorized() -> Problem:
    """401: one body for no credentials, wrong ones and old ones."""
    return Problem(Kind.UNAUTHORIZED, "send Authorization: Bearer <token>", headers={"WWW-Authenticate": "Bearer"})


def forbidden(verb: Verb, subresource: Subresource, namespace: str) -> Problem:
    """403 that says which right is missing."""
    what = f"sandboxes/{subresource}" if subresource else "sandboxes"
    where = f"in namespace {namespace}" if namespace else "in all namespaces"
    return Problem(Kind.FORBIDDEN, f"your account may not {verb} {what} {where}; ask for a Role that allows it")


def is_loopback(host: str) -> bool:
    """Whether a name or address (without port) means this machine itself."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_web_pages(headers: Headers) -> None:
    host = _hostname(f"//{headers.get('host', '')}")
    if not is_loopback(host):
        raise Problem(
            Kind.FORBIDDEN, "without a secret key only requests to localhost are answered; set SECURITY__SECRET_KEY"
        )
    origin = headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    if foreign or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Problem(Kind.FORBIDDEN, "requests of web pages are not answered; set SECURITY__SECRET_KEY and send it")


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


class _Remembered:
    """Answers of the cluster for REMEMBER_SECONDS, bounded in number; the same question is asked once at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answers: OrderedDict[Hashable, tuple[float, asyncio.Task[Any]]] = OrderedDict()
        self._asking = asyncio.Semaphore(REVIEWS_AT_ONCE)

    async def answer(self, question: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        """The remembered answer, else the one of `ask`. Raises StoreUnavailable, which is not remembered."""
        now = self._clock()
        until, task = self._answers.get(question, (now, None))
        if task is None or until <= now:
            task = asyncio.ensure_future(self._ask(ask))
            self._answers[question] = (now + REMEMBER_SECONDS, task)
            task.add_done_callback(lambda done: self._forget_failure(question, done))
            if len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
        self._answers.move_to_end(question)
        return cast("T", await asyncio.shield(task))

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(REVIEW_SECONDS), self._asking:
                return await ask()
        except TimeoutError:
            raise StoreUnavailable(f"the cluster did not say within {REVIEW_SECONDS:g} s who you are") from None

    def _forget_failure(self, question: Hashable, done: asyncio.Task[Any]) -> None:
        if (done.cancelled() or done.exception()) and self._answers.get(question, (0, None))[1] is done:
            del self._answers[question]
