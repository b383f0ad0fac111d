# SPDX-License-Identifier: Apache-2.0
"""Removing what an object directory no longer needs, and the way into quarantine.

Everything here blocks; it is called from disk threads. Contract object-on-disk 6 and
10.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

from swift.core.objectfiles import FilePart, FileSet
from swift.storage.object.context import DiskContext

QUARANTINE_DIR = "quarantined"


def clean_up(
    context: DiskContext,
    directory: str,
    *,
    now: float,
    names: Sequence[str] | None = None,
) -> FileSet | None:
    """Remove obsolete and reclaimable files; what stands, or None when nothing does.

    An emptied directory is removed. names: what is in the directory, for who knows it.
    Raises OSError: ENOTDIR for a plain file in the place of the directory.
    """
    fs = context.fs
    if names is None:
        try:
            names = fs.list(directory)
        except FileNotFoundError:
            return None
    files, left = clean_names(context, directory, names, now=now)
    if left == 0:
        with suppress(OSError):  # a writer may have come in between
            fs.remove_directory(directory)
        return None
    return files


def clean_names(
    context: DiskContext, directory: str, names: Sequence[str], *, now: float
) -> tuple[FileSet, int]:
    """Remove what `names` of a directory make obsolete: what stands, names left."""
    files = context.policy.redundancy.choose(names)
    doomed = list(files.obsolete)
    age_max_s = context.config.reclaim_age
    tombstone = files.tombstone
    if tombstone is not None and now - tombstone.timestamp.seconds > age_max_s:
        doomed.append(tombstone)
        files = replace(files, tombstone=None)
    doomed += [
        part
        for part in files.reclaimable
        if now - part.timestamp.seconds > age_max_s
        and not is_awaiting_commit(context, directory, part, now)
    ]
    for part in doomed:
        with suppress(FileNotFoundError):
            context.fs.unlink(f"{directory}/{part.name}")
    return files, len(names) - len(doomed)


def is_awaiting_commit(
    context: DiskContext, directory: str, part: FilePart, now: float
) -> bool:
    """True for a fragment whose commit may still come, by the time of its file."""
    if part.fragment_index is None or not context.config.commit_window:
        return False
    try:
        changed = context.fs.status(f"{directory}/{part.name}").st_mtime
    except FileNotFoundError:
        return False
    return now - changed <= context.config.commit_window


def move_aside(context: DiskContext, device_path: str, directory: str) -> str:
    """Rename an object or suffix directory into quarantine; the new path.

    The caller has invalidated the suffix. Raises OSError.
    """
    fs = context.fs
    parent = f"{device_path}/{QUARANTINE_DIR}/{context.policy.objects_dir}"
    for path in (f"{device_path}/{QUARANTINE_DIR}", parent):
        with suppress(FileExistsError):
            fs.make_directory(path)
    target = f"{parent}/{directory.rsplit('/', 1)[-1]}"
    try:
        fs.rename(directory, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        target = f"{target}-{UUID(bytes=fs.random_bytes(16), version=4).hex}"
        fs.rename(directory, target)
    return target
