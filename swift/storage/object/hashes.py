# SPDX-License-Identifier: Apache-2.0
"""Suffix hashes of a partition: what replicas compare instead of all objects.

`hashes.pkl` remembers one digest for each suffix directory; `hashes.invalid` is a log
of suffixes that changed since. A writer appends to the log before its file becomes
visible, so a killed process costs a needless recalculation and never a stale digest.

Neither file is synced, as a third sync would cost a write half as much again. A loss of
power may take hashes.pkl, which is made anew then, and lines of the log, which would
leave a digest stale. So the log's modification time says how long it is: one second
since 1970 for a byte. File systems that keep a log of names write times to that log in
order, so the time is durable when the name of the object is; a log that is shorter than
its time has lost lines, and all of its partition is hashed again; it stays so when
lines are added to it. A time of any other year was left by a system that does not know
of this.

Both files are changed under the partition's lock only. Everything here blocks.

Format: doc/source/formats/suffix-hashes.md (contract object-on-disk 7), decision 0015.
"""

from __future__ import annotations

import errno
import pickle
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from swift.core import pickles
from swift.core.errors import FormatError
from swift.core.hashing import SUFFIX_LENGTH, is_suffix
from swift.core.objectfiles import FileSet
from swift.core.redundancy import SuffixHash
from swift.runtime import green
from swift.storage.fs import GONE, FileSystem
from swift.storage.object.cleanup import clean_up, move_aside
from swift.storage.object.context import DiskContext

HASHES_FILE = "hashes.pkl"
INVALID_FILE = "hashes.invalid"
_TEMPORARY_FILE = "hashes.pkl.tmp"
"""What becomes hashes.pkl. Only the holder of the lock makes it, so one name is enough,
and whoever finds it after a crash has the same to write again: it writes over it."""

LOCK_FILE = ".lock"
LOCK_TIMEOUT_S = 10.0
_SIZE_MAX = 16 * 1024 * 1024
"""Bytes that either file may have; as a time, a day of July 1970."""
_LINE_BYTES = SUFFIX_LENGTH + 1
_RETRIES_MAX = 100
"""Recalculations that may lose against others before one counts all the same."""

_UNLISTABLE = frozenset((errno.ENODATA, errno.EUCLEAN, errno.ENOTDIR))

_VALID = "valid"
_UPDATED = "updated"

SuffixHashes = dict[str, SuffixHash]


def invalidate(fs: FileSystem, partition_path: str, *suffixes: str) -> None:
    """Note that suffixes are about to change. Raises LockTimeout, OSError."""
    lines = "".join(f"{name}\n" for name in suffixes).encode("ascii")
    with fs.locked(f"{partition_path}/{LOCK_FILE}", LOCK_TIMEOUT_S):
        fd = fs.open_append(f"{partition_path}/{INVALID_FILE}")
        try:
            before = fs.status(fd)
            try:
                fs.write(fd, [lines])
            except OSError:
                # Half a line would spoil the one that comes next.
                with suppress(OSError):
                    fs.truncate(fd, before.st_size)
                    fs.set_time(fd, before.st_mtime)
                raise
            # Who is shorter than he was stays so until he is read.
            length = max(before.st_size, _noted_length(before.st_mtime))
            fs.set_time(fd, length + len(lines))
        finally:
            fs.close(fd)


def suffix_hashes(
    context: DiskContext,
    partition_path: str,
    recalculate: Iterable[str] = (),
    *,
    list_directory: bool = False,
) -> tuple[int, SuffixHashes]:
    """(number of digests calculated, suffix → digest) of one partition.

    recalculate: suffixes whose digest is made anew whatever is remembered.
    list_directory: look for suffix directories that nothing has announced.
    A partition that does not exist has no hashes. Raises LockTimeout, OSError.
    """
    recalculate = tuple(filter(is_suffix, recalculate))
    if not recalculate and not list_directory:
        remembered = _remembered(context.fs, partition_path)
        if remembered is not None:
            return 0, remembered
    for attempt in range(_RETRIES_MAX):
        found = _attempt(
            context,
            partition_path,
            recalculate,
            list_directory,
            is_last=attempt == _RETRIES_MAX - 1,
        )
        if found is not None:
            return found
        # Suffixes asked for stay asked for, as their files may have changed again.
    raise AssertionError("the last attempt does not ask for another")


