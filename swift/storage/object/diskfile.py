# SPDX-License-Identifier: Apache-2.0
"""One object on one device: open it, write it, post metadata to it, delete it.

A DiskFile names a hash directory and holds no state of the disk; what is there is read
anew by each call. Opening lists the directory, lets the policy's redundancy choose,
reads the records and checks them; whatever cannot be trusted goes into quarantine, from
where replication replaces it. Contract object-on-disk 5, 8, 10, 12.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from swift.core import metadata as records
from swift.core.errors import (
    FormatError,
    LockTimeout,
    ObjectChanged,
    ObjectCollision,
    ObjectDeleted,
    ObjectExpired,
    ObjectMissing,
    ObjectQuarantined,
)
from swift.core.hashing import SUFFIX_LENGTH
from swift.core.headers import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    CONTENT_TYPE_TIMESTAMP,
    ETAG,
    X_DELETE_AT,
    Headers,
)
from swift.core.metadata import (
    NAME,
    XATTR,
    XATTR_CHECKSUM,
    XATTR_SIZE_MAX,
    Effective,
)
from swift.core.names import ObjectName
from swift.core.objectfiles import META, TOMBSTONE, FilePart, FileSet, Preference
from swift.core.redundancy import ArchiveCheck
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.storage.fs import GONE, FileSystem, Handle, as_domain_error
from swift.storage.object import durability, hashes
from swift.storage.object.cleanup import move_aside
from swift.storage.object.commit import Commit, Place
from swift.storage.object.commit_group import CommitGroup
from swift.storage.object.context import DiskContext
from swift.storage.object.reader import FileSpan, ObjectReader
from swift.storage.object.writer import Admit, ObjectWriter

_UNREADABLE = frozenset((errno.ENODATA, errno.EUCLEAN))
"""Errors of a directory or file that the file system itself finds broken."""

_XATTR_PIECES_MAX = 1024
"""Numbered attributes of one record that are followed: 64 MiB of metadata."""


class DiskFile:
    """An object, whether it exists or not.

    name: None when the object is known by its hash alone; opening tells the name.
    device_path: the directory of the device, found available.
    """

    def __init__(
        self,
        context: DiskContext,
        *,
        device: str,
        device_path: str,
        partition: str,
        path_hash: str,
        name: ObjectName | None,
        next_part_power: int | None = None,
    ) -> None:
        self.device = device
        self.partition = partition
        self.path_hash = path_hash
        self.name = name
        self.next_part_power = next_part_power
        self.suffix = path_hash[-SUFFIX_LENGTH:]
        objects_path = f"{device_path}/{context.policy.objects_dir}"
        self._partition_path = f"{objects_path}/{partition}"
        self.directory = f"{self._partition_path}/{self.suffix}/{path_hash}"
        self._context = context
        self._device_path = device_path

    @property
    def _place(self) -> Place:
        return Place(
            device=self.device,
            device_path=self._device_path,
            partition=self.partition,
            path_hash=self.path_hash,
            name=self.name.path if self.name is not None else "",
            next_part_power=self.next_part_power,
        )

    # --- reading ------------------------------------------------------------------

    def open(
        self,
        now: float,
        *,
        open_expired: bool = False,
        preferences: Sequence[Preference] | None = None,
        fragment_index: int | None = None,
    ) -> OpenObject:
        """The object as it stands at `now`, to be closed by the caller. Yields.

        open_expired: give an object whose X-Delete-At has passed. preferences,
        fragment_index: see Redundancy.choose.

        Raises ObjectMissing, ObjectDeleted (with the time), ObjectExpired,
        ObjectCollision, ObjectQuarantined, ObjectChanged or DeviceUnavailable.
        """
        # Without a hop when the kernel has every name on the way in memory: then the
        # directory and the records were read a moment ago as well.
        opener = _Opener(
            self, self._context, now, open_expired, preferences, fragment_index
        )
        try:
            opened = opener.open_cached()
            return opened if opened is not None else self._open_in_thread(opener)
        except _Untrusted as untrusted:
            raise green.in_thread(self.quarantine, untrusted.reason) from untrusted

    def open_blocking(
        self,
        now: float,
        *,
        open_expired: bool = False,
        preferences: Sequence[Preference] | None = None,
        fragment_index: int | None = None,
    ) -> OpenObject:
        """As `open`, for code that runs on a disk thread, or in a daemon of its own."""
        opener = _Opener(
            self, self._context, now, open_expired, preferences, fragment_index
        )
        try:
            return opener.open()
        except _Untrusted as untrusted:
            raise self.quarantine(untrusted.reason) from untrusted

    def glance(self) -> Glance | None:
        """What names and the record of the data say, unverified. Blocks.

        None when that is not all there is to it: then the object must be opened.
        """
        fs, redundancy = self._context.fs, self._context.policy.redundancy
        if not redundancy.is_whole:
            return None
        try:
            names = fs.list(self.directory)
            files = redundancy.choose(names)
            if files.meta is not None:
                return None
            data = files.data
            record = b""
            if data is not None:
                record = fs.get_xattr(f"{self.directory}/{data.name}", XATTR) or b""
                if len(record) == XATTR_SIZE_MAX:
                    return None
            return Glance(names, data, files.tombstone, record)
        except FileNotFoundError:
            return Glance(())
        except OSError:
            return None  # who opens it finds out and tells

    def _open_in_thread(self, opener: _Opener) -> OpenObject:
        try:
            return green.in_thread(opener.open)
        except BaseException:
            # When it is this green thread that gives up, the disk thread still opens
            # the object, and closes it again.
            opener.give_up()
            raise

    # --- writing ------------------------------------------------------------------

    def writer(
        self,
        size: int | None,
        group: CommitGroup | None = None,
        *,
        asks_first: bool = False,
    ) -> ObjectWriter:
        """A context manager that takes the body of a new object.

        size: bytes that will come, None when unknown. group: of commits that go to the
        disk together, None for a commit of its own. asks_first: whether there is room
        is found out before the first byte comes, as for large bodies. Leaving the block
        without `commit` leaves nothing on the disk. Entering raises DiskFull,
        DeviceUnavailable; it yields.
        """
        return ObjectWriter(
            self._context, self._place, size, group, asks_first=asks_first
        )

    def make_durable(self, timestamp: Timestamp, fragment_index: int) -> None:
        """Commit a fragment that was stored without; durable on return. Yields.

        Raises DeviceUnavailable, LockTimeout.
        """
        green.in_thread(
            durability.make_durable,
            self._context,
            self._place,
            timestamp,
            fragment_index,
        )

    def post(self, metadata: Headers, timestamp: Timestamp) -> None:
        """Store the metadata of a POST; durable on return. Yields.

        metadata: all that the object has from now on beside what describes its body.
        With Content-Type it must also hold Content-Type-Timestamp. Raises DiskFull,
        DeviceUnavailable, LockTimeout.
        """
        type_timestamp = None
        if CONTENT_TYPE in metadata:
            type_timestamp = metadata.timestamp(CONTENT_TYPE_TIMESTAMP) or timestamp
            metadata = metadata.copy()
            metadata[CONTENT_TYPE_TIMESTAMP] = type_timestamp.internal
        part = FilePart(timestamp, META, type_timestamp)
        green.in_thread(self._store, part, metadata)

    def delete(self, timestamp: Timestamp, *, admit: Admit | None = None) -> None:
        """Put a tombstone in the place of all that is older; durable on return. Yields.

        admit: see ObjectWriter.commit. Raises DiskFull, DeviceUnavailable, LockTimeout.
        """
        green.in_thread(self._store, FilePart(timestamp, TOMBSTONE), Headers(), admit)

    def _store(
        self,
        part: FilePart,
        metadata: Headers,
        admit: Admit | None = None,
    ) -> None:
        commit = Commit(self._context, self._place)
        if admit is not None:
            commit.knows(admit())
        record = self._place.record(part.timestamp, metadata)
        try:
            commit.finish(part, records.attributes(record))
        finally:
            commit.close()

    # --- what went wrong ------------------------------------------------------------

    def quarantine(self, reason: str) -> ObjectQuarantined:
        """Move the whole directory aside; the error to raise. Blocks."""
        context = self._context
        target = ""
        try:
            hashes.invalidate(context.fs, self._partition_path, self.suffix)
            target = move_aside(context, self._device_path, self.directory)
            context.fs.sync_directory(target.rpartition("/")[0])
            context.fs.sync_directory(self.directory.rpartition("/")[0])
        except (OSError, LockTimeout) as error:
            context.log.error(
                "object %s: not moved into quarantine (%s)", self.directory, error
            )
        context.log.error(
            "object %s: quarantined to %s: %s", self.directory, target or "-", reason
        )
        context.metrics.increment("quarantines")
        return ObjectQuarantined(self.directory, reason)


@dataclass(frozen=True, slots=True)
class Glance:
    """An object directory at a glance.

    names: of all files in it; none when it is missing. data, tombstone: what stands.
    record: the stored record of the data, as bytes; empty when there is none.
    """

    names: Sequence[str]
    data: FilePart | None = None
    tombstone: FilePart | None = None
    record: bytes = b""


class OpenObject:
    """An object that was found, with its file open. A context manager.

    metadata: what the object's files say together (without its name). timestamp: of the
    newest of them, the X-Timestamp of answers; data_timestamp: of the body;
    content_type_timestamp: of the content type shown; durable_timestamp: of the newest
    data known to be durable. content_length: bytes of the file. fragments: time →
    indexes on this node; empty for whole copies. meta_metadata: the record of
    the newest .meta alone. name: the decoded path
    recorded.
    """

    def __init__(
        self,
        diskfile: DiskFile,
        context: DiskContext,
        files: FileSet,
        effective: Effective,
        handle: Handle,
        size: int,
    ) -> None:
        metadata = effective.metadata
        self.name: str = dict.pop(metadata, NAME, "")
        self.metadata = metadata
        self.timestamp = effective.timestamp
        self.data_timestamp = effective.data_timestamp
        self.content_type_timestamp = effective.content_type_timestamp
        self.durable_timestamp = files.durable_timestamp
        self.fragments = files.fragments
        self.content_length = size
        self.etag: str = dict.get(metadata, ETAG, "")
        self.meta_metadata = effective.meta
        self.files = files
        self._diskfile = diskfile
        self._context = context
        self._handle = handle
        self._data = effective.data

    @property
    def data_metadata(self) -> Headers:
        """The record of the data file alone, name included."""
        record = self._data.copy()
        record[NAME] = self.name
        return record

    @property
    def is_sendable(self) -> bool:
        """True when the kernel can send the file: when `span` may be asked for."""
        return self._context.fs.has_descriptors

    @property
    def handle(self) -> Handle:
        """The data file, for who looks at its attributes."""
        return self._handle

    def __enter__(self) -> OpenObject:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a disk thread that still reads it closes it itself."""
        self._handle.close()

    def reader(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        verify: bool = True,
        keep_cache: bool = False,
        owner: bool = False,
        read_size: int | None = None,
    ) -> ObjectReader:
        """The bytes from `start` to before `stop` (default: the end) as an iterator.

        verify: compare the MD5 when the whole file is read. keep_cache: leave the pages
        in the cache. owner: closing the reader closes this object too. read_size: bytes
        that a disk thread reads at a time, by default a few disk chunks.
        """
        return ObjectReader(
            self._context.fs,
            self._handle,
            start=start,
            stop=self.content_length if stop is None else stop,
            size=self.content_length,
            etag=self.etag if verify else None,
            check=self._archive_check() if verify else None,
            chunk_size=self._context.config.disk_chunk_size,
            read_size=read_size,
            keep_cache=keep_cache,
            quarantine=self._diskfile.quarantine,
            close=self.close if owner else None,
        )

    @property
    def record_fault(self) -> str | None:
        """Why the record is not that of a durable archive; None when it may be."""
        return self._context.policy.redundancy.record_fault(
            self._data, self._fragment_index
        )

    def _archive_check(self) -> ArchiveCheck | None:
        return self._context.policy.redundancy.archive_check(
            self._data, self._fragment_index
        )

    @property
    def _fragment_index(self) -> int | None:
        return None if self.files.data is None else self.files.data.fragment_index

    def span(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        verify: bool = True,
        keep_cache: bool = False,
        owner: bool = False,
    ) -> FileSpan:
        """The same bytes for the kernel to send; with `splice` none are verified."""
        stop = self.content_length if stop is None else stop
        is_trusted = self._context.config.splice
        reader = self.reader(
            start,
            stop,
            verify=verify and not is_trusted,
            keep_cache=keep_cache,
            owner=owner,
        )
        return FileSpan(
            self._handle, start, stop - start, reader, is_trusted=is_trusted
        )


