"""What a program gets and what comes back from it."""

import time

import pytest

from tests.agent.peer import AgentRefused, Peer


def test_python_prints_and_completes(peer: Peer) -> None:
    done = peer.python("print(1+1)")
    assert done.stdout == b"2\n"
    assert done.stderr == b""
    assert done.result and (done.result["exit_code"], done.result["reason"], done.result["signal"]) == (
        0,
        "Completed",
        None,
    )


def test_bash_and_commands_keep_stdout_apart_from_stderr(peer: Peer) -> None:
    done = peer.bash("echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    assert done.result and (done.result["exit_code"], done.result["reason"]) == (3, "Error")
    assert peer.command("printf", "%s|", "a b", "$HOME").stdout == b"a b|$HOME|"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("import sys; sys.exit(7)", 7),
        ("import sys; sys.exit()", 0),
        ("import sys; sys.exit(256 + 5)", 5),
        ("import sys; sys.exit('words')", 1),
        ("raise SystemExit(9)", 9),
        ("exit(4)", 4),
        ("1/0", 1),
        ("def", 1),
        ("import os; os._exit(12)", 12),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139),
        ("raise KeyboardInterrupt", 130),
        ("import atexit, os; atexit.register(os._exit, 6)", 6),
    ],
)
def test_python_ends_with_the_exit_code_of_a_script(peer: Peer, code: str, exit_code: int) -> None:
    done = peer.python(code)
    assert done.result and done.result["exit_code"] == exit_code


def test_a_signal_is_told_with_its_number(peer: Peer) -> None:
    done = peer.bash("kill -SEGV $$")
    assert done.result and (done.result["signal"], done.result["exit_code"], done.result["reason"]) == (
        11,
        139,
        "Error",
    )


def test_a_traceback_shows_the_code_and_nothing_of_the_agent(peer: Peer) -> None:
    done = peer.python("def f():\n    return 1/0\nf()\n")
    assert done.stderr.decode().startswith(
        'Traceback (most recent call last):\n  File "<string>", line 3, in <module>\n'
    )
    assert "    return 1/0" in done.stderr.decode()
    assert "agent" not in done.stderr.decode()


def test_code_is_the_main_module_of_a_script(peer: Peer) -> None:
    code = """
import sys, pickle, dataclasses, multiprocessing, threading, time, inspect
@dataclasses.dataclass
class Point:
    x: int
def square(n):
    return n * n
if __name__ == "__main__":
    assert pickle.loads(pickle.dumps(Point(3))).x == 3
    assert sys.modules["__main__"].square is square
    assert sys.argv == ["-c"] and sys.path[0] == ""
    assert sorted(set(globals()) & {"agent", "launcher", "main", "supervise"}) == []
    assert "json" not in globals()
    with multiprocessing.Pool(2) as pool:
        print(pool.map(square, [1, 2, 3]))
    threading.Thread(target=lambda: (time.sleep(0.05), print("late"))).start()
"""
    done = peer.python(code)
    assert done.stderr == b""
    assert done.stdout == b"[1, 4, 9]\nlate\n"


def test_files_that_were_not_closed_are_flushed_at_the_end(peer: Peer) -> None:
    peer.python(
        "f = open('unclosed.txt', 'w'); f.write('all of it')\nclass D:\n  def __del__(self): print('deleted')\nd = D()"
    )
    assert peer.ask("get", path="unclosed.txt").data == b"all of it"


def test_an_object_is_deleted_at_the_end(peer: Peer) -> None:
    assert peer.python("class D:\n  def __del__(self): print('deleted')\nd = D()").stdout == b"deleted\n"


def test_one_execution_leaves_nothing_behind_in_the_next(peer: Peer) -> None:
    peer.python(
        "import sys, os, builtins; x = 5; sys.leak = 1; os.environ['LEAK'] = '1'; builtins.leak = 2; os.chdir('/')"
    )
    left = "'x' in globals(), hasattr(sys, 'leak'), 'LEAK' in os.environ, hasattr(builtins, 'leak'), os.getcwd() == '/'"
    done = peer.python(f"import sys, os, builtins; print({left})")
    assert done.stdout == b"False False False False False\n"


def test_random_numbers_differ_between_executions(peer: Peer) -> None:
    code = "import random, uuid, os; print(random.random(), uuid.uuid4(), os.urandom(4))"
    assert peer.python(code).stdout != peer.python(code).stdout


