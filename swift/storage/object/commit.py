# SPDX-License-Identifier: Apache-2.0
"""The steps by which one file of an object becomes durable, and visible.

A file is written without a name, gets its record, is synced, and only then becomes
visible by one link; before that the suffix is noted as changed, and the directory is
synced before anybody is told. So after a crash at any step the object is the old or the
new one, whole, and its suffix is hashed again. A failed sync is a failed device:
nothing is repeated and nothing acknowledged.

Everything here blocks. Contract object-on-disk 8, 12.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from swift.core.errors import DeviceUnavailable, DiskFull, RecordTooLarge
from swift.core.hashing import SUFFIX_LENGTH, hash_directory, partition_of_hex
from swift.core.headers import CONTENT_TYPE, X_TIMESTAMP, Headers
from swift.core.metadata import NAME
from swift.core.objectfiles import DATA, TOMBSTONE, FilePart
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.storage.fs import FULL, as_domain_error
from swift.storage.object import hashes
from swift.storage.object.cleanup import clean_up
from swift.storage.object.context import DiskContext

_XATTRS_ALWAYS_FIT = 3072
"""Bytes of attributes that every file system in use takes, if it has room at all."""

_ROOM_FOR_XATTRS = 16 * 1024 * 1024
_LINK_ATTEMPTS = 3

_REMOVED = frozenset((errno.ENOENT, errno.EPERM))
"""What a file system answers to a new file in a directory that was removed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object lives. name: its decoded path, empty when not known."""

    device: str
    device_path: str
    partition: str
    path_hash: str
    name: str
    next_part_power: int | None = None

    @property
    def suffix(self) -> str:
        """The suffix directory's name."""
        return self.path_hash[-SUFFIX_LENGTH:]

    def partition_path(self, objects_dir: str, partition: str | int) -> str:
        """A partition's directory on this device."""
        return f"{self.device_path}/{objects_dir}/{partition}"

    def directory(self, objects_dir: str, partition: str | int) -> str:
        """The object's directory as if it were in `partition`."""
        relative = hash_directory(objects_dir, partition, self.path_hash)
        return f"{self.device_path}/{relative}"

    def record(
        self,
        timestamp: Timestamp,
        metadata: Headers,
        body: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """The record to store: time, what describes the body, the rest, the name.

        body: Content-Length and ETag of a data file, by their keys; they take the place
        of what `metadata` says.
        """
        record = {X_TIMESTAMP: timestamp.internal}
        if body is not None:
            if CONTENT_TYPE in metadata:
                record[CONTENT_TYPE] = metadata[CONTENT_TYPE]
            record.update(body)
        for key, value in metadata.items():
            if key not in record:
                record[key] = value
        record.pop(NAME, None)
        record[NAME] = self.name or metadata.get(NAME, "")
        return record


class Temporary:
    """A file on its way to a name. path: empty while it has no name at all."""

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str = "") -> None:
        self.fd = fd
        self.path = path


class Commit:
    """Makes one file of an object durable. Blocks: it is run by a disk thread."""

    def __init__(self, context: DiskContext, place: Place) -> None:
        self._context = context
        self._fs = context.fs
        self._place = place
        self._objects_dir = context.policy.objects_dir
        self._directory = place.directory(self._objects_dir, place.partition)
        self._directory_fd = -1
        self._is_new = False
        self._is_named = False
        self._temporary: Temporary | None = None
        self._is_direct: bool | None = None  # None: not tried yet
        self._names: Sequence[str] | None = None

    # --- the steps ------------------------------------------------------------------

    def knows(self, names: Sequence[str] | None) -> None:
        """Take over what a look at the directory found; see writer.Admit."""
        self._names = names

    def begin(self, size: int | None) -> None:
        """Make the file that a body is written to, with room for it if `size` is known.

        Raises DiskFull, DeviceUnavailable.
        """
        try:
            self._open_temporary()
            self._check_space(size or 0)
            if size and not self._context.config.disable_fallocate:
                self._fs.preallocate(self._fd, size)
        except OSError as error:
            raise as_domain_error(error, self._place.device) from error

    def write(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Append to the file."""
        try:
            self._fs.write(self._fd, chunks)
        except OSError as error:
            raise as_domain_error(error, self._place.device) from error

    def write_batch(self, content: memoryview) -> None:
        """Append a whole batch, past the page cache if the file system knows how."""
        fs = self._fs
        try:
            if self._is_direct is None:
                self._is_direct = fs.bypass_cache(self._fd, True)
            try:
                fs.write(self._fd, [content])
            except OSError as error:
                if not self._is_direct or error.errno != errno.EINVAL:
                    raise
                # Blocks of another size than those of all disks we know.
                self._is_direct = fs.bypass_cache(self._fd, False)
                fs.write(self._fd, [content])
        except OSError as error:
            raise as_domain_error(error, self._place.device) from error

    def flush(self, offset: int, length: int) -> None:
        """Bring what was written so far to the disk, and out of the page cache."""
        try:
            self._fs.sync_data(self._fd)
        except OSError as error:
            raise as_domain_error(error, self._place.device) from error
        self._fs.drop_cache(self._fd, offset, length)

    def finish(
        self,
        part: FilePart,
        stored: Iterable[tuple[str, bytes]],
        chunks: Sequence[bytes | memoryview] = (),
        *,
        drop_cache: bool = False,
    ) -> None:
        """Write `chunks`, attach the record and give the file its name, durably.

        Raises DiskFull, DeviceUnavailable, LockTimeout, RecordTooLarge; then the object
        is as it was, but for an error after the link, when it may be the new one.
        """
        fs = self._fs
        try:
            self.fill(part, stored, chunks)
            self.sync(drop_cache)
            hashes.invalidate(fs, self.partition_path, self._place.suffix)
            self.give_name(part)
            self.sync_names()
        except OSError as error:
            raise as_domain_error(error, self._place.device) from error
        self.settle(part)

    # The steps of `finish`, for who takes them with others; they raise OSError too.

    def fill(
        self,
        part: FilePart,
        stored: Iterable[tuple[str, bytes]],
        chunks: Sequence[bytes | memoryview],
    ) -> None:
        """Have the whole file written, record and all."""
        if self._temporary is None:
            self._open_temporary()
            if part.kind != TOMBSTONE:
                self._check_space(sum(map(len, chunks)))
        if chunks:
            if self._is_direct:
                self._fs.bypass_cache(self._fd, False)  # the end has any length
            self._fs.write(self._fd, chunks)
        self._attach(list(stored))

    def start_sync(self) -> None:
        """Let the disk begin with the file; `sync` waits for it."""
        self._fs.start_sync(self._fd)

    def sync(self, drop_cache: bool) -> None:
        """Return when the file is on the disk; drop_cache: its pages are not kept."""
        self._fs.sync(self._fd)
        if drop_cache:
            self._fs.drop_cache(self._fd, 0, 0)

    def give_name(self, part: FilePart) -> None:
        """Make the file visible. The suffix has been noted as changed."""
        self._give_name(self._context.policy.redundancy.file_name(part))
        self._is_named = True

    def sync_names(self) -> None:
        """Return when the file's name is on the disk, with all that lead to it."""
        self._fs.sync(self.directory_fd)
        self._sync_parents(self._directory)

    def settle(self, part: FilePart) -> None:
        """See to the other partition of a changing part power, and tidy up."""
        redundancy = self._context.policy.redundancy
        if self._place.next_part_power is not None:
            self._follow_part_power(
                redundancy.file_name(part), self._place.next_part_power
            )
        # What is alone in a directory made for it has nothing to tidy. (Should another
        # writer have come into the new directory meanwhile, the next one to commit
        # there or to hash the suffix tidies up after both.)
        # Data that waits for its commit replaces nothing yet.
        waits = redundancy.two_phase and not part.durable
        if not self._is_new and not (part.kind == DATA and waits):
            names = self._names
            stands = [*names, redundancy.file_name(part)] if names else None
            self._tidy(self._directory, stands)

    @property
    def partition_path(self) -> str:
        """The directory of the object's partition."""
        return self._place.partition_path(self._objects_dir, self._place.partition)

    @property
    def suffix(self) -> str:
        """The name of the object's suffix directory."""
        return self._place.suffix

    @property
    def device(self) -> str:
        """The name of the device."""
        return self._place.device

    @property
    def directory_fd(self) -> int:
        """The hash directory, open since the file was made."""
        return self._directory_fd

    @property
    def is_open(self) -> bool:
        """True while there is anything to let go of."""
        return self._temporary is not None or self._directory_fd >= 0

    def close(self) -> None:
        """Let go of everything.

        A file without its name is gone, and so is a directory that was made for it:
        nothing would look at that for a long time, as its suffix is not noted.
        """
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            self._fs.close(temporary.fd)
            if temporary.path:
                with suppress(OSError):
                    self._fs.unlink(temporary.path)
        if self._directory_fd >= 0:
            self._fs.close(self._directory_fd)
            self._directory_fd = -1
        if self._is_new and not self._is_named:
            self._is_new = False
            with suppress(OSError):  # another writer uses it
                self._fs.remove_directory(self._directory)
                self._fs.remove_directory(self._directory.rpartition("/")[0])

    # --- how ------------------------------------------------------------------------

    @property
    def _fd(self) -> int:
        assert self._temporary is not None, "begin or finish made the file"
        return self._temporary.fd

    def _open_temporary(self) -> None:
        fs, place = self._fs, self._place
        if self._names is not None and not self._names:
            self._make_directories(self._directory)
        fd = self._open_unnamed()
        if fd is not None:
            self._temporary = Temporary(fd)
            return
        directory = f"{place.device_path}/{self._context.policy.tmp_dir}"
        with suppress(FileExistsError):
            fs.make_directory(directory)
        self._temporary = Temporary(*fs.open_temporary(directory))

    def _open_unnamed(self) -> int | None:
        """Open the hash directory, and a file without a name in it if that can be."""
        for attempt in range(_LINK_ATTEMPTS):
            self._open_directory()
            try:
                return self._fs.open_unnamed(self._directory_fd)
            except OSError as error:
                # Who found the directory empty has removed it since it was opened.
                if error.errno not in _REMOVED or attempt == _LINK_ATTEMPTS - 1:
                    raise
                self._fs.close(self._directory_fd)
                self._directory_fd = -1
        raise AssertionError("the last attempt returns or raises")

    def _open_directory(self) -> None:
        """Open the hash directory, made with its parents where they are missing."""
        for _ in range(_LINK_ATTEMPTS):
            try:
                self._directory_fd = self._fs.open_directory(self._directory)
                return
            except FileNotFoundError:
                self._make_directories(self._directory)
        # Somebody removes it as fast as it is made; say so as the disk would.
        raise FileNotFoundError(errno.ENOENT, "directory keeps vanishing")

    def _make_directories(self, path: str) -> None:
        # From below upward: the parents are nearly always there.
        if path == self._place.device_path:
            raise DeviceUnavailable(self._place.device, "went away")
        parent = path.rpartition("/")[0]
        try:
            try:
                self._fs.make_directory(path)
            except FileNotFoundError:
                self._make_directories(parent)
                self._fs.make_directory(path)
        except FileExistsError:
            pass  # another writer was quicker
        else:
            self._is_new = self._is_new or path == self._directory

    def _attach(self, stored: Sequence[tuple[str, bytes]]) -> None:
        try:
            for name, value in stored:
                self._fs.set_xattr(self._fd, name, value)
        except OSError as error:
            # ext4 keeps all attributes of a file in one block, and says that there is
            # no space when they need more. The disk is not full then, and no other
            # attempt and no other node will do better, so it must not look like that.
            size = sum(len(value) for _, value in stored)
            if error.errno in FULL and size > _XATTRS_ALWAYS_FIT:
                free_bytes, _ = self._fs.space(self._fd)
                if free_bytes > _ROOM_FOR_XATTRS:
                    raise RecordTooLarge(self._place.device, size) from error
            raise

    def _sync_parents(self, directory: str) -> None:
        # Those that were there before, too: who made them may be at work still, or have
        # given up, and then nobody has synced the names that lead to this file.
        if self._fs.orders_names(self._fd):
            return
        device = self._place.device_path
        while directory != device:
            directory = directory.rpartition("/")[0]
            self._fs.sync_directory(directory)

    def _check_space(self, size: int) -> None:
        """Refuse what would leave no more than the reserve."""
        reserve = self._context.config.fallocate_reserve
        if not reserve.bytes and not reserve.percent:
            return
        free_bytes, total_bytes = self._fs.space(self._fd)
        if reserve.violated(free_bytes - size, total_bytes):
            raise DiskFull(
                self._place.device, f"{free_bytes} bytes free are kept in reserve"
            )

    def _give_name(self, file_name: str) -> None:
        assert self._temporary is not None, "finish made the file"
        temporary = self._temporary
        for attempt in range(_LINK_ATTEMPTS):
            try:
                if temporary.path:
                    self._fs.rename(temporary.path, f"{self._directory}/{file_name}")
                    temporary.path = ""
                    return
                self._link_over(file_name)
                return
            except FileNotFoundError:
                # A clean-up removed the empty directory since it was opened.
                if attempt == _LINK_ATTEMPTS - 1:
                    raise
                self._fs.close(self._directory_fd)
                self._directory_fd = -1
                self._open_directory()

    def _link_over(self, file_name: str) -> None:
        fs = self._fs
        try:
            fs.link_unnamed(self._fd, file_name, self._directory_fd)
        except FileExistsError:
            # The same write again. One rename, so that no crash can lose the file that
            # stands; a name left behind looks like rsync's, which the auditor removes.
            passing = f".{file_name}.{fs.random_bytes(3).hex()}"
            fs.link_unnamed(self._fd, passing, self._directory_fd)
            fs.rename(f"{self._directory}/{passing}", f"{self._directory}/{file_name}")

    def _tidy(self, directory: str, names: Sequence[str] | None = None) -> None:
        try:
            clean_up(self._context, directory, now=green.now(), names=names)
        except OSError as error:
            # The object is durable; what is left over goes with the next clean-up.
            self._context.log.warning("object %s: not tidied (%s)", directory, error)

    def _follow_part_power(self, file_name: str, power: int) -> None:
        """Keep the object reachable in the partition of the other part power."""
        place = self._place
        target = partition_of_hex(place.path_hash, power)
        if str(target) == place.partition:
            target = partition_of_hex(place.path_hash, power - 1)
            if str(target) != place.partition:
                self._tidy(place.directory(self._objects_dir, target))
            return
        directory = place.directory(self._objects_dir, target)
        try:
            self._link_into(directory, target, file_name)
        except (OSError, DeviceUnavailable) as error:
            # The relinker makes up for it; the object itself is durable.
            self._context.log.error(
                "object %s: not linked into partition %s (%s)",
                self._directory,
                target,
                error,
            )
        self._tidy(directory)

    def _link_into(self, directory: str, partition: int, file_name: str) -> None:
        fs, place = self._fs, self._place
        source = f"{self._directory}/{file_name}"
        if not fs.is_directory(directory):
            self._make_directories(directory)
        hashes.invalidate(
            fs, place.partition_path(self._objects_dir, partition), place.suffix
        )
        try:
            fs.link(source, f"{directory}/{file_name}")
        except FileExistsError:
            there = fs.status(f"{directory}/{file_name}")
            if there.st_ino != fs.status(source).st_ino:
                raise
        fs.sync_directory(directory)
        self._sync_parents(directory)
