"""From a request to the sandbox it names, if the caller may do that with it."""

import asyncio

from starlette.requests import Request

from controller.api.auth import Authenticator, Caller, forbidden
from controller.api.problems import Kind, Problem
from controller.directory import Action, SandboxDirectory, Subresource, Verb
from controller.model import Sandbox


class Access:
    """Every route that needs credentials goes through here."""

    def __init__(self, directory: SandboxDirectory, authenticator: Authenticator) -> None:
        self._directory = directory
        self._authenticator = authenticator

    async def caller(self, request: Request) -> Caller:
        """Who asks. Raises Problem 401."""
        return await self._authenticator.identify(request.headers)

    async def demand(self, caller: Caller, action: Action) -> None:
        """Raises Problem 403 unless the caller may do it."""
        if not await self._authenticator.allows(caller, action):
            raise forbidden(action.verb, action.subresource, action.namespace)

    async def sandbox(self, request: Request, uid: str, verb: Verb, subresource: Subresource = "") -> Sandbox:
        """The sandbox to do it with. Raises Problem 401, 403, 404.

        Who may not even see a sandbox gets the 404 of one that does not exist.
        """
        caller = await self.caller(request)
        sandbox = self._directory.get(uid)
        if sandbox is None:
            raise _unknown(uid)
        action = Action(verb, subresource, sandbox.namespace, sandbox.name)
        if await self._authenticator.allows(caller, action):
            return sandbox
        if await self._authenticator.allows(caller, Action("get", "", sandbox.namespace, sandbox.name)):
            raise forbidden(verb, subresource, sandbox.namespace)
        raise _unknown(uid)

    async def visible(self, request: Request, namespace: str | None) -> list[Sandbox]:
        """The sandboxes of one namespace, else those of all namespaces that the caller may list."""
        caller = await self.caller(request)
        if namespace is not None:
            await self.demand(caller, Action("list", namespace=namespace))
            return self._directory.list(namespace)
        sandboxes = self._directory.list()
        if await self._authenticator.allows(caller, Action("list")):
            return sandboxes
        namespaces = sorted({each.namespace for each in sandboxes})
        questions = (self._authenticator.allows(caller, Action("list", namespace=each)) for each in namespaces)
        allowed = dict(zip(namespaces, await asyncio.gather(*questions), strict=True))
        return [each for each in sandboxes if allowed[each.namespace]]


def _unknown(uid: str) -> Problem:
    return Problem(Kind.NOT_FOUND, f"there is no sandbox {uid}")
