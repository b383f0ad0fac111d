# SPDX-License-Identifier: Apache-2.0
"""The objects of one policy on this node: the engine behind `replication.fs`.

A manager makes DiskFiles from names or from what a walk of the disk finds, hashes
suffixes for replicas to compare, and keeps undelivered container updates. Another
engine implements the same methods and is found by its entry point in the group
swift.diskfile.
"""

from __future__ import annotations

from collections.abc import Iterable

from swift.core.errors import DeviceUnavailable, ObjectMissing
from swift.core.hashing import HashSalt, is_path_hash
from swift.core.names import ObjectName, is_safe_segment
from swift.core.policy import StoragePolicy
from swift.runtime import green
from swift.runtime.logs import Logger
from swift.runtime.metrics import Metrics
from swift.storage.devices import Devices
from swift.storage.fs import GONE, FileSystem, as_domain_error, the_disk
from swift.storage.object import hashes
from swift.storage.object.context import DiskConfig, DiskContext
from swift.storage.object.diskfile import DiskFile, OpenObject
from swift.storage.object.partitions import Partitions
from swift.storage.object.pending import PendingUpdates
from swift.storage.object.reader import FileSpan, ObjectReader
from swift.storage.object.writer import ObjectWriter

__all__ = [
    "DiskConfig",
    "DiskFile",
    "DiskFileManager",
    "FileSpan",
    "ObjectReader",
    "ObjectWriter",
    "OpenObject",
    "Partitions",
    "PendingUpdates",
]


class DiskFileManager:
    """Makes, finds and hashes the objects of one policy.

    fs: the disk door; tests hand in their own.
    """

    def __init__(
        self,
        config: DiskConfig,
        policy: StoragePolicy,
        salt: HashSalt,
        log: Logger,
        metrics: Metrics,
        *,
        fs: FileSystem | None = None,
    ) -> None:
        fs = fs or the_disk()
        devices = Devices(config.devices, config.mount_check, fs)
        self._context = DiskContext(fs, devices, config, policy, salt, log, metrics)
        self.config = config
        self.policy = policy
        self.devices = devices
        self.pending = PendingUpdates(self._context)
        self.partitions = Partitions(self._context)

    def diskfile(
        self,
        device: str,
        partition: str | int,
        name: ObjectName,
        *,
        next_part_power: int | None = None,
    ) -> DiskFile:
        """The object of a name, whether it exists or not.

        next_part_power: of the ring while its part power grows, for writes.
        Raises DeviceUnavailable.
        """
        return DiskFile(
            self._context,
            device=device,
            device_path=self.devices.path(device),
            partition=str(partition),
            path_hash=self._context.salt.digest_of_path(name.path).hex(),
            name=name,
            next_part_power=next_part_power,
        )

    def diskfile_by_hash(
        self,
        device: str,
        partition: str | int,
        path_hash: str,
        *,
        next_part_power: int | None = None,
    ) -> DiskFile:
        """The object of a hash directory; its name is known after opening.

        Raises DeviceUnavailable, ObjectMissing for what cannot be a hash.
        """
        if not is_path_hash(path_hash) or not is_safe_segment(str(partition)):
            raise ObjectMissing(f"{device}/{partition}/{path_hash}: no hash directory")
        return DiskFile(
            self._context,
            device=device,
            device_path=self.devices.path(device),
            partition=str(partition),
            path_hash=path_hash,
            name=None,
            next_part_power=next_part_power,
        )

    def suffix_hashes(
        self,
        device: str,
        partition: str | int,
        suffixes: Iterable[str] = (),
        *,
        list_directory: bool = False,
    ) -> hashes.SuffixHashes:
        """Suffix → digest of one partition, as REPLICATE answers it. Yields.

        suffixes: those to calculate anew. Raises DeviceUnavailable, LockTimeout.
        """
        return self.count_suffix_hashes(
            device, partition, suffixes, list_directory=list_directory
        )[1]

    def count_suffix_hashes(
        self,
        device: str,
        partition: str | int,
        suffixes: Iterable[str] = (),
        *,
        list_directory: bool = False,
    ) -> tuple[int, hashes.SuffixHashes]:
        """How many digests had to be calculated, and what `suffix_hashes` gives."""
        path = self._partition_path(device, partition)
        if not suffixes and not list_directory:
            remembered = hashes.remembered_in_memory(self._context.fs, path)
            if remembered is not None:
                return 0, remembered

        def calculate() -> tuple[int, hashes.SuffixHashes]:
            try:
                return hashes.suffix_hashes(
                    self._context, path, suffixes, list_directory=list_directory
                )
            except OSError as error:
                raise as_domain_error(error, device) from error

        return green.in_thread(calculate)

    def invalidate(self, device: str, partition: str | int, suffix: str) -> None:
        """Have a suffix hashed again by the next comparison. Yields.

        Raises DeviceUnavailable, LockTimeout.
        """
        path = self._partition_path(device, partition)

        def note() -> None:
            try:
                hashes.invalidate(self._context.fs, path, suffix)
            except OSError as error:
                if error.errno not in GONE:
                    raise as_domain_error(error, device) from error
                # What is not there has nothing to compare; it is listed once it is.

        green.in_thread(note)

    def _partition_path(self, device: str, partition: str | int) -> str:
        if not is_safe_segment(str(partition)):
            raise DeviceUnavailable(device, f"no partition {partition!r}")
        objects_dir = self.policy.objects_dir
        return f"{self.devices.path(device)}/{objects_dir}/{partition}"
