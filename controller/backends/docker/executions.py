"""Executions in containers: through the agent where the image carries one, else through `docker exec`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from controller.backends import ExecRequest, ExecResult, Executions, Listing, OutputChunk

Route = Callable[[str], Awaitable[Executions]]
"""uid -> the way into that container. Raises NotFound, NotRunning, Unavailable."""


class DockerExecutions:
    """The port's `Executions`: each call goes the way that its container has."""

    def __init__(self, route: Route) -> None:
        self._route = route

    async def execute(self, uid: str, request: ExecRequest) -> AsyncIterator[OutputChunk | ExecResult]:
        way = await self._route(uid)
        async with aclosing(way.execute(uid, request)) as items:  # type: ignore[type-var]
            async for item in items:
                yield item

    async def cancel(self, uid: str, execution_id: str) -> None:
        await (await self._route(uid)).cancel(uid, execution_id)

    async def put_file(self, uid: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        await (await self._route(uid)).put_file(uid, path, chunks)

    async def get_file(self, uid: str, path: str) -> AsyncIterator[bytes]:
        async with aclosing((await self._route(uid)).get_file(uid, path)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk

    async def list_files(self, uid: str, path: str = "") -> Listing:
        return await (await self._route(uid)).list_files(uid, path)
