"""When an execution ends, by itself, at its deadline or by a cancel, nothing that it started is left; others go on."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.conftest import RunningAgent, processes_with
from tests.agent.peer import EOF, AgentRefused, Peer

PATIENCE = 1.0 if os.getloadavg()[0] < 2 * (os.cpu_count() or 1) else 10.0
"""Seconds for an end: one, as promised, but not on a machine that has many times the work it can do."""

HIDE = {
    "setsid": "setsid sleep {0} & sleep {0}",
    "double fork": "(setsid sleep {0} &) ; sleep {0}",
    "deep": 'bash -c \'bash -c "setsid bash -c \\"sleep {0} & sleep {0} & wait\\" & wait" & wait\' ; sleep {0}',
    "nohup": "nohup sleep {0} >/dev/null 2>&1 & trap '' TERM INT HUP; sleep {0}",
}


def marker() -> str:
    """Seconds to sleep that no other process of this machine sleeps."""
    return f"9{int.from_bytes(os.urandom(3))}.{os.getpid()}"


def gone_within(seconds: float, mark: str) -> bool:
    deadline = time.monotonic() + seconds
    while processes_with(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("how", HIDE)
def test_a_deadline_ends_everything_within_a_second(peer: Peer, how: str) -> None:
    mark = marker()
    done = peer.bash(HIDE[how].format(mark), deadline=0.4)
    assert done.result and 400 <= done.result["duration_ms"] < 400 + 1000 * PATIENCE
    assert (done.result["reason"], done.result["exit_code"]) == ("Timeout", 137)
    assert processes_with(mark) == []


@pytest.mark.parametrize("how", HIDE)
def test_a_cancel_ends_everything_within_a_second(peer: Peer, how: str) -> None:
    mark = marker()
    number = peer.start("bash", code=HIDE[how].format(mark) + "", id="c" + mark)
    peer.wait(lambda: processes_with(mark) or peer.read_once(0.01))
    assert peer.ask("cancel", id="c" + mark).result == {"ended": True}
    assert gone_within(PATIENCE, mark)
    assert peer.finish(number).result["reason"] == "Cancelled"  # type: ignore[index]


def test_the_normal_end_takes_leftovers_with_it(peer: Peer) -> None:
    mark = marker()
    done = peer.bash(f"(setsid sleep {mark} &); setsid sleep {mark} & echo left")
    assert done.stdout == b"left\n"
    assert done.result and done.result["reason"] == "Completed"
    assert processes_with(mark) == []


def test_other_executions_go_on(peer: Peer) -> None:
    other = peer.start("bash", code="(setsid bash -c 'sleep 0.6; echo from the daemon' &) ; sleep 1; echo end")
    peer.started(other)
    peer.bash("(setsid sleep 50 &); sleep 50", deadline=0.2)
    assert peer.finish(other).stdout == b"from the daemon\nend\n"


def test_python_is_ended_with_its_threads_and_children(peer: Peer) -> None:
    mark = marker()
    code = f"""
import multiprocessing, os, signal, subprocess, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("began")
subprocess.Popen(["sleep", "{mark}"], start_new_session=True)
multiprocessing.Process(target=time.sleep, args=(60,)).start()
threading.Thread(target=time.sleep, args=(60,)).start()
while True: pass
"""
    done = peer.python(code, deadline=0.8)
    assert done.stdout == b"began\n"
    assert done.result and done.result["reason"] == "Timeout"
    assert processes_with(mark) == []


def test_a_fork_bomb_is_ended_in_time_and_others_are_served(container_agent: RunningAgent) -> None:
    peer = container_agent.session()
    began = time.monotonic()
    done = peer.bash(":(){ :|:& };: 2>/dev/null; sleep 60", deadline=1, output_limit=0)
    assert done.result and done.result["reason"] == "Timeout"
    assert time.monotonic() - began < 1 + PATIENCE
    assert int(peer.bash("ls -d /proc/[0-9]* | wc -l").stdout) < 9


def test_a_fork_bomb_of_processes_that_hide_is_ended(container_agent: RunningAgent) -> None:
    peer = container_agent.session()
    code = """
import os
while True:
    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
    except OSError: pass
