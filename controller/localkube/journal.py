"""Keeps the objects in one SQLite file, so that `dev` finds them again, even after a kill -9."""

import json
import sqlite3
from pathlib import Path

from controller.localkube.store import Change, Object, Resource


class FolderInUseError(RuntimeError):
    """Another server holds the folder."""


class SqliteJournal:
    """`folder/objects.db`. One process at a time; raises FolderInUseError for a second one."""

    def __init__(self, folder: Path) -> None:
        # Secrets are stored as they are, so nobody else may read them.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / "objects.db"
        path.touch(mode=0o600)
        # Made in one thread and served in another, but never used by two at a time.
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            # A killed process loses nothing; a power cut may lose the last moments, never consistency.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            self._db.close()
            raise FolderInUseError(
                f"{folder} is in use by another server ({error}): stop that one, or choose another folder"
            ) from error
        self._db.execute("CREATE TABLE IF NOT EXISTS version (number INTEGER NOT NULL)")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS objects ("
            '"group" TEXT, plural TEXT, namespace TEXT, name TEXT, json TEXT NOT NULL,'
            ' PRIMARY KEY ("group", plural, namespace, name)) WITHOUT ROWID'
        )
        self._db.execute("COMMIT")

    def load(self) -> tuple[int, list[tuple[Resource, Object]]]:
        row = self._db.execute("SELECT number FROM version").fetchone()
        rows = self._db.execute('SELECT "group", plural, json FROM objects')
        return (row[0] if row else 0), [((group, plural), json.loads(text)) for group, plural, text in rows]

    def record(self, change: Change) -> None:
        place = (*change.resource, *change.key)
        with self._db:  # commits, or rolls back when something is raised
            self._db.execute("BEGIN")
            if change.type == "DELETED":
                self._db.execute(
                    'DELETE FROM objects WHERE "group" = ? AND plural = ? AND namespace = ? AND name = ?', place
                )
            else:
                self._db.execute(
                    "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", (*place, json.dumps(change.object))
                )
            if self._db.execute("UPDATE version SET number = ?", (change.version,)).rowcount == 0:
                self._db.execute("INSERT INTO version VALUES (?)", (change.version,))

    def close(self) -> None:
        self._db.close()
