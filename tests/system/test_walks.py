"""Any order of what clients do and of what happens to a controller, held to a model after each step.

Hypothesis draws the walks. Requests come over HTTP to a controller process that is killed and stopped in between.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import docker
import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from controller.backends.container import LABEL_INSTANCE
from controller.model import MOCK_WARNING
from tests.backends.words import new_mark
from tests.localkube.servers import MERGE, ok
from tests.system.cluster import POLL, Cluster, until
from tests.system.conftest import Started
from tests.system.controller_process import ControllerProcess
from tests.system.expected import Box, Execution, Expected, Kind, Result, Step

T = TypeVar("T")
SECONDS = 30.0
"""For an answer, and for what is expected to be seen."""
RETRY_LATER = 503
TOLD = ("id", "name", "phase", "ready", "backend", "warnings", "observed_generation")


@dataclass
class Place:
    """Where a walk is made."""

    cluster: Cluster
    controller: ControllerProcess
    docker: docker.DockerClient | None
    """None: sandboxes run on mock."""

    def traces(self) -> dict[str, str]:
        """uid -> state of each container of the controller's; on mock, of each folder."""
        if self.docker is None:
            home = Path(self.controller.env["SANDBOX__STATE_FOLDER"]) / self.controller.instance
            return {entry.name: "there" for entry in home.iterdir()} if home.exists() else {}
        label = f"{LABEL_INSTANCE}={self.controller.instance}"
        rows = self.docker.api.containers(all=True, filters={"label": label})
        return {row["Names"][0].removeprefix("/sbx-"): row["State"] for row in rows}

    def trace_of(self, box: Box) -> str:
        """What `traces` has of a sandbox that is there."""
        return "there" if self.docker is None else "paused" if box.suspended else "running"


@dataclass
class Diary:
    """What was done in all walks of a test, and what went wrong first.

    Hypothesis repeats a walk that failed, and where the moment was what mattered it sees that fail otherwise or not at
    all, and tells of that alone. So the first failure is kept, with the steps that led to it, and walks end there.
    """

    done: Counter[Kind] = field(default_factory=Counter)
    steps: list[str] = field(default_factory=list)
    failure: BaseException | None = None

    def open(self) -> None:
        """A new walk begins. Raises the failure of an earlier one."""
        self.steps.clear()
        if self.failure is not None:
            raise self.failure

    @contextmanager
    def entry(self, step: Step) -> Iterator[None]:
        self.steps.append(str(step))
        try:
            yield
        except BaseException as failure:
            failure.add_note("\n".join(self.steps))
            self.failure = self.failure or failure
            raise
        self.done[step.kind] += 1


