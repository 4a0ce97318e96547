#!/usr/bin/env python3
"""The agent: runs programs inside a sandbox for a controller outside, over one byte stream. Standard library only.

    agent.py [DIR]      frames over stdin and stdout; PID 1 of a container, whose workspace is DIR, or else /workspace

plain_agent.py beside it is the same agent where there is no container.

Processes
    agent ── launcher ── supervisors ── each the program of one execution or context, and all that it starts
  The agent holds the link and every result, and never runs foreign code. The launcher is a warm interpreter that forks
  supervisors, and they fork programs, ahead of need: to run Python is to continue a fork, not to start an interpreter. A
  supervisor is the subreaper of its program: whatever daemonises comes back to it, so that it can end everything. If a
  program ends its supervisor (they have the same user), what is left comes to the agent, which ends it. Agent, launcher
  and supervisors are not dumpable: a program cannot open their memory or descriptors. (gVisor of 2022 has no subreapers
  and does not guard descriptors: there, orphans are ended when any execution ends, and a program can garble the link of
  its own sandbox.)

Protocol 1
  Both directions carry frames, all integers big-endian:
      token 8 | kind 1 | channel 4 | length 4 | CRC-32 of the payload 4 | payload, at most 32 KiB
  A session starts with a HELLO frame by the controller under the token HELLO_TOKEN, sent after MAX_FRAME zero bytes, so
  that the remains of an earlier controller's frame are completed, found wrong by their CRC and dropped. Its payload is
  {"protocol": 1, "token": 16 hex digits}. From then on every frame of both sides bears that token, which programs in the
  sandbox cannot know. A reader skips all bytes up to the next token, also after a bad length or CRC: so it can start
  anywhere, and nothing a program prints can be taken for a frame. A new HELLO ends the session before it, and no
  execution. The agent answers {"protocol", "version", "pid1", "python", "running": [ids], "contexts": [names],
  "idle_seconds", "kept": results it holds, "forgotten": results it no longer holds, "max_executions"}.

  kind        from        payload
  HELLO    1  both        JSON as above
  REQUEST  2  controller  JSON {"op": …}; opens the channel, whose number the controller chooses
  PART     3  controller  the beginning of the next REQUEST's JSON, in order, all together at most 16 MiB
  DATA     4  both        bytes: stdin of an execution, or a file's content
  EOF      5  controller  no more DATA on this channel
  CREDIT   6  both        JSON {"bytes": n}: on this channel the other side may send n more bytes of DATA, STDOUT and
                          STDERR together, beyond the 256 KiB that it may to begin with
  STARTED  7  agent       JSON {"id", "attached": it was known before, "stdin_received": bytes, from where to go on; null
                          while another channel brings its stdin}
  STDOUT   8  agent       output, from its first byte on, also after attaching anew
  STDERR   9  agent
  RESULT  10  agent       JSON; closes the channel
  ERROR   11  agent       JSON {"code", "message"}; closes the channel: nothing was run, read or kept
  CLOSE   12  controller  nobody listens on this channel any more; an execution goes on, a file half written is dropped
  Unknown kinds and unknown JSON members are ignored.

  op       members (* required)
  execute  id* (1-64 of A-Z a-z 0-9 . _ : -), digest* of the request (1-128 characters), kind* (command, bash, python),
           argv* (command) or code* (bash, python), context, cwd (below the workspace unless absolute), env {name: value},
           files [{path, data: base64, mode}], stdin (true: DATA and EOF follow), deadline (seconds from its beginning),
           output_limit (bytes kept of each stream, 1 MiB unless given, at most 8 MiB; what comes beyond is read, counted
           and dropped).
           An id that is known is never run again: the channel is attached to it, or gets its kept result.
           → STARTED, STDOUT and STDERR as they come, RESULT {id, exit_code, signal, reason: Completed | Error | Timeout |
           Cancelled | OOMKilled, message, dropped_stdout, dropped_stderr, duration_ms, started_at, finished_at (Unix
           seconds), peak_memory (bytes), cpu_seconds}. exit_code is 128 + signal where there was a signal.
           A context is a Python process that keeps its state; what it starts lives as long as it does. It ends with a
           deadline or a cancel, or after 30 idle minutes.
  attach   id*: the same for an execution that is known
  cancel   id*: ends it; → RESULT {"ended": false if it was over already}
  put      path*, mode: DATA, EOF → RESULT {"bytes"}; the file appears whole or not at all
  get      path* → DATA, RESULT {"bytes"}
  list     path ("": the workspace) → DATA: a JSON line {"path", "bytes"} for each regular file in it and below it;
           RESULT {"entries", "truncated"}: at most 10,000, and 1 MiB
  Paths are relative to the workspace; no part of one may be a symbolic link, "..", "." or empty.
  Error codes: BadRequest, Conflict (the id was used for another digest), Busy (too many at once; try again), Gone (it
  ran, its result is no longer kept), NotFound, Forbidden (a path that leaves the workspace or is no regular file),
  TooLarge, NoSpace, Failed (what the operating system says).
"""

import binascii
import collections
import ctypes
import errno
import io
import json
import marshal
import math
import os
import re
import select
import selectors
import signal
import socket
import stat
import struct
import sys
import time

VERSION = "1"
PROTOCOL = 1
MAX_PAYLOAD = 32 * 1024
MAX_REQUEST = 16 << 20
MAX_OUTPUT = 8 << 20
MAX_EXECUTIONS = 32
MAX_CONTEXTS = 8
MAX_CHANNELS = 128
MAX_KEPT = 256  # finished executions whose results are kept,
MAX_KEPT_BYTES = 16 << 20  # and their output, or an eighth of the container's memory; the oldest is dropped first
MAX_FORGOTTEN = 10_000  # ids remembered after that, so that a late retry is refused and not run again
MAX_ENTRIES = 10_000  # of a listing,
MAX_LISTING = 1 << 20  # and its bytes
WINDOW = 256 * 1024
CONTEXT_IDLE_SECONDS = 1800.0
BEGIN_SECONDS = 20.0  # for a supervisor to begin a program
NICE = 10  # of programs, so that a hundred busy ones do not keep their supervisor from ending them
MAX_IDLE = 4  # supervisors that wait for the next execution
FORCE_SECONDS = 0.4  # after which a supervisor that does not end its program is ended with it
SWEEP_SECONDS = 0.4  # for the orphans of a supervisor that was killed
GATHER_SECONDS = 0.002  # of what there is to say: a short program's start, output and result go out in one write

HEADER = struct.Struct("!8sBIII")
HELLO_TOKEN = bytes.fromhex("d3a96e0f51c8b742")
MAX_FRAME = HEADER.size + MAX_PAYLOAD
HELLO, REQUEST, PART, DATA, EOF, CREDIT, STARTED, STDOUT, STDERR, RESULT, ERROR, CLOSE = range(1, 13)

ENVIRONMENT = dict(os.environ)  # a look into os.environ costs a fresh fork 0.1 ms
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4  # linux/prctl.h
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 37, 38
LAUNCHER_FD = 3
OWN_PACKAGES = "/.local/lib/python%d.%d/site-packages" % sys.version_info[:2]  # of a user, below the home directory
# Variables that an interpreter reads only when it starts, so that a warm one will not do.
INTERPRETER_VARIABLE = re.compile("PYTHON(?!PATH$|UNBUFFERED$|DONTWRITEBYTECODE$|_)").match
# Between the agent and its own processes jobs and reports are marshalled: they are of one version, and trust each other.


