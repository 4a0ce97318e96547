"""The body of `POST /containers/create`: what a container may do, to be read in one place."""

import base64
import io
import json
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.backends import Limits
from controller.backends.container import (
    ENTRY,
    ENV_STRING_BYTES,
    FIXED_PARTS,
    Defaults,
    Image,
    create_body,
    fixed_parts,
    wanted_limits,
)
from controller.model import SandboxSpec
from controller.settings import SandboxSettings
from tests.plan.words import PROGRAM, want

DEFAULTS = Defaults.of(SandboxSettings(image="boxes:1", instance="here"))
AGENT = Image("sha256:1", True, ("python3", "/agent.py"))
PLAIN = Image("sha256:2", False, ("nginx",))


def body(spec: dict[str, Any] | None = None, image: Image = AGENT) -> dict[str, Any]:
    return create_body(want(spec), DEFAULTS, image)


def test_the_walls_of_a_sandbox_that_says_nothing() -> None:
    made = body({"run": PROGRAM})
    labels = made.pop("Labels")
    seccomp = made["HostConfig"]["SecurityOpt"].pop()
    assert made == {
        "Image": "boxes:1",
        "User": "65532:65532",
        "WorkingDir": "/workspace",
        "Env": ["HOME=/workspace", "LANG=C.UTF-8"],
        "Entrypoint": [],
        "Cmd": ["python3", "-u", "-c", "print(1)"],
        "OpenStdin": False,
        "StopTimeout": 1,
        "HostConfig": {
            "Init": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Tmpfs": {
                "/tmp": "rw,noexec,nosuid,nodev,size=67108864,mode=1777",
                "/workspace": "rw,exec,nosuid,nodev,size=268435456,uid=65532,gid=65532,mode=0700",
            },
            "Mounts": [],
            "Memory": 536870912,
            "MemorySwap": 536870912,
            "NanoCpus": 1000000000,
            "PidsLimit": 128,
            "Ulimits": [
                {"Name": "nofile", "Soft": 1024, "Hard": 1024},
                {"Name": "core", "Soft": 0, "Hard": 0},
            ],
            "NetworkMode": "none",
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "Runtime": "",
            "LogConfig": {"Type": "local", "Config": {"max-size": "524288", "max-file": "2", "compress": "false"}},
            "RestartPolicy": {"Name": "no"},
        },
    }
    assert {name: value for name, value in labels.items() if not name.endswith("/spec")} == {
        "agent-platform.dev/instance": "here",
        "agent-platform.dev/namespace": "default",
        "agent-platform.dev/name": "one",
        "agent-platform.dev/uid": "0c1b",
        "agent-platform.dev/mode": "run",
    }
    assert seccomp.startswith("seccomp={"), "a path is rejected by Docker: the profile itself"


def test_the_profile_lets_out_what_a_sandbox_never_needs() -> None:
    profile = json.loads(body()["HostConfig"]["SecurityOpt"][1].removeprefix("seccomp="))
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    allowed = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    never = {"ptrace", "process_vm_readv", "process_vm_writev", "io_uring_setup", "io_uring_enter", "io_uring_register"}
    never |= {"mount", "setns", "unshare", "bpf", "keyctl", "add_key", "kexec_load", "init_module", "perf_event_open"}
    assert allowed & never == set()


def test_with_an_agent_its_image_says_how_it_starts_and_its_frames_are_no_log() -> None:
    made = body()
    assert made["Cmd"] == ["python3", "/agent.py"]
    assert (made["OpenStdin"], made["HostConfig"]["Init"], made["HostConfig"]["LogConfig"]) == (
        True,
        False,
        {"Type": "none"},
    )


def test_an_image_without_an_agent_only_waits() -> None:
    made = body(image=PLAIN)
    assert (made["Cmd"][:2], made["OpenStdin"], made["HostConfig"]["Init"]) == (["/bin/sh", "-c"], False, True)


@pytest.mark.parametrize("image", [AGENT, PLAIN])
@pytest.mark.parametrize("spec", [{}, {"run": PROGRAM}, {"files": [{"path": "a"}]}])
def test_no_kind_of_sandbox_has_lower_walls(spec: dict[str, Any], image: Image) -> None:
    differs = {"Init", "LogConfig"}
    host, walls = body(spec, image)["HostConfig"], body({"run": PROGRAM})["HostConfig"]
    assert {key: host[key] for key in host.keys() - differs} == {key: walls[key] for key in walls.keys() - differs}


def test_a_folder_of_the_host_takes_the_place_of_the_workspace() -> None:
    host = body({"workspace": {"hostPath": "/srv/work/1"}})["HostConfig"]
    assert host["Mounts"] == [{"Type": "bind", "Source": "/srv/work/1", "Target": "/workspace"}]
    assert list(host["Tmpfs"]) == ["/tmp"]


def test_what_the_spec_says_is_what_docker_gets() -> None:
    made = body(
        {
            "run": {"command": ["sort", "-r"]},
            "image": "other:2",
            "env": [{"name": "A", "value": "=b c"}],
            "resources": {"limits": {"cpu": "250m", "memory": "64Mi", "pids": 9}},
            "network": "lab",
            "runtime": "runsc",
            "workspace": {"size": "1Mi"},
        }
    )
    host = made["HostConfig"]
    assert (made["Image"], made["Cmd"], made["Env"][-1]) == ("other:2", ["sort", "-r"], "A==b c")
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (
        250_000_000,
        64 * 2**20,
        64 * 2**20,
        9,
    )
    assert (host["NetworkMode"], host["Runtime"]) == ("lab", "runsc")
    assert "size=1048576," in host["Tmpfs"]["/workspace"]


@given(
    st.dictionaries(
        st.text("abcß", min_size=1, max_size=8), st.text(max_size=2000).map(lambda text: text.encode()), max_size=4
    ),
    st.text("aß\n", min_size=1, max_size=50_000),
)
def test_files_and_stdin_travel_whole_in_strings_that_linux_takes(files: dict[str, bytes], stdin: str) -> None:
    spec = {
        "run": PROGRAM | {"stdin": stdin},
        "files": [{"path": path, "content": content.decode()} for path, content in files.items()],
    }
    made = body(spec)
    delivered = dict(variable.split("=", 1) for variable in made["Env"])
    assert all(len(value) <= ENV_STRING_BYTES for value in delivered.values())
    parts = [delivered[f"SBX_TAR_{number}"] for number in range(int(delivered["SBX_PARTS"]))]
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode("".join(parts)))) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]
    assert members == {f"workspace/{path}": content for path, content in files.items()} | {"tmp/.stdin": stdin.encode()}
    assert made["Cmd"] == ["/bin/sh", "-c", ENTRY, "sandbox", "python3", "-u", "-c", "print(1)"]


def test_limits_are_completed_from_the_settings() -> None:
    spec = SandboxSpec.model_validate({"resources": {"limits": {"memory": "1Gi"}}, "network": "lab"})
    assert wanted_limits(spec, DEFAULTS) == Limits(nano_cpus=10**9, memory=2**30, pids=128, network="lab")


def test_what_cannot_change_is_told_apart_by_part_and_never_by_value() -> None:
    secret = {"env": [{"name": "KEY", "value": "hunter2"}]}
    one, other = (fixed_parts(SandboxSpec.model_validate(spec)) for spec in ({}, secret))
    assert set(one) == set(FIXED_PARTS)
    assert {part for part in FIXED_PARTS if one[part] != other[part]} == {"env"}
    assert "hunter2" not in json.dumps(body(secret)["Labels"])
