"""An id is run at most once, however often it is asked for, over however many sessions."""

import time
from collections.abc import Callable

import pytest

from tests.agent.conftest import RunningAgent
from tests.agent.peer import AgentRefused, Peer

COUNT = "echo once >> counted; sleep {0}; cat counted"


def test_the_same_request_again_gets_the_kept_result(peer: Peer) -> None:
    first = peer.bash("echo $$; echo err >&2; exit 5", id="again-1")
    second = peer.bash("echo $$; echo err >&2; exit 5", id="again-1")
    assert (second.stdout, second.stderr, second.result) == (first.stdout, first.stderr, first.result)
    assert first.started and second.started
    assert (first.started["attached"], second.started["attached"]) == (False, True)


def test_the_same_request_while_it_runs_attaches(peer: Peer) -> None:
    numbers = [peer.start("bash", code="echo begin; sleep 0.3; echo $RANDOM", id="again-2") for _ in range(3)]
    outputs = {peer.finish(number).stdout for number in numbers}
    assert len(outputs) == 1


def test_another_request_under_the_same_id_is_a_conflict(peer: Peer) -> None:
    peer.bash("true", id="again-3", digest="one")
    with pytest.raises(AgentRefused, match="Conflict"):
        peer.bash("false", id="again-3", digest="two")


def test_a_new_session_attaches_and_misses_nothing(agent: RunningAgent) -> None:
    first = agent.session()
    code = "for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.1; done"
    number = first.start("bash", code=code, id="over-sessions")
    first.wait(lambda: first.channels[number].stdout.count(b"\n") >= 3)
    second = agent.session()
    assert "over-sessions" in second.hello["running"]
    done = second.ask("attach", id="over-sessions")
    assert done.stdout == b"".join(b"line %d\n" % i for i in range(1, 9))
    assert done.result and done.result["exit_code"] == 0


def test_a_result_survives_the_session_that_asked_for_it(agent: RunningAgent) -> None:
    first = agent.session()
    number = first.start("bash", code="sleep 0.2; echo kept; exit 4", id="kept-1")
    first.started(number)
    deadline = time.monotonic() + 5
    while "kept-1" in agent.session().hello["running"]:
        assert time.monotonic() < deadline
    done = agent.session().bash("sleep 0.2; echo kept; exit 4", id="kept-1")
    assert done.stdout == b"kept\n"
    assert done.result and done.result["exit_code"] == 4


def test_stdin_goes_on_in_a_new_session(agent: RunningAgent) -> None:
    first = agent.session()
    number = first.start("command", argv=["cat"], stdin=True, id="stdin-1" + type(agent).__name__)
    first.send(4, number, b"first ")
    first.wait(lambda: first.channels[number].stdout == b"first ")
    second = agent.session()
    number = second.open(op="attach", id="stdin-1" + type(agent).__name__)
    assert second.started(number).started["stdin_received"] == 6  # type: ignore[index]
    second.feed(number, b"second")
    assert second.finish(number).stdout == b"first second"


def test_what_runs_goes_on_without_a_session(agent: RunningAgent) -> None:
    peer = agent.session()
    number = peer.start("bash", code=COUNT.format(0.3), id="alone")
    peer.started(number)
    peer.send(12, number)
    done = peer.bash(COUNT.format(0.3), id="alone")
    assert done.stdout == b"once\n"


def test_an_unknown_id_cannot_be_attached_to(peer: Peer) -> None:
    with pytest.raises(AgentRefused, match="NotFound"):
        peer.ask("attach", id="nobody")


def test_old_results_make_room_and_are_never_run_again(start: Callable[..., RunningAgent]) -> None:
    peer = start().session()
    for number in range(20):
        peer.bash("echo ran >> ran; head -c 2000000 /dev/zero", id=f"big-{number}", output_limit=2 << 20)
    fresh = peer.hello
    peer.greet()
    assert peer.hello["kept"] + peer.hello["forgotten"] == 20
    assert peer.hello["kept"] == 8  # 16 MiB of 2 MB each
    assert fresh["kept"] == 0
    with pytest.raises(AgentRefused, match="Gone"):
        peer.bash("echo ran >> ran; head -c 2000000 /dev/zero", id="big-0", output_limit=2 << 20)
    with pytest.raises(AgentRefused, match="Gone"):
        peer.ask("attach", id="big-0")
    assert len(peer.bash("echo ran >> ran; head -c 2000000 /dev/zero", id="big-19").stdout) == 2_000_000
    assert peer.bash("wc -l < ran").stdout.strip() == b"20"


def test_a_refused_request_does_not_use_its_id_up(peer: Peer) -> None:
    with pytest.raises(AgentRefused, match="BadRequest"):
        peer.bash("true", id="twice", cwd="nowhere")
    assert peer.bash("echo now", id="twice").stdout == b"now\n"


def test_hello_tells_how_long_nothing_ran(start: Callable[..., RunningAgent]) -> None:
    agent = start()
    peer = agent.session()
    peer.bash("true")
    finished = time.monotonic()
    deadline = finished + 5
    while (idle := agent.session().hello["idle_seconds"]) < 0.3:
        assert time.monotonic() < deadline
    assert abs(idle - (time.monotonic() - finished)) < 0.2
    peer = agent.session()
    peer.started(peer.start("bash", code="sleep 1"))
    assert agent.session().hello["idle_seconds"] == 0
