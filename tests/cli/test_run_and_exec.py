"""`kubectl sandbox run` and `exec`: one line from a shell."""

import json
import os
import pty
import signal
import subprocess
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from controller import Sandbox
from tests.cli.conftest import Ran
from tests.library.conftest import eventually

Plugin = Callable[..., Ran]


def names(api: str) -> list[str]:
    from controller.client import ApiClient

    async def listed() -> list[str]:
        async with ApiClient(api) as client:
            return [each["name"] for each in (await client.list_sandboxes())[0]]

    import asyncio

    return asyncio.run(listed())


def test_run_prints_what_the_program_prints_and_exits_as_it_does(plugin: Plugin) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    ran = plugin("run", "-c", code)
    assert (ran.returncode, ran.stdout) == (7, "out\n")
    assert "err\n" in ran.stderr


def test_run_says_that_mock_isolates_nothing_and_can_refuse_it(plugin: Plugin) -> None:
    assert "Running in MOCK mode - NO SECURITY ISOLATION" in plugin("run", "-c", "pass").stderr


def test_run_leaves_no_sandbox_behind(plugin: Plugin, api: str) -> None:
    plugin("run", "-c", "pass")
    assert plugin("run", "--memory", "none", "-c", "pass").returncode == 125
    assert eventually(lambda: names(api) == [])


def test_exec_through_kubectl_needs_a_kubeconfig_and_the_address(
    kubectl: str, environment: dict[str, str], api: str, sandbox: Sandbox
) -> None:
    command = [kubectl, "sandbox", "exec", "box", "--api", api, "--", "python3", "-c", "print(6 * 7)"]
    ran = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "42\n", "")


def test_code_comes_from_an_option_a_file_or_stdin(plugin: Plugin, sandbox: Sandbox, tmp_path) -> None:  # type: ignore[no-untyped-def]
    script = tmp_path / "hello.sh"
    script.write_text("echo from $0 bash")
    assert plugin("exec", "box", "-c", "print('option')").stdout == "option\n"
    assert plugin("exec", "box", "-f", str(script)).stdout.endswith("bash\n")
    assert plugin("exec", "box", "-f", "-", input="print('stdin')").stdout == "stdin\n"


def test_piped_stdin_reaches_the_program_byte_for_byte(plugin: Plugin, sandbox: Sandbox) -> None:
    every_byte = bytes(range(256))
    assert plugin("exec", "box", "--", "cat", input=every_byte).stdout == every_byte
    assert plugin("exec", "box", "--no-stdin", "--", "cat", input=every_byte).stdout == b""


def test_a_pipe_that_stays_silent_is_told(environment: dict[str, str], api: str, sandbox: Sandbox) -> None:
    command = ["kubectl-sandbox", "exec", "box", "--api", api, "--", "cat"]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "--no-stdin" in process.stderr.readline()
    assert process.communicate("late but welcome", timeout=30)[0] == "late but welcome"


def test_variables_and_kept_state(plugin: Plugin, sandbox: Sandbox) -> None:
    assert plugin("exec", "box", "-e", "A=b=c", "--", "sh", "-c", "echo $A").stdout == "b=c\n"
    assert plugin("exec", "box", "-w", "/", "--", "pwd").stdout == "/\n"
    plugin("exec", "box", "--state", "s", "-c", "x = 41")
    assert plugin("exec", "box", "--state", "s", "-c", "print(x + 1)").stdout == "42\n"


def test_json_is_one_document_with_the_result(plugin: Plugin, sandbox: Sandbox) -> None:
    ran = plugin("exec", "box", "-o", "json", "-c", "print(1); raise SystemExit(3)")
    result = json.loads(ran.stdout)
    assert (ran.returncode, result["exit_code"], result["reason"], result["stdout"]) == (3, 3, "Error", "1\n")


