# SPDX-License-Identifier: Apache-2.0
"""The devices of this node: where each is, and whether it can be used.

A device is a directory below the devices root, normally the mount point of a disk.
Writing below a mount point whose disk is away would fill the root disk, so no code
makes the directory of a device, and every request asks here first. Contract
object-on-disk 1.
"""

from __future__ import annotations

import os
import stat

from swift.core.errors import DeviceUnavailable
from swift.core.names import is_safe_segment
from swift.storage.fs import FAILING, FileSystem, the_disk


class Devices:
    """The directories below one devices root."""

    def __init__(
        self, root: str, mount_check: bool = True, fs: FileSystem | None = None
    ) -> None:
        self.root = root
        self.mount_check = mount_check
        self.fs = fs or the_disk()

    def path(self, device: str) -> str:
        """The directory of a device that is there.

        Raises DeviceUnavailable when it is absent, no directory, failing or, under
        mount_check, not mounted. One stat: it does not wait for a healthy disk.
        """
        if not is_safe_segment(device):
            raise DeviceUnavailable(device, "no name of a device")
        path = f"{self.root}/{device}"
        try:
            facts = self.fs.status(path)
            if not stat.S_ISDIR(facts.st_mode):
                raise DeviceUnavailable(device, "is no directory")
            if self.mount_check and not self._is_mounted(path, facts):
                raise DeviceUnavailable(device, "is not mounted")
        except OSError as error:
            raise DeviceUnavailable(device, error.strerror or str(error)) from error
        return path

    def _is_mounted(self, path: str, facts: os.stat_result) -> bool:
        # A mount point is on another file system than its parent, or is the root.
        parent = self.fs.status(f"{path}/..")
        return facts.st_dev != parent.st_dev or facts.st_ino == parent.st_ino

    def is_available(self, device: str) -> bool:
        """True when `path` would give the directory."""
        try:
            self.path(device)
        except DeviceUnavailable:
            return False
        return True

    def names(self) -> list[str]:
        """The entries of the devices root that are directories, sorted."""
        try:
            found = self.fs.list(self.root)
        except OSError:
            return []
        return sorted(name for name in found if self._is_directory(name))

    def _is_directory(self, name: str) -> bool:
        try:
            return self.fs.is_directory(f"{self.root}/{name}")
        except OSError as error:
            # A failing device is listed, so that whoever walks the devices reports it.
            return error.errno in FAILING
