"""Images on the daemon: what matters of one, pulled where it is missing, a bounded number of times."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import docker
from docker.errors import ImageNotFound
from docker.utils import parse_repository_tag

from controller.backends import BackendError, NotFound, Refused
from controller.backends.container import AGENT_LABEL, Image
from controller.settings import SandboxSettings

T = TypeVar("T")

IMAGE_TTL = 5.0
"""Seconds that an image's label and command are remembered."""
GET_IMAGE = "build it with `make image`, load it with `docker load`, or `docker pull {name}`"


class Call(Protocol):
    """Runs a blocking call of docker-py in a lane of threads, its errors as the port's."""

    async def __call__(self, lane: str, what: str, act: Callable[[docker.APIClient], T]) -> T: ...


class DockerImages:
    """The images of one daemon."""

    def __init__(self, call: Call, settings: SandboxSettings) -> None:
        self._call, self._settings = call, settings
        self._known: dict[str, tuple[float, Image]] = {}

    async def get(self, name: str) -> Image:
        """The image of that name, pulled where it is missing and may be. Raises Refused ImageNotFound."""
        known = self._known.get(name)
        now = time.monotonic()
        if known is not None and known[0] > now - IMAGE_TTL:
            return known[1]

        def look(client: docker.APIClient) -> dict[str, Any] | None:
            try:
                return dict(client.inspect_image(name))
            except ImageNotFound:
                return None

        found = await self._call("look", f"looking at image {name}", look)
        if found is None:
            await self._pull(name)
            found = await self._call("look", f"looking at image {name}", look)
        if found is None:
            raise Refused(f"image {name} is not on this Docker daemon; {GET_IMAGE.format(name=name)}", "ImageNotFound")
        config = found["Config"]
        command = (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()))
        image = Image(found["Id"], (config.get("Labels") or {}).get(AGENT_LABEL) == "1", command)
        self._known[name] = (now, image)
        return image

    async def _pull(self, name: str) -> None:
        """Try a bounded number of times, with growing waits; a registry that says no is final."""
        failure = "pulling is switched off (SANDBOX__PULL_IMAGES)"
        tries = 1 + self._settings.docker_max_retries if self._settings.pull_images else 0
        for attempt in range(tries):
            if attempt:
                await asyncio.sleep(min(0.25 * 2**attempt, 8))
            try:
                await self._call(
                    "pull", f"pulling image {name}", lambda client: client.pull(*parse_repository_tag(name))
                )
                return
            except (NotFound, Refused) as error:
                failure = str(error)
                break
            except BackendError as error:
                failure = str(error)
        raise Refused(
            f"image {name} is not there and was not pulled ({failure}); {GET_IMAGE.format(name=name)}", "ImageNotFound"
        )
