# SPDX-License-Identifier: Apache-2.0
"""What the object rooms share: the options of the disks, and the collaborators."""

from __future__ import annotations

from dataclasses import dataclass

from swift.core.hashing import HashSalt
from swift.core.policy import StoragePolicy
from swift.core.settings import Reserve, boolean, natural, option, positive_int, reserve
from swift.runtime.logs import Logger
from swift.runtime.metrics import Metrics
from swift.storage.devices import Devices
from swift.storage.fs import FileSystem


@dataclass(frozen=True)
class DiskConfig:
    """Options of object-server.conf that the object engine reads."""

    devices: str = option("/srv/node", doc="Directory in which devices are mounted.")
    mount_check: bool = option(
        True, parse=boolean, doc="Refuse devices that are no mount points."
    )
    disable_fallocate: bool = option(
        False, parse=boolean, doc="Do not reserve space before a write."
    )
    fallocate_reserve: Reserve = option(
        Reserve(percent=1.0),
        parse=reserve,
        doc="Free space, bytes or percent, below which writes are refused.",
    )
    disk_chunk_size: int = option(
        65536, parse=positive_int, doc="Bytes read from disk at a time."
    )
    mb_per_sync: int = option(
        512, parse=positive_int, doc="MiB written between two flushes of an upload."
    )
    keep_cache_size: int = option(
        5242880, parse=natural, doc="Objects up to this size stay in the page cache."
    )
    direct_writes: bool = option(
        True, parse=boolean, doc="Write larger objects past the page cache."
    )
    reclaim_age: int = option(
        604800, parse=natural, doc="Seconds after which tombstones are removed."
    )
    commit_window: int = option(
        60, parse=natural, doc="Seconds that a fragment waits for its commit."
    )
    splice: bool = option(
        False, parse=boolean, doc="Send bodies from disk to socket in the kernel."
    )


@dataclass(frozen=True, slots=True)
class DiskContext:
    """The collaborators of every object of one policy on this node."""

    fs: FileSystem
    devices: Devices
    config: DiskConfig
    policy: StoragePolicy
    salt: HashSalt
    log: Logger
    metrics: Metrics
