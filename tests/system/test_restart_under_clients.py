"""A controller that restarts while somebody waits for an execution: who has asked gets what it printed, once."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from controller import Output, SandboxManager
from controller.library.outcome import Result
from tests.system.cluster import Cluster, until
from tests.system.conftest import Started
from tests.system.controller_process import ControllerProcess

PROGRAM = "import time\nopen('runs', 'a').write('run\\n')\nfor n in range(40): print(n, flush=True); time.sleep(0.1)"
PRINTED = "".join(f"{n}\n" for n in range(40))


@pytest.fixture(scope="module", params=["docker", "mock"])
def controller(
    request: pytest.FixtureRequest, embedded: Cluster, start_controller: Started
) -> Iterator[ControllerProcess]:
    """It serves at one port in all its lives, and is the only one of its namespace."""
    if request.param == "docker":
        request.getfixturevalue("sandbox_image")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = start_controller(embedded, API__PORT=str(port), SANDBOX__MOCK_MODE=str(request.param == "mock"))
    yield controller
    controller.stop()


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """For what happens beside the test."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize("end", [ControllerProcess.kill, ControllerProcess.stop], ids=["killed", "stopped"])
def test_a_stream_goes_on_after_a_restart_and_repeats_nothing(
    embedded: Cluster,
    controller: ControllerProcess,
    thread: ThreadPoolExecutor,
    end: Callable[[ControllerProcess], None],
) -> None:
    def restart() -> None:
        end(controller)
        controller.start()

    with SandboxManager(url=controller.api, namespace=embedded.namespace) as manager, manager.create() as sandbox:
        printed, last = "", None
        restarted: Future[None] | None = None
        for item in sandbox.stream(PROGRAM):
            if isinstance(item, Output):
                printed += item.data.decode()
                restarted = restarted or thread.submit(restart)
            else:
                last = item
        assert restarted is not None
        restarted.result(60)
        assert isinstance(last, Result)
        assert (printed, last.reason) == (PRINTED, "Completed")
        assert sandbox.read_file("runs") == b"run\n"


def test_a_call_that_waits_gets_its_result_after_a_restart(
    embedded: Cluster, controller: ControllerProcess, thread: ThreadPoolExecutor
) -> None:
    with SandboxManager(url=controller.api, namespace=embedded.namespace) as manager, manager.create() as sandbox:
        waiting = thread.submit(sandbox.execute, PROGRAM)
        until("it runs", lambda: sandbox.list_files())
        controller.kill()
        controller.start()
        result = waiting.result(60)
        assert (result.stdout, result.reason) == (PRINTED, "Completed")
        assert sandbox.read_file("runs") == b"run\n"
