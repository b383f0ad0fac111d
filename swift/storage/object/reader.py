# SPDX-License-Identifier: Apache-2.0
"""The body of an open object, with its checksum verified on the way.

A body that fits one disk chunk and is in the page cache is read where it is asked for;
everything else is read by a disk thread, which feeds the checksum in the same call: the
hop is paid once for several chunks, and MD5 runs with the interpreter lock released.

A large body need not come into Python to be sent: `FileSpan` has a disk thread look at
the file window by window, and lets the kernel send from the page cache what was found
good (decision 0013).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from hashlib import md5

from swift.core.errors import ObjectQuarantined
from swift.core.redundancy import ArchiveCheck
from swift.runtime import green
from swift.storage.fs import FileSystem, Handle

CHUNKS_PER_READ = 4
"""Disk chunks that one hop to a disk thread brings, joined to one."""

READS_PER_WINDOW = 4
"""Such reads that one hop looks at when the bytes themselves are not wanted."""

_scratch = threading.local()


def _scratch_buffer(size: int) -> memoryview:
    """This thread's own buffer of `size` bytes, for bytes that are only looked at.

    Used again and again it stays in the processor's cache, where MD5 finds it.
    """
    found: memoryview | None = getattr(_scratch, "buffer", None)
    if found is None or len(found) < size:
        found = _scratch.buffer = memoryview(bytearray(size))
    return found[:size]


class ObjectReader:
    """Iterates the bytes from `start` to before `stop` of an open object's file.

    With `etag` given, a read of the whole file compares MD5 and size with the record.
    On a mismatch the object goes into quarantine and ObjectQuarantined is raised in the
    place of the last chunk: the receiver sees a body that breaks off, never all of a
    wrong one. An I/O error quarantines too. Yields.

    check: looks at the bytes of a read from the start, whatever its end, and
    quarantines as well.
    read_size: bytes that one hop to a disk thread brings; None: CHUNKS_PER_READ chunks.
    close: called once at the end by `close()`; the object's own when the reader owns
    it.
    """

    def __init__(
        self,
        fs: FileSystem,
        handle: Handle,
        *,
        start: int,
        stop: int,
        size: int,
        etag: str | None,
        check: ArchiveCheck | None = None,
        chunk_size: int,
        read_size: int | None = None,
        keep_cache: bool,
        quarantine: Callable[[str], ObjectQuarantined],
        close: Callable[[], None] | None = None,
    ) -> None:
        self._fs = fs
        self._handle = handle
        self._position = start
        self._stop = stop
        self._chunk_size = chunk_size
        self._read_size = read_size or chunk_size * CHUNKS_PER_READ
        self._keep_cache = keep_cache
        self._quarantine = quarantine
        self._close = close
        whole = start == 0 and stop == size
        self._etag = etag if whole else None
        self._check = check if start == 0 else None
        self._digest = md5(usedforsecurity=False)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        left = self._stop - self._position
        if left <= 0:
            raise StopIteration
        if left <= self._chunk_size:
            data = self._fs.read_cached(self._handle.fileno(), left, self._position)
            if data is not None:
                self._position += left
                reason = self._verify(data)
                if reason is not None:
                    raise green.in_thread(self._quarantine, reason)
                return data
        return green.in_thread(self._read, min(left, self._read_size))

    def pieces_blocking(self) -> Iterator[bytes]:
        """The rest, read on this very thread, for a daemon with a process of its own.

        Raises as iterating does.
        """
        while self._position < self._stop:
            yield self._read(min(self._stop - self._position, self._read_size))

    def look_over(self) -> int:
        """Read and verify the next bytes without giving them out; how many they are.

        0 at the end. Raises as iterating does. Yields.
        """
        left = self._stop - self._position
        if left <= 0:
            return 0
        window = min(left, self._read_size * READS_PER_WINDOW)
        green.in_thread(self._look, window)
        return window

    def looked_over(self, start: int) -> Iterator[bytes]:
        """The bytes from `start` to where reading stands, which are read again. Yields.

        Raises ObjectQuarantined when they cannot be read any more.
        """
        stop = self._position
        while start < stop:
            size = min(stop - start, self._read_size)
            data = green.in_thread(self._read_at, start, size)
            start += len(data)
            yield data

    def at_once(self) -> bytes | None:
        """All bytes that are left, when they are no more than a disk chunk; else None.

        The reader is closed when it gives them. Raises as iterating does.
        """
        if self._stop - self._position > self._chunk_size:
            return None
        try:
            return b"".join(self)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the file; once."""
        self._stop = self._position
        close, self._close = self._close, None
        if close is not None:
            close()

    def _look(self, size: int) -> None:
        """Verify the next `size` bytes, on a disk thread."""
        buffer = _scratch_buffer(min(size, self._read_size))
        end = self._position + size
        while self._position < end:
            part = buffer[: end - self._position]
            offset = self._position
            try:
                with self._handle as fd:
                    self._advise(fd)
                    count = self._fs.read_into(fd, part, offset)
            except OSError as error:
                raise self._quarantine(f"read failed: {error.strerror}") from error
            self._position = offset + count
            if not count:
                raise self._quarantine(f"file ends at {offset}")
            reason = self._verify(part[:count])
            if reason is not None:
                raise self._quarantine(reason)

    def _advise(self, fd: int) -> None:
        if not self._keep_cache:
            self._keep_cache = True  # said once for the whole descriptor
            self._fs.read_once(fd)

    def _read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes, one at least, on a disk thread."""
        try:
            with self._handle as fd:
                data = self._fs.read(fd, size, offset)
        except OSError as error:
            raise self._quarantine(f"read failed: {error.strerror}") from error
        if not data:
            raise self._quarantine(f"file ends at {offset}")
        return data

    def _read(self, size: int) -> bytes:
        """The next `size` bytes, on a disk thread."""
        offset = self._position
        try:
            with self._handle as fd:
                self._advise(fd)
                data = self._fs.read(fd, size, offset)
                while 0 < len(data) < size:
                    more = self._fs.read(fd, size - len(data), offset + len(data))
                    if not more:
                        break
                    data += more
        except OSError as error:
            raise self._quarantine(f"read failed: {error.strerror}") from error
        self._position = offset + len(data)
        if len(data) < size:
            raise self._quarantine(f"file ends at {self._position}")
        reason = self._verify(data)
        if reason is not None:
            raise self._quarantine(reason)
        return data

    def _verify(self, data: bytes | memoryview) -> str | None:
        """Feed the checksum; why the object cannot be trusted, once that is known."""
        if self._check is not None:
            reason = self._check.feed(data)
            if reason is not None:
                return reason
        if self._etag is None:
            return None
        self._digest.update(data)
        if self._position < self._stop or self._digest.hexdigest() == self._etag:
            return None
        return f"MD5 is {self._digest.hexdigest()}, recorded is {self._etag}"


class FileSpan:
    """Bytes of a file that the kernel may send (`wire.streams.FileRange`).

    reader: of the same bytes, not begun; this object closes it. It looks at all of them
    first, window by window, and verifies what it can; or at none, when is_trusted.
    Iterating reads them.
    """

    def __init__(
        self,
        handle: Handle,
        offset: int,
        length: int,
        reader: ObjectReader,
        *,
        is_trusted: bool,
    ) -> None:
        self.offset = offset
        self.length = length
        self._handle = handle
        self._reader = reader
        self._seen = offset + length if is_trusted else offset

    def fileno(self) -> int:
        """The descriptor of the file."""
        return self._handle.fileno()

    def passable(self, offset: int) -> int:
        """How many bytes from `offset` on may be sent now. Yields.

        Raises ObjectQuarantined in the place of the last window when the file is not
        what was stored.
        """
        if offset >= self._seen:
            self._seen += self._reader.look_over()
        return self._seen - offset

    def __iter__(self) -> Iterator[bytes]:
        yield from self._reader.looked_over(self.offset)
        yield from self._reader

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()
