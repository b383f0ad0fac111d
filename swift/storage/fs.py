# SPDX-License-Identifier: Apache-2.0
"""The disk door: every file operation of the storage rooms, and what durable means.

One `FileSystem` is handed to devices and managers. Tests and the simulation hand in one
that forgets what was not synced, fills up, returns EIO or stops between two calls. Each
method is one step that a crash can separate from the next; none of them retries, and
none knows what a name means. All of them block: callers that serve requests go through
`green.in_thread`, but for those that say they answer from memory.

Errors are OSError; `as_domain_error` says what one means to a caller.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from swift.core.errors import DeviceUnavailable, DiskFull, LockTimeout

LOCK_POLL_MS_MAX = 20
FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ESTALE))
FAILING = frozenset(
    (errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.EUCLEAN, errno.EREMOTEIO)
)
"""What a dying disk or a file system that shut itself down answers."""

_WRITEV_MAX = 512
"""Pieces that one call takes; the kernel's own limit is 1024."""

_NO_UNNAMED = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL))
_NO_SUCH_CALL = frozenset((errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL))

_ORDERED_TYPES = frozenset(("ext4", "xfs"))

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_CACHED = 0x20
_AT_FDCWD = -100
_FALLOC_KEEP_SIZE = 1
_SYNC_FILE_RANGE_WRITE = 2
_JOURNALS = "/proc/fs/jbd2"


def as_domain_error(error: OSError, device: str) -> DeviceUnavailable:
    """What an OSError of a disk means: it is full, or it cannot be used."""
    reason = error.strerror or str(error)
    if error.errno in FULL:
        return DiskFull(device, reason)
    return DeviceUnavailable(device, reason)


class FileSystem:
    """The real disk.

    has_descriptors: descriptors are the kernel's, which can send from them.
    """

    has_descriptors = True

    def __init__(self) -> None:
        self._ordered: dict[int, bool] = {}
        self._logs: dict[int, bool] = {}

    # --- directories --------------------------------------------------------------

    def list(self, path: str | int) -> list[str]:
        """The names in a directory, in no order."""
        return os.listdir(path)

    def make_directory(self, path: str) -> None:
        """Make one directory, whose parent must be there."""
        os.mkdir(path)

    def open_directory(self, path: str) -> int:
        """A descriptor to list, link into and sync a directory."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory; OSError ENOTEMPTY otherwise."""
        os.rmdir(path)

    # --- open and close -----------------------------------------------------------

    def open_unnamed(self, directory_fd: int) -> int | None:
        """A new file without a name on the directory's file system.

        None when the file system has no unnamed files.
        """
        try:
            return os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o666, dir_fd=directory_fd)
        except OSError as error:
            if error.errno in _NO_UNNAMED:
                return None
            raise

    def open_temporary(self, directory: str) -> tuple[int, str]:
        """A new file with a random name in `directory`: descriptor and path."""
        return tempfile.mkstemp(dir=directory)

    def open_read(self, path: str, *, directory_fd: int | None = None) -> int:
        """Open an existing file for reading."""
        return os.open(path, os.O_RDONLY, dir_fd=directory_fd)

    def open_append(self, path: str) -> int:
        """Open a file for writing at its end; it is made when it is not there."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def open_write(self, path: str) -> int:
        """Open an existing file for reading, writing and truncating."""
        return os.open(path, os.O_RDWR)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    # --- bytes --------------------------------------------------------------------

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`; empty at the end of the file."""
        return os.pread(fd, size, offset)

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        """As `read`, into a buffer of the caller; how many bytes there were."""
        return os.preadv(fd, (buffer,), offset)

    def read_file(self, path: str, limit: int) -> bytes:
        """The whole of a small file, of which at most `limit` bytes."""
        fd = self.open_read(path)
        try:
            pieces, offset = [], 0
            while offset < limit:
                piece = self.read(fd, limit - offset, offset)
                if not piece:
                    break
                pieces.append(piece)
                offset += len(piece)
            return b"".join(pieces)
        finally:
            self.close(fd)

    def write(self, fd: int, chunks: Sequence[bytes | memoryview]) -> int:
        """Write all bytes of all chunks at the descriptor's position; their number."""
        if len(chunks) > _WRITEV_MAX:
            chunks = [b"".join(chunks)]
        total = sum(map(len, chunks))
        written = os.writev(fd, chunks) if chunks else 0
        while written < total:
            # A signal or a nearly full disk cut the call short; the rest follows, or
            # raises the reason. A single chunk stays where it is, for its alignment.
            whole = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            written += os.write(fd, whole[written:])
        return total

    def bypass_cache(self, fd: int, on: bool) -> bool:
        """Let writes go past the page cache, or no more; whether they do now.

        While they do, memory, position and length must be multiples of the disk's block
        (4096 does for all disks in use), or the write is an OSError EINVAL.
        """
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        flags = flags | os.O_DIRECT if on else flags & ~os.O_DIRECT
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False  # a file system without this way
            raise
        return on

    def truncate(self, fd: int, size: int) -> None:
        """Cut a file to `size` bytes."""
        os.ftruncate(fd, size)

    def size(self, fd: int) -> int:
        """Bytes in an open file; its position moves to the end."""
        return os.lseek(fd, 0, os.SEEK_END)

    # --- metadata -----------------------------------------------------------------

    def get_xattr(self, fd: int | str, name: str) -> bytes | None:
        """An extended attribute of an open file or a path, None when it has none."""
        try:
            return os.getxattr(fd, name)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return None
            raise

    def set_xattr(self, fd: int | str, name: str, value: bytes) -> None:
        """Set an extended attribute of an open file or a path."""
        os.setxattr(fd, name, value)

    def set_time(self, fd: int | str, seconds: float) -> None:
        """Set when an open file or a path was last changed."""
        os.utime(fd, (seconds, seconds))

    def status(self, path: str | int) -> os.stat_result:
        """What stat says, links followed."""
        return os.stat(path)

    def is_directory(self, path: str) -> bool:
        """True for an existing directory."""
        try:
            return stat.S_ISDIR(os.stat(path).st_mode)
        except OSError as error:
            if error.errno in GONE:
                return False
            raise

    def is_file(self, path: str) -> bool:
        """True for an existing plain file."""
        try:
            return stat.S_ISREG(os.stat(path).st_mode)
        except OSError as error:
            if error.errno in GONE:
                return False
            raise

    # --- names --------------------------------------------------------------------

    def link_unnamed(self, fd: int, name: str, directory_fd: int) -> None:
        """Give an open unnamed file its name; FileExistsError when that is taken."""
        # With a descriptor for the source directory (which an absolute path ignores)
        # Python calls linkat with AT_SYMLINK_FOLLOW, which is what names the file
        # behind the magic link.
        os.link(
            f"/proc/self/fd/{fd}",
            name,
            src_dir_fd=directory_fd,
            dst_dir_fd=directory_fd,
            follow_symlinks=True,
        )

    def link(self, source: str, target: str) -> None:
        """A further name for an existing file."""
        os.link(source, target)

    def symlink(self, target: str, path: str) -> None:
        """Make a symbolic link at `path`, where nothing may be yet."""
        os.symlink(target, path)

    def read_link(self, path: str) -> str:
        """What a symbolic link says; OSError EINVAL for another kind of file."""
        return os.readlink(path)

    def rename(self, source: str, target: str) -> None:
        """Move a file or directory; a file of the target's name is replaced."""
        os.rename(source, target)

    def unlink(self, name: str, *, directory_fd: int | None = None) -> None:
        """Remove a name."""
        os.unlink(name, dir_fd=directory_fd)

    # --- durability and space --------------------------------------------------------

    def sync(self, fd: int) -> None:
        """Return when bytes and metadata of a file or directory are on the disk.

        An error here is final: the kernel may have dropped the dirty pages, and a
        second call would answer success for bytes that are lost.
        """
        os.fsync(fd)

    def sync_data(self, fd: int) -> None:
        """As `sync`, without metadata that is not needed to read the bytes."""
        os.fdatasync(fd)

    def sync_directory(self, path: str) -> None:
        """Open a directory by its path and sync it."""
        fd = self.open_directory(path)
        try:
            self.sync(fd)
        finally:
            self.close(fd)

    def start_sync(self, fd: int) -> None:
        """Have the disk begin to write a file, for a `sync` that comes soon.

        Nothing is promised, and nothing said of errors: that sync finds them.
        """
        if _sync_file_range is not None:
            _sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)

    def random_bytes(self, count: int) -> bytes:
        """Unpredictable bytes, for names that must not meet others."""
        return os.urandom(count)

    def orders_names(self, fd: int) -> bool:
        """True when a sync makes all names durable that were made before it.

        ext4 and XFS keep one log for the metadata of the whole file system, written in
        order: once a directory is on the disk, the older entry that names it is too.
        (ext4 without a log syncs the parents of a new directory along with it.) Then
        they need no sync of their own, which would cost a flush of the disk each.
        """
        device = os.fstat(fd).st_dev
        known = self._ordered.get(device)
        if known is None:
            known = self._ordered[device] = _type_of(device) in _ORDERED_TYPES
        return known

    def keeps_log(self, fd: int) -> bool:
        """True when a sync makes all names durable that were made before, anywhere.

        As `orders_names`, but of any names on the file system, not only of those that
        lead to what is synced: ext4 can be made without its log.
        """
        device = os.fstat(fd).st_dev
        known = self._logs.get(device)
        if known is None:
            known = self._logs[device] = _has_log(device)
        return known

    def preallocate(self, fd: int, size: int) -> None:
        """Reserve room for `size` bytes, the length of the file unchanged.

        Raises OSError ENOSPC; a file system that cannot reserve is left alone.
        """
        if _fallocate is None:
            return
        if _fallocate(fd, _FALLOC_KEEP_SIZE, 0, size) != 0:
            code = ctypes.get_errno()
            if code in FULL or code in FAILING:
                raise OSError(code, os.strerror(code))

    def space(self, fd: int) -> tuple[int, int]:
        """(bytes free to ordinary users, bytes in all) of a file's file system."""
        facts = os.fstatvfs(fd)
        return facts.f_frsize * facts.f_bavail, facts.f_frsize * facts.f_blocks

    def read_once(self, fd: int) -> None:
        """Advise the kernel that a file's pages are not worth more than others.

        From Linux 6.3 on they are the first to go when memory is wanted. They are not
        driven out at once: a large object that many ask for is read from memory.
        """
        with suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NOREUSE)

    def drop_cache(self, fd: int, offset: int, length: int) -> None:
        """Advise the kernel that clean pages of a range will not be read again."""
        with suppress(OSError):
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)

    # --- locks --------------------------------------------------------------------

    def lock(self, path: str, timeout_s: float) -> int:
        """Lock a file, made when missing; closing the descriptor unlocks it.

        Raises LockTimeout. The lock belongs to the descriptor: two threads of one
        process exclude each other too.
        """
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        waited_ms, pause_ms = 0, 1
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return fd
                except BlockingIOError:
                    pass
                if waited_ms >= timeout_s * 1000:
                    raise LockTimeout(path, timeout_s)
                select.select((), (), (), pause_ms / 1000)
                waited_ms += pause_ms
                pause_ms = min(pause_ms * 2, LOCK_POLL_MS_MAX)
        except BaseException:
            os.close(fd)
            raise

    @contextmanager
    def locked(self, path: str, timeout_s: float) -> Iterator[None]:
        """Hold `lock` for the block."""
        fd = self.lock(path, timeout_s)
        try:
            yield
        finally:
            self.close(fd)

    # --- answers from memory ------------------------------------------------------

    def open_cached(
        self, path: str, *, directory_fd: int | None = None, directory: bool = False
    ) -> int | None:
        """Open for reading without waiting for a disk, or None when that is unknown.

        The kernel (5.12 and later) answers for a path whose every part it has in
        memory; raises FileNotFoundError when it remembers that there is none.
        """
        if _cached_open is None:
            return None
        fd = _cached_open(
            _SYS_OPENAT2,
            _AT_FDCWD if directory_fd is None else directory_fd,
            os.fsencode(path),
            _HOW_DIRECTORY if directory else _HOW_FILE,
            _HOW_SIZE,
        )
        if fd >= 0:
            return int(fd)
        code = ctypes.get_errno()
        if code == errno.EAGAIN or code in _NO_SUCH_CALL:
            return None
        raise OSError(code, os.strerror(code), path)

    def read_cached(self, fd: int, size: int, offset: int) -> bytes | None:
        """As `read`, from the page cache alone; None when that has not all of it."""
        buffer = bytearray(size)
        try:
            got = os.preadv(fd, (buffer,), offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno == errno.EAGAIN or error.errno in _NO_SUCH_CALL:
                return None
            raise
        return bytes(buffer) if got == size else None


_installed: FileSystem | None = None


def install(fs: FileSystem | None) -> None:
    """Make a disk that of this process, for simulations; None ends that."""
    global _installed
    _installed = fs


def the_disk() -> FileSystem:
    """The disk of who is not given another."""
    return _installed or FileSystem()


class Handle:
    """A descriptor that a disk thread may be using when its owner lets go of it.

    A green thread can be killed while it waits for a disk thread. If it closed the
    descriptor then, the disk thread would go on with a number that names another file
    by now. So uses are counted (`with handle as fd`), and the last one closes.
    """

    __slots__ = ("_closed", "_fd", "_fs", "_lock", "_users")

    def __init__(self, fs: FileSystem, fd: int) -> None:
        self._fs = fs
        self._fd = fd
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    def __enter__(self) -> int:
        with self._lock:
            if self._closed:
                raise ValueError("the file is closed")
            self._users += 1
        return self._fd

    def __exit__(self, *_exc: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users or not self._closed:
                return
        self._fs.close(self._fd)

    def close(self) -> None:
        """Close the descriptor now or after its last use; once."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._users:
                return
        self._fs.close(self._fd)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd


def remove_if_there(fs: FileSystem, paths: Iterable[str]) -> None:
    """Remove files that may be gone already."""
    for path in paths:
        with suppress(FileNotFoundError):
            fs.unlink(path)


def replace_file(fs: FileSystem, path: str, data: bytes, temporary_dir: str) -> None:
    """Put a whole file in the place of `path`: old or new bytes after any crash.

    temporary_dir: on the same file system. The directory of `path` is not synced.
    """
    fd, temporary = fs.open_temporary(temporary_dir)
    try:
        try:
            fs.write(fd, [data])
            fs.sync(fd)
        finally:
            fs.close(fd)
        fs.rename(temporary, path)
    except OSError:
        remove_if_there(fs, [temporary])
        raise


def _type_of(device: int) -> str:
    """The type of the mounted file system of a device number; empty when unknown."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                # proc(5): id parent major:minor ... - type source options
                before, _, after = line.partition(" - ")
                if before.split(" ")[2] == wanted:
                    return after.split(" ")[0]
    except (OSError, IndexError):
        pass
    return ""


def _has_log(device: int) -> bool:
    """True for XFS, and for ext4 unless it was made without its journal."""
    kind = _type_of(device)
    if kind != "ext4":
        return kind == "xfs"
    link = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    try:
        name = os.path.basename(os.readlink(link))
        # Its journal is shown as DEVICE-INODE, a slash of the device's name as "!".
        return any(entry.startswith(f"{name}-") for entry in os.listdir(_JOURNALS))
    except OSError:
        return False


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def _load_cached_open() -> Any:
    # PyDLL keeps the interpreter lock during the call, which suits one that never
    # waits.
    try:
        function = ctypes.PyDLL(None, use_errno=True).syscall
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_long
    function.argtypes = (
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_size_t,
    )
    return function


def _load_fallocate() -> Any:
    # Python's own posix_fallocate writes zeros where the file system cannot reserve.
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = (
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
        ctypes.c_int64,
    )
    return function


def _load_sync_file_range() -> Any:
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = (
        ctypes.c_int,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_uint,
    )
    return function


_cached_open = _load_cached_open()
_sync_file_range = _load_sync_file_range()
_fallocate = _load_fallocate()
_HOW_FILE = ctypes.byref(_OpenHow(os.O_RDONLY | os.O_CLOEXEC, 0, _RESOLVE_CACHED))
_HOW_DIRECTORY = ctypes.byref(
    _OpenHow(os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY, 0, _RESOLVE_CACHED)
)
_HOW_SIZE = ctypes.sizeof(_OpenHow)
