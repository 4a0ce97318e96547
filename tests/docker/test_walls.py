"""What code in a container can do and what not, tried from inside, and what Docker says of its limits."""

import json
from typing import Any

import docker
import pytest

from controller.backends import Observation
from controller.backends.docker.backend import DockerBackend
from tests.backends.words import sandbox
from tests.docker.conftest import Ran

PROBE = """
import ctypes, errno, json, os, resource, socket, sqlite3, subprocess, threading

libc = ctypes.CDLL(None, use_errno=True)

def attempt(act):
    try:
        return act() or "done"
    except OSError as error:
        return errno.errorcode[error.errno]

def call(number, *args):
    def act():
        if libc.syscall(number, *args) < 0:
            raise OSError(ctypes.get_errno(), "")
    return attempt(act)

def write(path):
    def act():
        with open(path, "w") as file:
            file.write("x")
    return attempt(act)

def fill(path):
    written = 0
    try:
        with open(path, "wb", buffering=0) as file:
            while written < 2**30:
                written += file.write(bytes(2**20))
    except OSError as error:
        return [errno.errorcode[error.errno], written]
    finally:
        os.remove(path)
    return ["done", written]

def program(path):
    with open(path, "w") as file:
        file.write("#!/bin/sh\\nexit 0\\n")
    os.chmod(path, 0o755)
    return attempt(lambda: str(subprocess.run([path]).returncode))

def in_threads():
    found = []
    threads = [threading.Thread(target=found.append, args=(n,)) for n in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    return len(found)

status = dict(line.split(":", 1) for line in open("/proc/self/status"))
NR = {"ptrace": 101, "process_vm_readv": 310, "io_uring_setup": 425, "unshare": 272, "keyctl": 250, "bpf": 321, "mount": 165}
told = {
    "ids": [os.getuid(), os.getgid(), os.getgroups()],
    "caps": [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privs": int(status["NoNewPrivs"]),
    "seccomp": int(status["Seccomp"]),
    "ptrace": call(NR["ptrace"], 0, 0, 0, 0),
    "process_vm_readv": call(NR["process_vm_readv"], os.getpid(), 0, 0, 0, 0, 0),
    "io_uring": call(NR["io_uring_setup"], 8, ctypes.create_string_buffer(120)),
    "user namespace": call(NR["unshare"], 0x10000000),
    "keyctl": call(NR["keyctl"], 0, -3, 0, 0, 0),
    "bpf": call(NR["bpf"], 0, 0, 0),
    "mount": call(NR["mount"], 0, 0, 0, 0, 0),
    "vsock": attempt(lambda: socket.socket(40, socket.SOCK_STREAM).close()),
    "unix socket": attempt(lambda: socket.socket(socket.AF_UNIX).close()),
    "raw socket": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()),
    "interfaces": sorted(os.listdir("/sys/class/net")),
    "internet": attempt(lambda: socket.create_connection(("1.1.1.1", 80), 2).close()),
    "root file system": write("/usr/x"),
    "home": write("/workspace/x"),
    "etc": write("/etc/passwd"),
    "sysctl": write("/proc/sys/kernel/hostname"),
    "kernel log": attempt(lambda: open("/dev/kmsg").close()),
    "docker socket": os.path.exists("/var/run/docker.sock"),
    "program in /tmp": program("/tmp/p"),
    "program in the workspace": program("/workspace/p"),
    "setuid": attempt(lambda: os.setuid(0)),
    "tmp": fill("/tmp/big"),
    "workspace": fill("/workspace/big"),
    "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "pid of the first process": open("/proc/1/comm").read().strip(),
    "env": sorted(os.environ),
    "threads": in_threads(),
    "subprocess": subprocess.run(["bash", "-c", "echo $((6*7))"], capture_output=True, text=True).stdout,
    "sqlite": sqlite3.connect("/workspace/db").execute("select sqlite_version() > '3'").fetchone()[0],
}
print(json.dumps(told))
"""


@pytest.fixture
async def told(ran: Ran) -> dict[str, Any]:
    """What the probe found out, in a sandbox that says only how much it may write."""
    seen = await ran(PROBE, workspace={"size": "8Mi"})
    assert seen.tail is not None and seen.exit_code == 0, seen
    return dict(json.loads(seen.tail.stdout))


