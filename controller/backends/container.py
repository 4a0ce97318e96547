"""Sandbox -> the body of Docker's `POST /containers/create`: pure, so that what a container may do can be read and tested.

Docker's own traps, measured: memory 0 and an empty string mean unlimited, NanoCpus below 10^7 fails or means unlimited, a
seccomp *path* is rejected (the profile goes inline), and `put_archive` fails on a read-only root (so files travel in the
environment of the entry script).
"""

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from controller.backends import Limits
from controller.model import GROUP, Sandbox, SandboxSpec
from controller.quantity import parse_quantity
from controller.settings import SandboxSettings

USER = "65532:65532"
WORKSPACE = "/workspace"
AGENT_LABEL = f"{GROUP}/agent"
"""On an image: it carries the agent, and its command starts it."""
LABEL_INSTANCE = f"{GROUP}/instance"
LABEL_NAMESPACE = f"{GROUP}/namespace"
LABEL_NAME = f"{GROUP}/name"
LABEL_UID = f"{GROUP}/uid"
LABEL_SPEC = f"{GROUP}/spec"
"""JSON: part of the spec -> hash, for the parts that cannot change while the container lives."""
LABEL_MODE = f"{GROUP}/mode"
MODE_RUN, MODE_AGENT, MODE_EXEC = "run", "agent", "exec"
"""The program of `run`; waits for executions through the agent; the same through `docker exec`."""
FIXED_PARTS = ("backend", "isolation", "image", "run", "env", "files", "workspace", "network", "runtime")
TMP_BYTES = 64 * 2**20
NOFILE = 1024
LOG_FILE_BYTES = 512 * 1024
"""Two files of this size: 1 MiB of log at most, and never less than the last half of it."""
ENV_STRING_BYTES = 96 * 1024
"""Linux takes at most 128 KiB for one string of the environment (MAX_ARG_STRLEN)."""
SECCOMP_PROFILE = json.dumps(json.loads((files("controller.backends") / "seccomp.json").read_text()))

ENTRY = """\
i=0
while [ "$i" -lt "$SBX_PARTS" ]; do eval "printf %s \\"\\$SBX_TAR_$i\\""; i=$((i+1)); done | base64 -d | tar -xf - -C / || exit 125
i=0
while [ "$i" -lt "$SBX_PARTS" ]; do unset "SBX_TAR_$i"; i=$((i+1)); done
unset i SBX_PARTS
if [ -e /tmp/.stdin ]; then exec </tmp/.stdin; rm /tmp/.stdin; fi
exec "$@"
"""
"""Unpacks the files that came in the environment, then the program takes the shell's place."""
IDLE = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"
"""What keeps a sandbox up whose image has no agent."""


@dataclass(frozen=True)
class Defaults:
    """What a spec leaves open, from the settings."""

    image: str
    memory: int
    nano_cpus: int
    pids: int
    timeout: int
    instance: str

    @classmethod
    def of(cls, settings: SandboxSettings) -> "Defaults":
        return cls(
            image=settings.image,
            memory=settings.memory_limit,
            nano_cpus=round(settings.cpu_limit * 10**9),
            pids=settings.pids_limit,
            timeout=settings.timeout,
            instance=settings.instance,
        )


def fixed_parts(spec: SandboxSpec) -> dict[str, str]:
    """Hash of each part of the spec that cannot change while the sandbox lives; the values themselves may be secret."""
    dump = spec.model_dump(mode="json", by_alias=True)
    return {
        part: hashlib.sha256(json.dumps(dump[part], sort_keys=True).encode()).hexdigest()[:12] for part in FIXED_PARTS
    }


def wanted_limits(spec: SandboxSpec, defaults: Defaults) -> Limits:
    """The limits of the spec, completed from the settings."""
    limits = spec.resources.limits
    return Limits(
        nano_cpus=defaults.nano_cpus if limits.cpu is None else int(parse_quantity(limits.cpu) * 10**9),
        memory=defaults.memory if limits.memory is None else int(parse_quantity(limits.memory)),
        pids=defaults.pids if limits.pids is None else limits.pids,
        network=spec.network,
    )


def container_name(uid: str) -> str:
    """One object, one container: the name comes from the uid, so a second create meets the first one."""
    return f"sbx-{uid}"