class Refusal(Exception):
    """A request that is answered with an ERROR frame: a code of the protocol and a message for a person."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def become_subreaper():
    """Orphans below this process become its children. Returns whether the kernel does that (gVisor did not)."""
    answer = ctypes.c_int(0)
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    LIBC.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return answer.value == 1


def processes():
    """{pid: (parent's pid, start time in clock ticks)} of every process that /proc shows."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            found[int(name)] = int(fields[1]), int(fields[19])
    return found


def kernel_children(pid):
    """The children of a process, told by the kernel; a look costs as much as the process has threads and children."""
    children = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children += map(int, file.read().split())
    except OSError:  # it ended meanwhile
        pass
    return children


KERNEL_LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def below(*roots):
    """The pids of all descendants of some processes, without themselves."""
    if KERNEL_LISTS_CHILDREN:
        children_of = kernel_children
    else:
        by_parent = collections.defaultdict(list)
        for pid, (parent, _) in processes().items():
            by_parent[parent].append(pid)
        children_of = by_parent.__getitem__
    found, unvisited = set(), list(roots)
    while unvisited:
        fresh = set(children_of(unvisited.pop())) - found
        found |= fresh
        unvisited += fresh
    return found - set(roots)


def is_stopped(pid):
    """Whether a process stands still by a signal."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:  # there is none
        return False


def send_signal(pid, number):
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):  # gone, or (mock) a set-uid program that is not ours to end
        pass


def end_all(find):
    """SIGSTOP all that `find` lists until it lists nothing new, so that a fork bomb stands still; then SIGKILL."""
    stopped = set()
    for _ in range(10):
        fresh = find() - stopped
        if not fresh:
            break
        for pid in fresh:
            send_signal(pid, signal.SIGSTOP)
        stopped |= fresh
    for pid in stopped:
        send_signal(pid, signal.SIGKILL)


def end_children(seconds, reap):
    """End everything below this process. `reap()` reaps children and tells whether there are any left."""
    deadline = time.monotonic() + seconds
    while reap() and time.monotonic() < deadline:
        end_all(lambda: below(os.getpid()))
        time.sleep(0.001)


class ContainerMemory:
    """What the kernel says of this container's memory, to the agent of a container; both versions of cgroups."""

    def __init__(self):
        self.events = None
        self.limit = sys.maxsize  # bytes
        for events, limit in (
            ("memory/memory.oom_control", "memory/memory.limit_in_bytes"),
            ("memory.events", "memory.max"),
        ):
            try:
                if os.getpid() == 1:
                    self.events = os.open("/sys/fs/cgroup/" + events, os.O_RDONLY)
                    with open("/sys/fs/cgroup/" + limit) as file:
                        self.limit = int(file.read())
            except (OSError, ValueError):  # not this version, or "max"
                pass

    def kills(self):
        """How many processes the kernel has killed for memory; 0 where it does not say."""
        if self.events is None:
            return 0
        lines = os.pread(self.events, 4096, 0).splitlines()
        return sum(int(line[9:]) for line in lines if line.startswith(b"oom_kill "))


def memory_file(job):
    """Returns a descriptor of an anonymous file that holds a job, which may be long."""
    descriptor = os.memfd_create("job")
    data = memoryview(marshal.dumps(job))
    while data:
        data = data[os.write(descriptor, data) :]
    return descriptor


def read_memory_file(descriptor):
    return marshal.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))


# ---------------------------------------------------------------------------------------------------------------------
# The launcher, and what it forks


def launcher():
    """Fork a supervisor per message, which brings its control socket.

    Returns only in a program's process, with the function that runs it, so that no frame of ours is below it but main.
    """
    import gc
    import resource

    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps supervisors
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o022)
    become_python()
    requests = socket.socket(fileno=LAUNCHER_FD)
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 16, 8, socket.MSG_CMSG_CLOEXEC)
        if not message:
            os._exit(0)
        control = socket.socket(fileno=descriptors[0])
        try:
            pid = os.fork()
        except OSError as error:
            control.send(marshal.dumps({"error": f"no process could be started: {error.strerror}"}))
            pid = -1
        if pid == 0:
            requests.close()
            return supervise(control)
        control.close()


def supervise(control):
    """Run one program after the other, end all that each leaves, report on each. Returns in a program's process only.

    Messages from the agent: `run N` with the descriptors stdin, stdout, stderr, job and, for a context, work; `end N`.
    """
    become_subreaper()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control.send(marshal.dumps({"pid": os.getpid()}))
    while True:
        seat, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            program = os.fork()  # ahead of its job: that takes half of the time of an execution
        except OSError:
            program = None
        if program == 0:
            control.close()
            seat.close()
            return await_job(theirs)
        theirs.close()
        message = b"end"
        while message.startswith(b"end"):  # for a program that had ended already
            message, descriptors, _, _ = socket.recv_fds(control, 64, 8, socket.MSG_CMSG_CLOEXEC)
        if not message:
            os._exit(0)
        control.send(marshal.dumps({"began": True}))
        try:
            socket.send_fds(seat, [message], descriptors)
        except OSError:
            report = {"error": "no process could be started: the sandbox has as many as it may have"}
        else:
            report = supervise_one(program, control, b"end" + message[3:])
        seat.close()
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            control.send(marshal.dumps(report))
        except OSError:  # the agent is gone, nobody wants to know
            os._exit(0)


def supervise_one(program, control, end_message):
    """Wait for a program, end it when asked to, end what it leaves. Returns the report."""
    report = {"status": None, "peak_memory": 0, "cpu_seconds": 0.0}

    def reap():
        """Reap what has ended. Returns whether there are children left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == program:
                report["status"] = status
            report["peak_memory"] = max(report["peak_memory"], usage.ru_maxrss * 1024)
            report["cpu_seconds"] += usage.ru_utime + usage.ru_stime

    ready = select.poll()
    ready.register(control, select.POLLIN)
    milliseconds = None
    try:
        end = os.pidfd_open(program)
        ready.register(end, select.POLLIN)
    except (OSError, AttributeError):  # gVisor of 2022, Linux before 5.3
        end, milliseconds = None, 5
    while reap() and report["status"] is None:
        if control.fileno() in dict(ready.poll(milliseconds)) and control.recv(64) in (end_message, b""):
            break  # b"": the agent is gone
    if end is not None:
        os.close(end)
    end_children(0.9, reap)
    if report["status"] is None:
        report["status"] = int(signal.SIGKILL)
    return report


def await_job(seat):
    """In the next program's process: get ready, wait for the job, become the program."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # it is older than its job: `sweep` would spare it
    os.setsid()
    os.nice(NICE)
    run_code("print(end='')", "<string>", {})  # a rehearsal: what it touches is copied now, not when the job is there
    message, descriptors, _, _ = socket.recv_fds(seat, 64, 8, socket.MSG_CMSG_CLOEXEC)
    if not message:
        os._exit(0)
    seat.detach()  # closed with the rest
    return become_program(*descriptors)


def become_program(stdin, stdout, stderr, job_descriptor, work=-1):
    """Make this process the program's own. Executes it, or returns a function that runs it in this interpreter."""
    job = read_memory_file(job_descriptor)
    LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    for target, descriptor in enumerate((stdin, stdout, stderr)):
        os.dup2(descriptor, target)
    if work >= 0:
        os.dup2(work, 3, inheritable=False)
    os.closerange(4 if work >= 0 else 3, 256)
    try:  # the kernel takes a program before the agent when memory runs out
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(descriptor, b"500")
        os.close(descriptor)
    except OSError:  # not to be had everywhere, and only a hint
        pass
    if job["limits"]:
        set_limits(job["limits"])
    try:
        if job["env"]:
            os.environ.update(job["env"])
        os.chdir(job["cwd"])
        if job["kind"] == "context":
            return lambda: serve_context(3)
        if job["kind"] == "python" and job["warm"]:
            return lambda: run_python(job["code"], job["env"])
        replace_process(job)
    except OSError as error:
        what = (
            job["argv"][0]
            if job["kind"] == "command" and error.filename != job["cwd"]
            else error.filename or job["kind"]
        )
        os.write(2, f"{what}: {error.strerror}\n".encode("utf-8", "surrogateescape"))
        os._exit(127 if error.errno == errno.ENOENT else 126)
    except ValueError:
        os.write(2, b"the program has an empty name\n")
        os._exit(127)


