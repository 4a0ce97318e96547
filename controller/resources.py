"""Files that are part of the product but no Python modules: the same in a checkout and in a wheel (see pyproject.toml)."""

from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parent


def _found(installed: Path, in_checkout: Path) -> Path:
    return installed if installed.exists() else in_checkout


def agent_programs() -> tuple[Path, Path]:
    """What runs the agent as a plain process, for the mock backend, and the agent itself, as the sandbox image has it."""
    folder = _found(_PACKAGE / "sandbox-image", _CHECKOUT / "sandbox-image")
    return folder / "plain_agent.py", folder / "agent.py"


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition of Sandbox."""
    path = _found(_PACKAGE / "crds" / "sandboxes.yaml", _CHECKOUT / "crds" / "sandboxes.yaml")
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded
