"""Helm as a person calls it, and what it renders."""

import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "sandbox-controller"

Body = dict[str, Any]


class HelmError(Exception):
    """Helm ended badly; the text is what it said."""


@dataclass(frozen=True)
class Helm:
    program: Path
    kubeconfig: Path | None = None
    namespace: str = "sandboxes"

    def on(self, kubeconfig: Path, namespace: str) -> "Helm":
        return replace(self, kubeconfig=kubeconfig, namespace=namespace)

    def __call__(self, *words: str | Path, seconds: float = 120) -> str:
        """What it prints. Raises HelmError."""
        env = os.environ | {"KUBECONFIG": str(self.kubeconfig or os.devnull)}
        command = [self.program, *words, "--namespace", self.namespace]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=seconds)
        if done.returncode != 0:
            raise HelmError(done.stderr + done.stdout)
        return done.stdout

    def install(self, *words: str, release: str = "box", chart: Path = CHART, seconds: float = 120) -> str:
        """Installs or upgrades.

        The core of the test's API server is older than the CRD's rules and does not know them in a CRD, hence no validation
        on this side; the engine that serves the CRD knows them. The CRD may be there already, hence the ownership.
        """
        command = ("upgrade", "--install", release, chart, "--disable-openapi-validation", "--take-ownership")
        return self(*command, *words, seconds=seconds)

    def render(self, *words: str, release: str = "box", chart: Path = CHART) -> list[Body]:
        """The objects, hooks too."""
        return [body for body in yaml.safe_load_all(self("template", release, chart, *words)) if body]


def values(chosen: Mapping[str, str]) -> list[str]:
    """`--set` for each."""
    return [word for name, value in chosen.items() for word in ("--set", f"{name}={value}")]


def of_kind(bodies: Iterable[Body], kind: str) -> list[Body]:
    return [body for body in bodies if body["kind"] == kind]


def one(bodies: Iterable[Body], kind: str, name: str = "") -> Body:
    """The only object of that kind (whose name ends so)."""
    (found,) = (body for body in of_kind(bodies, kind) if body["metadata"]["name"].endswith(name))
    return found
