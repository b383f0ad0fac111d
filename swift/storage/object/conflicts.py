# SPDX-License-Identifier: Apache-2.0
"""A look at what is stored already, before a process works on it by wrong rules.

How the objects of a policy are coded must not change while there are any: their
archives would be cut in the wrong places, and sound ones be taken for corrupt. Objects
say how they were made, so one of each policy and device is asked at the start. All of
it blocks.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator
from contextlib import suppress

from swift.core import metadata as records
from swift.core.errors import ConfigError, DeviceUnavailable, FormatError
from swift.core.hashing import is_path_hash, is_suffix
from swift.core.headers import Headers
from swift.core.metadata import XATTR, XATTR_CHECKSUM
from swift.core.objectfiles import DATA
from swift.runtime.cluster import SWIFT_CONF, Cluster
from swift.storage.devices import Devices
from swift.storage.fs import FileSystem

_LOOKS_MAX = 100
"""Hash directories that are looked into for one record: a start must not take long."""


def check_stored_objects(devices: Devices, cluster: Cluster) -> None:
    """Raise ConfigError naming the policy, and its option, whose objects on a device of
    this node were made otherwise.

    Devices that are away and records that cannot be trusted are passed over.
    """
    for policy in cluster.policies:
        for device in devices.names():
            record = None
            with suppress(DeviceUnavailable, OSError):
                path = f"{devices.path(device)}/{policy.objects_dir}"
                record = next(_records(devices.fs, path), None)
            conflict = None if record is None else policy.redundancy.conflict(record)
            if conflict is not None:
                option, reason = conflict
                raise ConfigError(
                    os.path.join(cluster.swift_dir, SWIFT_CONF),
                    f"storage-policy:{policy.index}",
                    option,
                    f"policy {policy.name}: {reason} on device {device}; "
                    "it must not change while there are any",
                )


def _records(fs: FileSystem, tree: str) -> Iterator[Headers]:
    """The records of data files below an objects directory, of a few of them."""
    for _, directory in zip(
        range(_LOOKS_MAX), _hash_directories(fs, tree), strict=False
    ):
        for name in fs.list(directory):
            if name.endswith(DATA):
                record = _record(fs, f"{directory}/{name}")
                if record is not None:
                    yield record


def _hash_directories(fs: FileSystem, tree: str) -> Iterator[str]:
    for partition in filter(str.isdecimal, fs.list(tree)):
        for suffix in filter(is_suffix, fs.list(f"{tree}/{partition}")):
            path = f"{tree}/{partition}/{suffix}"
            for name in filter(is_path_hash, fs.list(path)):
                yield f"{path}/{name}"


def _record(fs: FileSystem, path: str) -> Headers | None:
    """A record of one attribute whose checksum is right, or None."""
    fd = fs.open_read(path)
    try:
        data = fs.get_xattr(fd, XATTR)
        checksum = fs.get_xattr(fd, XATTR_CHECKSUM)
    finally:
        fs.close(fd)
    if data is None or checksum != records.checksum(data):
        return None
    try:
        return records.decode(data)
    except FormatError:
        return None
