import asyncio, sys
from controller.backends import *
from controller.model import *
from controller.backends import RunState


class TinyExecutions:
    def __init__(self):
        self.known = {}
        self.files = {}
        self.running = 0

    async def execute(self, uid, request):
        if request.id in self.known:
            digest, done = self.known[request.id]
            if digest != request.digest:
                raise Conflict(f"execution {request.id} was another request")
            out, err, result = await asyncio.shield(done)
        else:
            if self.running >= 4:
                raise Busy("4 executions run in this sandbox")
            done = asyncio.ensure_future(self._run(request))
            self.known[request.id] = (request.digest, done)
            out, err, result = await asyncio.shield(done)
        if out:
            yield OutputChunk("stdout", out)
        if err:
            yield OutputChunk("stderr", err)
        yield result

    async def _run(self, request):
        self.running += 1
        argv = list(request.command) or (
            [sys.executable, "-c", request.code] if request.kind == "python" else ["bash", "-c", request.code]
        )
        p = await asyncio.create_subprocess_exec(*argv, stdin=-1, stdout=-1, stderr=-1, env=dict(request.env) or None)
        self.p = p
        try:
            async with asyncio.timeout(request.timeout):
                out, err = await p.communicate(request.stdin)
            reason = Reason.COMPLETED if p.returncode == 0 else Reason.ERROR
        except TimeoutError:
            p.kill()
            out, err, reason = b"", b"", Reason.TIMEOUT
            await p.wait()
        self.running -= 1
        return out, err, ExecResult(request.id, p.returncode, reason, 1, "agent")

    async def cancel(self, uid, id):
        if id not in self.known:
            raise NotFound(f"no execution {id}")
        if self.p.returncode is None:
            self.p.kill()

    async def put_file(self, uid, path, chunks):
        self.files[path] = b"".join([c async for c in chunks])

    async def get_file(self, uid, path):
        if path not in self.files:
            raise NotFound(f"no file {path}")
        yield self.files[path]

    async def list_files(self, uid, path=""):
        return [FileInfo(p, len(b)) for p, b in self.files.items()]


class TinyBackend:
    name = BackendName.MOCK

    def __init__(self):
        self.executions = TinyExecutions()

    async def start(self, s):
        return Observation(
            s.uid, s.namespace, s.name, self.name, RunState.RUNNING, ready=s.spec.run is None, path="agent"
        )

    async def remove(self, uid):
        pass

    async def logs(self, uid, follow=False):
        raise NotFound("no logs")
        yield

    async def close(self):
        pass
