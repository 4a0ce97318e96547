"""Files that are part of the product but no Python modules: the same in a checkout and in a wheel (see pyproject.toml)."""

from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parent


def _found(installed: Path, in_checkout: Path) -> Path:
    return installed if installed.exists() else in_checkout


def agent_program() -> Path:
    """The agent, as the sandbox image carries it; the mock backend runs it as a plain process."""
    return _found(_PACKAGE / "backends" / "agent_program.py", _CHECKOUT / "sandbox-image" / "agent.py")


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition of Sandbox."""
    path = _found(_PACKAGE / "crds" / "sandboxes.yaml", _CHECKOUT / "crds" / "sandboxes.yaml")
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded
