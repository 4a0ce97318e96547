"""A Unix socket in front of the Docker daemon that can hang, or be gone, while the daemon itself goes on."""

import os
import select
import socket
import threading
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

PIECE = 65536
TICK = 0.02
"""Seconds between two looks at what the proxy should do."""


def daemon_socket() -> str:
    """Where the real daemon listens, if that is a Unix socket."""
    return urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock").path


class DaemonProxy:
    """Serves `url` while the block runs. `hang` and `vanish` last until `recover`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "docker.sock"
        self._daemon = daemon_socket()
        self._listener: socket.socket | None = None
        self._hangs = threading.Event()
        self._ends = threading.Event()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"unix://{self._path}"

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self.vanish()

    def hang(self) -> None:
        """Nothing is passed on any more; connections are taken and stay open."""
        self._hangs.set()

    def vanish(self) -> None:
        """As when the daemon has stopped: connections are cut, the socket is gone."""
        if self._listener is not None:
            self._path.unlink()
            self._listener.close()
            self._listener = None
        with self._lock:
            for connection in self._connections:
                connection.shutdown(socket.SHUT_RDWR)
            self._connections.clear()

    def recover(self) -> None:
        self._hangs.clear()
        if self._listener is None:
            self._listen()

    def _listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed by `vanish`
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as daemon:
            with self._lock:
                self._connections.add(client)
            try:
                daemon.connect(self._daemon)
                self._pass_on(client, daemon)
            except OSError:
                pass  # either side has ended
            finally:
                with self._lock:
                    self._connections.discard(client)

    def _pass_on(self, client: socket.socket, daemon: socket.socket) -> None:
        to = {client: daemon, daemon: client}
        while to and not self._ends.is_set():
            if self._hangs.is_set():
                self._ends.wait(TICK)
                continue
            for source in select.select(list(to), [], [], TICK)[0]:
                data = source.recv(PIECE)
                if data:
                    to[source].sendall(data)
                elif source is daemon:
                    return
                else:
                    daemon.shutdown(socket.SHUT_WR)
                    del to[client]