def set_limits(limits):
    import resource

    for name, value in limits.items():
        _, hard = resource.getrlimit(getattr(resource, name))
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(getattr(resource, name), (value, value))


def replace_process(job):
    """Execute a command, bash, or a Python that starts cold."""
    argv = job.get("argv")
    if job["kind"] != "command":
        argv = ["bash" if job["kind"] == "bash" else sys.executable, "-c", job["code"]]
        code = job["code"].encode("utf-8", "surrogatepass")
        if len(code) > 100_000:  # a single argument may have 128 KiB
            descriptor = os.memfd_create("code")
            with open(descriptor, "wb", closefd=False) as file:
                file.write(code)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.set_inheritable(descriptor, True)
            argv[1:] = [f"/dev/fd/{descriptor}"]
    if job["kind"] != "python":  # what a Python below it prints is seen when it happens, also before a deadline
        os.environ.setdefault("PYTHONUNBUFFERED", "1")
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python itself
        signal.signal(number, signal.SIG_DFL)
    os.execvp(argv[0], argv)


def become_python():
    """Make this process look as if it was started by `python3 -c`: programs are forked from it, ready to run.

    What they will use is used once, so that they share it; but not threading, which makes every fork a third slower.
    """
    import atexit, builtins, gc, linecache, resource, traceback, types  # noqa: E401,F401

    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = main
    sys.argv[:] = ["-c"]
    sys.path.insert(0, "")
    sys.stdout.reconfigure(line_buffering=True)  # else a deadline would take the output with it
    run_code("print(end='')", "<string>", {})


def follow_environment(changes):
    """What `python3` takes from the environment when it starts, as far as a warm one can."""
    environment = {**ENVIRONMENT, **changes}
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    if "PYTHONPATH" in environment:
        sys.path[1:1] = filter(None, environment["PYTHONPATH"].split(":"))
    own_packages = environment.get("HOME", "") + OWN_PACKAGES
    if os.access(own_packages, os.X_OK):
        import site

        site.addsitedir(own_packages)
    if "TZ" in environment:
        time.tzset()


def run_code(code, filename, namespace):
    """Run code as a script. Returns its exit code, or -SIGINT where it died of KeyboardInterrupt."""
    import linecache
    import traceback

    linecache.cache[filename] = len(code), None, code.splitlines(True), filename  # source lines in tracebacks
    try:
        exec(compile(code, filename, "exec", dont_inherit=True), namespace)
        return 0
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 0xFF
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        kind, error, trace = sys.exc_info()
        trace = trace.tb_next  # without this function
        if sys.excepthook is sys.__excepthook__:
            traceback.print_exception(kind, error, trace)
        else:
            sys.excepthook(kind, error, trace)
        return -signal.SIGINT if issubclass(kind, KeyboardInterrupt) else 1


def flush_output():
    """Returns whether all of it could be written."""
    whole = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # its reader is gone, or the program closed or replaced it
            whole = False
    return whole


def run_python(code, env):
    """Run code in this process and end it as the interpreter would, without the milliseconds of its full finalisation."""
    import atexit
    import gc

    follow_environment(env)
    namespace = sys.modules["__main__"].__dict__
    exit_code = run_code(code, "<string>", namespace)
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    for name in list(namespace):  # open files are flushed and __del__ called
        if name not in ("__builtins__", "__name__"):
            namespace[name] = None
    gc.collect()
    if not flush_output():
        exit_code = exit_code or 120
    if exit_code < 0:
        signal.signal(-exit_code, signal.SIG_DFL)
        os.kill(os.getpid(), -exit_code)
    os._exit(exit_code)


def serve_context(work_descriptor):
    """Run one piece of code after the other in one namespace; each comes with its own stdin, stdout and stderr."""
    import resource

    work = socket.socket(fileno=work_descriptor)
    follow_environment({})
    namespace = sys.modules["__main__"].__dict__
    number = 0
    while True:
        message, descriptors, _, _ = socket.recv_fds(work, 16, 8, socket.MSG_CMSG_CLOEXEC)
        if not message:
            os._exit(0)
        job = read_memory_file(descriptors[3])
        for target, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, target)
        for descriptor in descriptors:
            os.close(descriptor)
        before = time.process_time()
        number += 1
        sys.stdin = open(0, closefd=False, errors="surrogateescape")
        os.environ.update(job["env"])
        if job["cwd"]:
            os.chdir(job["cwd"])
        exit_code = run_code(job["code"], f"<cell {number}>", namespace)
        flush_output()
        null = os.open(os.devnull, os.O_RDWR)
        for target in (0, 1, 2):
            os.dup2(null, target)
        os.close(null)
        report = {
            "exit_code": 128 - exit_code if exit_code < 0 else exit_code,
            "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "cpu_seconds": round(time.process_time() - before, 6),
        }
        work.send(json.dumps(report).encode())


# ---------------------------------------------------------------------------------------------------------------------
# The workspace


class Workspace:
    """Files below a directory, reached one path component after the other without following symbolic links."""

    def __init__(self, path):
        self.path = os.path.realpath(path)
        self.root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)

    def open_parent(self, path, create=False):
        """Returns a descriptor of the directory that holds `path`, and its last component. The caller closes it."""
        parts = path.split("/") if isinstance(path, str) else [""]
        if len(path) > 4096 or "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise Refusal("Forbidden", f"{path!r} is not a relative path below the workspace")
        directory = os.dup(self.root)
        try:
            for part in parts[:-1]:
                if create:
                    try:
                        os.mkdir(part, 0o755, dir_fd=directory)
                    except FileExistsError:
                        pass
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                os.close(directory)
                directory = inner
        except BaseException:
            os.close(directory)
            raise
        return directory, parts[-1]

    def open_file(self, path):
        directory, name = self.open_parent(path)
        try:
            # Not blocking: opening a named pipe must not wait for its writer.
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        finally:
            os.close(directory)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise Refusal("Forbidden", f"{path!r} is not a regular file")
        return open(file, "rb", buffering=0)

    def open_directory(self, path):
        directory, name = (os.dup(self.root), ".") if path == "" else self.open_parent(path)
        try:
            return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        finally:
            os.close(directory)

    def files(self, path):
        """Yield (path, size) of the regular files in a directory and below it, as far as they hold still."""
        unvisited = [path]
        while unvisited:
            folder = unvisited.pop()
            try:
                directory = self.open_directory(folder)
            except (OSError, Refusal):
                if folder == path:
                    raise
                continue  # it went away, or lies too deep for a path
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        place = f"{folder}/{entry.name}" if folder else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            unvisited.append(place)
                        elif entry.is_file(follow_symlinks=False):
                            try:
                                yield place, entry.stat(follow_symlinks=False).st_size
                            except FileNotFoundError:
                                pass
            finally:
                os.close(directory)

    def write(self, path, data, mode=0o644):
        upload = Upload(self, path, mode)
        try:
            upload.write(data)
            upload.finish()
        finally:
            upload.close()