def test_env_and_cwd_are_those_of_the_request(peer: Peer) -> None:
    peer.put("sub/empty", b"")
    for kind, code in (
        ("bash", 'echo "$A|$(pwd)"'),
        ("python", "import os; print(os.environ['A'] + '|' + os.getcwd())"),
    ):
        done = peer.finish(peer.start(kind, code=code, env={"A": "a=b \n ü"}, cwd="sub"))
        value, _, place = done.stdout.decode().rpartition("|")
        assert value == "a=b \n ü"
        assert place.endswith("/sub\n")


def test_variables_for_the_interpreter_count_too(peer: Peer) -> None:
    peer.put("lib/mine.py", b"NAME = 'mine'\n")
    assert peer.python("import mine; print(mine.NAME)", env={"PYTHONPATH": "lib"}).stdout == b"mine\n"
    assert peer.python("import sys; print(sys.flags.optimize)", env={"PYTHONOPTIMIZE": "2"}).stdout == b"2\n"


def test_modules_of_the_workspace_can_be_imported(peer: Peer) -> None:
    peer.put("neighbour.py", b"def greet(): return 'hello'\n")
    assert peer.python("import neighbour; print(neighbour.greet())").stdout == b"hello\n"


def test_files_of_the_request_are_there_before_the_program_starts(peer: Peer) -> None:
    done = peer.bash(
        "cat in/a.bin | od -An -tx1; stat -c %a run.sh",
        files=[{"path": "in/a.bin", "data": "AAH/"}, {"path": "run.sh", "data": "", "mode": 0o755}],
    )
    assert done.stdout.split() == [b"00", b"01", b"ff", b"755"]


def test_stdin_arrives_whole_however_slowly_it_is_read(peer: Peer) -> None:
    content = bytes(range(256)) * 8192  # 2 MiB
    code = "import sys, time, hashlib; time.sleep(0.2); print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    number = peer.start("python", code=code, stdin=True)
    peer.feed(number, content)
    import hashlib

    assert peer.finish(number).stdout.decode().strip() == hashlib.sha256(content).hexdigest()


def test_stdin_can_be_a_conversation(peer: Peer) -> None:
    number = peer.start("python", code="while True:\n  print('got', input())", stdin=True)
    for word in (b"one", b"two"):
        peer.send(4, number, word + b"\n")
        peer.wait(lambda word=word: b"got " + word + b"\n" in peer.channels[number].stdout)
    peer.send(5, number)
    done = peer.finish(number)
    assert done.stderr.endswith(b"EOFError: EOF when reading a line\n")


def test_without_stdin_a_program_reads_its_end(peer: Peer) -> None:
    assert peer.command("cat").result["exit_code"] == 0  # type: ignore[index]


def test_a_program_that_reads_nothing_does_not_hold_its_stdin_up(peer: Peer) -> None:
    number = peer.start("bash", code="exec 0<&-; sleep 0.1", stdin=True)
    peer.feed(number, bytes(1 << 20))
    assert peer.finish(number).result["exit_code"] == 0  # type: ignore[index]


def test_output_is_binary_safe(peer: Peer) -> None:
    every_byte = bytes(range(256))
    assert peer.python("import sys; sys.stdout.buffer.write(bytes(range(256)))").stdout == every_byte
    assert peer.bash(r"printf '\xff\xfe\x00\x80'").stdout == b"\xff\xfe\x00\x80"


def test_output_comes_while_the_program_runs(peer: Peer) -> None:
    number = peer.start("python", code="import time; print('first'); time.sleep(0.3); print('second')")
    channel = peer.finish(number)
    assert channel.arrived["result"] - channel.arrived["stdout"] > 0.2


def test_beyond_its_limit_output_is_counted_and_dropped(peer: Peer) -> None:
    done = peer.python("import sys; print('e' * 99, file=sys.stderr); print('x' * 100_000)", output_limit=1000)
    assert (len(done.stdout), len(done.stderr)) == (1000, 100)
    assert done.result and (done.result["dropped_stdout"], done.result["dropped_stderr"]) == (99_001, 0)


def test_a_flood_of_output_blocks_nobody_and_is_not_kept(peer: Peer) -> None:
    began = time.monotonic()
    flood = peer.start("bash", code="head -c 200000000 /dev/zero", deadline=60)
    assert peer.python("print('meanwhile')").stdout == b"meanwhile\n"
    done = peer.finish(flood)
    assert len(done.stdout) == 1 << 20
    assert done.result and done.result["dropped_stdout"] == 200_000_000 - (1 << 20)
    assert time.monotonic() - began < 15