def labels(sandbox: Sandbox, instance: str) -> dict[str, str]:
    """Everything that is needed to find the sandbox of a container again."""
    return {
        LABEL_INSTANCE: instance,
        LABEL_NAMESPACE: sandbox.namespace,
        LABEL_NAME: sandbox.name,
        LABEL_UID: sandbox.uid,
        LABEL_SPEC: json.dumps(fixed_parts(sandbox.spec), separators=(",", ":")),
    }


def program(sandbox: Sandbox) -> tuple[str, ...]:
    """The argv of `run`. Python is unbuffered, so that what was printed before a timeout is seen."""
    run = sandbox.spec.run
    if run is None:
        return ()
    if run.command is not None:
        return run.command
    return ("python3", "-u", "-c", run.code or "") if run.language == "python" else ("bash", "-c", run.code or "")


def _tar(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in members.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _delivery(sandbox: Sandbox) -> list[str]:
    """Files and stdin of `run` as environment strings for ENTRY."""
    members = {f"{WORKSPACE[1:]}/{file.path}": file.content.encode() for file in sandbox.spec.files}
    if sandbox.spec.run and sandbox.spec.run.stdin:
        members["tmp/.stdin"] = sandbox.spec.run.stdin.encode()
    if not members:
        return []
    text = base64.b64encode(_tar(members)).decode()
    parts = [text[start : start + ENV_STRING_BYTES] for start in range(0, len(text), ENV_STRING_BYTES)]
    return [f"SBX_PARTS={len(parts)}", *(f"SBX_TAR_{number}={part}" for number, part in enumerate(parts))]


@dataclass(frozen=True)
class Image:
    """What matters of an image on the daemon. `command` starts it; with `has_agent` that is the agent."""

    id: str
    has_agent: bool
    command: tuple[str, ...]


def create_body(sandbox: Sandbox, defaults: Defaults, image: Image) -> dict[str, Any]:
    """What `POST /containers/create` is given for `sandbox`."""
    spec = sandbox.spec
    host = host_config(spec, wanted_limits(spec, defaults))
    if spec.run is not None:
        mode, command = MODE_RUN, program(sandbox)
    elif image.has_agent:
        mode, command = MODE_AGENT, image.command
        host |= {"Init": False, "LogConfig": {"Type": "none"}}  # the agent reaps; its output are frames, nobody's log
    else:
        mode, command = MODE_EXEC, ("/bin/sh", "-c", IDLE)
    delivery = _delivery(sandbox)
    entry = ("/bin/sh", "-c", ENTRY, "sandbox") if delivery else ()
    return {
        "Image": spec.image or defaults.image,
        "User": USER,
        "WorkingDir": WORKSPACE,
        "Labels": labels(sandbox, defaults.instance) | {LABEL_MODE: mode},
        "Env": [f"HOME={WORKSPACE}", "LANG=C.UTF-8", *(f"{env.name}={env.value}" for env in spec.env), *delivery],
        "Entrypoint": [],
        "Cmd": [*entry, *command],
        "OpenStdin": mode == MODE_AGENT,
        "StopTimeout": 1,
        "HostConfig": host,
    }


def host_config(spec: SandboxSpec, limits: Limits) -> dict[str, Any]:
    """The walls of the container: safe whatever the spec leaves out."""
    workspace = int(parse_quantity(spec.workspace.size))
    tmpfs = {"/tmp": f"rw,noexec,nosuid,nodev,size={TMP_BYTES},mode=1777"}  # noqa: S108 - the container's own
    binds = []
    if spec.workspace.host_path:
        binds.append({"Type": "bind", "Source": spec.workspace.host_path, "Target": WORKSPACE})
    else:
        uid, gid = USER.split(":")
        tmpfs[WORKSPACE] = f"rw,exec,nosuid,nodev,size={workspace},uid={uid},gid={gid},mode=0700"
    return {
        "Init": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={SECCOMP_PROFILE}"],
        "ReadonlyRootfs": True,
        "Tmpfs": tmpfs,
        "Mounts": binds,
        "Memory": limits.memory,
        "MemorySwap": limits.memory,  # memory and swap together: so no swap
        "NanoCpus": limits.nano_cpus,
        "PidsLimit": limits.pids,
        "Ulimits": [{"Name": "nofile", "Soft": NOFILE, "Hard": NOFILE}, {"Name": "core", "Soft": 0, "Hard": 0}],
        "NetworkMode": limits.network,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "Runtime": spec.runtime,
        "LogConfig": {
            "Type": "local",
            "Config": {"max-size": f"{LOG_FILE_BYTES}", "max-file": "2", "compress": "false"},
        },
        "RestartPolicy": {"Name": "no"},
    }
