"""Files in and out of the workspace; no path leads out of it."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.conftest import RunningAgent
from tests.agent.peer import CLOSE, DATA, MAX_PAYLOAD, AgentRefused, Peer
from tests.agent.test_frames import resident


def listing(peer: Peer, path: str = "") -> dict[str, int]:
    done = peer.ask("list", path=path)
    entries = [json.loads(line) for line in done.data.splitlines()]
    assert done.result and done.result["entries"] == len(entries)
    return {entry["path"]: entry["bytes"] for entry in entries}


def test_a_file_comes_back_as_it_was_put(peer: Peer) -> None:
    content = os.urandom(3_000_000)
    assert peer.put("deep/er/file.bin", content).result == {"bytes": 3_000_000}
    assert peer.ask("get", path="deep/er/file.bin").data == content
    peer.bash("mkfifo deep/pipe; ln -s /etc deep/link")
    assert listing(peer, "deep") == {"deep/er/file.bin": 3_000_000}
    assert listing(peer)["deep/er/file.bin"] == 3_000_000


def test_a_put_replaces_a_file_whole(peer: Peer) -> None:
    peer.put("replaced", b"long old content")
    number = peer.open(op="put", path="replaced")
    peer.send(DATA, number, b"half")
    assert peer.ask("get", path="replaced").data == b"long old content"
    peer.feed(number, b" new")
    peer.finish(number)
    assert peer.ask("get", path="replaced").data == b"half new"


def test_a_put_that_is_given_up_leaves_nothing(agent: RunningAgent) -> None:
    peer = agent.session()
    number = peer.open(op="put", path="given-up/file")
    peer.send(DATA, number, b"half")
    peer.send(CLOSE, number)
    assert listing(peer, "given-up") == {}
    number = peer.open(op="put", path="given-up/file")
    peer.send(DATA, number, b"half")
    assert listing(agent.session(), "given-up") == {}


def test_modes_are_kept(peer: Peer) -> None:
    peer.put("tool", b"#!/bin/sh\necho ran\n", mode=0o755)
    assert peer.command("./tool").stdout == b"ran\n"
    peer.put("tool", b"", mode=0o4755)
    assert peer.bash("stat -c %a tool").stdout == b"755\n"


OUTSIDE = [
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a/./b",
    "a//b",
    "a/",
    ".",
    "..",
    "a\0b",
    "x" * 5000,
    "link/x",
    "dirlink/passwd",
]
LINKS = ["link", "dead", "dirlink"]


@pytest.mark.parametrize(
    ("op", "path"),
    [(op, path) for op in ("put", "get", "list") for path in OUTSIDE]
    + [(op, path) for op in ("get", "list") for path in LINKS]
    + [(op, "") for op in ("put", "get")],
)
def test_no_path_leads_out_of_the_workspace(peer: Peer, op: str, path: str) -> None:
    peer.bash("ln -sfn /etc/passwd link; ln -sfn /nowhere dead; ln -sfn /etc dirlink")
    with pytest.raises(AgentRefused) as refused:
        if op == "put":
            peer.put(path, b"x")
        else:
            peer.ask(op, path=path)
    assert refused.value.code in ("Forbidden", "NotFound")


def test_a_put_on_a_link_replaces_the_link(peer: Peer) -> None:
    peer.bash("echo safe > target; ln -sfn target pointer")
    peer.put("pointer", b"new")
    assert peer.bash("cat target; test -L pointer || echo file").stdout == b"safe\nfile\n"


def test_a_link_swapped_in_meanwhile_leads_nowhere(peer: Peer) -> None:
    code = "mkdir -p race real; while :; do mv -T race aside; ln -s /etc race; rm race; mv -T aside race; done"
    number = peer.start("bash", code=code, id=f"race{time.monotonic()}")
    peer.started(number)
    for _ in range(100):
        try:
            assert peer.ask("get", path="race/hostname").data == b""
        except AgentRefused as refused:
            assert refused.code in ("Forbidden", "NotFound")
    assert peer.channels[number].started
    peer.ask("cancel", id=peer.channels[number].started["id"])


def test_only_regular_files_are_read(peer: Peer) -> None:
    peer.bash("mkfifo pipe; mkdir -p folder")
    for path in ("pipe", "folder"):
        with pytest.raises(AgentRefused, match="Forbidden"):
            peer.ask("get", path=path)
    with pytest.raises(AgentRefused, match="Forbidden"):
        peer.put("folder", b"x")


def test_what_is_not_there_is_not_found(peer: Peer) -> None:
    for op in ("get", "list"):
        with pytest.raises(AgentRefused, match="NotFound: not/there: No such file or directory"):
            peer.ask(op, path="not/there")


def test_a_full_workspace_is_told(container_agent: RunningAgent) -> None:
    peer = container_agent.session()
    with pytest.raises(AgentRefused, match="NoSpace"):
        peer.put("too-big", bytes(70 << 20))
    assert "too-big" not in listing(peer)
    assert int(peer.bash("df --output=used -k /workspace | tail -1").stdout) < 20_000


def test_long_listings_are_cut(peer: Peer) -> None:
    peer.python("import os\nos.makedirs('many', exist_ok=True)\nfor i in range(10_050): open(f'many/{i}', 'w').close()")
    done = peer.ask("list", path="many")
    assert done.result and done.result["truncated"]
    assert done.result["entries"] <= 10_000
    peer.bash("rm -r many")


def test_a_listing_copes_with_a_workspace_that_changes_and_with_any_name(peer: Peer) -> None:
    churn = "while :; do mkdir -p churn/a/b; touch churn/a/b/c; rm -r churn; done"
    peer.started(peer.start("bash", code=churn, id=f"churn{time.monotonic()}", deadline=3))
    peer.python("import os\nos.makedirs(b'odd/\\xff\\xfe'); open(b'odd/\\xff\\xfe/\\xff', 'w').close()")
    peer.python(
        "import os\nfor i in range(60):\n  os.mkdir('d' * 200); os.chdir('d' * 200)\nopen('deepest', 'w').close()"
    )
    for _ in range(50):
        assert "odd/\ufffd\ufffd/\ufffd" in listing(peer)


def test_a_big_file_passes_through_in_little_memory(start: Callable[..., RunningAgent], tmp_path: Path) -> None:
    agent = start()
    peer = agent.session()
    peer.bash("truncate -s 300M big")
    before = resident(agent.process.pid)
    peer.renew_credit = False
    number = peer.open(op="get", path="big")
    peer.wait(lambda: len(peer.channels[number].data) > 200 * 1024)
    assert peer.bash("echo others are served").result["exit_code"] == 0  # type: ignore[index]
    for _ in range(20):
        peer.credit_for(number, 10 * MAX_PAYLOAD)
        wanted = len(peer.channels[number].data) + 9 * MAX_PAYLOAD
        peer.wait(lambda wanted=wanted: len(peer.channels[number].data) >= wanted)
    assert resident(agent.process.pid) - before < 4 << 20
    peer.send(CLOSE, number)
    assert peer.bash("echo open").stdout == b"open\n"