def test_peak_memory_and_cpu_seconds_are_the_programs_own(peer: Peer) -> None:
    big = peer.python("b = bytearray(100_000_000)").result
    small = peer.bash("true").result
    busy = peer.python("import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass").result
    assert big and small and busy
    assert 100_000_000 < big["peak_memory"] < 150_000_000
    assert small["peak_memory"] < 40_000_000
    assert 0.28 < busy["cpu_seconds"] < 1
    assert small["cpu_seconds"] < 0.2


def test_the_cpu_of_children_counts(peer: Peer) -> None:
    done = peer.bash('python3 -c "import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"')
    assert done.result and done.result["cpu_seconds"] > 0.28


def test_a_command_that_is_not_there_is_told_as_a_shell_does(peer: Peer) -> None:
    done = peer.command("no-such-program")
    assert done.result and done.result["exit_code"] == 127
    assert done.stderr == b"no-such-program: No such file or directory\n"
    peer.put("plain", b"")
    assert peer.command("./plain").result["exit_code"] == 126  # type: ignore[index]
    nameless = peer.command("")
    assert nameless.result and nameless.result["exit_code"] == 127
    assert nameless.stderr == b"the program has an empty name\n"


def test_long_code_runs_in_every_language(peer: Peer) -> None:
    comment = "# " + "x" * 1_000_000 + "\n"
    assert peer.python(comment + "print('py')").stdout == b"py\n"
    assert peer.bash(comment + "echo sh").stdout == b"sh\n"
    assert peer.python(comment + "print('cold')", env={"PYTHONHASHSEED": "0"}).stdout == b"cold\n"


def test_a_broken_pipe_ends_a_command_as_usual(peer: Peer) -> None:
    assert peer.bash("yes | head -1; echo ${PIPESTATUS[0]}").stdout == b"y\n141\n"


@pytest.mark.parametrize(
    "request_",
    [
        {"kind": "perl", "code": "1"},
        {"kind": "command", "argv": []},
        {"kind": "command", "argv": ["a\0b"]},
        {"kind": "command", "argv": "ls"},
        {"kind": "python", "code": 5},
        {"kind": "bash", "code": "a\0b"},
        {"kind": "bash", "code": "true", "context": "x"},
        {"kind": "bash", "code": "true", "env": {"A=B": "1"}},
        {"kind": "bash", "code": "true", "env": {"A": "\0"}},
        {"kind": "bash", "code": "true", "env": {"A": "\ud800"}},
        {"kind": "bash", "code": "true", "env": {"A": 1}},
        {"kind": "bash", "code": "true", "cwd": "not/there"},
        {"kind": "bash", "code": "true", "deadline": 0},
        {"kind": "bash", "code": "true", "deadline": -1},
        {"kind": "bash", "code": "true", "deadline": float("nan")},
        {"kind": "bash", "code": "true", "deadline": True},
        {"kind": "bash", "code": "true", "output_limit": 1 << 40},
        {"kind": "bash", "code": "true", "output_limit": -1},
        {"kind": "bash", "code": "true", "id": "a b"},
        {"kind": "bash", "code": "true", "id": ""},
        {"kind": "bash", "code": "true", "id": "x" * 65},
        {"kind": "bash", "code": "true", "digest": ""},
        {"kind": "bash", "code": "true", "files": [{"path": "a"}]},
        {"kind": "bash", "code": "true", "files": [{"path": "a", "data": "***"}, 3]},
    ],
)
def test_a_bad_request_is_refused_by_name_and_nothing_runs(peer: Peer, request_: dict[str, object]) -> None:
    number = peer.start(**request_)  # type: ignore[arg-type]
    with pytest.raises(AgentRefused) as refused:
        peer.finish(number)
    assert refused.value.code == "BadRequest"
    assert peer.bash("echo still here").stdout == b"still here\n"


def test_credit_that_is_not_granted_holds_output_back(peer: Peer) -> None:
    peer.renew_credit = False
    number = peer.start("bash", code="head -c 600000 /dev/zero; echo done >&2")
    silent = peer.start("bash", code="echo other")
    peer.finish(silent)
    peer.wait(lambda: len(peer.channels[number].stdout) >= 256 * 1024)
    for _ in range(3):  # what was sent before an answer has arrived before it
        peer.ask("list", path="")
    assert len(peer.channels[number].stdout) == 256 * 1024
    assert peer.channels[number].result is None
    peer.credit_for(number, 1 << 20)
    assert len(peer.finish(number).stdout) == 600_000
