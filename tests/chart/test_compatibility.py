"""Every object that the last release took is taken now. At a release, its CRD is copied to released/ and the older one goes."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.compatibility import narrowings
from tests.model.conftest import crd

RELEASED = sorted(Path(__file__).with_name("released").glob("sandboxes-*.yaml"))


@pytest.mark.parametrize("release", RELEASED, ids=lambda path: path.stem)
def test_every_object_of_the_last_release_is_valid_now(release: Path) -> None:
    assert narrowings(yaml.safe_load(release.read_text()), crd()) == []


def spec_of(definition: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def _rename(definition: dict[str, Any]) -> None:
    definition["spec"]["versions"][0]["name"] = "v1"


def _rule(definition: dict[str, Any]) -> None:
    spec_of(definition)["x-kubernetes-validations"].append({"rule": "has(self.image)"})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_rename, "v1alpha1 is served no more"),
        (_rule, "new rules"),
        (lambda new: spec_of(new)["properties"].pop("env"), "env is gone"),
        (lambda new: spec_of(new).update(required=["image"]), "is required now"),
        (lambda new: spec_of(new)["properties"]["backend"]["enum"].remove("mock"), "is left"),
        (lambda new: spec_of(new)["properties"]["backend"].update(default="docker"), "default"),
        (lambda new: spec_of(new)["properties"]["image"].update(maxLength=100), "maxLength"),
        (lambda new: spec_of(new)["properties"]["image"].update(pattern="^a"), "pattern"),
        (
            lambda new: spec_of(new)["properties"]["files"]["items"]["properties"]["path"].update(minLength=9),
            "minLength",
        ),
        (lambda new: spec_of(new)["properties"]["image"].update(type="integer"), "type"),
    ],
)
def test_each_narrowing_is_told(change: Callable[[dict[str, Any]], None], told: str) -> None:
    new = deepcopy(crd())
    change(new)
    assert any(told in each for each in narrowings(crd(), new))


def test_what_takes_more_is_no_narrowing() -> None:
    new = deepcopy(crd())
    spec = spec_of(new)
    spec["properties"]["more"] = {"type": "string"}
    spec["properties"]["backend"]["enum"].append("wasm")
    spec["properties"]["image"]["maxLength"] = 4096
    assert narrowings(crd(), new) == []
