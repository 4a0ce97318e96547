"""What only this installation can say of a spec: which folders and networks it allows. No call to any backend."""

from pathlib import Path

from controller.model import SandboxSpec
from controller.plan import Problem
from controller.settings import SandboxSettings


def spec_problem(spec: SandboxSpec, settings: SandboxSettings) -> Problem | None:
    """Why this installation refuses the spec, for good; None where it does not."""
    if spec.workspace.host_path and (message := _host_path(spec.workspace.host_path, settings.workspace_roots)):
        return Problem("HostPathNotAllowed", f"spec.workspace.hostPath: {message}", permanent=True)
    if message := _network(spec.network, settings):
        return Problem("NetworkNotAllowed", f"spec.network: {message}", permanent=True)
    return None


def _host_path(path: str, roots: tuple[str, ...]) -> str:
    if not roots:
        return "no folder of the host may be used here (SANDBOX__WORKSPACE_ROOTS is empty)"
    real = Path(path).resolve()
    if real != Path(path):
        return f"{path} leads through a symbolic link; name the folder itself"
    if not any(real != Path(root).resolve() and real.is_relative_to(Path(root).resolve()) for root in roots):
        return f"{path} is not below an allowed folder: {', '.join(roots)} (SANDBOX__WORKSPACE_ROOTS)"
    if not real.is_dir():
        return f"{path} is not a folder of this host"
    return ""


def _network(network: str, settings: SandboxSettings) -> str:
    allowed = {"none", *settings.networks} | (set() if settings.network_disabled else {"bridge"})
    if network in allowed:
        return ""
    return f"{network} is not allowed here, only {', '.join(sorted(allowed))} (SANDBOX__NETWORK_DISABLED, SANDBOX__NETWORKS)"
