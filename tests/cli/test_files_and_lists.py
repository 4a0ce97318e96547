"""`cp`, `ls`, `rm`, `logs`, completion."""

import asyncio
import json
import os
import subprocess
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from controller import Sandbox
from controller.cli.program import Failure
from controller.cli.sandbox_cp import below
from controller.client import ApiClient
from tests.cli.conftest import Ran
from tests.library.conftest import eventually

Plugin = Callable[..., Ran]


def test_cp_copies_a_file_in_and_out(plugin: Plugin, sandbox: Sandbox, tmp_path: Path) -> None:
    every_byte = bytes(range(256)) * 1000
    (tmp_path / "in.bin").write_bytes(every_byte)
    assert plugin("cp", str(tmp_path / "in.bin"), "box:data/").returncode == 0
    assert plugin("cp", str(tmp_path / "in.bin"), "box:data/other.bin").returncode == 0
    assert sandbox.read_file("data/other.bin") == every_byte
    assert plugin("cp", "box:data/other.bin", str(tmp_path / "out.bin")).returncode == 0
    assert (tmp_path / "out.bin").read_bytes() == every_byte
    assert plugin("cp", "box:/workspace/data/other.bin", str(tmp_path)).returncode == 0
    assert (tmp_path / "other.bin").read_bytes() == every_byte


def test_cp_copies_a_folder_in_and_out(plugin: Plugin, sandbox: Sandbox, tmp_path: Path) -> None:
    for name in ("a.txt", "deep/b.txt"):
        file = tmp_path / "tree" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    assert plugin("cp", str(tmp_path / "tree"), "box:copy").returncode == 0
    assert sandbox.read_file("copy/deep/b.txt") == b"deep/b.txt"
    assert plugin("cp", "box:copy", str(tmp_path / "back")).returncode == 0
    back = tmp_path / "back"
    assert {str(file.relative_to(back)): file.read_text() for file in back.rglob("*") if file.is_file()} == {
        "a.txt": "a.txt",
        "deep/b.txt": "deep/b.txt",
    }


def test_cp_takes_stdin_and_gives_stdout(plugin: Plugin, sandbox: Sandbox) -> None:
    assert plugin("cp", "-", "box:note", input=b"\0text").returncode == 0
    assert plugin("cp", "box:note", "-", input=b"").stdout == b"\0text"


def test_cp_of_more_than_a_listing_has_says_so_and_copies_nothing(
    plugin: Plugin, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.execute("mkdir many; cd many; seq 10001 | xargs touch", "bash")
    ran = plugin("cp", "box:many", str(tmp_path / "many"))
    assert ran.returncode == 125 and "more than 10000 files" in ran.stderr
    assert not (tmp_path / "many").exists()


def test_cp_writes_into_devices_and_through_links(plugin: Plugin, sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.write_file("note", "text")
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "meant")
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert plugin("cp", "box:note", str(pipe)).returncode == 0
    assert os.read(reading, 100) == b"text"
    os.close(reading)
    assert plugin("cp", "box:note", str(link)).returncode == 0
    assert link.is_symlink() and (tmp_path / "meant").read_text() == "text"
    assert sorted(each.name for each in tmp_path.iterdir() if "." in each.name) == []


def test_cp_takes_only_the_workspace_itself_for_the_workspace(plugin: Plugin, sandbox: Sandbox) -> None:
    assert plugin("cp", "-", "box:/workspace/a", input="").returncode == 0
    assert plugin("cp", "-", "box:/workspaces/b", input="").returncode == 0
    assert [each.path for each in sandbox.list_files()] == ["a", "workspaces/b"]


def test_cp_of_what_is_not_there_leaves_nothing(plugin: Plugin, sandbox: Sandbox, tmp_path: Path) -> None:
    ran = plugin("cp", "box:missing", str(tmp_path / "missing"))
    assert ran.returncode == 125 and "missing" in ran.stderr
    assert not (tmp_path / "missing").exists()
    ran = plugin("cp", "box:../etc/passwd", str(tmp_path / "missing"))
    assert ran.returncode == 125 and "below the workspace" in ran.stderr


@pytest.mark.parametrize("path", ["../../etc/cron.d/x", "/etc/passwd", "data/../../x", "other/x", "data/a\0b"])
def test_a_sandbox_cannot_choose_where_its_files_land(path: str) -> None:
    with pytest.raises(Failure, match="outside"):
        below("data", path)


@pytest.mark.parametrize("words", [["ls"], ["ls", "-o", "json"], ["top"], ["cp", "box:note", "-"]])
def test_output_that_goes_nowhere_is_told_by_the_exit_code(
    environment: dict[str, str], api: str, sandbox: Sandbox, words: list[str]
) -> None:
    sandbox.write_file("note", "text")
    reader, writer = os.pipe()
    os.close(reader)
    how: dict[str, Any] = {"env": {**environment, "SANDBOX_API": api}, "stdin": subprocess.DEVNULL, "stderr": -1}
    ran = subprocess.run(["kubectl-sandbox", *words], stdout=writer, timeout=30, **how)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, b"")
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(["kubectl-sandbox", *words], stdout=full, timeout=30, **how)
    assert (ran.returncode, ran.stderr) == (125, b"Error: the output was not written: No space left on device\n")


