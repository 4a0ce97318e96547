"""How the Docker daemon is reached, and what it means when it is not: the only home of docker-py's connection and errors."""

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

import docker
import requests
import urllib3
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, TLSParameterError
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnectionPool
from docker.utils import kwargs_from_env

from controller.backends import BackendError, Health, NotFound, Refused, Unavailable

MINIMUM_API = (1, 41)
"""Docker 20.10: the first that takes a cgroup namespace mode for a container."""
READ_TIMEOUT = 60
"""Seconds that one answer of the daemon may take: a start on a busy machine takes several."""


class DockerTooOld(Exception):
    """The daemon's API is older than MINIMUM_API."""


def connect(timeout: int = READ_TIMEOUT, pool_size: int = 32) -> docker.APIClient:
    """A client of the daemon that DOCKER_HOST and its TLS variables name, else of Docker's current context.

    Asks the daemon for its version. Raises what `diagnose` understands.
    """
    options = kwargs_from_env()
    if not os.environ.get("DOCKER_HOST"):
        context = ContextAPI.get_current_context()
        if context is not None and context.name != "default" and context.Host:
            options = {"base_url": context.Host, "tls": context.TLSConfig}
    client = docker.APIClient(version="auto", timeout=timeout, max_pool_size=pool_size, num_pools=4, **options)
    if tuple(int(part) for part in client.api_version.split(".")) < MINIMUM_API:
        client.close()
        raise DockerTooOld(client.api_version)
    adapter = client.get_adapter(client.base_url)
    if isinstance(adapter, UnixHTTPAdapter):
        client.mount(client.base_url, _OnePool(adapter.socket_path, timeout, max_pool_size=pool_size))
        adapter.close()
    return client


class _OnePool(UnixHTTPAdapter):
    """docker-py has a pool of connections for each URL, so nearly every request connects anew; but the daemon is one."""

    def get_connection(self, url: bytes | str, proxies: object = None) -> UnixHTTPConnectionPool:
        return super().get_connection("", proxies)


def diagnose(error: BaseException) -> Health:
    """Why the daemon was not reached, told apart by what a person has to do."""
    chain = list(_causes(error))

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    host = os.environ.get("DOCKER_HOST") or "the Docker socket"
    if has(DockerTooOld):
        wanted = ".".join(map(str, MINIMUM_API))
        return Health(False, "too_old", f"Docker's API {error} is too old: {wanted} (Docker 20.10) or newer is needed")
    if has(ssl.SSLError, requests.exceptions.SSLError, TLSParameterError):
        return Health(
            False,
            "tls",
            f"TLS with {host} failed: check DOCKER_CERT_PATH, DOCKER_TLS_VERIFY and the certificates' dates",
        )
    if has(PermissionError):
        return Health(
            False, "permission_denied", f"no permission for {host}: run as a member of the group docker, or as root"
        )
    if has(TimeoutError, requests.exceptions.Timeout, urllib3.exceptions.TimeoutError):
        return Health(
            False,
            "timeout",
            f"Docker connectivity check failed (Connection timeout): {host} does not answer; restart dockerd",
        )
    if has(FileNotFoundError):
        return Health(False, "no_socket", f"{host} does not exist: install and start Docker, or set DOCKER_HOST")
    if has(ConnectionError, requests.exceptions.ConnectionError):
        return Health(False, "refused", f"nothing listens at {host}: start Docker (systemctl start docker)")
    return Health(False, "error", f"Docker was not reached: {type(error).__name__}: {str(error)[:200]}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and everything it wraps: requests and urllib3 put causes into their arguments."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        cause = waiting.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None)]
        waiting += [arg for arg in cause.args if isinstance(arg, BaseException)]
        waiting = [c for c in waiting if c is None or isinstance(c, BaseException)]


def status_of(error: APIError) -> int:
    """HTTP status of an answer, 0 where there was none."""
    return error.response.status_code if error.response is not None else 0


def _explanation(error: APIError) -> str:
    return str(error.explanation or error)[:500]


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Docker's errors as errors of the port. `what` names the act and its object."""
    try:
        yield
    except ImageNotFound as error:
        raise Refused(f"{what}: {_explanation(error)}", "ImageNotFound") from error
    except APIError as error:
        status, text = status_of(error), _explanation(error)
        if status == HTTPStatus.NOT_FOUND:
            raise NotFound(f"{what}: {text}") from error
        if status == HTTPStatus.BAD_REQUEST:
            raise Refused(f"{what}: {text}") from error
        raise BackendError(f"{what}: {text}", "DockerError") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, DockerException, OSError) as error:
        raise Unavailable(f"{what}: {diagnose(error).message}", "DockerUnavailable") from error


def ignoring(*statuses: int, call: Callable[[], object]) -> None:
    """Call, taking an answer with one of `statuses` for success: the act was done before."""
    try:
        call()
    except APIError as error:
        if status_of(error) not in statuses:
            raise