class Upload:
    """A file that is being written beside its place, and moved there when it is whole."""

    def __init__(self, workspace, path, mode=0o644):
        self.bytes = 0
        self.directory, self.name = workspace.open_parent(path, create=True)
        self.temporary = ".upload-" + os.urandom(8).hex()
        try:
            try:
                if stat.S_ISDIR(os.stat(self.name, dir_fd=self.directory, follow_symlinks=False).st_mode):
                    raise Refusal("Forbidden", f"{path!r} is a directory")
            except FileNotFoundError:
                pass
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self.file = os.open(self.temporary, flags, 0o600, dir_fd=self.directory)
            os.fchmod(self.file, mode)
        except BaseException:
            os.close(self.directory)
            raise

    def write(self, data):
        self.bytes += len(data)
        while data:
            data = data[os.write(self.file, data) :]

    def finish(self):
        os.rename(self.temporary, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        self.temporary = None
        self.close()

    def close(self):
        if self.directory < 0:
            return
        if self.temporary:
            try:
                os.unlink(self.temporary, dir_fd=self.directory)
            except FileNotFoundError:  # a program removed it
                pass
        os.close(self.file)
        os.close(self.directory)
        self.directory = -1


# ---------------------------------------------------------------------------------------------------------------------
# Executions, as the agent sees them


class Supervisor:
    """A supervisor seen from the agent. It runs one program at a time and is used again if it is still there then."""

    def __init__(self, agent):
        self.agent = agent
        self.pid = self.number = self.born = 0
        self.began = False
        self.owner = self.report = self.force_at = self.sweep_by = None
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setblocking(False)
        try:
            agent.launch(theirs.fileno())
        except BaseException:
            self.control.close()
            raise
        finally:
            theirs.close()
        agent.supervisors.add(self)
        agent.selector.register(self.control, selectors.EVENT_READ, self.on_message)

    @property
    def idle(self):
        return self.owner is None

    def run(self, job, stdio, owner, work=()):
        """Start a program. Raises OSError.

        `owner.on_begin()` is called when it begins, `owner.on_gone(report)` once, when nothing is left of it; the report
        is None if the supervisor was killed, and has "error" if the program never began.
        """
        self.number += 1
        job_descriptor = memory_file(job)
        try:
            socket.send_fds(self.control, [b"run %d" % self.number], [*stdio, job_descriptor, *work])
        finally:
            os.close(job_descriptor)
        self.owner, self.began = owner, False
        self.begin_by = self.force_at = time.monotonic() + BEGIN_SECONDS
        self.born = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))

    def end(self):
        """Have the supervisor end its program, and end both by force if it does not in time."""
        self.force_at = time.monotonic() + FORCE_SECONDS
        try:
            self.control.send(b"end %d" % self.number)
        except OSError:  # it is gone or stopped
            pass

    def on_message(self):
        if self.control.fileno() < 0:
            return
        try:
            message = self.control.recv(4096)
        except BlockingIOError:
            return
        except ConnectionError:
            message = b""
        news = marshal.loads(message) if message else {}
        if "pid" in news:
            self.pid = news["pid"]
        elif "began" in news:
            self.began, self.force_at = True, None
            self.owner.on_begin()
        elif news:
            self.on_end(news)
        else:
            self.retire()
            if not self.idle:
                self.on_end(None if self.began else {"error": "the process that was to run it was ended: try again"})

    def on_end(self, report):
        self.report, self.force_at, self.sweep_by = report, None, time.monotonic() + SWEEP_SECONDS
        self.sweep()

    def tick(self, now):
        if self.sweep_by is not None:
            self.sweep()
        elif self.force_at is not None and now > self.force_at:
            late = now > self.begin_by
            if self.began or late or is_stopped(self.pid):
                self.force_at = None
                if self.pid:
                    end_all(lambda: below(self.pid))
                    send_signal(self.pid, signal.SIGKILL)
            else:  # it is only slow
                self.force_at = now + FORCE_SECONDS
            self.agent.end_stopped(late and not self.began)

    def sweep(self):
        """After its report nothing is left of a program, unless the supervisor was killed or is no subreaper."""
        killed = self.report is None
        if (killed or not self.agent.subreaper) and not self.agent.sweep(self.pid if killed else 0, self.born):
            if time.monotonic() < self.sweep_by:
                return
            if os.getpid() == 1:  # the last resort: end all that runs in this container
                send_signal(-1, signal.SIGKILL)
        owner, report = self.owner, self.report
        self.owner = self.report = self.sweep_by = None
        if self.control.fileno() < 0 or sum(each.idle for each in self.agent.supervisors) > MAX_IDLE:
            self.retire()
        owner.on_gone(report)

    def retire(self):
        """Let go of it, and forget it unless something of its program may be left."""
        if self.control.fileno() >= 0:
            self.agent.selector.unregister(self.control)
            self.control.close()  # then it ends itself
        if self.idle:
            self.agent.supervisors.discard(self)


class Output:
    """One stream of an execution: its beginning is kept, the rest is read and counted."""

    def __init__(self, agent, limit):
        self.agent, self.limit = agent, limit
        self.kept, self.dropped = bytearray(), 0
        self.paused = False
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        agent.selector.register(self.reader, selectors.EVENT_READ, self.on_data)

    def on_data(self):
        """Read; after a little, let more gather: a program that prints line by line would cost a wakeup for each."""
        if self.reader < 0 or self.paused:
            return
        if 0 < self.read() < 4096:
            self.paused = True
            self.agent.selector.unregister(self.reader)
            self.agent.gathering.add(self)
        self.agent.speak(GATHER_SECONDS if self.paused else 0)

    def resume(self):
        self.paused = False
        self.agent.selector.register(self.reader, selectors.EVENT_READ, self.on_data)

    def read(self):
        """Read once. Returns the number of bytes; 0 where there is nothing more now, or never."""
        try:
            data = os.read(self.reader, 65536)
        except BlockingIOError:
            return 0
        if not data:
            self.close()
        self.keep(data)
        return len(data)

    def keep(self, data):
        room = self.limit - len(self.kept)
        self.kept += data[:room]
        self.dropped += max(0, len(data) - room)

    def drain(self):
        """Read what the pipe holds, but not for ever: its end may have been given to another process."""
        self.close_writer()
        for _ in range(64):
            if self.reader < 0 or not self.read():
                break
        self.close()

    def close_writer(self):
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self):
        self.close_writer()
        if self.reader >= 0:
            if not self.paused:
                self.agent.selector.unregister(self.reader)
            self.agent.gathering.discard(self)
            os.close(self.reader)
            self.reader = -1


class Input:
    """stdin of an execution. What the program does not read yet waits here, at most WINDOW bytes."""

    def __init__(self, agent):
        self.agent = agent
        self.waiting, self.received, self.written, self.at_end, self.registered = bytearray(), 0, 0, False, False
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)

    def feed(self, data):
        self.received += len(data)
        if self.writer < 0:  # the program reads no more
            self.written += len(data)
            return
        self.waiting += data
        self.write()

    def forget_waiting(self):
        """Let a new channel, which has the whole window, bring again what the program has not got yet."""
        if not self.at_end:
            self.waiting.clear()
            self.received = self.written

    def end(self):
        self.at_end = True
        self.write()

    def write(self):
        if self.writer < 0:
            return
        try:
            while self.waiting:
                count = os.write(self.writer, self.waiting)
                self.written += count
                self.agent.speak()  # there may be credit to give
                del self.waiting[:count]
        except BlockingIOError:
            if not self.registered:
                self.agent.selector.register(self.writer, selectors.EVENT_WRITE, self.write)
                self.registered = True
            return
        except BrokenPipeError:
            self.written += len(self.waiting)
            self.close()
            return
        if self.registered:
            self.agent.selector.unregister(self.writer)
            self.registered = False
        if self.at_end:
            self.close()

    def close_reader(self):
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def close(self):
        self.close_reader()
        self.waiting.clear()
        if self.writer >= 0:
            if self.registered:
                self.agent.selector.unregister(self.writer)
            os.close(self.writer)
            self.writer = -1


class Context:
    """A Python process that keeps its state from one execution to the next."""

    def __init__(self, agent, name):
        self.agent, self.name = agent, name
        self.execution, self.used_at, self.ending = None, time.monotonic(), False
        self.work, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.work.setblocking(False)
        job = {"kind": "context", "env": {}, "cwd": agent.workspace.path, "limits": agent.rlimits}
        try:
            self.supervisor = agent.run(job, [agent.null] * 3, self, [theirs.fileno()])
        except BaseException:
            self.work.close()
            raise
        finally:
            theirs.close()
        agent.selector.register(self.work, selectors.EVENT_READ, self.on_report)

    def run(self, execution, job, stdio):
        if self.execution:
            raise Refusal("Busy", f"the context {self.name} runs {self.execution.id}")
        job_descriptor = memory_file(job)
        try:
            socket.send_fds(self.work, [b"run"], [*stdio, job_descriptor])
        except OSError as error:
            raise Refusal("Busy", f"the context {self.name} takes no code: {error.strerror}") from None
        finally:
            os.close(job_descriptor)
        self.execution = execution
        execution.on_begin()

    def on_report(self):
        """The process says how an execution went. Foreign code runs in it, so the words may be anything."""
        if self.work.fileno() < 0:
            return
        try:
            message = self.work.recv(4096)
        except BlockingIOError:
            return
        except ConnectionError:
            message = b""
        if not message:  # then the supervisor reports
            self.agent.selector.unregister(self.work)
            self.work.close()
            return
        try:
            news = json.loads(message)
            report = {
                "status": (int(news["exit_code"]) & 0xFF) << 8,
                "peak_memory": min(max(0, int(news["peak_memory"])), 1 << 62),
                "cpu_seconds": min(max(0.0, float(news["cpu_seconds"])), 1e9),
            }
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            self.end("Error")
            return
        self.used_at = time.monotonic()
        if self.execution:
            execution, self.execution = self.execution, None
            execution.on_gone(report)

    def end(self, reason):
        """End the process, and for this reason what it runs."""
        if self.execution:
            self.execution.ending = self.execution.ending or reason
        if not self.ending:
            self.ending = True
            self.supervisor.end()

    def on_begin(self):
        pass

    def on_gone(self, report):
        if self.work.fileno() >= 0:
            self.agent.selector.unregister(self.work)
            self.work.close()
        self.agent.contexts.pop(self.name, None)
        if self.execution:
            execution, self.execution = self.execution, None
            execution.on_gone(report)


class Execution:
    """One execution, from its start to its kept result."""

    def __init__(self, agent, request):
        self.agent, self.id, self.digest = agent, request["id"], request["digest"]
        self.result = self.ending = self.refusal = self.feeder = None
        self.started_at, self.started = time.time(), time.monotonic()
        self.seconds, self.deadline = request["deadline"], None
        self.oom_kills = agent.container_memory.kills()
        self.context = self.supervisor = None
        self.stdin = Input(agent)
        self.output = {}
        job = {key: request[key] for key in ("kind", "argv", "code", "env", "cwd")}
        job["limits"] = agent.rlimits
        job["warm"] = not any(map(INTERPRETER_VARIABLE, [*os.environ, *job["env"]]))
        try:
            for kind in (STDOUT, STDERR):
                self.output[kind] = agent.output(kind, request["output_limit"])
            stdio = (self.stdin.reader, self.output[STDOUT].writer, self.output[STDERR].writer)
            if request["context"]:
                context = agent.context(request["context"])
                job["cwd"] = request["cwd"] and job["cwd"]  # else where the context is
                context.run(self, job, stdio)
                self.context = context
            else:
                self.supervisor = agent.run(job, stdio, self)
        except BaseException:
            self.close()
            raise
        self.stdin.close_reader()
        for output in self.output.values():
            output.close_writer()
        if not request["stdin"]:
            self.stdin.end()

    def end(self, reason):
        if self.ending is None and self.result is None:
            self.ending = reason
            if self.context:
                self.context.end(reason)
            else:
                self.supervisor.end()

    def on_begin(self):
        self.started_at, self.started = time.time(), time.monotonic()
        if self.seconds is not None:
            self.deadline = self.started + self.seconds

    def on_gone(self, report):
        """Make the result. `report` is None if the supervisor was killed, by the program or by us."""
        if report and "error" in report and self.ending:  # ended before it began
            report = None
        if report and "error" in report:
            self.close()
            self.refusal = Refusal("Busy", report["error"])
            self.agent.on_finished(self)
            return
        for output in self.output.values():
            output.drain()
        self.close()
        status = report["status"] if report else signal.SIGKILL
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        exit_code = 128 + ended_by if ended_by else os.WEXITSTATUS(status)
        reason, message = self.ending, None
        if reason is None:
            reason = "Error" if exit_code else "Completed"
            if exit_code == 128 + signal.SIGKILL and self.agent.container_memory.kills() > self.oom_kills:
                reason = "OOMKilled"
            elif report is None:
                message = "its supervisor was ended by a program in the sandbox"
        stdout, stderr = self.output[STDOUT], self.output[STDERR]
        self.result = {
            "id": self.id,
            "exit_code": exit_code,
            "signal": ended_by,
            "reason": reason,
            "message": message,
            "dropped_stdout": stdout.dropped,
            "dropped_stderr": stderr.dropped,
            "duration_ms": round((time.monotonic() - self.started) * 1000),
            "started_at": self.started_at,
            "finished_at": time.time(),
            "peak_memory": report and report["peak_memory"],
            "cpu_seconds": report and report["cpu_seconds"],
        }
        self.agent.on_finished(self)

    def close(self):
        self.stdin.close()
        for output in self.output.values():
            output.close()

    def kept_bytes(self):
        return sum(len(output.kept) for output in self.output.values())


def checked_execution(request, workspace):
    """The request with every member present and of its type. Raises Refusal (BadRequest) with the member's name."""

    def member(name, types, default=None):
        value = request.get(name, default)
        if not isinstance(value, types) or isinstance(value, bool) and types is not bool:
            raise Refusal("BadRequest", f"{name}: not of the right type")
        return value

    checked = {"kind": request.get("kind"), "argv": [], "code": ""}
    for name, pattern in (("id", r"[A-Za-z0-9._:-]{1,64}"), ("digest", r"[\x21-\x7e]{1,128}")):
        checked[name] = member(name, str, "")
        if not re.fullmatch(pattern, checked[name]):
            raise Refusal("BadRequest", f"{name}: must match {pattern}")
    if checked["kind"] == "command":
        checked["argv"] = member("argv", list, [])
        if not checked["argv"] or not all(isinstance(word, str) and "\0" not in word for word in checked["argv"]):
            raise Refusal("BadRequest", "argv: must be strings without NUL, at least one")
    elif checked["kind"] in ("bash", "python"):
        checked["code"] = member("code", str, "")
        if checked["kind"] == "bash" and "\0" in checked["code"]:
            raise Refusal("BadRequest", "code: bash takes no NUL")
    else:
        raise Refusal("BadRequest", "kind: must be command, bash or python")
    checked["context"] = member("context", str, "")
    if checked["context"] and (checked["kind"] != "python" or len(checked["context"]) > 64):
        raise Refusal("BadRequest", "context: only for python, at most 64 characters")
    checked["env"] = member("env", dict, {})
    for name, value in checked["env"].items():
        if not name or "=" in name or "\0" in name or not isinstance(value, str) or "\0" in value:
            raise Refusal("BadRequest", f"env: {name!r} is no variable with a value")
    checked["cwd"] = os.path.join(workspace, member("cwd", str, ""))
    if "\0" in checked["cwd"]:
        raise Refusal("BadRequest", "cwd: holds a NUL")
    if not request.get("cwd") and checked["context"]:
        checked["cwd"] = ""
    checked["deadline"] = request.get("deadline")
    if checked["deadline"] is not None and not 0 < member("deadline", (int, float)) < 1e8:
        raise Refusal("BadRequest", "deadline: must be a positive number of seconds below 1e8")
    checked["output_limit"] = member("output_limit", int, 1 << 20)
    if not 0 <= checked["output_limit"] <= MAX_OUTPUT:
        raise Refusal("BadRequest", f"output_limit: must be from 0 to {MAX_OUTPUT} bytes")
    checked["stdin"] = member("stdin", bool, False)
    checked["files"] = [checked_file(file) for file in member("files", list, [])]
    try:
        json.dumps([checked["argv"], checked["env"], checked["cwd"]], ensure_ascii=False).encode(
            "utf-8", "surrogateescape"
        )
    except UnicodeEncodeError:
        raise Refusal("BadRequest", "argv, env, cwd: not valid Unicode") from None
    return checked


