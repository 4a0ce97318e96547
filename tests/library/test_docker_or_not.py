"""Which backend the library takes, and what it says of Docker."""

import logging

import pytest

from controller import DockerUnavailableError, MockSandboxManager, SandboxManager
from controller.settings import SandboxSettings, Settings


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")


def settings_of(state_folder, **sandbox: object) -> Settings:  # type: ignore[no-untyped-def]
    return Settings(sandbox=SandboxSettings(state_folder=state_folder, **sandbox))


def test_docker_is_taken_where_it_answers(sandbox_image: str, docker_client, state_folder) -> None:  # type: ignore[no-untyped-def]
    with SandboxManager(settings_of(state_folder, image=sandbox_image)) as manager:
        assert manager.is_docker_available()
        info = manager.get_docker_info()
        assert (info["available"], info["status"]) == (True, "connected")
        assert info["version"] == docker_client.version()["Version"]
        manager.assert_docker_available()
        with manager.create() as sandbox:
            assert (sandbox.backend, sandbox.isolation, sandbox.warnings) == ("docker", "container", ())


def test_without_docker_it_falls_back_to_mock_and_says_so(no_docker, state_folder, caplog) -> None:  # type: ignore[no-untyped-def]
    with caplog.at_level(logging.INFO), SandboxManager(settings_of(state_folder)) as manager:
        assert not manager.is_docker_available()
        with manager.create() as sandbox:
            assert sandbox.backend == "mock" and sandbox.isolation == "none"
            assert sandbox.warnings == ("Running in MOCK mode - NO SECURITY ISOLATION",)
    for line in (
        "Checking mock mode preference",
        "Docker daemon not available or not running",
        "Falling back to mock sandbox manager",
        "Using mock sandbox manager",
    ):
        assert line in caplog.messages


def test_required_docker_that_is_not_there_is_an_error_that_says_what_to_do(no_docker, state_folder) -> None:  # type: ignore[no-untyped-def]
    with SandboxManager(settings_of(state_folder, docker_required=True)) as manager:
        with pytest.raises(DockerUnavailableError, match="SANDBOX__DOCKER_REQUIRED"):
            manager.create()
        with pytest.raises(DockerUnavailableError, match="start Docker"):
            manager.assert_docker_available()
        assert manager.get_docker_info()["available"] is False


def test_mock_is_taken_where_it_is_asked_for(state_folder) -> None:  # type: ignore[no-untyped-def]
    with MockSandboxManager(settings_of(state_folder)) as manager:
        assert not manager.is_docker_available()
        assert manager.get_docker_info()["status"] == "mock"
        with manager.create() as sandbox:
            assert sandbox.backend == "mock"


def test_nothing_is_made_where_sandboxes_are_switched_off(state_folder) -> None:  # type: ignore[no-untyped-def]
    with (
        SandboxManager(settings_of(state_folder, enabled=False)) as manager,
        pytest.raises(Exception, match="SANDBOX__ENABLED"),
    ):
        manager.create()
