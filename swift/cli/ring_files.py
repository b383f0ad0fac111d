# SPDX-License-Identifier: Apache-2.0
"""Builder and ring files on disk, for the ring commands.

A file is replaced as a whole or not at all. Backups stand in `backups/` beside the
file, named by the second in which they were made.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

from swift.core.errors import FormatError
from swift.core.ring.builder import RingBuilder
from swift.core.ring.codec import read_ring, write_ring
from swift.core.ring.ring import Ring

BUILDER_SUFFIX = ".builder"
RING_SUFFIX = ".ring.gz"
_BACKUPS = "backups"
_MODE = 0o644


def ring_path_of(builder_path: Path) -> Path:
    """Where the ring of a builder is written."""
    name = builder_path.name
    if name.endswith(BUILDER_SUFFIX):
        return builder_path.with_name(name.removesuffix(BUILDER_SUFFIX) + RING_SUFFIX)
    return builder_path.with_name(name + RING_SUFFIX)


def builder_path_of(path: Path) -> Path:
    """The builder that is meant by a builder's or a ring's path."""
    if path.name.endswith(RING_SUFFIX):
        return path.with_name(path.name.removesuffix(RING_SUFFIX) + BUILDER_SUFFIX)
    return path


def read_builder_file(path: Path) -> RingBuilder:
    """The builder in a file. Raises OSError, and FormatError for another file."""
    data = path.read_bytes()
    if is_composite(data):
        raise FormatError(str(path), "is a composite builder, not a ring builder")
    return RingBuilder.load(data)


def is_composite(data: bytes) -> bool:
    """True for the bytes of a composite builder file."""
    if not data.startswith(b"{"):
        return False
    try:
        return "components" in json.loads(data)
    except ValueError:
        return False


def write_builder_file(path: Path, builder: RingBuilder) -> None:
    """Replace the file; the builder gets its id when it is saved for the first time."""
    if builder.id is None:
        builder.id = uuid.uuid4().hex
    replace_file(path, builder.dump())


def read_ring_file(path: Path, *, allow_v0: bool = False) -> Ring:
    """The ring in a file. Raises OSError and FormatError."""
    return read_ring(path.read_bytes(), allow_v0=allow_v0)


def write_ring_file(
    path: Path, ring: Ring, version: int = 1, dev_id_bytes: int | None = None
) -> None:
    """Replace a ring file. Raises FormatError when the ids do not fit the version."""
    name = path.name.removesuffix(".gz")
    data = write_ring(ring, version, file_name=name, dev_id_bytes=dev_id_bytes)
    replace_file(path, data)


def backup_directory(path: Path) -> Path:
    """The directory of a file's backups, made if need be."""
    directory = path.parent / _BACKUPS
    directory.mkdir(exist_ok=True)
    return directory


def back_up(path: Path, now: float) -> None:
    """Copy the file as it is now."""
    replace_file(backup_directory(path) / f"{int(now)}.{path.name}", path.read_bytes())


def replace_file(path: Path, data: bytes) -> None:
    """Write a whole file durably: after any crash it holds the old or the new bytes.

    The temporary file has one name, as commands exclude each other: what one of them
    left that was killed is written over by the next.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), _MODE)
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