"""
    done = peer.python(code, deadline=1)
    assert done.result and done.result["reason"] == "Timeout"
    assert done.result["duration_ms"] < 1000 * (1 + PATIENCE)
    assert peer.python("print(1)").stdout == b"1\n"


@pytest.mark.parametrize("signal_", ["KILL", "STOP", "TERM", "INT", "SEGV"])
def test_a_program_that_attacks_its_supervisor_is_ended_and_reported(peer: Peer, signal_: str) -> None:
    mark = marker()
    began = time.monotonic()
    done = peer.bash(f"(setsid sleep {mark} &); kill -{signal_} $PPID; sleep {mark}", deadline=0.5)
    assert done.result and done.result["exit_code"] == 137
    assert time.monotonic() - began < 0.5 + PATIENCE
    assert processes_with(mark) == []
    assert peer.python("print('next')").stdout == b"next\n"


def test_a_program_that_kills_all_it_can_hurts_only_what_runs(container_agent: RunningAgent) -> None:
    peer = container_agent.session()
    other = peer.start("bash", code="sleep 60")
    peer.started(other)
    done = peer.bash("kill -KILL -1; sleep 60", deadline=5)
    assert done.result and done.result["reason"] == "Error"
    assert peer.finish(other).result["reason"] == "Error"  # type: ignore[index]
    for _ in range(3):
        assert peer.python("print('next')").stdout == b"next\n"


def test_a_program_that_stops_all_it_can_is_ended_at_its_deadline(container_agent: RunningAgent) -> None:
    peer = container_agent.session()
    done = peer.bash("kill -STOP -1; kill -STOP $$", deadline=0.5)
    assert done.result and done.result["reason"] == "Timeout"
    assert peer.python("print('next')").stdout == b"next\n"


def test_orphans_of_a_killed_supervisor_are_ended_and_no_others(peer: Peer) -> None:
    mark, other_mark = marker(), marker()
    other = peer.start("bash", code=f"(setsid sleep {other_mark} &); read line; echo end", stdin=True)
    peer.wait(lambda: processes_with(other_mark) or peer.read_once(0.01))
    peer.bash(f"(setsid sleep {mark} &); (setsid setsid sleep {mark} &); kill -KILL $PPID; sleep 5")
    assert processes_with(mark) == []
    assert processes_with(other_mark)
    peer.send(EOF, other)
    assert peer.finish(other).stdout == b"end\n"
    assert gone_within(PATIENCE, other_mark)


def test_too_little_memory_is_told_as_such(container_agent: RunningAgent) -> None:
    peer = container_agent.session()
    done = peer.python("b = bytearray(1) * (400 << 20)")
    assert done.result and (done.result["reason"], done.result["exit_code"]) == ("OOMKilled", 137)
    assert peer.bash("kill -KILL $$").result["reason"] == "Error"  # type: ignore[index]
    done = peer.bash("python3 -c 'b = bytearray(1) * (400 << 20)'; exit 137")
    assert done.result and done.result["reason"] == "OOMKilled"


def test_cancelling_is_for_what_runs(peer: Peer) -> None:
    done = peer.bash("true")
    assert done.result
    assert peer.ask("cancel", id=done.result["id"]).result == {"ended": False}
    with pytest.raises(AgentRefused, match="NotFound"):
        peer.ask("cancel", id="never")


def test_many_executions_at_once_and_then_busy(start: Callable[..., RunningAgent]) -> None:
    peer = start().session()
    numbers = [peer.start("bash", code="sleep 30") for _ in range(peer.hello["max_executions"])]
    for number in numbers:
        peer.started(number)
    with pytest.raises(AgentRefused, match="Busy"):
        peer.bash("true")
    peer.ask("cancel", id=peer.channels[numbers[0]].started["id"])  # type: ignore[index]
    peer.finish(numbers[0])
    assert peer.bash("echo free").stdout == b"free\n"


def test_sigterm_ends_everything_and_exits_0(start: Callable[..., RunningAgent]) -> None:
    agent, mark = start(), marker()
    peer = agent.session()
    peer.start("bash", code=f"trap '' TERM; (setsid sleep {mark} &); sleep {mark}")
    peer.wait(lambda: len(processes_with(mark)) >= 2 or peer.read_once(0.01))
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < PATIENCE
    assert processes_with(mark) == []


def test_the_end_of_the_agent_is_the_end_of_what_it_runs(start: Callable[..., RunningAgent]) -> None:
    agent, mark = start(), marker()
    peer = agent.session()
    peer.start("bash", code=f"sleep {mark}")
    peer.wait(lambda: processes_with(mark) or peer.read_once(0.01))
    agent.process.send_signal(signal.SIGKILL)
    assert gone_within(1 + PATIENCE, mark)


def test_the_agent_reaps_what_nobody_waits_for(container_agent: RunningAgent) -> None:
    peer = container_agent.session()
    for _ in range(3):
        peer.bash("for i in 1 2 3; do (setsid true &); done")
    code = "grep -h '^State' /proc/[0-9]*/status | grep -c Z"
    assert peer.bash(code).stdout.strip() == b"0"


def test_a_supervisor_that_is_used_again_measures_anew(start: Callable[..., RunningAgent], tmp_path: Path) -> None:
    peer = start().session()
    assert peer.python("b = bytearray(200_000_000)").result["peak_memory"] > 200_000_000  # type: ignore[index]
    assert peer.python("pass").result["peak_memory"] < 50_000_000  # type: ignore[index]
