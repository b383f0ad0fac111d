# SPDX-License-Identifier: Apache-2.0
"""The door to SQLite: files of databases found, made, opened, locked and moved aside.

Everything here is plain blocking code that services run through `green.in_thread`;
waiting for a lock never stops the event loop then. Connections are kept between uses,
bounded and per process, and each is used by one thread at a time. A kept connection is
checked against the file under its name, for a file may be replaced (rsync) or removed
at any moment.

This process must not open a database file by other means while it may be in use:
closing any descriptor of a file drops the locks that SQLite holds on it (fcntl(2)).

Format: doc/source/formats/databases.md (databases contract 1, 6, 14).
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, NoReturn
from urllib.parse import quote
from uuid import uuid4

from swift.core.errors import (
    DatabaseCorrupt,
    DatabaseExists,
    DatabaseMissing,
    DeviceUnavailable,
    DiskFull,
    LockTimeout,
)
from swift.core.hashing import hash_directory
from swift.core.rows import chexor

BUSY_TIMEOUT_S = 25.0
"""How long a writer waits for another connection's transaction."""

PENDING_MAX = 131072
"""Bytes of a pending file above which its rows are merged at once."""

LOCK_TIMEOUT_S = 10.0
"""How long a pending file's lock is waited for, by default."""

_IDLE_MAX = 32
_FACTS_MAX = 8192
_WAIT_FIRST_S = 0.001
_WAIT_MAX_S = 0.05

_CORRUPT = (
    "database disk image is malformed",
    "malformed database schema",
    "file is not a database",
    "file is encrypted or is not a database",
    "disk I/O error",
    "no such table: account_stat",
    "no such table: container_stat",
    "no such table: container",
    "no such table: object",
    "no such table: incoming_sync",
    "no such table: outgoing_sync",
)
# A write that failed (a quota, a device turned read-only) says nothing about what is on
# the disk already, and SQLite's journal undoes it.
_WRITE_ERRORS = frozenset(
    f"SQLITE_IOERR_{name}"
    for name in ("WRITE", "FSYNC", "DIR_FSYNC", "TRUNCATE", "DELETE", "LOCK", "NOMEM")
)


class DatabaseConnection(sqlite3.Connection):
    """A connection, and what its user has found out about the database's schema.

    layout: set by a broker, kept as long as the connection. reusable: False for a
    database of an old schema, which another process may migrate.
    """

    layout: object = None
    reusable: bool = True


@dataclass(frozen=True, slots=True)
class Files:
    """The live database files of one hash directory, oldest epoch first.

    redirects: False when it is known that no shard range is in an updating state; None
    when it must be looked up.
    """

    settled: bool
    signature: tuple[int, int]
    paths: tuple[str, ...]
    redirects: bool | None = None

    @property
    def fresh(self) -> str:
        """The authoritative file."""
        return self.paths[-1]

    @property
    def fresh_has_epoch(self) -> bool:
        """True when the authoritative file is of a sharding epoch."""
        return "_" in self.paths[-1].rpartition("/")[2]


def db_path(
    root: str, device: str, kind: str, partition: int | str, path_hash: str
) -> str:
    """`<root>/<device>/<kind>/<partition>/<suffix>/<hash>/<hash>.db`.

    kind: `accounts` or `containers`.
    """
    directory = hash_directory(kind, partition, path_hash)
    return f"{root}/{device}/{directory}/{path_hash}.db"


def epoch_of(path: str) -> str | None:
    """The sharding epoch in a file's name, None for a container never sharded."""
    stem = os.path.basename(path).partition(".db")[0]
    return stem.partition("_")[2] or None


def device_of(path: str) -> str:
    """The name of the device that holds a database file."""
    parts = path.split("/")
    return parts[-6] if len(parts) >= 6 else ""


