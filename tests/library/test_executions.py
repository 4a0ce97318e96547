"""Running code through the library."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from controller import Output, Result, Sandbox, SandboxManager
from controller.backends import BackendError, NotFound
from tests.library.conftest import eventually


def runs(sandbox: Sandbox, marker: str) -> bool:
    """Whether a process with `marker` among its arguments runs in the sandbox."""
    found = sandbox.execute(f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '[s]leep {marker}'", "bash")
    return int(found.stdout) > 0


def test_execute_returns_what_the_program_printed(sandbox: Sandbox) -> None:
    result = sandbox.execute("import sys; print(1 + 1); print('warning', file=sys.stderr)")
    assert (result.exit_code, result.stdout, result.stderr, result.reason) == (0, "2\n", "warning\n", "Completed")
    assert result.ok and not result.truncated and result.duration_ms >= 0 and result.path == "agent"


def test_a_program_that_fails_is_a_result_and_no_error(sandbox: Sandbox) -> None:
    result = sandbox.execute("raise SystemExit(7)")
    assert (result.exit_code, result.reason, result.ok) == (7, "Error", False)


def test_a_program_that_takes_too_long_ends_with_its_own_reason(sandbox: Sandbox) -> None:
    result = sandbox.execute("print('begun', flush=True)\nwhile True: pass", timeout=1.5)
    assert (result.reason, result.stdout) == ("Timeout", "begun\n")
    assert 1500 <= result.duration_ms < 3000


def test_bash_and_commands_run_too(sandbox: Sandbox) -> None:
    assert sandbox.execute("echo $((6 * 7))", "bash").stdout == "42\n"
    assert sandbox.run(["printf", "%s|", "a b", "*"]).stdout == "a b|*|"


def test_stdin_variables_and_files_arrive(sandbox: Sandbox) -> None:
    code = "import os, sys; print(sys.stdin.read(), os.environ['WHO'], open('data/in.txt').read())"
    result = sandbox.execute(code, stdin="question", env={"WHO": "me"}, files={"data/in.txt": "content"})
    assert result.stdout == "question me content\n"
    assert sandbox.run(["cat", "in.txt"], cwd="data").stdout == "content"


def test_bytes_go_in_and_come_out_as_they_are(sandbox: Sandbox) -> None:
    every_byte = bytes(range(256))
    result = sandbox.run(["cat", "-", "in.bin"], stdin=every_byte, files={"in.bin": every_byte})
    assert result.stdout_bytes == every_byte * 2
    assert "\ufffd" in result.stdout


def test_a_context_keeps_its_state_and_nothing_else_does(sandbox: Sandbox) -> None:
    sandbox.execute("x = 41", context="analysis")
    assert sandbox.execute("print(x + 1)", context="analysis").stdout == "42\n"
    assert "NameError" in sandbox.execute("print(x)").stderr


def test_output_beyond_the_limit_is_dropped_and_counted(sandbox: Sandbox) -> None:
    result = sandbox.execute("print('x' * (3 << 20), end='')")
    assert result.truncated and result.exit_code == 0
    assert len(result.stdout) + result.dropped_stdout == 3 << 20
    assert len(result.stdout) == 1 << 20


def test_a_stream_gives_output_while_the_program_runs(sandbox: Sandbox) -> None:
    code = "import os\nprint('waiting', flush=True)\nwhile not os.path.exists('go'): pass\nprint('gone')"
    pieces = []
    for item in sandbox.stream(code):
        pieces.append(item)
        if isinstance(item, Output) and item.data == b"waiting\n":
            sandbox.write_file("go", "")
    *outputs, result = pieces
    assert b"".join(each.data for each in outputs if isinstance(each, Output)) == b"waiting\ngone\n"
    assert isinstance(result, Result) and result.ok and result.stdout == ""


def test_what_unicode_calls_a_line_break_passes_a_stream_as_it_is(sandbox: Sandbox) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh\r\ni\0"
    outputs = [item for item in sandbox.stream(f"print({text!r}, end='')") if isinstance(item, Output)]
    assert b"".join(each.data for each in outputs) == text.encode()


def test_leaving_a_stream_ends_the_program(sandbox: Sandbox) -> None:
    marker = f"{uuid.uuid4().int % 10**9}.5"
    for item in sandbox.stream(f"echo started; exec sleep {marker}", "bash"):
        assert isinstance(item, Output)
        assert runs(sandbox, marker)
        break
    assert eventually(lambda: not runs(sandbox, marker))


def test_files_are_written_read_and_listed(sandbox: Sandbox) -> None:
    sandbox.write_file("out/a.bin", b"\0\xff" * 100_000)
    assert sandbox.run(["wc", "-c", "out/a.bin"]).stdout.split()[0] == "200000"
    assert sandbox.read_file("out/a.bin") == b"\0\xff" * 100_000
    sandbox.write_file("elsewhere", b"")
    assert [(file.path, file.size) for file in sandbox.list_files("out")] == [("out/a.bin", 200_000)]
    assert {"elsewhere", "out/a.bin"} <= {file.path for file in sandbox.list_files()}
    with pytest.raises((BackendError, ValueError)):
        sandbox.list_files("../etc")


def test_no_path_leaves_the_workspace(sandbox: Sandbox) -> None:
    sandbox.run(["ln", "-s", "/etc", "link"])
    for path in ("../etc/passwd", "/etc/passwd", "link/passwd", "../logs", ".", ""):
        with pytest.raises((BackendError, ValueError)):
            sandbox.read_file(path)
        with pytest.raises((BackendError, ValueError)):
            sandbox.write_file(path, "x")


def test_reading_more_than_was_asked_for_is_refused(sandbox: Sandbox) -> None:
    sandbox.write_file("large", b"x" * 1000)
    with pytest.raises(BackendError, match="more than 999 bytes"):
        sandbox.read_file("large", limit=999)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"env": {"A=B": "x"}}, ValueError, "env"),
        ({"files": {"../x": ""}}, ValueError, "files"),
        ({"context": "a/b"}, ValueError, "context"),
        ({"tiemout": 1}, TypeError, "takes no 'tiemout'"),
    ],
)
def test_a_wrong_option_is_named_before_anything_runs(sandbox: Sandbox, options, error, says) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=says):
        sandbox.execute("print(1)", **options)


def test_a_command_as_one_string_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(TypeError, match="list"):
        sandbox.run("ls -l")


def test_one_sandbox_serves_several_threads(sandbox: Sandbox) -> None:
    gate = threading.Barrier(8)

    def one(number: int) -> str:
        gate.wait()
        return sandbox.execute(f"print({number})").stdout

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == [f"{number}\n" for number in range(8)]


def test_two_sandboxes_share_no_files(manager: SandboxManager) -> None:
    with manager.create() as one, manager.create() as other:
        one.write_file("secret", "x")
        with pytest.raises(NotFound):
            other.read_file("secret")
