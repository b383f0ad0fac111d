# SPDX-License-Identifier: Apache-2.0
"""The second phase of a write in two: data that is on disk becomes the object.

One rename does it. Until then the file is data whose commit was not seen, which readers
may use when another node has seen it, and which a clean-up removes once it is old. The
rename and the removal of what it replaces are repeated by whoever comes next if this
process dies in between. Contract object-on-disk 6.1 and 8.
"""

from __future__ import annotations

from dataclasses import replace

from swift.core.hashing import partition_of_hex
from swift.core.objectfiles import DATA, FilePart
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.storage.fs import GONE, as_domain_error
from swift.storage.object import hashes
from swift.storage.object.cleanup import clean_up
from swift.storage.object.commit import Place
from swift.storage.object.context import DiskContext


def make_durable(
    context: DiskContext, place: Place, timestamp: Timestamp, fragment_index: int
) -> None:
    """Commit the fragment of that time; durable on return. Blocks.

    When something newer has removed it meanwhile, there is nothing left to do. Raises
    DeviceUnavailable, LockTimeout.
    """
    part = FilePart(timestamp, DATA, None, fragment_index)
    redundancy = context.policy.redundancy
    source = redundancy.file_name(part)
    target = redundancy.file_name(replace(part, durable=True))
    _rename(context, place, place.partition, source, target, timestamp)
    power = place.next_part_power
    if power is None:
        return
    other = partition_of_hex(place.path_hash, power)
    if str(other) == place.partition:
        return  # the older partition was tidied up when the data was written
    try:
        _rename(context, place, str(other), source, target, timestamp)
    except OSError as error:
        # The relinker makes up for it; the object itself is durable.
        context.log.error(
            "object %s: not durable in partition %s (%s)", place.path_hash, other, error
        )


def _rename(
    context: DiskContext,
    place: Place,
    partition: str,
    source: str,
    target: str,
    timestamp: Timestamp,
) -> None:
    fs = context.fs
    objects_dir = context.policy.objects_dir
    directory = place.directory(objects_dir, partition)
    try:
        hashes.invalidate(
            fs, place.partition_path(objects_dir, partition), place.suffix
        )
        try:
            fs.rename(f"{directory}/{source}", f"{directory}/{target}")
        except FileNotFoundError:
            if not _is_settled(context, directory, timestamp):
                raise
            return
        fs.sync_directory(directory)
    except OSError as error:
        raise as_domain_error(error, place.device) from error
    try:
        clean_up(context, directory, now=green.now())
    except OSError as error:
        # The object is durable; what is left over goes with the next clean-up.
        context.log.warning("object %s: not tidied (%s)", directory, error)


def _is_settled(context: DiskContext, directory: str, timestamp: Timestamp) -> bool:
    """True when data as new is durable already, or something newer stands there."""
    try:
        names = context.fs.list(directory)
    except OSError as error:
        if error.errno in GONE:
            return False
        raise
    files = context.policy.redundancy.choose(names)
    if files.tombstone is not None and files.tombstone.timestamp >= timestamp:
        return True
    since = files.durable_timestamp
    return since is not None and since >= timestamp