class _Opener:
    """Opens one object; `open` runs on a disk thread, `open_in` anywhere."""

    def __init__(
        self,
        diskfile: DiskFile,
        context: DiskContext,
        now: float,
        open_expired: bool,
        preferences: Sequence[Preference] | None,
        fragment_index: int | None,
    ) -> None:
        self._diskfile = diskfile
        self._context = context
        self._fs = context.fs
        self._now = now
        self._open_expired = open_expired
        self._preferences = preferences
        self._fragment_index = fragment_index
        self._lock = threading.Lock()
        self._opened: OpenObject | None = None
        self._given_up = False
        self._cached_only = False

    def open_cached(self) -> OpenObject | None:
        """Open the object if the kernel has it in memory; None when that is unknown."""
        self._cached_only = True
        try:
            directory_fd = self._fs.open_cached(
                self._diskfile.directory, directory=True
            )
        except OSError as error:
            raise self._explain_directory(error) from error
        if directory_fd is None:
            return None
        try:
            return self.open_in(directory_fd)
        except _NotCachedError:
            return None

    def open(self) -> OpenObject:
        """Open the directory, then the object in it. Blocks."""
        self._cached_only = False
        try:
            directory_fd = self._fs.open_directory(self._diskfile.directory)
        except OSError as error:
            raise self._explain_directory(error) from error
        opened = self.open_in(directory_fd)
        with self._lock:
            self._opened = opened
            given_up = self._given_up
        if given_up:
            opened.close()
        return opened

    def give_up(self) -> None:
        """Nobody waits for the object any more."""
        with self._lock:
            self._given_up = True
            opened = self._opened
        if opened is not None:
            opened.close()

    def open_in(self, directory_fd: int) -> OpenObject:
        """Open the object in an open directory, which is closed."""
        diskfile, fs = self._diskfile, self._fs
        try:
            files = self._context.policy.redundancy.choose(
                fs.list(directory_fd),
                preferences=self._preferences,
                fragment_index=self._fragment_index,
            )
            if files.data is None:
                raise self._absent(files, directory_fd)
            return self._open_files(files, files.data, directory_fd)
        except FileNotFoundError as error:
            raise ObjectChanged(f"{diskfile.directory}: files moved") from error
        except OSError as error:
            if error.errno in _UNREADABLE:
                raise _Untrusted(f"unreadable ({error.strerror})") from error
            raise as_domain_error(error, diskfile.device) from error
        finally:
            fs.close(directory_fd)

    def _explain_directory(self, error: OSError) -> Exception:
        diskfile = self._diskfile
        if error.errno == errno.ENOTDIR and self._fs.is_file(diskfile.directory):
            return _Untrusted("a file in the place of the directory")
        if error.errno in GONE:
            return ObjectMissing(diskfile.directory)
        return as_domain_error(error, diskfile.device)

    def _absent(self, files: FileSet, directory_fd: int) -> Exception:
        """The error that tells of a tombstone, or of nothing."""
        diskfile, tombstone = self._diskfile, files.tombstone
        if tombstone is None:
            return ObjectMissing(diskfile.directory)
        record = self._read_record_of(tombstone, directory_fd)
        self._check_name(record)
        name = dict.get(record, NAME, "")
        return ObjectDeleted(diskfile.directory, tombstone.timestamp, name)

    def _open_files(
        self, files: FileSet, data_part: FilePart, directory_fd: int
    ) -> OpenObject:
        fd = self._open_file(data_part.name, directory_fd)
        handle = Handle(self._fs, fd)
        try:
            data = self._read_record(fd)
            meta = content_type = None
            if files.meta is not None:
                meta = self._read_record_of(files.meta, directory_fd)
            if files.content_type is files.meta:
                content_type = meta
            elif files.content_type is not None:
                content_type = self._read_record_of(files.content_type, directory_fd)
            try:
                effective = records.merge(data, meta, content_type)
            except FormatError as error:
                raise _Untrusted(error.reason) from error
            self._check_name(effective.data)
            size = self._check_size(fd, effective.data)
            self._check_expiry(effective.metadata, effective.timestamp)
            return OpenObject(
                self._diskfile, self._context, files, effective, handle, size
            )
        except BaseException:
            handle.close()
            raise

    def _open_file(self, name: str, directory_fd: int) -> int:
        if not self._cached_only:
            return self._fs.open_read(name, directory_fd=directory_fd)
        fd = self._fs.open_cached(name, directory_fd=directory_fd)
        if fd is None:
            raise _NotCachedError
        return fd

    def _read_record_of(self, part: FilePart, directory_fd: int) -> Headers:
        fd = self._open_file(part.name, directory_fd)
        try:
            return self._read_record(fd)
        finally:
            self._fs.close(fd)

    def _read_record(self, fd: int) -> Headers:
        return read_record(self._fs, fd)

    def _check_name(self, record: Headers) -> None:
        diskfile = self._diskfile
        stored = dict.get(record, NAME)
        if stored is None:
            raise _Untrusted("record without name")
        if diskfile.name is not None:
            if stored != diskfile.name.path:
                raise ObjectCollision(f"{diskfile.directory}: holds {stored!r}")
        elif self._context.salt.digest_of_path(stored).hex() != diskfile.path_hash:
            raise _Untrusted(f"name {stored!r} has another hash")

    def _check_size(self, fd: int, record: Headers) -> int:
        size = self._fs.size(fd)
        text = dict.get(record, CONTENT_LENGTH)
        if text is None:
            raise _Untrusted("record without Content-Length")
        try:
            recorded = int(text)
        except ValueError:
            raise _Untrusted(f"Content-Length is {text!r}") from None
        if recorded != size:
            raise _Untrusted(f"Content-Length is {recorded}, file has {size}")
        return size

    def _check_expiry(self, metadata: Headers, timestamp: Timestamp) -> None:
        text = dict.get(metadata, X_DELETE_AT)
        if text is None:
            return
        try:
            expires = int(text)
        except ValueError:
            raise _Untrusted(f"{X_DELETE_AT} is {text!r}") from None
        if expires <= self._now and not self._open_expired:
            raise ObjectExpired(self._diskfile.directory, timestamp)


class _NotCachedError(Exception):
    """The kernel would have to ask the disk."""


class _Untrusted(Exception):
    """Why an object goes into quarantine."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_record(fs: FileSystem, fd: int) -> Headers:
    """The metadata record of an open file.

    Raises _Untrusted when there is none that can be trusted; OSError.
    """
    data = fs.get_xattr(fd, XATTR)
    if data is None:
        raise _Untrusted("no metadata")
    if len(data) == XATTR_SIZE_MAX:
        pieces = [data]
        for number in range(1, _XATTR_PIECES_MAX):
            piece = fs.get_xattr(fd, f"{XATTR}{number}")
            if piece is None:
                break
            pieces.append(piece)
        data = b"".join(pieces)
    expected = fs.get_xattr(fd, XATTR_CHECKSUM)
    if expected is not None and expected != records.checksum(data):
        raise _Untrusted("metadata checksum differs")
    try:
        return records.decode(data)
    except FormatError as error:
        raise _Untrusted(f"metadata does not parse ({error})") from error