def _remembered(fs: FileSystem, partition_path: str) -> SuffixHashes | None:
    """All digests, if there is nothing to calculate; None when there may be.

    This is what a pass over an unchanged partition costs, so no lock is taken: the log
    is looked at first, and whoever empties it has stored its lines before.
    """
    try:
        facts = fs.status(f"{partition_path}/{INVALID_FILE}")
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in GONE:
            return {}
        raise
    else:
        if facts.st_size or _noted_length(facts.st_mtime):
            return None
    hashes = _read(fs, partition_path)
    return _digests(hashes) if all(hashes.values()) else None


def remembered_in_memory(fs: FileSystem, partition_path: str) -> SuffixHashes | None:
    """As a comparison needs them, if the kernel has both files in memory; else None.

    None also when there is something to calculate. Never waits for a disk, so it saves
    a pass over an unchanged partition the hop to a disk thread.
    """
    try:
        if not _is_surely_empty(fs, f"{partition_path}/{INVALID_FILE}"):
            return None
        fd = fs.open_cached(f"{partition_path}/{HASHES_FILE}")
        if fd is None:
            return None
        try:
            data = fs.read_cached(fd, min(fs.size(fd), _SIZE_MAX), 0)
        finally:
            fs.close(fd)
    except OSError:
        return None  # a disk thread finds out what that means
    if data is None:
        return None
    hashes = _parsed(data)
    return _digests(hashes) if all(hashes.values()) else None


def _is_surely_empty(fs: FileSystem, log_path: str) -> bool:
    """True for a log with nothing in it, as far as that is in memory."""
    try:
        fd = fs.open_cached(log_path)
    except FileNotFoundError:
        return True
    if fd is None:
        return False
    try:
        facts = fs.status(fd)
    finally:
        fs.close(fd)
    return not facts.st_size and not _noted_length(facts.st_mtime)


def _attempt(
    context: DiskContext,
    partition_path: str,
    recalculate: Sequence[str],
    list_directory: bool,
    is_last: bool,
) -> tuple[int, SuffixHashes] | None:
    """Calculate once; None when another was quicker, so that it counts for nothing."""
    fs = context.fs
    try:
        with fs.locked(f"{partition_path}/{LOCK_FILE}", LOCK_TIMEOUT_S):
            stored = _read(fs, partition_path)
            log = _read_log(fs, partition_path)
    except OSError as error:
        if error.errno in GONE:
            return 0, {}
        raise
    is_known = bool(stored.get(_VALID)) and log.is_whole
    hashes: dict[str, Any] = dict(stored) if is_known else {_VALID: True}
    if list_directory or not is_known:
        for name in fs.list(partition_path):
            if len(name) == SUFFIX_LENGTH and is_suffix(name):
                hashes.setdefault(name, None)
    for suffix in (*log.suffixes, *recalculate):
        hashes[suffix] = None
    calculated = 0
    for suffix in [name for name, value in hashes.items() if not value]:
        digest = _hash_suffix(context, f"{partition_path}/{suffix}")
        if digest is None:
            del hashes[suffix]
        else:
            hashes[suffix] = digest
            calculated += 1
    if hashes != stored or not log.is_empty:
        with fs.locked(f"{partition_path}/{LOCK_FILE}", LOCK_TIMEOUT_S):
            if _read(fs, partition_path) != stored and not is_last:
                return None
            _store(fs, partition_path, hashes, log, changed=hashes != stored)
    return calculated, _digests(hashes)


def _digests(hashes: dict[str, Any]) -> SuffixHashes:
    """What a file holds, but for the words that are no suffixes."""
    hashes.pop(_VALID, None)
    hashes.pop(_UPDATED, None)
    return hashes


def _store(
    fs: FileSystem,
    partition_path: str,
    hashes: dict[str, Any],
    log: _Log,
    changed: bool,
) -> None:
    """Remember digests, and empty the log that they are made from; the lock is held.

    What has been noted meanwhile is remembered as unknown.
    """
    now = _read_log(fs, partition_path)
    late = now.without(log)
    if changed or late:
        record = {**hashes, **dict.fromkeys(late)}
        record.pop(_UPDATED, None)
        _write(fs, partition_path, {**record, _UPDATED: green.now()})
    if not now.is_empty:
        fd = fs.open_write(f"{partition_path}/{INVALID_FILE}")
        try:
            fs.truncate(fd, 0)
            fs.set_time(fd, 0)
        finally:
            fs.close(fd)


