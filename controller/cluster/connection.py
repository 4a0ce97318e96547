"""A connection to the Kubernetes API: plain JSON requests, made in threads, each with a deadline."""

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from controller.directory import DirectoryError, Exists, Invalid, StoreUnavailable
from controller.metrics import Metrics

CONNECT_SECONDS, READ_SECONDS = 5, 15
THREADS = 12
MERGE = "application/merge-patch+json"

Body = dict[str, Any]


class NoCluster(Exception):
    """No kubeconfig and not in a cluster; the text says what to do."""


class Gone(DirectoryError):
    """There is no such object (any more)."""


class Stale(DirectoryError):
    """The object has changed, or is another one of the same name: look again."""


class Forbidden(DirectoryError):
    """Our service account may not do this; the text names the right that is missing."""


def configuration(kubeconfig: Path | None = None) -> client.Configuration:
    """From `kubeconfig`, else from $KUBECONFIG or ~/.kube/config, else from the Pod's service account. Raises NoCluster."""
    found = client.Configuration()
    try:
        if kubeconfig is None:
            with suppress(ConfigException):
                config.load_incluster_config(client_configuration=found)
                return found
        config.load_kube_config(config_file=str(kubeconfig) if kubeconfig else None, client_configuration=found)
    except (ConfigException, OSError) as error:
        raise NoCluster(
            f"no Kubernetes cluster to talk to: {error}. Set KUBECONFIG, give --kubeconfig, or use `sandbox-controller dev`."
        ) from None
    return found


class Connection:
    """Requests to one API server."""

    def __init__(self, settings: client.Configuration, metrics: Metrics) -> None:
        settings.connection_pool_maxsize = THREADS
        settings.retries = urllib3.Retry(connect=2, read=0, redirect=0, backoff_factor=0.1)
        self.configuration = settings
        self._api = client.ApiClient(settings)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kubernetes")
        self._metrics = metrics

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Body:
        """One request. Raises Gone, Stale, Exists, Invalid, Forbidden, StoreUnavailable."""
        if method != "GET":
            self._metrics.writes.labels(verb=method.lower(), resource=_resource(path)).inc()
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._request, method, path, body, query or {}, content_type, accept
        )

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str],
        content_type: str,
        accept: str,
    ) -> Body:
        request = self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": accept, "Content-Type": content_type},
            body=None if body is None else dict(body),
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._api.call_api(*request, _request_timeout=(CONNECT_SECONDS, READ_SECONDS))
            data = answer.read()
        except (urllib3.exceptions.HTTPError, client.ApiException, OSError) as error:
            raise StoreUnavailable(
                f"the Kubernetes API at {self.configuration.host} did not answer: {error}"
            ) from error
        what = f"{method} {path}"
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise _error(answer.status, _status(data), what)
        try:
            parsed: Body = json.loads(data) if data else {}
        except ValueError as error:
            raise StoreUnavailable(f"{what}: the Kubernetes API did not answer in JSON: {error}") from error
        return parsed

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._api.close()


def _resource(path: str) -> str:
    """`sandboxes/status` of `/apis/GROUP/VERSION/namespaces/NS/sandboxes/NAME/status`."""
    parts = path.strip("/").split("/")[2 if path.startswith("/api/") else 3 :]
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    return "/".join(part for number, part in enumerate(parts) if number != 1)


def _status(data: bytes) -> Body:
    """The Status of an error; some errors are plain text: a group whose CRD is not there yet, a proxy in between."""
    try:
        parsed = json.loads(data)
    except ValueError:
        return {"message": data[:500].decode(errors="replace").strip()}
    return parsed if isinstance(parsed, dict) else {}


def _error(status: int, body: Body, what: str) -> DirectoryError:
    message = str(body.get("message") or f"{what}: HTTP {status}")
    match status, body.get("reason"):
        case HTTPStatus.NOT_FOUND, _:
            return Gone(message)
        case HTTPStatus.CONFLICT, "AlreadyExists":
            return Exists(message)
        case HTTPStatus.CONFLICT, _:
            return Stale(message)
        case ((HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY | HTTPStatus.REQUEST_ENTITY_TOO_LARGE), _):
            return Invalid(message)
        case ((HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN), _):
            return Forbidden(message)
    return StoreUnavailable(message)
