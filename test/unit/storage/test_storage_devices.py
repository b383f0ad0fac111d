# SPDX-License-Identifier: Apache-2.0
"""Devices: found, missing, not mounted."""

from __future__ import annotations

import errno
import os

import pytest

from swift.core.errors import DeviceUnavailable
from swift.storage.devices import Devices
from swift.storage.fs import FileSystem


class MountedDisk(FileSystem):
    """Pretends that some paths are on a file system of their own."""

    def __init__(self, mounted=(), failing=()):
        super().__init__()
        self.mounted = mounted
        self.failing = failing

    def status(self, path):
        if path in self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        facts = super().status(path)
        if path in self.mounted:
            fields = list(facts)
            fields[2] = facts.st_dev + 1
            return os.stat_result(fields)
        return facts


def test_a_directory_is_a_device_without_mount_check(tmp_path):
    (tmp_path / "sda1").mkdir()
    (tmp_path / "file").write_bytes(b"")
    devices = Devices(str(tmp_path), mount_check=False)
    assert devices.path("sda1") == f"{tmp_path}/sda1"
    assert devices.is_available("sda1")
    assert devices.names() == ["sda1"]
    for name in ("sdb1", "file", "", "..", ".", "a/b", "a\0b"):
        assert not devices.is_available(name)
        with pytest.raises(DeviceUnavailable):
            devices.path(name)


def test_with_mount_check_a_device_must_be_mounted(tmp_path):
    for name in ("sda1", "sdb1"):
        (tmp_path / name).mkdir()
    disk = MountedDisk(mounted=[f"{tmp_path}/sda1"])
    devices = Devices(str(tmp_path), mount_check=True, fs=disk)
    assert devices.is_available("sda1")
    with pytest.raises(DeviceUnavailable, match="not mounted"):
        devices.path("sdb1")


def test_a_failing_device_is_unavailable_and_still_listed(tmp_path):
    (tmp_path / "sda1").mkdir()
    disk = MountedDisk(failing=[f"{tmp_path}/sda1"])
    devices = Devices(str(tmp_path), mount_check=False, fs=disk)
    with pytest.raises(DeviceUnavailable, match="Input/output"):
        devices.path("sda1")


def test_a_missing_root_has_no_devices(tmp_path):
    assert Devices(str(tmp_path / "nowhere")).names() == []