async def test_code_in_a_container_can_do_its_work_and_nothing_else(told: dict[str, Any]) -> None:
    assert told["ids"] == [65532, 65532, told["ids"][2]] and set(told["ids"][2]) <= {65532}
    assert told["caps"] == [0, 0, 0, 0, 0]
    assert (told["no_new_privs"], told["seccomp"]) == (1, 2)

    for kept_out in ("ptrace", "process_vm_readv", "io_uring", "user namespace", "keyctl", "bpf", "mount"):
        assert told[kept_out] in ("EPERM", "ENOSYS"), kept_out
    for kept_out in ("vsock", "raw socket", "setuid"):
        assert told[kept_out] in ("EPERM", "EAFNOSUPPORT"), kept_out
    assert told["kernel log"] in ("EPERM", "ENOENT", "EACCES")

    assert (told["interfaces"], told["internet"]) == (["lo"], "ENETUNREACH")
    assert told["docker socket"] is False

    for read_only in ("root file system", "etc", "sysctl"):
        assert told[read_only] in ("EROFS", "EACCES", "EPERM"), read_only
    assert told["program in /tmp"] == "EACCES"
    assert told["tmp"][0] == "ENOSPC" and told["tmp"][1] <= 64 * 2**20
    assert told["workspace"][0] == "ENOSPC" and told["workspace"][1] <= 8 * 2**20

    assert (told["nofile"], told["core"]) == ([1024, 1024], [0, 0])
    assert set(told["env"]) <= {"HOME", "LANG", "PATH", "HOSTNAME", "PWD", "SHLVL", "_", "LC_CTYPE"}

    assert (told["home"], told["unix socket"], told["program in the workspace"]) == ("done", "done", "0")
    assert (told["threads"], told["subprocess"], told["sqlite"]) == (8, "42\n", 1)


@pytest.mark.parametrize("run", [{"command": ("sleep", "100")}, None])
async def test_limits_are_read_back_from_docker(
    backend: DockerBackend, docker_client: docker.DockerClient, run: dict[str, Any] | None
) -> None:
    wanted = sandbox(run=run, resources={"limits": {"cpu": "250m", "memory": "64Mi", "pids": 20}})
    seen = await backend.start(wanted)
    assert (seen.limits.nano_cpus, seen.limits.memory, seen.limits.pids, seen.limits.network) == (
        250_000_000,
        64 * 2**20,
        20,
        "none",
    )
    host = docker_client.api.inspect_container(seen.container_name)["HostConfig"]
    assert (host["MemorySwap"], host["IpcMode"], host["Privileged"]) == (64 * 2**20, "private", False)
    assert host["RestartPolicy"]["Name"] == "no"


async def test_memory_beyond_the_limit_is_not_swapped(ran: Ran) -> None:
    seen = await ran("x = b'x' * 2**28", resources={"limits": {"memory": "64Mi"}})
    assert (seen.oom_killed, seen.exit_code) == (True, 137)


async def test_a_fork_bomb_stays_below_its_limit(ran: Ran) -> None:
    code = """
import os, time
children = 0
try:
    while children < 1000:
        if os.fork() == 0:
            time.sleep(100)
        children += 1
except BlockingIOError:
    print(children)
"""
    seen = await ran(code, resources={"limits": {"pids": 20}})
    assert seen.tail is not None and 10 <= int(seen.tail.stdout) < 20


async def test_what_docker_keeps_of_a_flood_is_bounded(ran: Ran, docker_client: docker.DockerClient) -> None:
    seen: Observation = await ran("for n in range(50_000): print('line', n, 'x' * 100)")
    assert seen.tail is not None and seen.tail.truncated
    assert seen.tail.stdout.endswith("line 49999 " + "x" * 100 + "\n")
    kept = docker_client.containers.get(seen.container_name).logs()
    assert len(kept) <= 2**20


async def test_with_another_runtime_the_walls_stand_as_well(ran: Ran, runsc: str) -> None:
    seen = await ran("import os; print(os.getuid(), open('/proc/version').read()[:19])", runtime=runsc)
    assert seen.tail is not None and seen.tail.stdout == "65532 Linux version 4.4.0\n"
    assert seen.isolation == "gvisor"
