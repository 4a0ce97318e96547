"""Named contexts keep Python's state between executions, each in a process of its own."""

from collections.abc import Callable, Iterator

import pytest

from tests.agent.conftest import RunningAgent, start_container
from tests.agent.peer import AgentRefused, Peer


@pytest.fixture(params=["process", "container"])
def peer(request: pytest.FixtureRequest, start: Callable[..., RunningAgent]) -> Iterator[Peer]:
    """A session with an agent of its own: the contexts of an agent are few."""
    if request.param == "process":
        yield start().session()
    else:
        request.getfixturevalue("container_agent")  # skips where there is none
        agent = start_container()
        yield agent.session()
        agent.stop()


def test_a_context_remembers_and_others_do_not_see_it(peer: Peer) -> None:
    peer.python("x = 40\ndef add(n): return x + n", context="one")
    assert peer.python("print(add(2))", context="one").stdout == b"42\n"
    assert b"NameError" in peer.python("print(x)", context="two").stderr
    assert b"NameError" in peer.python("print(x)").stderr


def test_each_execution_has_its_own_streams(peer: Peer) -> None:
    first = peer.python("import sys; print('a'); print('b', file=sys.stderr)", context="streams")
    second = peer.python("print('c')", context="streams")
    assert (first.stdout, first.stderr, second.stdout, second.stderr) == (b"a\n", b"b\n", b"c\n", b"")
    number = peer.start("python", code="print(input() + '!')", context="streams", stdin=True)
    peer.feed(number, b"hello\nrest")
    assert peer.finish(number).stdout == b"hello!\n"
    number = peer.start("python", code="print(input())", context="streams", stdin=True)
    peer.feed(number, b"fresh\n")
    assert peer.finish(number).stdout == b"fresh\n"


def test_errors_and_exits_do_not_end_a_context(peer: Peer) -> None:
    peer.python("kept = 1", context="errors")
    done = peer.python("def f():\n    raise ValueError('no')\nf()", context="errors")
    assert done.result and (done.result["exit_code"], done.result["reason"]) == (1, "Error")
    assert b"    raise ValueError('no')" in done.stderr
    assert peer.python("import sys; sys.exit(3)", context="errors").result["exit_code"] == 3  # type: ignore[index]
    assert peer.python("print(kept)", context="errors").stdout == b"1\n"


def test_a_cancel_and_a_deadline_end_the_context_with_all_it_started(peer: Peer) -> None:
    peer.python("x = 1", context="ends")
    done = peer.python(
        "import subprocess; subprocess.Popen(['sleep', '61'], start_new_session=True)\nwhile True: pass",
        context="ends",
        deadline=0.4,
    )
    assert done.result and (done.result["reason"], done.result["exit_code"]) == ("Timeout", 137)
    assert b"NameError" in peer.python("print(x)", context="ends").stderr


def test_a_context_that_crashes_is_reported_and_begun_anew(peer: Peer) -> None:
    peer.python("x = 1", context="crash")
    done = peer.python("import os; os.kill(os.getpid(), 11)", context="crash")
    assert done.result and (done.result["signal"], done.result["reason"]) == (11, "Error")
    assert peer.python("import os; os._exit(7)", context="crash").result["exit_code"] == 7  # type: ignore[index]
    assert b"NameError" in peer.python("print(x)", context="crash").stderr


def test_a_context_that_forges_reports_hurts_only_itself(peer: Peer) -> None:
    forge = """
import os, socket
for fd in range(3, 30):
    try:
        socket.socket(fileno=os.dup(fd)).send(b'{"status": "x"}')
    except OSError:
        pass
"""
    done = peer.python(forge, context="forger", deadline=5)
    assert done.result and done.result["reason"] in ("Error", "Completed")
    assert peer.python("print('fine')", context="honest").stdout == b"fine\n"
    assert peer.python("print('fine')").stdout == b"fine\n"


def test_one_execution_at_a_time_in_a_context(peer: Peer) -> None:
    first = peer.start("python", code="import time; time.sleep(0.4); print('done')", context="serial")
    with pytest.raises(AgentRefused, match="Busy"):
        peer.python("print(1)", context="serial")
    assert peer.finish(first).stdout == b"done\n"


def test_contexts_are_bounded(start: Callable[..., RunningAgent]) -> None:
    peer = start().session()
    for number in range(8):
        peer.python("x = 1", context=f"c{number}")
    with pytest.raises(AgentRefused, match="Busy"):
        peer.python("x = 1", context="one too many")
    peer.greet()
    assert peer.hello["contexts"] == [f"c{number}" for number in range(8)]
    number = peer.start("python", code="import time; time.sleep(9)", context="c0", id="last")
    peer.started(number)
    peer.ask("cancel", id="last")
    peer.finish(number)
    assert peer.python("print('room')", context="one too many").stdout == b"room\n"


def test_cwd_and_env_stay_as_a_context_left_them(peer: Peer) -> None:
    peer.put("place/empty", b"")
    peer.python("import os", context="place", cwd="place", env={"WHERE": "here"})
    assert (
        peer.python("print(os.getcwd().rpartition('/')[2], os.environ['WHERE'])", context="place").stdout
        == b"place here\n"
    )
