#!/usr/bin/env python3
"""The agent where there is no container: a plain process, with limits that no kernel keeps for it.

    plain_agent.py --workspace DIR                                     frames over stdin and stdout
    plain_agent.py --workspace DIR --socket PATH                       frames over a Unix socket; the newest connection wins
    plain_agent.py --workspace DIR --run SPEC --result RESULT          one program, no frames; see `run_once`

What it does otherwise is agent.py's, which lies beside it.
"""

import argparse
import binascii
import json
import os
import selectors
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # an isolated interpreter leaves it out
import agent

MAX_TAIL = 16 * 1024  # bytes of each stream in the result of --run,
MAX_LOG = 1 << 20  # and in its log
WATCH_SECONDS = 0.02  # between two looks at the memory in use


class PlainAgent(agent.Agent):
    """`memory` in bytes and `pids` are for each execution; 0: no limit. `rlimits` are for each process."""

    def __init__(self, workspace, memory, pids, rlimits):
        super().__init__(workspace)
        self.memory, self.pids, self.rlimits = memory, pids, rlimits
        self.watched_at = time.monotonic()
        self.listener = None

    def seconds_to_next(self):
        seconds = super().seconds_to_next()
        if not (self.memory or self.pids) or all(supervisor.idle for supervisor in self.supervisors):
            return seconds
        watch = max(0.0, self.watched_at + WATCH_SECONDS - time.monotonic())
        return watch if seconds is None else min(watch, seconds)

    def tick(self, now):
        super().tick(now)
        if (self.memory or self.pids) and now >= self.watched_at + WATCH_SECONDS:
            self.watched_at = now
            for supervisor in [each for each in self.supervisors if each.pid and not each.idle]:
                tree = agent.below(supervisor.pid)
                if self.memory and resident_bytes(tree) > self.memory:
                    supervisor.owner.end("OOMKilled")
                elif self.pids and len(tree) > self.pids:
                    supervisor.owner.end("Error")

    def listen(self, path):
        users = {0, os.getuid()}  # before a drop to another user: the sandbox's programs may not connect
        beside = path + ".new"
        if os.path.exists(beside):
            os.unlink(beside)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(beside)
        self.listener.listen(8)
        os.rename(beside, path)  # who finds it can connect
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, lambda: self.on_connection(users))

    def on_connection(self, users):
        try:
            connection, _ = self.listener.accept()
        except OSError:  # it went away again
            return
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user not in users:
            connection.close()
            return
        if self.link:
            self.link.close()
        descriptor = connection.detach()
        self.link = agent.Link(self, descriptor, descriptor)

    def on_link_end(self):
        if self.listener:
            self.link.close()
            self.link = None
        else:
            super().on_link_end()


def resident_bytes(pids):
    """Resident memory of some processes in bytes. Pages that they share count for each."""
    pages = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                pages += int(file.read().split()[1])
        except OSError:  # it ended meanwhile
            pass
    return pages * os.sysconf("SC_PAGE_SIZE")


def tasks_of_user():
    """How many threads this user has: the kernel counts RLIMIT_NPROC over all of them."""
    count = 0
    for pid in agent.processes():
        try:
            if os.stat(f"/proc/{pid}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{pid}/task"))
        except OSError:  # it ended meanwhile
            pass
    return count


class LoggedOutput(agent.Output):
    """One stream of a run: its beginning goes to a log as it comes, its end is kept."""

    def __init__(self, runner, path):
        super().__init__(runner, 0)
        self.log, self.room, self.tail = open(path, "wb", buffering=0), MAX_LOG, bytearray()

    def keep(self, data):
        super().keep(data)
        self.tail.extend(data)
        del self.tail[: max(0, len(self.tail) - MAX_TAIL)]
        self.room -= self.log.write(data[: self.room])


def run_once(runner, spec_path, result_path):
    """Run the program of a JSON file (as an execute request; `stdin` is its text) and write the result as JSON.

    The result has exit_code, reason, stdout and stderr (the last 16 KiB, base64), truncated, duration_ms, started_at and
    finished_at. Beside it, files `stdout` and `stderr` get the first MiB of each stream as it comes.
    """
    with open(spec_path, "rb") as file:
        request = json.load(file)
    stdin = (request.pop("stdin", None) or "").encode("utf-8", "surrogateescape")
    request = {"id": "run", "digest": "run", "stdin": True, **request}
    names = {agent.STDOUT: "stdout", agent.STDERR: "stderr"}
    folder = os.path.dirname(result_path)
    runner.output = lambda kind, _: LoggedOutput(runner, os.path.join(folder, names[kind]))
    execution = runner.start(agent.checked_execution(request, runner.workspace.path))
    execution.stdin.feed(stdin)
    execution.stdin.end()
    runner.serve(until=lambda: execution.result or execution.refusal)
    result = execution.result or {
        "exit_code": None,
        "reason": "Cancelled" if runner.stopping else "Error",
        "message": str(execution.refusal or "ended by a signal"),
    }
    result = {key: value for key, value in result.items() if not key.startswith("dropped")}
    for kind, name in names.items():
        result[name] = binascii.b2a_base64(execution.output[kind].tail, newline=False).decode()
    result["truncated"] = any(output.dropped > MAX_TAIL for output in execution.output.values())
    temporary = result_path + ".new"
    with open(temporary, "w") as file:
        json.dump(result, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, result_path)


def arguments():
    parser = argparse.ArgumentParser(description="Runs programs on a machine without containers; see agent.py.")
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--socket", help="listen on a Unix socket instead of stdin and stdout")
    parser.add_argument("--run", help="run the program of this JSON file and end")
    parser.add_argument("--result", help="where --run writes its result")
    parser.add_argument("--user", type=int, help="the user id to become, with --group")
    parser.add_argument("--group", type=int)
    parser.add_argument("--env", help="a JSON file of variables for every program, read after the drop to --user")
    parser.add_argument("--files", help="a JSON file of paths and texts, written below the workspace, as --env")
    parser.add_argument("--memory", type=int, default=0, help="bytes an execution may use")
    parser.add_argument("--pids", type=int, default=0, help="processes an execution may have")
    parser.add_argument("--nofile", type=int, default=0, help="descriptors each process may open")
    return parser.parse_args()


def main():
    given = arguments()
    rlimits = {}
    if given.memory:
        rlimits["RLIMIT_DATA"] = 2 * given.memory
    if given.nofile:
        rlimits["RLIMIT_NOFILE"] = given.nofile
    plain = PlainAgent(given.workspace, given.memory, given.pids, rlimits)
    if given.socket:
        plain.listen(given.socket)
    elif not given.run:
        plain.serve_stdio()
    if given.group is not None:
        os.setgroups([])
        os.setgid(given.group)
    if given.user is not None:
        os.setuid(given.user)
        agent.LIBC.prctl(agent.PR_SET_DUMPABLE, 0, 0, 0, 0)
    if given.env:
        with open(given.env) as file:
            os.environ.update(json.load(file))
    if given.files:
        with open(given.files) as file:
            for path, text in json.load(file).items():
                plain.workspace.write(path, text.encode())
    if given.pids:
        rlimits["RLIMIT_NPROC"] = given.pids + tasks_of_user()
    if given.run:
        run_once(plain, given.run, given.result)
    else:
        plain.serve()


if __name__ == "__main__":
    main()
