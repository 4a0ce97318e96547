"""What judges specs: the model, a real API server and the embedded one, all asked in the same way."""

import json
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from kubernetes import client, config

from controller.localkube import LocalKube
from controller.model import API_VERSION, GROUP, KIND, PLURAL, VERSION, InvalidSpec, parse_spec

Judge = Callable[[Any], str]
"""What is wrong with a spec; empty: nothing."""
CRD = Path(__file__).parents[2] / "crds" / "sandboxes.yaml"
NAME = f"{PLURAL}.{GROUP}"


@lru_cache
def crd() -> dict[str, Any]:
    return cast(dict[str, Any], yaml.safe_load(CRD.read_text()))


class Server:
    """An API server that has the CRD."""

    def __init__(self, api: client.ApiClient) -> None:
        self.sandboxes = client.CustomObjectsApi(api)

    def create(self, spec: Any, name: str = "judged", dry_run: bool = True) -> dict[str, Any]:
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
        more = {"dry_run": "All"} if dry_run else {}
        created = self.sandboxes.create_namespaced_custom_object(
            GROUP, VERSION, "default", PLURAL, body, field_validation="Strict", **more
        )
        return cast(dict[str, Any], created)

    def patch(self, name: str, spec: Any) -> dict[str, Any]:
        patched = self.sandboxes.patch_namespaced_custom_object(
            GROUP, VERSION, "default", PLURAL, name, {"spec": spec}, _content_type="application/merge-patch+json"
        )
        return cast(dict[str, Any], patched)

    def delete(self, name: str) -> None:
        self.sandboxes.delete_namespaced_custom_object(GROUP, VERSION, "default", PLURAL, name)

    def judge(self, spec: Any) -> str:
        try:
            self.create(spec)
        except client.ApiException as error:
            return complaint(error)
        return ""


def complaint(error: client.ApiException) -> str:
    """The message of a refusal; whatever else went wrong is raised again."""
    if error.status not in (400, 422):
        raise error
    return str(json.loads(error.body)["message"])


def model(spec: Any) -> str:
    try:
        parse_spec(spec)
    except InvalidSpec as error:
        return str(error)
    return ""


@lru_cache
def real_server(kubeconfig: Path) -> Server:
    api = config.new_client_from_config(str(kubeconfig))
    definitions = client.ApiextensionsV1Api(api)
    try:
        definitions.create_custom_resource_definition(crd())
    except client.ApiException as error:
        if error.status != 409:
            raise
        there = definitions.read_custom_resource_definition(NAME)
        definitions.replace_custom_resource_definition(
            NAME, crd() | {"metadata": {"name": NAME, "resourceVersion": there.metadata.resource_version}}
        )
    server = Server(api)
    deadline = time.monotonic() + 30
    while True:
        try:
            server.create({})
        except client.ApiException as error:
            if error.status != 404 or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return server


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[Server]:
    kube = LocalKube(crds=[crd()])
    with kube.running():
        yield Server(config.new_client_from_config_dict(kube.kubeconfig()))


@pytest.fixture(params=["real", "embedded"])
def server(request: pytest.FixtureRequest) -> Server:
    """An API server, once the real one and once the embedded one."""
    if request.param == "real":
        return real_server(request.getfixturevalue("real_kubeconfig"))
    return cast(Server, request.getfixturevalue("embedded_server"))


@pytest.fixture(params=["model", "real", "embedded"])
def judge(request: pytest.FixtureRequest) -> Judge:
    """Whoever judges specs."""
    if request.param == "model":
        return model
    if request.param == "real":
        return real_server(request.getfixturevalue("real_kubeconfig")).judge
    return cast(Server, request.getfixturevalue("embedded_server")).judge