class Walk(RuleBasedStateMachine):
    """One walk."""

    def __init__(self, place: Place, diary: Diary) -> None:
        super().__init__()
        self._place, self._diary = place, diary
        self._expected = Expected()
        self._pool = ThreadPoolExecutor(16)
        self._following: dict[str, list[Future[httpx.Response | None]]] = {}
        """Mark -> requests that wait for the end of that execution."""
        self._http = self._client()
        self._ready = True
        """The controller has said so since it was started."""

    # --- the steps ---

    @rule(step=st.runner().flatmap(lambda walk: st.sampled_from(walk._expected.due())))
    def take(self, step: Step) -> None:
        with self._diary.entry(step):
            self._take(step)
            self._expected.done[step.kind] += 1
            self._all_is_as_expected()

    def _take(self, step: Step) -> None:
        box = self._expected.boxes.get(step.box)
        if box is None:
            self._take_alone(step.kind, step.moment)
        elif step.key:
            self._take_with(step.kind, box, box.executions[step.key], step.moment)
        else:
            self._take_in(step.kind, box, step.moment)

    def _take_alone(self, kind: Kind, moment: float) -> None:
        match kind:
            case Kind.CREATE:
                name = self._expected.new_name("box")
                self._is_created(name, self._create(name))
            case Kind.CRASH_IN_CREATE:
                name = self._expected.new_name("box")
                first = self._crash_in(moment, lambda: self._create(name))
                again = self._create(name)
                assert again.status_code == (201 if first is None else 409) or (first is None and _is(again, 409))
                self._is_created(name, first or again)
            case Kind.USE_DELETED:
                for uid in self._expected.deleted:
                    self._refuses(uid, 404)
                    assert _is(self._ask("GET", f"/sandbox/{uid}"), 404)
                    assert _is(self._ask("DELETE", f"/sandbox/{uid}"), 404)
            case Kind.STOP:
                self._restart(self._place.controller.stop)
            case Kind.CRASH:
                self._restart(self._place.controller.kill)
            case Kind.CRASH_IN_START:
                self._restart(self._place.controller.kill)
                self._crash_in(moment)
            case _:
                raise AssertionError(kind)

    def _take_in(self, kind: Kind, box: Box, moment: float) -> None:
        match kind:
            case Kind.EXECUTE:
                line = self._expected.new_name("line")
                _completed(self._execute(box, _writes(line)), line)
                box.journal.append(line)
            case Kind.EXECUTE_WITH_KEY | Kind.CRASH_IN_EXECUTE:
                key = self._expected.new_name("key")
                asked = Execution(key, _writes(key))
                box.executions[key] = asked
                first = self._pool.submit(_unless_cut, self._execute, box, asked.body, key)
                if kind is Kind.CRASH_IN_EXECUTE:
                    self._crash_in(moment)
                result = self._result(box, asked)  # asked for while the first is on its way, or anew
                answer = first.result(SECONDS)
                assert answer is None or answer.json() == result
                self._expected.ended(asked, result)
                box.journal.append(key)
            case Kind.BEGIN:
                self._begin(box)
            case Kind.WRITE | Kind.CRASH_IN_WRITE:
                self._write(box, moment if kind is Kind.CRASH_IN_WRITE else None)
            case Kind.SUSPEND | Kind.CRASH_IN_SUSPEND:
                self._set_mode(box, "Suspended")
                box.suspended = True
                if kind is Kind.CRASH_IN_SUSPEND:
                    self._crash_in(moment)
            case Kind.USE_SUSPENDED:
                self._refuses(box.uid, 409)
                for execution in box.running:
                    assert _is(self._cancel(box, execution), 409)
            case Kind.RESUME:
                self._set_mode(box, "Running")
                box.suspended = False
            case Kind.BLINK:
                self._set_mode(box, "Suspended")
                self._set_mode(box, "Running")
            case Kind.DELETE | Kind.CRASH_IN_DELETE:
                self._delete(box, moment if kind is Kind.CRASH_IN_DELETE else None)
            case _:
                raise AssertionError(kind)

    def _take_with(self, kind: Kind, box: Box, execution: Execution, moment: float) -> None:
        match kind:
            case Kind.REPEAT:
                assert self._result(box, execution) == execution.result == self._streamed(box, execution)
            case Kind.REUSE:
                refused = self._execute(box, {**execution.body, "stdin": "another"}, execution.key)
                assert refused.json()["type"].endswith(":idempotency-key-reused"), refused.text
                assert refused.status_code == 422
            case Kind.FINISH:
                self._follow(box, execution)
                _completed(self._execute(box, {"code": f"echo go >{execution.key}", "language": "bash"}), "")
                self._ends(box, execution, "Completed")
            case Kind.CANCEL:
                assert self._cancel(box, execution).status_code == 204
                self._ends(box, execution, "Cancelled")
                assert self._cancel(box, execution).status_code == 204
            case Kind.CRASH_IN_CANCEL:
                self._crash_in(moment, lambda: self._cancel(box, execution))
                assert self._cancel(box, execution).status_code == 204
                self._ends(box, execution, "Cancelled")
            case _:
                raise AssertionError(kind)

    # --- sandboxes ---

    def _create(self, name: str) -> httpx.Response:
        return self._ask("POST", "/sandbox/create", json={"name": name})

    def _is_created(self, name: str, answer: httpx.Response) -> None:
        found = [each for each in self._list() if each["name"] == name]
        uid = answer.json()["id"] if answer.status_code == 201 else found[0]["id"]
        assert [each["id"] for each in found] == [uid]
        self._expected.boxes[name] = Box(name, uid)

    def _set_mode(self, box: Box, mode: str) -> None:
        path = f"{self._place.cluster.path}/{box.name}"
        ok(self._place.cluster.server.call("PATCH", path, {"spec": {"operatingMode": mode}}, MERGE))

    def _delete(self, box: Box, crash_after: float | None) -> None:
        path = f"/sandbox/{box.uid}"
        self._expected.removed(box)
        if crash_after is None:
            assert self._ask("DELETE", f"{path}?wait=0").status_code in (202, 204)
            self._refuses(box.uid, 404, 409)
        else:
            self._crash_in(crash_after, lambda: self._ask("DELETE", path))
        again = self._ask("DELETE", f"{path}?wait={SECONDS:g}")
        assert again.status_code == 204 or _is(again, 404), again.text
        for execution in box.running:
            for following in self._following.pop(execution.mark):
                answer = following.result(SECONDS)
                assert answer is not None and answer.json()["reason"] == "Lost", answer and answer.text

    def _write(self, box: Box, crash_after: float | None) -> None:
        path, content = "some/file", self._expected.new_name("content").encode() * 10_000

        def put() -> httpx.Response:
            return self._ask("PUT", f"/sandbox/{box.uid}/files/{path}", content=content)

        if crash_after is not None:
            self._crash_in(crash_after, put)
            assert self._read(box, path) in (box.files.get(path), content), "half a file"
        assert put().status_code == 204
        box.files[path] = content

    def _read(self, box: Box, path: str) -> bytes | None:
        answer = self._ask("GET", f"/sandbox/{box.uid}/files/{path}")
        assert answer.status_code == 200 or _is(answer, 404), answer.text
        return answer.content if answer.status_code == 200 else None

    def _refuses(self, uid: str, *codes: int) -> None:
        """Code and files are refused with a problem document."""
        path = f"/sandbox/{uid}"
        for answer in (
            self._ask("POST", f"{path}/execute", json=_writes("never")),
            self._ask("POST", f"{path}/execute", json=_writes("never"), headers={"Accept": "text/event-stream"}),
            self._ask("PUT", f"{path}/files/never", content=b"never"),
            self._ask("GET", f"{path}/files/journal"),
        ):
            assert any(_is(answer, code) for code in codes), answer.text

    # --- executions ---

    def _execute(self, box: Box, body: Any, key: str = "") -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return self._ask("POST", f"/sandbox/{box.uid}/execute", json=body, headers=headers)

    def _result(self, box: Box, execution: Execution) -> Result:
        """What is told under its key."""
        answer = self._execute(box, execution.body, execution.key)
        assert answer.status_code == 200, answer.text
        result: Result = answer.json()
        assert result["execution_id"] == box.execution_id(execution.key)
        if not execution.mark:
            _completed(answer, execution.key)
        return result

    def _streamed(self, box: Box, execution: Execution) -> Result:
        """The same as events, of which the last has the result without the output."""
        headers = {"Idempotency-Key": execution.key, "Accept": "text/event-stream"}
        answer = self._ask("POST", f"/sandbox/{box.uid}/execute", json=execution.body, headers=headers)
        assert answer.status_code == 200, answer.text
        name, _, data = answer.text.strip().rpartition("\n\n")[2].partition("\ndata: ")
        assert name == "event: result", answer.text
        result: Result = json.loads(data)
        return result

    def _begin(self, box: Box) -> None:
        """A program and a child in a session of its own; it ends when somebody writes into the pipe of its name."""
        key, mark = self._expected.new_name("key"), new_mark()
        code = f"mkfifo {key}; sleep {mark} & setsid -f sleep {mark}; echo {key} >>journal; read <{key}; echo {key}"
        execution = Execution(key, {"code": code, "language": "bash", "timeout": 1000}, mark)
        box.executions[key] = execution
        self._following[mark] = []
        self._follow(box, execution)
        box.journal.append(key)
        until("it runs", lambda: self._living()[mark] == 2 and key in str(self._read(box, "journal")))

    def _follow(self, box: Box, execution: Execution) -> None:
        """Ask for its result, once more where others wait for it, too."""
        follow = self._pool.submit(_unless_cut, self._execute, box, execution.body, execution.key)
        self._following[execution.mark].append(follow)

    def _ends(self, box: Box, execution: Execution, reason: str) -> None:
        """Everybody who waits for its result is told the same, and who asks later, too."""
        answers = [following.result(SECONDS) for following in self._following.pop(execution.mark)]
        result = self._result(box, execution)
        assert result["reason"] == reason, result
        assert [answer and answer.json() for answer in answers] == [result] * len(answers)
        self._expected.ended(execution, result)

    def _cancel(self, box: Box, execution: Execution) -> httpx.Response:
        return self._ask("DELETE", f"/sandbox/{box.uid}/executions/{box.execution_id(execution.key)}")

    # --- the controller ---

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._place.controller.api, timeout=SECONDS, trust_env=False)

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The answer, as a patient client gets it from a controller that may just have been started.

        None says that the controller made a mistake, and an error is a problem document.
        """
        deadline = time.monotonic() + SECONDS
        while True:
            self._ready = self._ready or self._place.controller.readiness().status_code == 200
            answer = self._http.request(method, path, **request)
            if self._ready or answer.status_code != RETRY_LATER:
                break
            assert _is_put_off(answer) and time.monotonic() < deadline, answer.text
            time.sleep(POLL)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json", answer.text
            assert answer.json()["status"] == answer.status_code
        assert answer.status_code < 500 or _is_put_off(answer), answer.text
        return answer

    def _crash_in(self, moment: float, act: Callable[[], httpx.Response] | None = None) -> httpx.Response | None:
        """Kill the controller some seconds after a request began; gives the answer, if there was time for one."""
        asked = None if act is None else self._pool.submit(_unless_cut, act)
        time.sleep(moment)  # no waiting for anything: any moment will do
        self._restart(self._place.controller.kill)
        return None if asked is None else asked.result(SECONDS)

    def _restart(self, end: Callable[[], None]) -> None:
        end()
        self._place.controller.start(and_wait=False)
        for mark, waiting in self._following.items():
            answers = [(following, following.result(SECONDS)) for following in waiting]
            assert all(answer is None or answer.status_code == 200 or _is_put_off(answer) for _, answer in answers)
            self._following[mark] = [following for following, answer in answers if answer and answer.is_success]
        until("it serves", self._place.controller.is_serving)
        self._http.close()
        self._http, self._ready = self._client(), False

    # --- what holds after each step ---

    def _all_is_as_expected(self) -> None:
        """It is waited for at first, and holds from then on."""
        self._it_tells_what_there_is()
        self._each_program_ran_once_and_files_are_whole()
        self._what_should_live_lives_and_nothing_else()
        assert "Traceback" not in self._place.controller.said, self._place.controller.said

    def _it_tells_what_there_is(self) -> None:
        objects = {body["metadata"]["uid"]: body["metadata"] for body in self._place.cluster.list()}
        assert objects.keys() == {box.uid for box in self._expected.boxes.values()}
        told = {box.uid: self._told(box, objects[box.uid]["generation"]) for box in self._expected.boxes.values()}
        want = sorted(told.values(), key=str)
        _becomes(want, lambda: sorted(map(_shown, self._list()), key=str))
        for box in self._expected.boxes.values():
            assert _shown(self._ask("GET", f"/sandbox/{box.uid}").json()) == told[box.uid]
        assert self._ask("GET", "/sandbox/status").json()["active_sandboxes"] == len(want)

    def _each_program_ran_once_and_files_are_whole(self) -> None:
        for box in self._expected.boxes.values():
            if not box.suspended:
                assert (self._read(box, "journal") or b"").decode().split() == box.journal
                assert {path: self._read(box, path) for path in box.files} == box.files

    def _what_should_live_lives_and_nothing_else(self) -> None:
        traces = {box.uid: self._place.trace_of(box) for box in self._expected.boxes.values()}
        _becomes(traces, self._place.traces)
        living = Counter(dict.fromkeys(self._following, 2))
        _becomes(living, self._living, 2)

    def _list(self) -> list[dict[str, Any]]:
        answer = self._ask("GET", "/sandbox", params={"namespace": self._place.cluster.namespace})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["items"])

    def _told(self, box: Box, generation: int) -> dict[str, Any]:
        mock = self._place.docker is None
        return {
            "id": box.uid,
            "name": box.name,
            "phase": "Suspended" if box.suspended else "Running",
            "ready": not box.suspended,
            "backend": "mock" if mock else "docker",
            "warnings": [MOCK_WARNING] if mock else [],
            "observed_generation": generation,
        }

    def _living(self) -> Counter[str]:
        """Mark -> how many processes of this machine bear it, those in containers too."""
        marks = {mark.encode() for mark in (*self._following, *self._expected.ended_marks)}
        return Counter(found.decode() for words in _command_lines() for found in marks & words)

    def teardown(self) -> None:
        self._place.cluster.delete_all()
        whole = self._diary.failure is None
        if whole:  # else what is left ends with the controller
            until("all is gone", lambda: not self._place.cluster.list() and not self._place.traces(), SECONDS)
        self._pool.shutdown(wait=whole)
        self._http.close()


def _becomes(want: T, look: Callable[[], T], seconds: float = SECONDS) -> None:
    """Look until that is seen."""
    deadline = time.monotonic() + seconds
    while (seen := look()) != want and time.monotonic() < deadline:
        time.sleep(POLL)
    assert seen == want


def _writes(line: str) -> dict[str, str]:
    """A program that leaves a line in the journal and says it."""
    return {"code": f"echo {line} >>journal; echo {line}", "language": "bash"}


def _completed(answer: httpx.Response, said: str) -> None:
    assert answer.status_code == 200, answer.text
    result = answer.json()
    got = (result["exit_code"], result["reason"], result["stdout"].strip(), result["stderr"], result["path"])
    assert got == (0, "Completed", said, "", "agent"), result


def _is(answer: httpx.Response, code: int) -> bool:
    """Whether it is the problem that tells of something absent (404), or of a wrong time or a taken name (409)."""
    kinds = {404: ("not-found",), 409: ("not-running", "name-taken")}[code]
    return answer.status_code == code and answer.json()["type"].rpartition(":")[2] in kinds


def _is_put_off(answer: httpx.Response) -> bool:
    return answer.status_code == RETRY_LATER and answer.headers["retry-after"].isdigit()


def _unless_cut(ask: Callable[..., httpx.Response], *arguments: Any) -> httpx.Response | None:
    """The answer; None where the controller ended before it gave one."""
    try:
        return ask(*arguments)
    except httpx.TransportError:
        return None


def _shown(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told.get(name) for name in TOLD}


def _command_lines() -> Iterator[set[bytes]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield set((entry / "cmdline").read_bytes().split(b"\0"))
            except (FileNotFoundError, ProcessLookupError):
                pass


def walk(place: Place, examples: int, steps: int, each: int) -> None:
    """So many walks of so many steps, with each kind of step at least `each` times in all."""
    diary = Diary()

    def begin() -> Walk:
        diary.open()
        return Walk(place, diary)

    try:
        run_state_machine_as_test(
            begin,  # type: ignore[arg-type]  # a function does as well
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],  # to shrink a walk would take hours
                suppress_health_check=list(HealthCheck),
            ),
        )
    except BaseException:
        if diary.failure is None:
            raise
        raise diary.failure from None
    assert min(diary.done[kind] for kind in Kind) >= each, diary.done


@pytest.fixture(params=["docker", "mock"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def place_on(
    backend: str, cluster: Cluster, start_controller: Started, request: pytest.FixtureRequest
) -> Iterator[Place]:
    """A controller of its own, which ends with the walk: two would both take care of the objects of a namespace."""
    if backend == "mock":
        place = Place(cluster, start_controller(cluster, SANDBOX__MOCK_MODE="true"), None)
    else:
        request.getfixturevalue("sandbox_image")
        place = Place(cluster, start_controller(cluster), request.getfixturevalue("docker_client"))
    try:
        yield place
    finally:
        place.controller.stop()


def test_whatever_happens_in_whatever_order_it_does_what_it_says(
    backend: str, embedded: Cluster, start_controller: Started, request: pytest.FixtureRequest
) -> None:
    with place_on(backend, embedded, start_controller, request) as place:
        walk(place, examples=1, steps=34, each=1)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_whatever_happens_for_longer_it_does_what_it_says(
    backend: str, cluster: Cluster, start_controller: Started, request: pytest.FixtureRequest
) -> None:
    with place_on(backend, cluster, start_controller, request) as place:
        walk(place, examples=3, steps=60, each=3)
