"""Which backend new sandboxes get, what an installation refuses, and what is an orphan: decisions without a look at anything."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.admission import spec_problem
from controller.backends import Health, Observation
from controller.choose import choose, mock_refusal, offer, wants_docker
from controller.model import BackendName, SandboxSpec
from controller.settings import SandboxSettings
from controller.sweep import orphans
from tests.plan.words import NOW, have, want

UP = Health(True, "connected")
DOWN = Health(False, "no_socket", "start Docker")
DOCKER, MOCK = BackendName.DOCKER, BackendName.MOCK


@pytest.mark.parametrize(
    ("settings", "docker", "status", "auto"),
    [
        ({}, UP, "docker", DOCKER),
        ({}, DOWN, "mock", MOCK),
        ({"mock_mode": True}, UP, "mock", MOCK),
        ({"enabled": False}, UP, "disabled", None),
        ({"docker_required": True}, UP, "docker", DOCKER),
        ({"docker_required": True}, DOWN, "docker", None),
        ({"docker_required": True, "mock_mode": True}, DOWN, "docker", None),
        ({"docker_required": True, "mock_mode": True}, UP, "docker", DOCKER),
        ({"mock_allowed": False}, DOWN, "docker", None),
        ({"docker_auto_detect": False}, DOWN, "mock", MOCK),
    ],
)
def test_what_auto_means(settings: dict[str, Any], docker: Health, status: str, auto: BackendName | None) -> None:
    choice = choose(SandboxSettings(**settings), docker)
    assert (choice.status, choice.auto) == (status, auto)
    assert choice.auto is not None or choice.why, "who gets nothing is told why"


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, True),
        ({"mock_mode": True}, False),
        ({"docker_auto_detect": False}, False),
        ({"docker_auto_detect": False, "docker_required": True}, True),
        ({"enabled": False, "docker_required": True}, False),
    ],
)
def test_a_daemon_is_looked_for_where_it_could_be_used(settings: dict[str, Any], asked: bool) -> None:
    assert wants_docker(SandboxSettings(**settings)) is asked


@pytest.mark.parametrize(
    ("spec", "settings", "docker", "backend", "reason"),
    [
        ({}, {}, UP, DOCKER, ""),
        ({}, {}, DOWN, MOCK, ""),
        ({"backend": "docker"}, {}, DOWN, None, "DockerUnavailable"),
        ({"backend": "docker"}, {"mock_mode": True}, UP, DOCKER, ""),
        ({"backend": "mock"}, {}, UP, MOCK, ""),
        ({"backend": "mock", "isolation": "required"}, {}, UP, None, "IsolationUnavailable"),
        ({"backend": "mock"}, {"mock_allowed": False}, UP, None, "MockNotAllowed"),
        ({"isolation": "required"}, {}, UP, DOCKER, ""),
        ({"isolation": "required"}, {}, DOWN, None, "IsolationUnavailable"),
        ({"isolation": "required"}, {"mock_mode": True}, UP, None, "IsolationUnavailable"),
        ({"runtime": "runsc"}, {}, DOWN, None, "IsolationUnavailable"),
        ({}, {"docker_required": True}, DOWN, None, "DockerUnavailable"),
        ({}, {"enabled": False}, UP, None, "Disabled"),
        ({"backend": "mock"}, {"enabled": False}, UP, None, "Disabled"),
    ],
)
def test_a_sandbox_is_never_given_less_isolation_than_it_asks_for(
    spec: dict[str, Any], settings: dict[str, Any], docker: Health, backend: BackendName | None, reason: str
) -> None:
    given = offer(SandboxSpec.model_validate(spec), SandboxSettings(**settings), docker)
    assert given.backend is backend
    assert (given.problem.reason if given.problem else "") == reason
    assert given.problem is None or not given.problem.permanent, "it waits for a better day"


def test_mock_is_refused_whatever_an_annotation_says() -> None:
    assert mock_refusal(SandboxSpec(isolation="required"), SandboxSettings()) is not None
    assert mock_refusal(SandboxSpec(), SandboxSettings(enabled=False)) is not None
    assert mock_refusal(SandboxSpec(), SandboxSettings()) is None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "mine").mkdir(parents=True)
    (tmp_path / "root" / "file").touch()
    (tmp_path / "rooted").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "rooted")
    (tmp_path / "root" / "inside").symlink_to(tmp_path / "root" / "mine")
    return tmp_path / "root"


def _told(folder: Path, *roots: Path) -> str:
    spec = SandboxSpec.model_validate({"workspace": {"hostPath": str(folder)}})
    problem = spec_problem(spec, SandboxSettings(workspace_roots=tuple(map(str, roots))))
    assert problem is None or (problem.permanent and problem.message.startswith("spec.workspace.hostPath: "))
    return "" if problem is None else problem.message


def test_a_folder_below_a_root_is_allowed(root: Path) -> None:
    assert _told(root / "mine", root) == ""
    assert _told(root / "mine", root.parent / "rooted", root) == ""


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("", "not below an allowed folder"),
        ("../rooted", "must be"),
        ("link", "symbolic link"),
        ("inside", "symbolic link"),
        ("link/x", "symbolic link"),
        ("file", "not a folder"),
        ("absent", "not a folder"),
    ],
)
def test_no_folder_beside_a_root_is_allowed(root: Path, folder: str, why: str) -> None:
    if ".." in folder:
        with pytest.raises(ValueError, match=why):
            _told(Path(f"{root}/{folder}"), root)
    else:
        assert why in _told(root / folder, root)


def test_a_name_that_begins_like_a_root_is_not_below_it(root: Path) -> None:
    assert "not below" in _told(root.parent / "rooted", root)


def test_without_roots_no_folder_of_the_host_is_allowed(root: Path) -> None:
    assert "SANDBOX__WORKSPACE_ROOTS is empty" in _told(root / "mine")


@pytest.mark.parametrize(
    ("network", "settings", "allowed"),
    [
        ("none", {}, True),
        ("bridge", {}, False),
        ("bridge", {"network_disabled": False}, True),
        ("lab", {}, False),
        ("lab", {"network_disabled": False}, False),
        ("lab", {"networks": ("lab",)}, True),
        ("bridge", {"networks": ("lab",)}, False),
    ],
)
def test_only_networks_that_the_settings_name_are_allowed(
    network: str, settings: dict[str, Any], allowed: bool
) -> None:
    problem = spec_problem(SandboxSpec(network=network), SandboxSettings(**settings))
    assert (problem is None) is allowed


OLD = NOW - timedelta(minutes=5)


@pytest.mark.parametrize(
    ("seen", "wanted", "namespaces", "is_orphan"),
    [
        pytest.param(have(created_at=OLD), {}, (), True, id="no object"),
        pytest.param(have(created_at=NOW), {}, (), False, id="younger than the list may be"),
        pytest.param(have(created_at=None), {}, (), True, id="of unknown age"),
        pytest.param(have(created_at=OLD), {want().uid: DOCKER}, (), False, id="it has its object"),
        pytest.param(have(created_at=OLD), {want().uid: None}, (), False, id="its object has no backend yet"),
        pytest.param(have(created_at=OLD), {want().uid: MOCK}, (), True, id="its object lives elsewhere"),
        pytest.param(have(created_at=OLD), {}, ("default",), True, id="in a namespace of ours"),
        pytest.param(have(created_at=OLD), {}, ("other",), False, id="in a namespace that is not watched"),
    ],
)
def test_what_is_an_orphan(
    seen: Observation, wanted: dict[str, BackendName | None], namespaces: tuple[str, ...], is_orphan: bool
) -> None:
    assert orphans([seen], wanted, namespaces, NOW) == ([seen] if is_orphan else [])
