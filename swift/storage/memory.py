# SPDX-License-Identifier: Apache-2.0
"""A disk door with nothing behind it but this process's memory.

The object engine works on it as on a disk: directories, files without a name, extended
attributes, locks, and no room once `size_bytes` are used. What was stored is gone when
the process ends, and no other process ever sees it, so nothing here needs a sync.
Descriptors are this door's own numbers; the kernel knows none of them.

Used by egg:swift#mem_object (services/mem_object).
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from swift.core.errors import LockTimeout
from swift.runtime import green
from swift.storage.fs import FileSystem

_FIRST_FD = 1 << 24
"""Beyond what the kernel gives out, so that no number can mean a file of both."""

_NODE_BYTES = 512
"""What a file or directory is taken to use beside its bytes."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Node:
    """A file or directory. links: names that lead to it. uses: open descriptors."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.changed = green.now()
        self.links = 0
        self.uses = 0
        self.attributes: dict[str, bytes] = {}


class _File(_Node):
    """A file. locked_by: the descriptor that holds its lock."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.content = bytearray()
        self.locked_by: int | None = None


class _Directory(_Node):
    """A directory; without a link it has been removed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.entries: dict[str, _Node] = {}


_N = TypeVar("_N", bound=_Node)


class _Opened:
    """What a descriptor stands for.

    position: where the next write goes; None for the end of the file.
    """

    def __init__(self, node: _Node, position: int | None = 0) -> None:
        self.node = node
        self.position = position


def _alone(
    method: Callable[Concatenate[MemoryDisk, _P], _R],
) -> Callable[Concatenate[MemoryDisk, _P], _R]:
    """Have a method run while no other thread is in the door."""

    @wraps(method)
    def run(self: MemoryDisk, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._turn:
            return method(self, *args, **kwargs)

    return run


class MemoryDisk(FileSystem):
    """Devices in memory.

    root: the devices directory. Whatever name is asked for in it is a directory: no
    device is ever missing. size_bytes: what all devices together may use; beyond it
    writes fail with ENOSPC.
    """

    has_descriptors = False

    def __init__(self, root: str, size_bytes: int) -> None:
        super().__init__()
        self._turn = threading.Condition()
        self._numbers = itertools.count(1)
        self._fds = itertools.count(_FIRST_FD)
        self._opened: dict[int, _Opened] = {}
        self._size = size_bytes
        self._used = 0
        self._top = _Directory(next(self._numbers))
        self._top.links = 1
        self._devices = self._top
        for name in _parts(root):
            made = _Directory(next(self._numbers))
            _enter(self._devices, name, made)
            self._devices = made

    # --- finding ------------------------------------------------------------------

    def _step(self, node: _Node, name: str, path: str) -> _Node:
        """What `name` leads to from a directory."""
        if not isinstance(node, _Directory):
            raise _error(errno.ENOTDIR, path)
        found = node.entries.get(name)
        if found is None and node is self._devices:
            found = self._make(_Directory)
            _enter(node, name, found)
        if found is None:
            raise _error(errno.ENOENT, path)
        return found

    def _find(self, path: str | int, directory_fd: int | None = None) -> _Node:
        """What a path or an open descriptor stands for."""
        if isinstance(path, int):
            return self._of(path).node
        node: _Node = self._top
        if directory_fd is not None and not path.startswith("/"):
            node = self._of(directory_fd).node
        for name in _parts(path):
            node = self._step(node, name, path)
        return node

    def _find_parent(
        self, path: str, directory_fd: int | None = None
    ) -> tuple[_Directory, str]:
        """The directory that a name stands in, or may stand in, and the name."""
        parent, _, name = path.rstrip("/").rpartition("/")
        if not parent and directory_fd is not None:
            node = self._of(directory_fd).node
        else:
            node = self._find(parent)
        if not isinstance(node, _Directory):
            raise _error(errno.ENOTDIR, path)
        if not node.links:
            raise _error(errno.ENOENT, path)
        return node, name

    def _file(self, path: str | int, directory_fd: int | None = None) -> _File:
        node = self._find(path, directory_fd)
        if not isinstance(node, _File):
            raise _error(errno.EISDIR, path)
        return node

    def _directory(self, path: str | int) -> _Directory:
        node = self._find(path)
        if not isinstance(node, _Directory):
            raise _error(errno.ENOTDIR, path)
        return node

    def _of(self, fd: int) -> _Opened:
        opened = self._opened.get(fd)
        if opened is None:
            raise _error(errno.EBADF, fd)
        return opened

    # --- room, and who holds it -----------------------------------------------------

    def _take(self, count: int) -> None:
        if count > self._size - self._used:
            raise _error(errno.ENOSPC, "memory")
        self._used += count

    def _make(self, kind: type[_N]) -> _N:
        self._take(_NODE_BYTES)
        return kind(next(self._numbers))

    def _open(self, node: _Node, position: int | None = 0) -> int:
        fd = next(self._fds)
        self._opened[fd] = _Opened(node, position)
        node.uses += 1
        return fd

    def _release(self, node: _Node) -> None:
        """Give back the room of what neither a name nor a descriptor leads to."""
        if not node.links and not node.uses:
            length = len(node.content) if isinstance(node, _File) else 0
            self._used -= _NODE_BYTES + length + _attributes_length(node)

    def _remove(self, parent: _Directory, name: str) -> None:
        node = parent.entries.pop(name)
        parent.changed = green.now()
        node.links -= 1
        self._release(node)

    # --- directories --------------------------------------------------------------

    @_alone
    def list(self, path: str | int) -> list[str]:
        return list(self._directory(path).entries)

    @_alone
    def make_directory(self, path: str) -> None:
        parent, name = self._find_parent(path)
        if name in parent.entries:
            raise _error(errno.EEXIST, path)
        _enter(parent, name, self._make(_Directory))

    @_alone
    def open_directory(self, path: str) -> int:
        return self._open(self._directory(path))

    @_alone
    def remove_directory(self, path: str) -> None:
        directory = self._directory(path)
        if directory.entries:
            raise _error(errno.ENOTEMPTY, path)
        self._remove(*self._find_parent(path))

    # --- open and close -----------------------------------------------------------

    @_alone
    def open_unnamed(self, directory_fd: int) -> int | None:
        self._directory(directory_fd)
        return self._open(self._make(_File))

    @_alone
    def open_temporary(self, directory: str) -> tuple[int, str]:
        path = f"{directory}/{self.random_bytes(8).hex()}"
        return self._open(self._made_at(path)), path

    @_alone
    def open_read(self, path: str, *, directory_fd: int | None = None) -> int:
        return self._open(self._find(path, directory_fd))

    @_alone
    def open_append(self, path: str) -> int:
        return self._open(self._made_at(path), None)

    @_alone
    def open_write(self, path: str) -> int:
        return self._open(self._file(path))

    @_alone
    def close(self, fd: int) -> None:
        node = self._of(fd).node
        del self._opened[fd]
        node.uses -= 1
        if isinstance(node, _File) and node.locked_by == fd:
            node.locked_by = None
            self._turn.notify_all()
        self._release(node)

    def _made_at(self, path: str) -> _File:
        """The file of a path, made when there is none."""
        parent, name = self._find_parent(path)
        if name not in parent.entries:
            _enter(parent, name, self._make(_File))
        return self._file(path)

    # --- bytes --------------------------------------------------------------------

    @_alone
    def read(self, fd: int, size: int, offset: int) -> bytes:
        with memoryview(self._file(fd).content) as content:
            return bytes(content[offset : offset + size])

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        data = self.read(fd, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    @_alone
    def write(self, fd: int, chunks: Sequence[bytes | memoryview]) -> int:
        opened, content = self._of(fd), self._file(fd).content
        start = len(content) if opened.position is None else opened.position
        total = sum(map(len, chunks))
        self._take(max(0, start + total - len(content)))
        content += bytes(max(0, start - len(content)))  # a hole reads as zeros
        for chunk in chunks:
            content[start : start + len(chunk)] = chunk
            start += len(chunk)
        if opened.position is not None:
            opened.position = start
        opened.node.changed = green.now()
        return total

    def bypass_cache(self, fd: int, on: bool) -> bool:
        return False

    @_alone
    def truncate(self, fd: int, size: int) -> None:
        file = self._file(fd)
        grown = size - len(file.content)
        self._take(max(0, grown))
        if grown > 0:
            file.content += bytes(grown)
        else:
            del file.content[size:]
            self._used += grown
        file.changed = green.now()

    @_alone
    def size(self, fd: int) -> int:
        opened, length = self._of(fd), len(self._file(fd).content)
        if opened.position is not None:
            opened.position = length
        return length

    # --- metadata -----------------------------------------------------------------

    @_alone
    def get_xattr(self, fd: int | str, name: str) -> bytes | None:
        return self._find(fd).attributes.get(name)

    @_alone
    def set_xattr(self, fd: int | str, name: str, value: bytes) -> None:
        node = self._find(fd)
        self._take(len(value) - len(node.attributes.get(name, b"")))
        node.attributes[name] = bytes(value)

    @_alone
    def set_time(self, fd: int | str, seconds: float) -> None:
        self._find(fd).changed = seconds

    @_alone
    def status(self, path: str | int) -> os.stat_result:
        node = self._find(path)
        kind, size = stat.S_IFDIR | 0o755, 0
        if isinstance(node, _File):
            kind, size = stat.S_IFREG | 0o644, len(node.content)
        time = node.changed
        facts = (kind, node.number, 0, node.links, 0, 0, size, time, time, time)
        return os.stat_result(facts)

    @_alone
    def is_directory(self, path: str) -> bool:
        return isinstance(self._find_if_there(path), _Directory)

    @_alone
    def is_file(self, path: str) -> bool:
        return isinstance(self._find_if_there(path), _File)

    def _find_if_there(self, path: str) -> _Node | None:
        try:
            return self._find(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    # --- names --------------------------------------------------------------------

    @_alone
    def link_unnamed(self, fd: int, name: str, directory_fd: int) -> None:
        parent, name = self._find_parent(name, directory_fd)
        if name in parent.entries:
            raise _error(errno.EEXIST, name)
        _enter(parent, name, self._file(fd))

    @_alone
    def link(self, source: str, target: str) -> None:
        parent, name = self._find_parent(target)
        if name in parent.entries:
            raise _error(errno.EEXIST, target)
        _enter(parent, name, self._file(source))

    def symlink(self, target: str, path: str) -> None:
        raise _error(errno.EPERM, path)

    @_alone
    def read_link(self, path: str) -> str:
        self._find(path)
        raise _error(errno.EINVAL, path)

    @_alone
    def rename(self, source: str, target: str) -> None:
        node = self._find(source)
        parent, name = self._find_parent(target)
        old = parent.entries.get(name)
        if old is node:
            return
        if old is not None:
            if isinstance(old, _Directory) != isinstance(node, _Directory):
                is_directory = isinstance(old, _Directory)
                raise _error(errno.EISDIR if is_directory else errno.ENOTDIR, target)
            if isinstance(old, _Directory) and old.entries:
                raise _error(errno.ENOTEMPTY, target)
            self._remove(parent, name)
        _enter(parent, name, node)
        self._remove(*self._find_parent(source))

    @_alone
    def unlink(self, name: str, *, directory_fd: int | None = None) -> None:
        self._file(name, directory_fd)
        self._remove(*self._find_parent(name, directory_fd))

    # --- durability and space --------------------------------------------------------

    def sync(self, fd: int) -> None:
        self._of(fd)

    def sync_data(self, fd: int) -> None:
        self._of(fd)

    def start_sync(self, fd: int) -> None:
        pass

    def orders_names(self, fd: int) -> bool:
        return True

    def keeps_log(self, fd: int) -> bool:
        return True

    def preallocate(self, fd: int, size: int) -> None:
        if size > self._size - self._used:
            raise _error(errno.ENOSPC, "memory")

    def space(self, fd: int) -> tuple[int, int]:
        return self._size - self._used, self._size

    def read_once(self, fd: int) -> None:
        pass

    def drop_cache(self, fd: int, offset: int, length: int) -> None:
        pass

    # --- locks --------------------------------------------------------------------

    @_alone
    def lock(self, path: str, timeout_s: float) -> int:
        file = self._made_at(path)
        fd = self._open(file)
        if not self._turn.wait_for(lambda: file.locked_by is None, timeout_s):
            self.close(fd)
            raise LockTimeout(path, timeout_s)
        file.locked_by = fd
        return fd

    # --- answers from memory ------------------------------------------------------

    @_alone
    def open_cached(
        self, path: str, *, directory_fd: int | None = None, directory: bool = False
    ) -> int | None:
        node = self._find(path, directory_fd)
        if directory and not isinstance(node, _Directory):
            raise _error(errno.ENOTDIR, path)
        return self._open(node)

    def read_cached(self, fd: int, size: int, offset: int) -> bytes | None:
        data = self.read(fd, size, offset)
        return data if len(data) == size else None


def _parts(path: str) -> Sequence[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _enter(parent: _Directory, name: str, node: _Node) -> None:
    parent.entries[name] = node
    parent.changed = green.now()
    node.links += 1


def _attributes_length(node: _Node) -> int:
    return sum(map(len, node.attributes.values()))


def _error(code: int, path: str | int) -> OSError:
    return OSError(code, os.strerror(code), str(path))