def checked_file(file):
    try:
        path, data, mode = file["path"], binascii.a2b_base64(file["data"]), file.get("mode", 0o644)
    except (TypeError, KeyError, AttributeError, ValueError):
        raise Refusal("BadRequest", "files: each needs a path and data in base64") from None
    if not isinstance(path, str) or not isinstance(mode, int):
        raise Refusal("BadRequest", "files: a path is a string and a mode a number")
    return path, data, mode & 0o777


# ---------------------------------------------------------------------------------------------------------------------
# The link: frames, sessions, channels


def frame(token, kind, channel, payload=b""):
    return HEADER.pack(token, kind, channel, len(payload), binascii.crc32(payload)) + payload


class Frames:
    """Cuts a stream of bytes into frames. Bytes that are no frame of the session are skipped."""

    def __init__(self):
        self.token = HELLO_TOKEN
        self.buffer = bytearray()

    def feed(self, data):
        """Yield (kind, channel, payload) of every frame that is complete."""
        self.buffer += data
        while True:
            if self.buffer[:8] not in (self.token, HELLO_TOKEN):
                starts = [self.buffer.find(token) for token in (self.token, HELLO_TOKEN)]
                end_of_noise = max(0, len(self.buffer) - 7)
                del self.buffer[: min((start for start in starts if start >= 0), default=end_of_noise)]
            if len(self.buffer) < HEADER.size:
                return
            token, kind, channel, length, checksum = HEADER.unpack_from(self.buffer)
            end = HEADER.size + length
            if length <= MAX_PAYLOAD and len(self.buffer) < end:
                return
            payload = bytes(self.buffer[HEADER.size : end])
            if length > MAX_PAYLOAD or binascii.crc32(payload) != checksum or (token == HELLO_TOKEN) != (kind == HELLO):
                del self.buffer[:1]
                continue
            del self.buffer[:end]
            yield kind, channel, payload


class Channel:
    """One request of the controller, as long as there is something to say about it."""

    def __init__(self, link, number):
        self.link, self.number = link, number
        self.window = WINDOW  # bytes of content that we may send
        self.granted = 0  # bytes of content for which we let the controller send as much again

    def on_data(self, data):
        pass

    def on_eof(self):
        pass

    def close(self):
        pass

    def grant(self, consumed):
        """Let the controller send again what was consumed, once it is worth a frame. Returns whether it was."""
        credit = consumed - self.granted
        if credit < WINDOW // 4:
            return False
        self.granted = consumed
        self.link.send_json(CREDIT, self.number, {"bytes": credit})
        return True

    def finish(self, result):
        self.link.send_json(RESULT, self.number, result)
        self.link.close_channel(self.number)


class Attachment(Channel):
    """Shows an execution: what it has printed, what it prints, its result. Takes its stdin."""

    def __init__(self, link, number, execution, attached):
        super().__init__(link, number)
        self.execution, self.sent = execution, {STDOUT: 0, STDERR: 0}
        self.feeds = execution.feeder is None
        if self.feeds:
            execution.feeder = self
            execution.stdin.forget_waiting()
        self.granted = execution.stdin.received
        received = self.granted if self.feeds else None
        link.send_json(STARTED, number, {"id": execution.id, "attached": attached, "stdin_received": received})

    def close(self):
        if self.feeds:
            self.execution.feeder = None

    def on_data(self, data):
        stdin = self.execution.stdin
        if not self.feeds:
            raise Refusal("BadRequest", "another channel brings the stdin of this execution")
        if stdin.received + len(data) - stdin.written > WINDOW:
            self.execution.end("Cancelled")
            raise Refusal("BadRequest", "more stdin than the window and its credit allow; the execution is cancelled")
        stdin.feed(data)

    def on_eof(self):
        if self.feeds:
            self.execution.stdin.end()

    def pump(self):
        """Send one frame if there is something to say. Returns whether there was."""
        if self.grant(self.execution.stdin.written):
            return True
        for kind, output in self.execution.output.items():
            start = self.sent[kind]
            if start < len(output.kept):
                block = bytes(output.kept[start : start + min(MAX_PAYLOAD, self.window)])
                self.sent[kind] += len(block)
                self.window -= len(block)
                if block:
                    self.link.send(kind, self.number, block)
                return bool(block)
        if self.execution.refusal:
            raise self.execution.refusal
        if self.execution.result:
            self.finish(self.execution.result)
        return bool(self.execution.result)


class Put(Channel):
    """Writes a file."""

    def __init__(self, link, number, upload):
        super().__init__(link, number)
        self.upload = upload

    def on_data(self, data):
        self.upload.write(data)

    def on_eof(self):
        self.upload.finish()
        self.finish({"bytes": self.upload.bytes})

    def pump(self):
        return self.grant(self.upload.bytes)

    def close(self):
        self.upload.close()


class Send(Channel):
    """Sends what a file holds now, then a result."""

    def __init__(self, link, number, file, size, result):
        super().__init__(link, number)
        self.file, self.size, self.sent, self.result = file, size, 0, result

    def pump(self):
        count = min(MAX_PAYLOAD, self.size - self.sent)
        if self.window < count:
            return False
        block = self.file.read(count)
        self.window -= len(block)
        self.sent += len(block)
        if block:
            self.link.send(DATA, self.number, block)
        else:
            self.finish({**self.result, "bytes": self.sent})
        return True

    def close(self):
        self.file.close()


