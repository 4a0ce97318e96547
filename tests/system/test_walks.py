"""Any order of what clients do and of what happens to a controller, held to a model after each step.

Hypothesis draws the walks. Requests come over HTTP to a controller process that is killed and stopped in between.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import docker
import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from controller.model import MOCK_WARNING
from tests.backends.words import new_mark
from tests.localkube.servers import MERGE, ok
from tests.system.cluster import POLL, Cluster, until
from tests.system.conftest import Started
from tests.system.diary import Diary
from tests.system.expected import Box, Execution, Expected, Kind, Result, Step
from tests.system.patient_client import SECONDS, Asked, PatientClient, is_problem, is_put_off
from tests.system.place import Place, count_living

T = TypeVar("T")
TOLD = ("id", "name", "phase", "ready", "backend", "warnings", "observed_generation")


class Walk(RuleBasedStateMachine):
    """One walk."""

    def __init__(self, place: Place, diary: Diary) -> None:
        super().__init__()
        self._place, self._diary = place, diary
        self._expected = Expected()
        self._following: dict[str, list[Asked]] = {}
        """Mark -> requests that wait for the end of that execution."""
        self._client = PatientClient(place.controller)

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
                assert is_problem(again, 409) or (first is None and again.status_code == 201), again.text
                self._is_created(name, first or again)
            case Kind.USE_DELETED:
                for uid in self._expected.deleted:
                    self._refuses(uid, 404)
                    assert is_problem(self._client.ask("GET", f"/sandbox/{uid}"), 404)
                    assert is_problem(self._client.ask("DELETE", f"/sandbox/{uid}"), 404)
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
                first = self._client.begin(self._execute, box, asked.body, key)
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
                    assert is_problem(self._cancel(box, execution), 409)
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
        return self._client.ask("POST", "/sandbox/create", json={"name": name})

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
            assert self._client.ask("DELETE", f"{path}?wait=0").status_code in (202, 204)
            self._refuses(box.uid, 404, 409)
        else:
            self._crash_in(crash_after, lambda: self._client.ask("DELETE", path))
        again = self._client.ask("DELETE", f"{path}?wait={SECONDS:g}")
        assert again.status_code == 204 or is_problem(again, 404), again.text
        for execution in box.running:
            for following in self._following.pop(execution.mark):
                answer = following.result(SECONDS)
                assert answer is not None and answer.json()["reason"] == "Lost", answer and answer.text

    def _write(self, box: Box, crash_after: float | None) -> None:
        path, content = "some/file", self._expected.new_name("content").encode() * 10_000

        def put() -> httpx.Response:
            return self._client.ask("PUT", f"/sandbox/{box.uid}/files/{path}", content=content)

        if crash_after is not None:
            self._crash_in(crash_after, put)
            assert self._read(box, path) in (box.files.get(path), content), "half a file"
        assert put().status_code == 204
        box.files[path] = content

    def _read(self, box: Box, path: str) -> bytes | None:
        answer = self._client.ask("GET", f"/sandbox/{box.uid}/files/{path}")
        assert answer.status_code == 200 or is_problem(answer, 404), answer.text
        return answer.content if answer.status_code == 200 else None

    def _refuses(self, uid: str, *codes: int) -> None:
        """Code and files are refused with a problem document."""
        path = f"/sandbox/{uid}"
        for answer in (
            self._client.ask("POST", f"{path}/execute", json=_writes("never")),
            self._client.ask("POST", f"{path}/execute", json=_writes("never"), headers={"Accept": "text/event-stream"}),
            self._client.ask("PUT", f"{path}/files/never", content=b"never"),
            self._client.ask("GET", f"{path}/files/journal"),
        ):
            assert is_problem(answer, *codes), answer.text

    # --- executions ---

    def _execute(self, box: Box, body: Any, key: str = "") -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return self._client.ask("POST", f"/sandbox/{box.uid}/execute", json=body, headers=headers)

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
        """The same as the last of the events."""
        headers = {"Idempotency-Key": execution.key, "Accept": "text/event-stream"}
        answer = self._client.ask("POST", f"/sandbox/{box.uid}/execute", json=execution.body, headers=headers)
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
        until("it runs", lambda: count_living([mark])[mark] == 2 and key in str(self._read(box, "journal")))

    def _follow(self, box: Box, execution: Execution) -> None:
        """Ask for its result, once more where others wait for it, too."""
        follow = self._client.begin(self._execute, box, execution.body, execution.key)
        self._following[execution.mark].append(follow)

    def _ends(self, box: Box, execution: Execution, reason: str) -> None:
        """Everybody who waits for its result is told the same, and who asks later, too."""
        answers = [following.result(SECONDS) for following in self._following.pop(execution.mark)]
        result = self._result(box, execution)
        assert result["reason"] == reason, result
        assert [answer and answer.json() for answer in answers] == [result] * len(answers)
        self._expected.ended(execution, result)

    def _cancel(self, box: Box, execution: Execution) -> httpx.Response:
        return self._client.ask("DELETE", f"/sandbox/{box.uid}/executions/{box.execution_id(execution.key)}")

    # --- the controller ---

    def _crash_in(self, moment: float, act: Callable[[], httpx.Response] | None = None) -> httpx.Response | None:
        """Kill the controller some seconds after a request began; gives the answer, if there was time for one."""
        asked = None if act is None else self._client.begin(act)
        time.sleep(moment)  # no waiting for anything: any moment will do
        self._restart(self._place.controller.kill)
        return None if asked is None else asked.result(SECONDS)

    def _restart(self, end: Callable[[], None]) -> None:
        """End the controller and start it; returns as soon as it serves, and before it is ready."""
        end()
        self._place.controller.start(and_wait=False)
        for mark, waiting in self._following.items():
            answers = [(following, following.result(SECONDS)) for following in waiting]
            assert all(answer is None or answer.status_code == 200 or is_put_off(answer) for _, answer in answers)
            self._following[mark] = [following for following, answer in answers if answer and answer.is_success]
        until("it serves", self._place.controller.is_serving)
        self._client.reconnect()

    # --- what holds after each step ---

    def _all_is_as_expected(self) -> None:
        """It is waited for at first, and holds from then on."""
        self._it_tells_what_thereis_problem()
        self._each_program_ran_once_and_files_are_whole()
        self._what_should_live_lives_and_nothing_else()
        assert "Traceback" not in self._place.controller.said, self._place.controller.said

    def _it_tells_what_thereis_problem(self) -> None:
        objects = {body["metadata"]["uid"]: body["metadata"] for body in self._place.cluster.list()}
        assert objects.keys() == {box.uid for box in self._expected.boxes.values()}
        told = {box.uid: self._told(box, objects[box.uid]["generation"]) for box in self._expected.boxes.values()}
        want = sorted(told.values(), key=str)
        _becomes(want, lambda: sorted(map(_shown, self._list()), key=str))
        for box in self._expected.boxes.values():
            assert _shown(self._client.ask("GET", f"/sandbox/{box.uid}").json()) == told[box.uid]
        assert self._client.ask("GET", "/sandbox/status").json()["active_sandboxes"] == len(want)

    def _each_program_ran_once_and_files_are_whole(self) -> None:
        for box in self._expected.boxes.values():
            if not box.suspended:
                assert (self._read(box, "journal") or b"").decode().split() == box.journal
                assert {path: self._read(box, path) for path in box.files} == box.files

    def _what_should_live_lives_and_nothing_else(self) -> None:
        traces = {box.uid: self._place.trace_of_one(suspended=box.suspended) for box in self._expected.boxes.values()}
        _becomes(traces, self._place.traces)
        living = Counter(dict.fromkeys(self._following, 2))
        marks = [*self._following, *self._expected.ended_marks]
        _becomes(living, lambda: count_living(marks), 2)

    def _list(self) -> list[dict[str, Any]]:
        answer = self._client.ask("GET", "/sandbox", params={"namespace": self._place.cluster.namespace})
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

    def teardown(self) -> None:
        self._place.cluster.delete_all()
        whole = self._diary.failure is None
        if whole:  # else what is left ends with the controller
            until("all is gone", lambda: not self._place.cluster.list() and not self._place.traces(), SECONDS)
        self._client.close(wait=whole)


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


def _shown(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told.get(name) for name in TOLD}


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
def docker_or_not(request: pytest.FixtureRequest) -> docker.DockerClient | None:
    if request.param == "mock":
        return None
    request.getfixturevalue("sandbox_image")
    client: docker.DockerClient = request.getfixturevalue("docker_client")
    return client


@contextmanager
def placed(cluster: Cluster, start_controller: Started, client: docker.DockerClient | None) -> Iterator[Place]:
    """A controller that ends with the walk: two would both take care of the objects of a namespace."""
    env = {"SANDBOX__MOCK_MODE": "true"} if client is None else {}
    controller = start_controller(cluster, **env)
    try:
        yield Place(cluster, controller, client)
    finally:
        controller.stop()


@pytest.mark.timeout(300)
def test_whatever_happens_in_whatever_order_it_does_what_it_says(
    embedded: Cluster, start_controller: Started, docker_or_not: docker.DockerClient | None
) -> None:
    with placed(embedded, start_controller, docker_or_not) as place:
        walk(place, examples=1, steps=34, each=1)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_whatever_happens_for_longer_it_does_what_it_says(
    cluster: Cluster, start_controller: Started, docker_or_not: docker.DockerClient | None
) -> None:
    with placed(cluster, start_controller, docker_or_not) as place:
        walk(place, examples=3, steps=60, each=3)