def test_a_timeout_is_124_and_says_so(plugin: Plugin, sandbox: Sandbox) -> None:
    ran = plugin("exec", "box", "--timeout", "0.3", "--", "sleep", "60")
    assert ran.returncode == 124
    assert "the time was over after 0.3 s" in ran.stderr


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_program_in_the_sandbox(environment: dict[str, str], api: str, sandbox: Sandbox, way) -> None:  # type: ignore[no-untyped-def]
    marker = f"{uuid.uuid4().int % 10**9}.75"
    command = ["kubectl-sandbox", "exec", "box", "--api", api, "--", "sh", "-c", f"echo up; sleep {marker}; true"]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"

    def runs() -> bool:
        found = sandbox.execute(
            f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '[s]leep {marker}'", "bash"
        )
        return int(found.stdout) > 0

    assert runs()
    process.send_signal(way)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, "Traceback" in errors) == (128 + way, False), errors
    assert not runs()


def test_the_program_ends_when_nobody_reads_its_output(environment: dict[str, str], api: str, sandbox: Sandbox) -> None:
    code = f"while True: print('y' * 99)  # {uuid.uuid4()}"
    command = ["kubectl-sandbox", "exec", "box", "--api", api, "-t", "60", "-c", code]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(2) == b"yy"
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_the_program_ends_when_its_output_has_no_room(environment: dict[str, str], api: str, sandbox: Sandbox) -> None:
    marker = f"{uuid.uuid4().int % 10**9}.5"
    command = ["kubectl-sandbox", "exec", "box", "--api", api, "--", "sh", "-c", f"echo up; sleep {marker}; true"]
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=full, stderr=-1, timeout=20)
    assert (ran.returncode, ran.stderr) == (125, b"Error: the output was not written: No space left on device\n")
    look = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '[s]leep {marker}'"
    assert sandbox.execute(look, "bash").stdout == "0\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_streams_are_as_empty_ones(environment: dict[str, str], api: str, sandbox: Sandbox, closed: str) -> None:
    line = f"kubectl-sandbox exec box --api {api} -- sh -c 'cat; exit 7' {closed}"
    ran = subprocess.run(
        ["bash", "-c", line], env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=30
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, b"", b"")


@pytest.mark.parametrize("words", [["exec", "box", "--", "cat", "f"], ["cp", "box:f", "-"]])
def test_on_a_terminal_output_cannot_command_it(
    environment: dict[str, str], api: str, sandbox: Sandbox, words: list[str]
) -> None:
    sandbox.write_file("f", "\x1b]0;title\x07\x9b31m é\n")
    ours, theirs = pty.openpty()
    how: dict[str, Any] = {"env": {**environment, "SANDBOX_API": api}, "stdin": subprocess.DEVNULL, "stdout": theirs}
    subprocess.run(["kubectl-sandbox", *words], timeout=30, check=True, **how)
    os.close(theirs)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert shown == "␛]0;title␇\ufffd31m é\r\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["exec", "nobody", "--", "ls"], "there is no sandbox nobody in namespace team"),
        (["exec", "box"], "exactly one of"),
        (["exec", "box", "-c", "1", "--", "ls"], "exactly one of"),
        (["exec", "box", "-e", "A", "--", "ls"], "NAME=VALUE"),
        (["exec", "box", "-f", "/nonexistent", "-t", "3"], "/nonexistent"),
        (["exec", "box", "-t", "-1", "--", "ls"], "timeout"),
        (["exec", "box", "-t", "nan", "--", "ls"], "timeout"),
        (["exec", "box", "--", "printf", "\udcff"], "UTF-8"),
        (["exec", "box", "-e", "A=\udcff", "--", "ls"], "UTF-8"),
        (["cp", "-", "box:\udcff"], "UTF-8"),
        (["exce", "box"], "No such command"),
        (["run", "--memory", "-1", "-c", "1"], "memory"),
        (["run", "--api", "ftp://here", "-c", "1"], "http://127.0.0.1:8000"),
        (["run", "--api", "http://here:port", "-c", "1"], "http://127.0.0.1:8000"),
        (["ls", "--api", "http://127.0.0.1:1"], "Is the controller up?"),
    ],
)
def test_what_goes_wrong_before_a_program_runs_is_125_and_one_line(plugin: Plugin, sandbox, arguments, says) -> None:  # type: ignore[no-untyped-def]
    ran = plugin(*arguments)
    assert (ran.returncode, ran.stdout) == (125, "")
    assert says in ran.stderr and ran.stderr.startswith("Error: ") and ran.stderr.count("\n") == 1
