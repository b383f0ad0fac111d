# SPDX-License-Identifier: Apache-2.0
"""What a write finds in the place of an object: data, a tombstone or nothing.

A write asks less than a read does. The names in the directory tell how old the object
is, and its record is asked for an X-Delete-At; the rest of it is about to go. So as a
rule a glance is enough, and only where that leaves a doubt is the object opened, and
held to all that a read holds it to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swift.core import expiry
from swift.core import metadata as records
from swift.core.errors import (
    FormatError,
    ObjectDeleted,
    ObjectMissing,
    ObjectQuarantined,
)
from swift.core.headers import CONTENT_TYPE, ETAG, X_DELETE_AT
from swift.core.metadata import NAME
from swift.core.timestamp import ZERO, Timestamp
from swift.storage.object.diskfile import DiskFile, Glance, OpenObject

_DELETE_AT = X_DELETE_AT.encode("ascii")


@dataclass(frozen=True, slots=True)
class Existing:
    """What stands in an object's place.

    timestamp: of the data or the tombstone, ZERO for nothing. is_live: data that has
    not expired. names: in the directory, empty when it is missing; None: not known.
    """

    timestamp: Timestamp
    is_live: bool = False
    delete_at: int | None = None
    content_type: str = ""
    etag: str = ""
    names: Sequence[str] | None = None


NOTHING = Existing(ZERO)

Opening = Callable[..., OpenObject]
"""`open` or `open_blocking` of a DiskFile."""


def existing(
    opening: Opening, now: float, fragment_index: int | None = None
) -> Existing:
    """What stands there, as who opens it finds. Yields or blocks, as `opening` does.

    Expired data is told from live data by `now`.
    """
    try:
        opened = opening(now, open_expired=True, fragment_index=fragment_index)
    except ObjectDeleted as error:
        return Existing(error.timestamp)
    except (ObjectMissing, ObjectQuarantined):
        return NOTHING
    with opened:
        delete_at = expiry.delete_at_of(opened.metadata)
        return Existing(
            opened.data_timestamp,
            delete_at is None or delete_at > now,
            delete_at,
            opened.metadata.get(CONTENT_TYPE, ""),
            opened.etag,
        )


def look(
    disk: DiskFile,
    now: float,
    *,
    wants_record: bool = True,
    fragment_index: int | None = None,
) -> Existing:
    """As `existing`, at a glance if that will do. Blocks.

    wants_record: tell content_type and etag, too.
    """
    glance = disk.glance()
    found = None if glance is None else _told_by(glance, disk, now, wants_record)
    if found is None:
        found = existing(disk.open_blocking, now, fragment_index)
    return found


def _told_by(
    glance: Glance, disk: DiskFile, now: float, wants_record: bool
) -> Existing | None:
    """What a glance tells; None when it leaves a doubt."""
    data = glance.data
    if data is None:
        tombstone = glance.tombstone
        when = ZERO if tombstone is None else tombstone.timestamp
        return Existing(when, names=glance.names)
    raw = glance.record
    if not wants_record and _DELETE_AT not in raw:
        path = disk.name.path if disk.name is not None else ""
        if path and path.isascii() and path.encode("ascii") in raw:
            return Existing(data.timestamp, True, names=glance.names)
    try:
        record = records.decode(raw)
        delete_at = expiry.delete_at_of(record)
    except (FormatError, ValueError):
        return None
    if disk.name is None or dict.get(record, NAME) != disk.name.path:
        return None
    return Existing(
        data.timestamp,
        delete_at is None or delete_at > now,
        delete_at,
        record.get(CONTENT_TYPE, ""),
        record.get(ETAG, ""),
        glance.names,
    )