def _hash_suffix(context: DiskContext, suffix_path: str) -> SuffixHash | None:
    """The digest of one suffix directory, cleaned up; None when nothing is left."""
    fs, redundancy = context.fs, context.policy.redundancy
    try:
        names = sorted(
            fs.list(suffix_path),
            key=lambda name: name.encode("utf-8", "surrogateescape"),
        )
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
    objects: list[FileSet] = []
    for name in names:
        try:
            files = clean_up(context, f"{suffix_path}/{name}", now=green.now())
        except OSError as error:
            if error.errno not in _UNLISTABLE:
                raise
            _move_aside(context, f"{suffix_path}/{name}", error)
            continue
        if files is not None:
            objects.append(files)
    if not objects:
        with suppress(OSError):
            fs.remove_directory(suffix_path)
            return None
    return redundancy.suffix_hashes(objects)


def _move_aside(context: DiskContext, path: str, reason: OSError) -> None:
    """Put what should be a hash directory, and cannot be listed, into quarantine."""
    device_path = path.rsplit("/", 4)[0]
    target = move_aside(context, device_path, path)
    context.metrics.increment("quarantines")
    context.log.error("object %s: quarantined to %s: %s", path, target, reason.strerror)


@dataclass(frozen=True, slots=True)
class _Log:
    """What hashes.invalid held. is_whole: False when lines of it have been lost."""

    data: bytes = b""
    is_whole: bool = True

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to do, and nothing was lost."""
        return self.is_whole and not self.data

    @property
    def suffixes(self) -> list[str]:
        """Those that have changed; other lines mean nothing."""
        lines = self.data.decode("ascii", "replace").split("\n")
        return [line for line in lines if is_suffix(line)]

    def without(self, older: _Log) -> list[str]:
        """Suffixes noted since `older` was read."""
        if not self.data.startswith(older.data):
            return self.suffixes
        return _Log(self.data[len(older.data) :]).suffixes


def _read_log(fs: FileSystem, partition_path: str) -> _Log:
    path = f"{partition_path}/{INVALID_FILE}"
    try:
        facts = fs.status(path)
        data = fs.read_file(path, _SIZE_MAX) if facts.st_size else b""
    except FileNotFoundError:
        return _Log()
    # A block that was not written before the power went reads as zeros.
    is_whole = (
        _noted_length(facts.st_mtime) <= facts.st_size <= _SIZE_MAX
        and b"\0" not in data
        and not len(data) % _LINE_BYTES
    )
    return _Log(data, is_whole)


def _noted_length(changed_s: float) -> int:
    """The length of a log that its modification time tells; 0 when it tells none."""
    return int(changed_s) if changed_s <= _SIZE_MAX else 0


def _read(fs: FileSystem, partition_path: str) -> dict[str, Any]:
    """What hashes.pkl holds; `{valid: False}` when it is missing or broken."""
    try:
        data = fs.read_file(f"{partition_path}/{HASHES_FILE}", _SIZE_MAX)
    except FileNotFoundError:
        return {_VALID: False}
    return _parsed(data)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        hashes = pickles.loads(data)
    except FormatError:
        return {_VALID: False}
    if not isinstance(hashes, dict):
        return {_VALID: False}
    hashes.setdefault(_VALID, True)
    hashes.setdefault(_UPDATED, -1)
    for key in hashes:
        if key not in (_VALID, _UPDATED) and not (
            isinstance(key, str) and is_suffix(key)
        ):
            return {_VALID: False}
    return dict(hashes)


def _write(fs: FileSystem, partition_path: str, record: dict[str, Any]) -> None:
    temporary = f"{partition_path}/{_TEMPORARY_FILE}"
    fd = fs.open_append(temporary)
    try:
        fs.truncate(fd, 0)
        fs.write(fd, [pickle.dumps(record, protocol=2)])
    finally:
        fs.close(fd)
    fs.rename(temporary, f"{partition_path}/{HASHES_FILE}")