class Link:
    """The session with the controller, over two descriptors (which may be the same)."""

    def __init__(self, agent, reader, writer):
        self.agent, self.reader, self.writer = agent, reader, writer
        self.frames, self.out, self.channels = Frames(), bytearray(), collections.OrderedDict()
        self.parts = bytearray()
        self.reading = self.writing = False
        for descriptor in (reader, writer):
            os.set_blocking(descriptor, False)
        self.watch()

    def watch(self):
        """Read while replies can be taken, write while there is something to write."""
        if self.reader < 0:
            return
        reading, writing = len(self.out) < 4 * WINDOW, bool(self.out)
        if (reading, writing) == (self.reading, self.writing):
            return
        selector = self.agent.selector
        for descriptor in {self.reader, self.writer}:
            events = selectors.EVENT_READ * (reading and descriptor == self.reader)
            events |= selectors.EVENT_WRITE * (writing and descriptor == self.writer)
            if descriptor in selector.get_map():
                selector.unregister(descriptor)
            if events:
                selector.register(descriptor, events, self.on_ready)
        self.reading, self.writing = reading, writing

    def on_ready(self):
        if self.reader < 0:
            return
        try:
            data = os.read(self.reader, 65536)
            if not data:
                self.agent.on_link_end()
                return
            for kind, channel, payload in self.frames.feed(data):
                self.on_frame(kind, channel, payload)
        except BlockingIOError:
            self.agent.speak()
        except OSError:
            self.agent.on_link_end()

    def on_frame(self, kind, number, payload):
        try:
            if kind == HELLO:
                self.on_hello(json.loads(payload))
            elif kind == PART:
                self.parts += payload[: MAX_REQUEST + 1 - len(self.parts)]
            elif kind == REQUEST:
                document, self.parts = self.parts + payload, bytearray()
                self.on_request(number, document)
            elif kind == DATA and number in self.channels:
                self.channels[number].on_data(payload)
            elif kind == EOF and number in self.channels:
                self.channels[number].on_eof()
            elif kind == CLOSE:
                self.close_channel(number)
            elif kind == CREDIT and number in self.channels:
                self.channels[number].window += int(json.loads(payload)["bytes"])
            if kind != REQUEST:
                self.agent.speak()
        except Refusal as refusal:
            self.refuse(number, refusal)
        except OSError as error:
            codes = {errno.ENOENT: "NotFound", errno.ELOOP: "Forbidden", errno.ENOTDIR: "Forbidden"}
            codes.update({errno.ENOSPC: "NoSpace", errno.EDQUOT: "NoSpace", errno.EAGAIN: "Busy"})
            where = f"{error.filename}: " if error.filename else ""
            self.refuse(number, Refusal(codes.get(error.errno, "Failed"), f"{where}{error.strerror or error}"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self.refuse(number, Refusal("BadRequest", f"{type(error).__name__}: {error}"))

    def on_hello(self, hello):
        token = bytes.fromhex(hello["token"])
        if len(token) != 8 or token == HELLO_TOKEN:
            return
        self.close_channels()
        self.out.clear()
        self.parts.clear()
        self.frames.token = token
        self.send_json(HELLO, 0, self.agent.hello())

    def on_request(self, number, document):
        if len(document) > MAX_REQUEST:
            raise Refusal("TooLarge", f"a request may have {MAX_REQUEST} bytes")
        if number in self.channels:
            raise Refusal("BadRequest", f"channel {number} is open")
        if len(self.channels) >= MAX_CHANNELS:
            raise Refusal("Busy", f"{MAX_CHANNELS} channels are open")
        request = json.loads(document)
        name = request.get("op")
        operation = getattr(self, f"op_{name}", None)
        if operation is None:
            raise Refusal("BadRequest", f"op: {name!r} is not known")
        try:
            operation(number, request)
        except OSError as error:
            error.filename = request.get("path", error.filename)  # the whole of it
            raise
        self.agent.speak(GATHER_SECONDS if name == "execute" else 0)

    def op_execute(self, number, request):
        execution, known = self.agent.execute(request)
        self.channels[number] = Attachment(self, number, execution, known)

    def op_attach(self, number, request):
        self.channels[number] = Attachment(self, number, self.find(request), True)

    def op_cancel(self, number, request):
        execution = self.find(request)
        self.send_json(RESULT, number, {"ended": execution.result is None})
        execution.end("Cancelled")

    def find(self, request):
        try:
            return self.agent.find(request["id"])
        except KeyError:
            raise Refusal("NotFound", f"no execution {request.get('id')!r}") from None

    def op_put(self, number, request):
        upload = Upload(self.agent.workspace, request["path"], int(request.get("mode", 0o644)) & 0o777)
        self.channels[number] = Put(self, number, upload)

    def op_get(self, number, request):
        file = self.agent.workspace.open_file(request["path"])
        self.channels[number] = Send(self, number, file, os.fstat(file.fileno()).st_size, {})

    def op_list(self, number, request):
        listing, entries, truncated = io.BytesIO(), 0, False
        for path, size in self.agent.workspace.files(request.get("path", "")):
            if entries == MAX_ENTRIES or listing.tell() > MAX_LISTING:
                truncated = True
                break
            path = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            listing.write(json.dumps({"path": path, "bytes": size}).encode() + b"\n")
            entries += 1
        size = listing.tell()
        listing.seek(0)
        self.channels[number] = Send(self, number, listing, size, {"entries": entries, "truncated": truncated})

    def refuse(self, number, refusal):
        self.agent.speak()
        self.close_channel(number)
        self.send_json(ERROR, number, {"code": refusal.code, "message": str(refusal)[:1000]})

    def send(self, kind, number, payload):
        self.out += frame(self.frames.token, kind, number, payload)

    def send_json(self, kind, number, document):
        self.send(kind, number, json.dumps(document).encode())

    def pump(self):
        """Let channels speak in turn while the link takes it, so that one flood does not keep the others waiting."""
        while self.reader >= 0:
            silent = 0
            while self.channels and len(self.out) < WINDOW and silent < len(self.channels):
                number, channel = next(iter(self.channels.items()))
                self.channels.move_to_end(number)
                try:
                    silent = 0 if channel.pump() else silent + 1
                except Refusal as refusal:
                    self.refuse(number, refusal)
                except OSError as error:
                    self.refuse(number, Refusal("Failed", error.strerror))
            if not self.out:
                break
            try:
                count = os.write(self.writer, self.out)
            except BlockingIOError:
                break
            except OSError:
                self.agent.on_link_end()
                return
            del self.out[:count]
        self.watch()

    def close_channel(self, number):
        channel = self.channels.pop(number, None)
        if channel:
            channel.close()

    def close_channels(self):
        for number in list(self.channels):
            self.close_channel(number)

    def close(self):
        self.close_channels()
        for descriptor in {self.reader, self.writer}:
            if descriptor in self.agent.selector.get_map():
                self.agent.selector.unregister(descriptor)
            os.close(descriptor)
        self.reader = self.writer = -1


# ---------------------------------------------------------------------------------------------------------------------
# The agent


class Agent:
    def __init__(self, workspace):
        self.workspace, self.rlimits = Workspace(workspace), {}
        self.selector = selectors.DefaultSelector()
        self.running, self.kept, self.forgotten = {}, collections.OrderedDict(), collections.OrderedDict()
        self.kept_bytes = 0
        self.contexts, self.supervisors, self.gathering = {}, set(), set()
        self.link = self.requests = None
        self.launchers = set()
        self.active_at = time.monotonic()
        self.speak_at = math.inf
        self.stopping = False
        self.null = os.open(os.devnull, os.O_RDWR)
        self.container_memory = ContainerMemory()
        self.max_kept_bytes = min(MAX_KEPT_BYTES, self.container_memory.limit // 8)
        LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        self.subreaper = become_subreaper()
        wakeup, wake = os.pipe()
        os.set_blocking(wakeup, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        self.selector.register(wakeup, selectors.EVENT_READ, lambda: self.on_signal(wakeup))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        for number in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

    def hello(self):
        return {
            "protocol": PROTOCOL,
            "version": VERSION,
            "pid1": os.getpid() == 1,
            "python": sys.version.split()[0],
            "running": list(self.running),
            "contexts": sorted(self.contexts),
            "idle_seconds": 0 if self.running else round(time.monotonic() - self.active_at, 3),
            "kept": len(self.kept),
            "forgotten": len(self.forgotten),
            "max_executions": MAX_EXECUTIONS,
        }

    # The loop

    def serve(self, until=lambda: False):
        """Serve until SIGTERM or until `until()`, then end everything that was started."""
        if not self.supervisors:
            try:
                Supervisor(self)  # waits for the first execution,
            except Refusal:  # which says what is wrong
                pass
        while not self.stopping and not until():
            for key, _ in self.selector.select(self.seconds_to_next()):
                key.data()
            now = time.monotonic()
            self.tick(now)
            if now >= self.speak_at:
                self.speak_at = math.inf
                while self.gathering:
                    self.gathering.pop().resume()
                if self.link:
                    self.link.pump()
        self.end_everything()

    def speak(self, within=0.0):
        """Have the link say what there is to say, in so many seconds at the latest."""
        self.speak_at = min(self.speak_at, time.monotonic() + within)

    def seconds_to_next(self):
        """Seconds until there is something to do; None: never."""
        due = [] if self.speak_at == math.inf else [self.speak_at]
        for supervisor in self.supervisors:
            if supervisor.sweep_by is not None:
                return 0.002
            if supervisor.force_at is not None:
                due.append(supervisor.force_at)
        due += [each.deadline for each in self.running.values() if each.deadline is not None and not each.ending]
        due += [context.used_at + CONTEXT_IDLE_SECONDS for context in self.contexts.values() if not context.execution]
        return max(0.0, min(due) - time.monotonic()) + 0.0005 if due else None

    def tick(self, now):
        for execution in list(self.running.values()):
            if execution.deadline is not None and now >= execution.deadline:
                execution.end("Timeout")
        for context in list(self.contexts.values()):
            if not context.execution and now > context.used_at + CONTEXT_IDLE_SECONDS:
                context.end("Cancelled")
        for supervisor in list(self.supervisors):
            supervisor.tick(now)

    # Executions

    def execute(self, request):
        """Start an execution, or find it. Returns it, and whether it was known. Raises Refusal, OSError."""
        checked = checked_execution(request, self.workspace.path)
        try:
            known = self.find(checked["id"], checked["digest"])
        except KeyError:
            pass
        else:
            return known, True
        if len(self.running) >= MAX_EXECUTIONS:
            raise Refusal("Busy", f"{MAX_EXECUTIONS} executions are running")
        for path, data, mode in checked["files"]:
            self.workspace.write(path, data, mode)
        if checked["cwd"] and not os.path.isdir(checked["cwd"]):  # now: the files may have made it
            raise Refusal("BadRequest", f"cwd: {checked['cwd']!r} is not a directory")
        return self.start(checked), False

    def start(self, checked):
        execution = self.running[checked["id"]] = Execution(self, checked)
        return execution

    def output(self, kind, limit):
        return Output(self, limit)

    def find(self, execution_id, digest=None):
        """Returns an execution that runs or is kept. Raises KeyError, Refusal (Conflict, Gone)."""
        execution = self.running.get(execution_id) or self.kept.get(execution_id)
        known_digest = execution.digest if execution else self.forgotten[execution_id]
        if digest not in (None, known_digest):
            raise Refusal("Conflict", f"{execution_id} was used for another request")
        if not execution:
            raise Refusal("Gone", f"{execution_id} has run, and its result is no longer kept")
        return execution

    def context(self, name):
        context = self.contexts.get(name)
        if context is None or context.ending:
            if context is not None or len(self.contexts) >= MAX_CONTEXTS:
                raise Refusal("Busy", f"{name} is ending" if context else f"{MAX_CONTEXTS} contexts are open")
            context = self.contexts[name] = Context(self, name)
        return context

    def on_finished(self, execution):
        """Keep its result, unless it never ran."""
        del self.running[execution.id]
        self.active_at = time.monotonic()
        self.speak()
        if not execution.result:
            return
        self.kept[execution.id] = execution
        self.kept_bytes += execution.kept_bytes()
        while len(self.kept) > MAX_KEPT or (self.kept_bytes > self.max_kept_bytes and len(self.kept) > 1):
            _, oldest = self.kept.popitem(last=False)
            self.kept_bytes -= oldest.kept_bytes()
            self.forgotten[oldest.id] = oldest.digest
            if len(self.forgotten) > MAX_FORGOTTEN:
                self.forgotten.popitem(last=False)

    # Processes

    def start_launcher(self):
        self.requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.requests.setblocking(False)
        argv = [sys.executable, "-I", os.path.abspath(__file__), "--launcher"]
        actions = [(os.POSIX_SPAWN_DUP2, self.null, 0), (os.POSIX_SPAWN_DUP2, self.null, 1)]
        actions.append((os.POSIX_SPAWN_DUP2, theirs.fileno(), LAUNCHER_FD))
        try:
            self.launchers.add(os.posix_spawn(sys.executable, argv, os.environ, file_actions=actions))
        except OSError:
            self.end_launcher()
            raise
        finally:
            theirs.close()

    def run(self, job, stdio, owner, work=()):
        """Start a program under an idle supervisor, or a new one. Returns the supervisor. Raises Refusal (Busy)."""
        for supervisor in [each for each in self.supervisors if each.idle]:
            try:
                supervisor.run(job, stdio, owner, work)
                return supervisor
            except OSError:  # a program ended it
                supervisor.retire()
        supervisor = Supervisor(self)
        try:
            supervisor.run(job, stdio, owner, work)
        except OSError as error:
            supervisor.retire()
            raise Refusal("Busy", f"no process could be started: {error.strerror}") from None
        return supervisor

    def launch(self, control):
        """Have the launcher fork a supervisor. Raises Refusal (Busy)."""
        try:
            if not self.requests:
                self.start_launcher()
            try:
                socket.send_fds(self.requests, [b"launch"], [control])
            except ConnectionError:  # a program ended it
                self.end_launcher()
                self.start_launcher()
                socket.send_fds(self.requests, [b"launch"], [control])
        except OSError as error:
            raise Refusal("Busy", f"no process could be started: {error.strerror}") from None

    def end_stopped(self, launcher_too):
        """End what a program has stopped of the launcher and the supervisors that wait. Others come when needed."""
        for supervisor in [each for each in self.supervisors if each.idle and is_stopped(each.pid)]:
            supervisor.retire()
            send_signal(supervisor.pid, signal.SIGKILL)
        if launcher_too or any(map(is_stopped, self.launchers)):
            self.end_launcher()

    def end_launcher(self):
        for pid in self.launchers:
            send_signal(pid, signal.SIGKILL)
        if self.requests:
            self.requests.close()
            self.requests = None

    def on_signal(self, wakeup):
        try:
            os.read(wakeup, 4096)
        except BlockingIOError:
            pass
        self.reap()

    def reap(self):
        """Reap what has ended. Returns whether there are children left."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            self.launchers.discard(pid)

    def sweep(self, supervisor, since):
        """End children of this process that it did not start, born at `since` (clock ticks since boot) or later.

        Returns whether none is left and `supervisor` (0: none) is gone, so that its orphans have come here.
        """
        self.reap()
        own = self.launchers | {supervisor.pid for supervisor in self.supervisors}
        table = processes()
        me = os.getpid()
        strays = {pid for pid, (parent, born) in table.items() if parent == me and pid not in own and born >= since}
        if strays:
            end_all(lambda: strays | below(*strays))
        # One whose parent ended while the table was read is about to come here.
        moving = any(born >= since and parent and parent not in table for parent, born in table.values())
        return not strays and not moving and supervisor not in table

    def stop(self, *_):
        self.stopping = True

    def end_everything(self):
        if os.getpid() == 1:
            send_signal(-1, signal.SIGKILL)
        end_children(1.0, self.reap)

    # Connections

    def serve_stdio(self):
        """Take the link away from descriptors 0 and 1, so that no program can inherit it."""
        reader, writer = os.dup(0), os.dup(1)
        os.dup2(self.null, 0)
        os.dup2(self.null, 1)
        try:
            self.link = Link(self, reader, writer)
        except PermissionError:  # /dev/null or a file: nobody will ever speak
            os.close(reader)
            os.close(writer)

    def on_link_end(self):
        self.link.close()
        self.link = None
        if os.getpid() != 1:
            self.stopping = True


def main():
    if sys.argv[1:] == ["--launcher"]:
        launcher()()
        return
    agent = Agent(*sys.argv[1:] or ["/workspace"])
    agent.serve_stdio()
    agent.serve()


if __name__ == "__main__":
    main()
