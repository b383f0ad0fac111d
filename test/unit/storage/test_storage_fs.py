# SPDX-License-Identifier: Apache-2.0
"""The disk door: single steps, descriptors in use, answers from memory."""

from __future__ import annotations

import errno
import os

import pytest
from fake_disk import FakeDisk

from swift.core.errors import DeviceUnavailable, DiskFull, LockTimeout
from swift.storage.fs import FileSystem, Handle, as_domain_error, replace_file


@pytest.fixture
def fs():
    return FileSystem()


def test_an_unnamed_file_gets_its_name(fs, tmp_path):
    directory_fd = fs.open_directory(str(tmp_path))
    fd = fs.open_unnamed(directory_fd)
    if fd is None:
        pytest.skip("no unnamed files on this file system")
    fs.write(fd, [b"one", b"", b"two"])
    assert os.listdir(tmp_path) == []
    fs.link_unnamed(fd, "name", directory_fd)
    with pytest.raises(FileExistsError):
        fs.link_unnamed(fd, "name", directory_fd)
    fs.close(fd)
    fs.close(directory_fd)
    assert (tmp_path / "name").read_bytes() == b"onetwo"


def test_many_pieces_are_written(fs, tmp_path):
    fd = fs.open_append(str(tmp_path / "file"))
    assert fs.write(fd, [b"ab"] * 3000) == 6000
    fs.close(fd)
    assert fs.read_file(str(tmp_path / "file"), 10_000) == b"ab" * 3000
    assert fs.read_file(str(tmp_path / "file"), 3) == b"aba"


@pytest.mark.parametrize("size", [0, 10, 128, 3000])
def test_an_attribute_comes_back(fs, tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(b"")
    fd = fs.open_read(str(path))
    assert fs.get_xattr(fd, "user.a") is None
    fs.set_xattr(str(path), "user.a", b"v" * size)
    assert fs.get_xattr(fd, "user.a") == b"v" * size
    fs.close(fd)
    with pytest.raises(OSError, match="Bad file"):
        fs.get_xattr(fd, "user.a")


def test_what_is_cached_is_read_at_once(fs, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fd = fs.open_read(str(path))
    assert fs.read_cached(fd, 4, 3) in (b"3456", None)
    assert fs.read_cached(fd, 40, 3) is None
    fs.close(fd)


def test_a_cached_path_is_opened_or_unknown(fs, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    fd = fs.open_cached(str(tmp_path), directory=True)
    if fd is None:
        pytest.skip("the kernel does not tell what is cached")
    inner = fs.open_cached("file", directory_fd=fd)
    assert inner is not None
    assert os.read(inner, 1) == b"x"
    fs.close(inner)
    fs.close(fd)
    with pytest.raises(NotADirectoryError):
        fs.open_cached(str(tmp_path / "file"), directory=True)


def test_preallocation_leaves_the_length(fs, tmp_path):
    fd = fs.open_append(str(tmp_path / "file"))
    fs.preallocate(fd, 100_000)
    assert fs.size(fd) == 0
    with pytest.raises(OSError, match=r"space|large"):
        fs.preallocate(fd, 1 << 60)
    fs.close(fd)


def test_a_lock_excludes_other_descriptors(fs, tmp_path):
    path = str(tmp_path / ".lock")
    with fs.locked(path, 1), pytest.raises(LockTimeout), fs.locked(path, 0.03):
        pytest.fail("locked twice")
    with fs.locked(path, 0):
        pass


def test_replacing_a_file_leaves_old_or_new(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    disk = FakeDisk()
    disk.errors = {"sync": errno.EIO}
    with pytest.raises(OSError, match="Input/output"):
        replace_file(disk, str(path), b"new", str(tmp_path))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    disk.errors = {}
    replace_file(disk, str(path), b"new", str(tmp_path))
    assert path.read_bytes() == b"new"
    assert not disk.open_fds


def test_a_descriptor_in_use_is_closed_by_its_last_user(tmp_path):
    disk = FakeDisk()
    (tmp_path / "file").write_bytes(b"x")
    handle = Handle(disk, disk.open_read(str(tmp_path / "file")))
    with handle as fd, handle:
        handle.close()
        assert os.pread(fd, 1, 0) == b"x"
    assert not disk.open_fds
    handle.close()
    with pytest.raises(ValueError, match="closed"), handle:
        pass


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EIO, DeviceUnavailable),
        (errno.EROFS, DeviceUnavailable),
        (errno.EOPNOTSUPP, DeviceUnavailable),
    ],
)
def test_an_error_of_the_disk_is_told_to_the_domain(code, expected):
    error = as_domain_error(OSError(code, os.strerror(code)), "sda1")
    assert type(error) is expected
    assert error.device == "sda1"


def test_an_ordered_file_system_is_known_by_its_type(fs, tmp_path):
    fd = fs.open_directory(str(tmp_path))
    assert fs.orders_names(fd) in (True, False)
    fs.close(fd)
    fd = fs.open_directory("/proc")
    assert fs.orders_names(fd) is False
    fs.close(fd)
