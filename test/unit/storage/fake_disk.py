# SPDX-License-Identifier: Apache-2.0
"""Disks that stand in the disk door: they stop, forget, fill up and fail on purpose."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from swift.storage.fs import FileSystem

CHANGES = (
    "make_directory",
    "remove_directory",
    "open_unnamed",
    "open_temporary",
    "open_append",
    "write",
    "truncate",
    "set_xattr",
    "set_time",
    "link_unnamed",
    "link",
    "rename",
    "unlink",
    "sync",
    "sync_data",
    "preallocate",
    "lock",
)
"""The methods after which a disk is, or may be, another."""


class Crash(BaseException):
    """The process is gone."""


class FakeDisk(FileSystem):
    """A real directory behind a disk that can be told to fail.

    steps: the changes made so far, by method. crash_at: number of the change that does
    not happen any more. errors: method → errno that it answers. Names are not ordered,
    so that every sync that durability needs must be asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []
        self.crash_at: int | None = None
        self.errors: dict[str, int] = {}
        self.space_left: tuple[int, int] | None = None
        self.has_unnamed = True
        self.open_fds: set[int] = set()

    def orders_names(self, fd):
        return False

    def keeps_log(self, fd):
        return False

    def open_unnamed(self, directory_fd):
        return super().open_unnamed(directory_fd) if self.has_unnamed else None

    def space(self, fd):
        return self.space_left or super().space(fd)


def _wrapped(name):
    inner = getattr(FakeDisk, name)

    def method(self, *arguments, **keywords):
        if self.crash_at is not None and len(self.steps) >= self.crash_at:
            raise Crash
        if name in self.errors:
            raise OSError(self.errors[name], os.strerror(self.errors[name]))
        result = inner(self, *arguments, **keywords)
        self.steps.append(name)
        return result

    return method


def _counted(name):
    """Keeps account of descriptors, so that a test can see that none is left."""
    inner = getattr(FakeDisk, name)

    def method(self, *arguments, **keywords):
        result = inner(self, *arguments, **keywords)
        fd = result[0] if isinstance(result, tuple) else result
        if fd is not None:
            self.open_fds.add(fd)
        return result

    return method


for _name in CHANGES:
    setattr(FakeDisk, _name, _wrapped(_name))
for _name in (
    "open_directory",
    "open_unnamed",
    "open_temporary",
    "open_read",
    "open_append",
    "open_write",
    "open_cached",
    "lock",
):
    setattr(FakeDisk, _name, _counted(_name))


def _close(self, fd):
    self.open_fds.discard(fd)
    FileSystem.close(self, fd)


FakeDisk.close = _close


class ForgetfulDisk(FakeDisk):
    """A disk that can lose its power: what was not synced is gone.

    A file keeps the bytes and attributes of its last sync, a directory its entries of
    that moment; everything below `root` at the start counts as synced. Times are kept
    as they were set: file systems write them to their log, in order.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self._files: dict[int, tuple[bytes, dict[str, bytes]]] = {}
        self._directories: dict[int, dict[str, tuple[int, bool]]] = {}
        self._times: dict[int, float] = {}
        # Numbers of files must not be used again while they are remembered.
        self._held: list[int] = []
        for path in [root, *root.rglob("*")]:
            self._remember(os.open(path, os.O_RDONLY))

    def sync(self, fd):
        super().sync(fd)
        # A writer's descriptor cannot be read from; ask for another of the same file.
        self._remember(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY))

    sync_data = sync

    def set_time(self, fd, seconds):
        super().set_time(fd, seconds)
        self._times[os.fstat(fd).st_ino] = seconds

    def _remember(self, fd):
        self._held.append(fd)
        facts = os.fstat(fd)
        if stat.S_ISDIR(facts.st_mode):
            self._directories[facts.st_ino] = {
                entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False))
                for entry in os.scandir(fd)
            }
        else:
            attributes = {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
            self._files[facts.st_ino] = os.pread(fd, facts.st_size, 0), attributes
            self._times.setdefault(facts.st_ino, facts.st_mtime)

    def lose_power(self, target: Path) -> Path:
        """Make in `target` what a restart finds, and return it."""
        self._rebuild(os.stat(self.root).st_ino, target)
        for fd in self._held:
            os.close(fd)
        self._held.clear()
        return target

    def _rebuild(self, inode, path):
        path.mkdir(parents=True, exist_ok=True)
        for name, (child, is_directory) in self._directories.get(inode, {}).items():
            if child in self._directories:
                self._rebuild(child, path / name)
            elif child in self._files:
                data, attributes = self._files[child]
                (path / name).write_bytes(data)
                for key, value in attributes.items():
                    os.setxattr(path / name, key, value)
            elif is_directory:
                (path / name).mkdir()
            else:
                # Named, but its bytes never reached the disk.
                (path / name).write_bytes(b"")
            if child in self._times:
                os.utime(path / name, (self._times[child], self._times[child]))


NO_SPACE = errno.ENOSPC
IO_ERROR = errno.EIO
