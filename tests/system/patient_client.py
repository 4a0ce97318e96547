"""A client of the HTTP API that bears with a controller which may just have been started, and with nothing else."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx

from tests.system.cluster import POLL
from tests.system.controller_process import ControllerProcess

SECONDS = 30.0
"""For an answer."""
RETRY_LATER = 503
PROBLEMS = {404: ("not-found",), 409: ("not-running", "name-taken")}
Asked = Future[httpx.Response | None]
"""A request under way; its answer, or None where the controller ended before it gave one."""


class PatientClient:
    """One for all the lives of a controller."""

    def __init__(self, controller: ControllerProcess) -> None:
        self._controller, self._threads = controller, ThreadPoolExecutor(16)
        self._ready = False
        """The controller has said so since it was started."""
        self._http = self._connected()

    def _connected(self) -> httpx.Client:
        return httpx.Client(base_url=self._controller.api, timeout=SECONDS, trust_env=False)

    def reconnect(self) -> None:
        """The controller serves again, at another port."""
        self._http.close()
        self._http, self._ready = self._connected(), False

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The answer. None says that the controller made a mistake, and an error is a problem document.

        Until it is ready it may say that one has to come again, which is done.
        """
        deadline = time.monotonic() + SECONDS
        while True:
            self._ready = self._ready or self._controller.readiness().status_code == 200
            answer = self._http.request(method, path, **request)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json", answer.text
                assert answer.json()["status"] == answer.status_code
            assert answer.status_code < 500 or is_put_off(answer), answer.text
            if self._ready or answer.status_code != RETRY_LATER:
                return answer
            assert time.monotonic() < deadline, answer.text
            time.sleep(POLL)

    def begin(self, ask: Callable[..., httpx.Response], *arguments: Any) -> Asked:
        """Ask in a thread of its own."""

        def unless_cut() -> httpx.Response | None:
            try:
                return ask(*arguments)
            except httpx.TransportError:
                return None

        return self._threads.submit(unless_cut)

    def close(self, *, wait: bool) -> None:
        self._threads.shutdown(wait=wait)
        self._http.close()


def is_problem(answer: httpx.Response, *codes: int) -> bool:
    """Whether it tells of something absent (404), or of a wrong time or a taken name (409)."""
    code = answer.status_code
    return code in codes and answer.json()["type"].rpartition(":")[2] in PROBLEMS[code]


def is_put_off(answer: httpx.Response) -> bool:
    """Whether it says to come again later."""
    return answer.status_code == RETRY_LATER and answer.headers["retry-after"].isdigit()