class Databases:
    """The open databases of one process: kept connections, bounded.

    now: the clock, seconds since 1970. report: takes one line when something was moved
    aside or skipped. idle_max: connections kept open while nobody uses them. trace:
    takes each statement that is executed.
    """

    settled_s: ClassVar[float] = 0.05
    """What changes twice within one tick of the kernel's clock keeps its time, so what
    was read from a directory this young is not remembered. A tick is 10 ms at most. (A
    simulation, whose clock is another than the kernel's, sets this.)"""

    def __init__(
        self,
        now: Callable[[], float],
        report: Callable[[str], object] | None = None,
        *,
        idle_max: int = _IDLE_MAX,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        trace: Callable[[str], object] | None = None,
    ) -> None:
        self.now = now
        self.report = report or _ignore
        self._idle_max = idle_max
        self._busy_timeout_s = busy_timeout_s
        self._trace = trace
        self._idle: OrderedDict[
            str, list[tuple[tuple[int, int], DatabaseConnection]]
        ] = OrderedDict()
        self._idle_count = 0
        self._guard = threading.Lock()
        self._pid = os.getpid()
        self._parents: object = None
        self._facts: dict[str, Files] = {}
        self.layouts: dict[object, object] = {}
        """What brokers have found out about schemas, by their text."""

    # --- Files ------------------------------------------------------------------------

    def files(self, path: str) -> Files:
        """The database files beside `path`, `<hash>.db`; raises DatabaseMissing."""
        directory = os.path.dirname(path)
        try:
            status = os.stat(directory)
        except OSError as error:
            self.forget(path)
            self._raise_os(path, error)
        signature = (status.st_ino, status.st_mtime_ns)
        known = self._facts.get(directory)
        if known is not None and known.settled and known.signature == signature:
            return known
        stem = os.path.basename(path)[:-3]
        try:
            names = os.listdir(directory)
        except OSError as error:
            self._raise_os(path, error)
        mine = sorted(
            (name.partition(".db")[0], name)
            for name in names
            if name.endswith(".db") and name[:-3].partition("_")[0] == stem
        )
        if not mine:
            self._facts.pop(directory, None)
            raise DatabaseMissing(f"{path}: no database")
        settled = self.now() - status.st_mtime > self.settled_s
        found = Files(
            settled, signature, tuple(f"{directory}/{name}" for _, name in mine[-2:])
        )
        self._remember(directory, found)
        return found

    def is_file(self, path: str) -> bool:
        """True when a file of that name exists."""
        return os.path.isfile(path)

    def remember_redirects(self, path: str, files: Files, redirects: bool) -> None:
        """Keep what a look at the shard ranges of `files` found."""
        if files.settled:
            known = Files(True, files.signature, files.paths, redirects)
            self._remember(os.path.dirname(path), known)

    def _remember(self, directory: str, files: Files) -> None:
        if len(self._facts) >= _FACTS_MAX:
            self._facts.clear()
        self._facts[directory] = files

    # --- Connections ------------------------------------------------------------------

    @contextmanager
    def use(self, path: str) -> Iterator[DatabaseConnection]:
        """A connection for reading.

        Raises DatabaseMissing, DatabaseCorrupt after moving the directory aside,
        LockTimeout, DiskFull and DeviceUnavailable.
        """
        identity, connection = self._take(path)
        healthy = False
        try:
            yield connection
            healthy = True
        except sqlite3.Error as error:
            connection.close()
            self._raise(path, error)
        finally:
            if healthy and connection.reusable:
                self._give_back(path, identity, connection)
            else:
                connection.close()

    @contextmanager
    def transaction(self, path: str) -> Iterator[DatabaseConnection]:
        """A connection that holds the write lock; commits unless the block raises."""
        with self.use(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _take(self, path: str) -> tuple[tuple[int, int], DatabaseConnection]:
        try:
            status = os.stat(path)
        except OSError as error:
            self.forget(path)
            self._raise_os(path, error)
        identity = (status.st_dev, status.st_ino)
        while True:
            with self._guard:
                if self._pid != os.getpid():
                    # A forked child must not touch its parent's connections, not even
                    # to close them; they are left to the parent.
                    self._abandon()
                kept = self._idle.get(path)
                if not kept:
                    break
                known, connection = kept.pop()
                self._idle_count -= 1
                if not kept:
                    del self._idle[path]
            if known == identity:
                return identity, connection
            connection.close()
        return identity, self._open(path)

    def _open(self, path: str) -> DatabaseConnection:
        try:
            connection = sqlite3.connect(
                f"file:{quote(path)}?mode=rw",
                uri=True,
                timeout=self._busy_timeout_s,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=64,
                factory=DatabaseConnection,
            )
        except sqlite3.Error as error:
            self._raise(path, error)
        try:
            _prepare(connection)
            connection.set_trace_callback(self._trace)
        except sqlite3.Error as error:
            connection.close()
            self._raise(path, error)
        return connection

    def _give_back(
        self, path: str, identity: tuple[int, int], connection: DatabaseConnection
    ) -> None:
        surplus = None
        with self._guard:
            self._idle.setdefault(path, []).append((identity, connection))
            self._idle.move_to_end(path)
            self._idle_count += 1
            if self._idle_count > self._idle_max:
                oldest = next(iter(self._idle))
                _, surplus = self._idle[oldest].pop(0)
                self._idle_count -= 1
                if not self._idle[oldest]:
                    del self._idle[oldest]
        if surplus is not None:
            surplus.close()

    def _abandon(self) -> None:
        self._pid = os.getpid()
        # Kept alive on purpose: dropping the last reference would close them.
        self._parents = self._idle
        self._idle = OrderedDict()
        self._idle_count = 0

    def forget(self, path: str) -> None:
        """Close the kept connections of a file."""
        with self._guard:
            kept = self._idle.pop(path, [])
            self._idle_count -= len(kept)
        for _, connection in kept:
            connection.close()
        self._facts.pop(os.path.dirname(path), None)

    def close(self) -> None:
        """Close every kept connection."""
        for path in list(self._idle):
            self.forget(path)

    # --- Making and moving ------------------------------------------------------------

    def create(
        self,
        path: str,
        schema: str,
        fill: Callable[[DatabaseConnection], None],
    ) -> None:
        """Make a database file whole or not at all; raises DatabaseExists.

        schema: the statements that make the tables. fill: writes the first rows, in a
        transaction.
        """
        directory = os.path.dirname(path)
        temporary = f"{directory}/{uuid4().hex}.tmp"
        try:
            made = _make_directories(directory)
            connection = sqlite3.connect(
                temporary, isolation_level=None, factory=DatabaseConnection
            )
            try:
                connection.create_function("chexor", 3, chexor)
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("PRAGMA temp_store = MEMORY")
                connection.execute("PRAGMA journal_mode = MEMORY")
                _empty(schema).backup(connection)
                connection.execute("BEGIN")
                fill(connection)
                connection.execute("COMMIT")
            finally:
                connection.close()
            _sync(temporary)
            with self.lock(directory):
                if os.path.exists(path):
                    raise DatabaseExists(f"{path} exists")
                os.rename(temporary, path)
            for changed in (directory, *made):
                _sync(changed)
        except sqlite3.Error as error:
            self._raise(temporary, error)
        except OSError as error:
            self._raise_os(path, error)
        finally:
            with suppress(OSError):
                os.unlink(temporary)
        self._facts.pop(directory, None)

    def adopt(self, path: str) -> None:
        """Begin with a database file that was copied here, and with nothing older.

        An earlier copy of that name may have been in the hands of a process that was
        killed; its journal would be rolled back into the new file and spoil it.
        """
        self.forget(path)
        try:
            with suppress(FileNotFoundError):
                os.unlink(f"{path}-journal")
        except OSError as error:
            self._raise_os(path, error)

    def move_into_place(self, source: str, target: str, *, replace: bool) -> None:
        """Rename a whole database file; raises DatabaseExists unless `replace`."""
        self.forget(source)
        directory = os.path.dirname(target)
        try:
            made = _make_directories(directory)
            _sync(source)
            if not replace and os.path.exists(target):
                raise DatabaseExists(f"{target} exists")
            os.rename(source, target)
            for changed in (directory, *made):
                _sync(changed)
        except OSError as error:
            self._raise_os(source, error)
        self.forget(target)

    def quarantine(self, path: str, reason: str) -> DatabaseCorrupt:
        """Move the hash directory of a database aside; the error to raise then."""
        directory = os.path.dirname(path)
        self.forget(path)
        parts = directory.rsplit("/", 4)
        if len(parts) < 5:
            return DatabaseCorrupt(f"{path}: {reason}; not moved")
        device, kind, _, _, path_hash = parts
        target = f"{device}/quarantined/{kind}/{path_hash}"
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            try:
                os.rename(directory, target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                target = f"{target}-{uuid4().hex}"
                os.rename(directory, target)
        except OSError as error:
            self.report(f"database {path}: {reason}; cannot be moved aside ({error})")
            return DatabaseCorrupt(f"{path}: {reason}; cannot be moved aside")
        self.report(f"database {path}: {reason}; moved to {target}")
        return DatabaseCorrupt(f"{path}: {reason}; moved to {target}")

    def remove(self, path: str, still: Callable[[], bool] | None = None) -> bool:
        """Remove a database's directory and then its empty parents up to the kind.

        still: asked under the directory's lock, when no row can come in by the pending
        file; False keeps the database. False comes back then.
        """
        directory = os.path.dirname(path)
        with self.lock(directory):
            if still is not None and not still():
                return False
            self.forget(path)
            for name in os.listdir(directory):
                if name != ".lock":
                    with suppress(FileNotFoundError):
                        os.unlink(f"{directory}/{name}")
            with suppress(FileNotFoundError):
                os.unlink(f"{directory}/.lock")
            for _ in range(3):
                try:
                    os.rmdir(directory)
                except OSError:
                    break
                directory = os.path.dirname(directory)
        return True

    def state_of_file(self, path: str) -> tuple[int, int, bool]:
        """(time of the last change in ns, size, whether a transaction is open).

        Raises DatabaseMissing.
        """
        try:
            status = os.stat(path)
        except OSError as error:
            self._raise_os(path, error)
        return status.st_mtime_ns, status.st_size, os.path.exists(f"{path}-journal")

    def remove_leftovers(self, path: str, before: float) -> None:
        """Remove creation leftovers last changed before that time."""
        directory = os.path.dirname(path)
        for name in os.listdir(directory):
            if name.endswith(".tmp"):
                with suppress(FileNotFoundError):
                    if os.stat(f"{directory}/{name}").st_mtime < before:
                        os.unlink(f"{directory}/{name}")

    # --- Locks and pending files ------------------------------------------------------

    @contextmanager
    def lock(self, directory: str, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the directory's `.lock`; raises LockTimeout.

        Waits in its thread: 1 ms, doubling to 50 ms.
        """
        descriptor = self._open_lock(directory)
        try:
            waited, pause = 0.0, _WAIT_FIRST_S
            while not _locked(descriptor):
                if waited >= timeout_s:
                    raise LockTimeout(directory, timeout_s)
                threading.Event().wait(pause)
                waited += pause
                pause = min(pause * 2, _WAIT_MAX_S)
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self, directory: str) -> int:
        try:
            return os.open(f"{directory}/.lock", os.O_WRONLY | os.O_CREAT, 0o644)
        except OSError as error:
            self._raise_os(f"{directory}/.lock", error)

    def append_now(self, path: str, data: bytes) -> bool:
        """Append to the pending file of `path` if its lock is free and it is not full.

        Never waits; False when nothing was written.
        """
        descriptor = self._open_lock(os.path.dirname(path))
        try:
            return _locked(descriptor) and self._append(path, data) is not None
        finally:
            os.close(descriptor)

    def _append(self, path: str, data: bytes) -> int | None:
        """The size after appending, None when the file is full; the lock is held."""
        try:
            pending = os.open(
                f"{path}.pending", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
            )
            try:
                size = os.lseek(pending, 0, os.SEEK_END)
                if size > PENDING_MAX:
                    return None
                written = os.write(pending, data)
                if written != len(data):
                    os.ftruncate(pending, size)
                    raise OSError(errno.ENOSPC, "short write")
                return size + written
            finally:
                os.close(pending)
        except OSError as error:
            self._raise_os(path, error)

    def append(self, path: str, data: bytes, timeout_s: float) -> bool:
        """Append to the pending file, waiting for its lock; False when it is full."""
        with self.lock(os.path.dirname(path), timeout_s):
            return self._append(path, data) is not None

    def has_pending(self, path: str) -> bool:
        """True when the pending file of `path` holds anything."""
        try:
            return os.stat(f"{path}.pending").st_size > 0
        except OSError:
            return False

    def drain(
        self, path: str, merge: Callable[[bytes], None], timeout_s: float
    ) -> None:
        """Feed the pending file to `merge`, then empty it; raises LockTimeout."""
        with self.lock(os.path.dirname(path), timeout_s):
            try:
                pending = os.open(f"{path}.pending", os.O_RDWR)
            except FileNotFoundError:
                return
            except OSError as error:
                self._raise_os(path, error)
            try:
                data = b"".join(iter(lambda: os.read(pending, 1 << 20), b""))
                if data:
                    merge(data)
                    os.ftruncate(pending, 0)
            finally:
                os.close(pending)

    # --- Errors -----------------------------------------------------------------------

    def _raise(self, path: str, error: sqlite3.Error) -> NoReturn:
        """Turn what SQLite says into what a caller can do."""
        text = str(error)
        being_made = path.endswith(".tmp")
        if not being_made and not os.path.exists(path):
            self.forget(path)
            raise DatabaseMissing(f"{path}: no database") from error
        if getattr(error, "sqlite_errorname", "") in _WRITE_ERRORS:
            raise DeviceUnavailable(device_of(path), text) from error
        if not being_made and any(sign in text for sign in _CORRUPT):
            raise self.quarantine(path, text) from error
        if "locked" in text or "busy" in text:
            raise LockTimeout(path, self._busy_timeout_s) from error
        if "full" in text:
            raise DiskFull(device_of(path), text) from error
        if "unable to open" in text or "readonly" in text or being_made:
            raise DeviceUnavailable(device_of(path), text) from error
        raise error

    def _raise_os(self, path: str, error: OSError) -> NoReturn:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise DatabaseMissing(f"{path}: no database") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(device_of(path), str(error)) from error
        raise DeviceUnavailable(device_of(path), str(error)) from error


def _ignore(line: str) -> None:
    """Nobody listens."""


def _prepare(connection: sqlite3.Connection) -> None:
    connection.create_function("chexor", 3, chexor)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA temp_store = MEMORY")
    # Never WAL: databases are copied with rsync, as one file.
    connection.execute("PRAGMA journal_mode = DELETE")


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_directories(directory: str) -> list[str]:
    """Make a directory and its parents; the parents that got a new entry."""
    changed: list[str] = []
    missing = directory
    while not os.path.isdir(missing):
        missing = os.path.dirname(missing)
        changed.append(missing)
    try:
        os.makedirs(directory, exist_ok=True)
    except FileNotFoundError:
        # A replicator removes empty parents; it met this one before we filled it.
        os.makedirs(directory, exist_ok=True)
    return changed


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@cache
def _empty(schema: str) -> sqlite3.Connection:
    """A database without rows, in memory.

    To copy it costs a quarter of what running the statements of its schema does.
    """
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.executescript(schema)
    return connection


def run_script(connection: DatabaseConnection, script: str) -> None:
    """Run several statements inside the open transaction.

    sqlite3's executescript would commit first, and a half-made schema must not be seen.
    """
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
