# SPDX-License-Identifier: Apache-2.0
"""Suffix hashes of a partition: what replicas compare instead of all objects.

`hashes.pkl` remembers one digest for each suffix directory; `hashes.invalid` is a log
of suffixes that changed since. A writer appends to the log before its file becomes
visible, so a killed process costs a needless recalculation and never a stale digest.
The log is not synced, as a third sync would cost a write half as much again: a loss of
power may take its last lines, and then peers that have the write show the difference.
Both files are touched under the partition's lock only. Everything here blocks.

Format: doc/source/formats/suffix-hashes.md (contract object-on-disk 7).
"""

from __future__ import annotations

import errno
import pickle
from collections.abc import Iterable
from contextlib import suppress
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
_RETRIES_MAX = 100
"""Recalculations that may lose against others before one counts all the same."""

_UNLISTABLE = frozenset((errno.ENODATA, errno.EUCLEAN, errno.ENOTDIR))

_VALID = "valid"
_UPDATED = "updated"

SuffixHashes = dict[str, SuffixHash]


def invalidate(fs: FileSystem, partition_path: str, suffix: str) -> None:
    """Note that a suffix is about to change. Raises LockTimeout, OSError."""
    with fs.locked(f"{partition_path}/{LOCK_FILE}", LOCK_TIMEOUT_S):
        fd = fs.open_append(f"{partition_path}/{INVALID_FILE}")
        try:
            fs.write(fd, [f"{suffix}\n".encode("ascii")])
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


def _attempt(
    context: DiskContext,
    partition_path: str,
    recalculate: Iterable[str],
    list_directory: bool,
    is_last: bool,
) -> tuple[int, SuffixHashes] | None:
    fs = context.fs
    try:
        with fs.locked(f"{partition_path}/{LOCK_FILE}", LOCK_TIMEOUT_S):
            stored = _consolidated(fs, partition_path)
    except OSError as error:
        if error.errno in GONE:
            return 0, {}
        raise
    hashes = dict(stored)
    was_valid = bool(hashes.get(_VALID))
    if not was_valid:
        hashes = {_VALID: True}
    if list_directory or not was_valid:
        for name in fs.list(partition_path):
            if len(name) == SUFFIX_LENGTH and is_suffix(name):
                hashes.setdefault(name, None)
    for suffix in recalculate:
        if is_suffix(suffix):
            hashes[suffix] = None
    calculated = 0
    for suffix in [name for name, value in hashes.items() if not value]:
        digest = _hash_suffix(context, f"{partition_path}/{suffix}")
        if digest is None:
            del hashes[suffix]
        else:
            hashes[suffix] = digest
            calculated += 1
    if hashes != stored:
        with fs.locked(f"{partition_path}/{LOCK_FILE}", LOCK_TIMEOUT_S):
            if _read(fs, partition_path) == stored or is_last:
                hashes.pop(_UPDATED, None)
                _write(fs, partition_path, hashes)
            else:
                return None
    hashes.pop(_VALID, None)
    hashes.pop(_UPDATED, None)
    return calculated, hashes


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


def _consolidated(fs: FileSystem, partition_path: str) -> dict[str, Any]:
    """The stored hashes after the log has been worked into them; the lock is held."""
    hashes = _read(fs, partition_path)
    log_path = f"{partition_path}/{INVALID_FILE}"
    try:
        log = fs.read_file(log_path, _SIZE_MAX)
    except FileNotFoundError:
        return hashes
    lines = log.decode("ascii", "replace").split("\n")
    changed = [line for line in lines if is_suffix(line)]
    if log:
        if changed and hashes.get(_VALID):
            for suffix in changed:
                hashes[suffix] = None
            _write(fs, partition_path, hashes)
            hashes = _read(fs, partition_path)
        fd = fs.open_write(log_path)
        try:
            fs.truncate(fd, 0)
        finally:
            fs.close(fd)
    return hashes


def _read(fs: FileSystem, partition_path: str) -> dict[str, Any]:
    """What hashes.pkl holds; `{valid: False}` when it is missing or broken."""
    try:
        data = fs.read_file(f"{partition_path}/{HASHES_FILE}", _SIZE_MAX)
        hashes = pickles.loads(data)
    except (FileNotFoundError, FormatError):
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


def _write(fs: FileSystem, partition_path: str, hashes: dict[str, Any]) -> None:
    record = {**hashes, _UPDATED: green.now()}
    temporary = f"{partition_path}/{_TEMPORARY_FILE}"
    fd = fs.open_append(temporary)
    try:
        fs.truncate(fd, 0)
        fs.write(fd, [pickle.dumps(record, protocol=2)])
        fs.sync(fd)
    finally:
        fs.close(fd)
    fs.rename(temporary, f"{partition_path}/{HASHES_FILE}")