def test_ls_shows_a_table_of_the_contexts_namespace(plugin: Plugin, sandbox: Sandbox) -> None:
    head, row = plugin("ls").stdout.splitlines()
    assert head.split() == ["NAME", "PHASE", "READY", "BACKEND", "AGE"]
    assert row.split()[:4] == ["box", "Running", "True", "mock"]
    assert "no sandboxes in namespace other" in plugin("ls", "-n", "other").stderr
    assert plugin("ls", "-A", "-n", "other").stdout.split()[:1] == ["NAMESPACE"]
    assert plugin("ls", "-o", "name").stdout == "box\n"
    assert sandbox.id in plugin("ls", "-o", "wide").stdout
    assert [each["id"] for each in json.loads(plugin("ls", "-o", "json").stdout)["items"]] == [sandbox.id]


def test_top_shows_who_is_busy(plugin: Plugin, sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(sandbox.execute, "import os\nwhile not os.path.exists('stop'): pass", timeout=60)
        assert eventually(lambda: json.loads(plugin("top", "-o", "json").stdout)["items"][0]["cores"] > 0.1, 30)
        sandbox.write_file("stop", "")
        assert busy.result().ok
    head, row = plugin("top").stdout.splitlines()
    assert head.split() == ["NAME", "CPU(cores)", "MEMORY(bytes)", "LIMIT", "PROCESSES"]
    assert row.split()[0] == "box" and row.split()[2].endswith("Mi")
    assert "no sandbox runs in namespace other" in plugin("top", "-n", "other").stderr


def test_rm_deletes_and_waits(plugin: Plugin, sandbox: Sandbox) -> None:
    assert plugin("rm", "box").stdout == "sandbox box deleted\n"
    assert plugin("ls", "-o", "name").stdout == ""
    assert plugin("rm", "box").returncode == 125


@pytest.fixture
def finishing(api: str) -> str:
    """The name of a sandbox whose `run` prints and ends."""
    name = f"job-{uuid.uuid4().hex[:8]}"
    run = {"language": "bash", "code": "echo one; sleep 0.5; echo two >&2; echo three"}

    async def create() -> None:
        async with ApiClient(api) as client:
            await client.create({"name": name, "namespace": "team", "run": run}, 10)

    asyncio.run(create())
    return name


def test_logs_follow_the_output_of_run_to_its_end(plugin: Plugin, finishing: str) -> None:
    ran = plugin("logs", "-f", finishing)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "one\nthree\n", "two\n")


def test_logs_show_what_was_printed_so_far(plugin: Plugin, finishing: str) -> None:
    assert eventually(lambda: plugin("logs", finishing).stdout == "one\nthree\n")


def test_kubectl_completes_commands_options_and_names(environment: dict[str, str], api: str, sandbox: Sandbox) -> None:
    def candidates(*words: str) -> list[str]:
        command = ["kubectl_complete-sandbox", *words]
        printed = subprocess.run(
            command, env={**environment, "SANDBOX_API": api}, capture_output=True, text=True, timeout=30, check=True
        ).stdout.splitlines()
        assert printed[-1] == ":4"
        return [line.split("\t")[0] for line in printed[:-1]]

    assert candidates("e") == ["exec"]
    assert "--timeout" in candidates("exec", "box", "--t")
    assert candidates("exec", "b") == ["box"]
    assert candidates("rm", "x") == []
