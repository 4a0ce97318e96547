"""A Kubernetes API server inside the process, for development: loopback, no authentication, in memory or in a folder.

It serves the given CustomResourceDefinitions with the semantics of the real server, and of the built-in kinds what
kubectl and controllers need around them. Nothing in it depends on the rest of the controller.
"""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
import yaml

from controller.localkube import core, reviews
from controller.localkube.app import app
from controller.localkube.journal import FolderInUseError, SqliteJournal
from controller.localkube.kinds import Kinds
from controller.localkube.registry import Registry
from controller.localkube.store import HISTORY, Store
from controller.localkube.watching import Watches

__all__ = ["FolderInUseError", "LocalKube"]

CONTEXT = "sandbox-controller-dev"
SHUTDOWN_SECONDS = 5


class LocalKube:
    """The server. It runs in a thread of its own, so that a client in the same process may block."""

    def __init__(
        self, crds: Iterable[dict[str, Any]] = (), folder: Path | None = None, *, history: int = HISTORY
    ) -> None:
        """`crds` are served from the start, whatever was stored. `folder` keeps the objects; None: nothing does.

        `history` is how many changes a watch can be behind before it must list again (410).

        Raises Failure for a CRD that cannot be served, FolderInUseError if another server holds the folder.
        """
        now = datetime.now(UTC)
        self._store = Store(SqliteJournal(folder) if folder else None, history)
        self._registry = Registry(self._store, Kinds((*core.KINDS, *reviews.KINDS)), now)
        for crd in crds:
            self._registry.install(crd, now)
        self._address: str | None = None

    @property
    def address(self) -> str:
        """`http://127.0.0.1:PORT`. Raises RuntimeError unless it is running."""
        if self._address is None:
            raise RuntimeError("the server is not running: use it inside `running`")
        return self._address

    @contextmanager
    def running(self, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
        """Serves until the block ends, and listens already when it begins. Port 0 takes a free one. Once per server."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(
            family, socket.SOCK_STREAM, socket.IPPROTO_TCP
        )  # asyncio sets TCP_NODELAY by the protocol
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
        watches = Watches(self._store)
        config = uvicorn.Config(
            app(self._registry, watches),
            http="h11",
            loop="asyncio",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        server = uvicorn.Server(config)
        loop = asyncio.new_event_loop()

        def serve() -> None:
            with contextlib.closing(loop):
                loop.run_until_complete(server.serve([listener]))

        thread = threading.Thread(target=serve, name="localkube", daemon=True)
        thread.start()
        self._address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        try:
            yield self._address
        finally:
            self._address = None
            loop.call_soon_threadsafe(watches.close)
            server.should_exit = True
            thread.join(2 * SHUTDOWN_SECONDS)
            listener.close()
            self._store.close()

    def kubeconfig(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": CONTEXT, "cluster": {"server": self.address}}],
            "users": [{"name": CONTEXT, "user": {}}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT, "namespace": "default"}}],
            "current-context": CONTEXT,
        }

    def write_kubeconfig(self, path: Path) -> None:
        """With mode 0600, replaced in one step."""
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(yaml.safe_dump(self.kubeconfig(), sort_keys=False))
        draft.replace(path)
