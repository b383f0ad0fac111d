# SPDX-License-Identifier: Apache-2.0
"""The writer that takes the body of an object and feeds the steps of its commit.

A commit is one function, run by one disk thread: the body of a small object is kept in
memory until then, so that a small PUT costs a single hop. Writers of one replication
conversation share even that (`CommitGroup`). What makes an object durable is said by
`commit`; contract object-on-disk 8, 12.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import md5
from types import TracebackType
from typing import Protocol

from swift.core.headers import CONTENT_LENGTH, ETAG, Headers
from swift.core.metadata import attributes
from swift.core.objectfiles import DATA, FilePart
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.storage.object.batches import Batch, give_back, take_batch
from swift.storage.object.commit import Commit, Place
from swift.storage.object.commit_group import CommitGroup, Order
from swift.storage.object.context import DiskContext

BATCH_SIZE = 256 * 1024
"""Bytes of a body that are kept before a disk thread writes them, and so the size up to
which a PUT is a single hop."""

INLINE_MD5_MAX = 64 * 1024
"""Bytes whose MD5 costs less than asking a disk thread for it."""

TAKE_MAX = 16 * 1024 * 1024
"""Bytes that a disk thread receives at most before others have their turn."""

_MIB = 1024 * 1024

Admit = Callable[[], Sequence[str] | None]
"""Called on the disk thread before a commit writes anything there; what it raises stops
the commit. It gives the names that stand in the object's directory, none for one that
is missing, so that the commit need not list them again; None when it does not know."""


class Closable(Protocol):
    """What has to be closed."""

    def close(self) -> None:
        """Close it."""


class ObjectWriter:
    """Takes the body of one object, then makes it durable. A context manager.

    A body comes as chunks (`write`), or is received by the disk thread itself (`take`),
    which saves large ones most of the hops, and the making of chunks; not both.
    Leaving the block without `commit` leaves nothing behind. Not for two green threads
    at a time. `etag` and `commit` come after the last `write`.
    """

    def __init__(
        self,
        context: DiskContext,
        place: Place,
        size: int | None,
        group: CommitGroup | None = None,
        *,
        asks_first: bool = False,
    ) -> None:
        """group: with whom the commit is finished; None for nobody.

        asks_first: find out whether there is room before the first byte comes, however
        small the body; that of a large one is always asked for.
        """
        self.size = 0
        self._asks_first = asks_first or (size is not None and size > BATCH_SIZE)
        self._group = group
        self._context = context
        self._place = place
        self._expected = size
        self._commit = Commit(context, place)
        self._begun = False
        self._chunks: list[bytes | memoryview] = []
        self._batch: Batch | None = None
        self._source: Closable | None = None
        self._chunks_size = 0
        self._digest = md5(usedforsecurity=False)
        self._hashed = 0
        self._flushed = 0
        self._flush_every = context.config.mb_per_sync * _MIB
        # What is to leave the page cache at once need not go there.
        self._is_direct = (
            context.config.direct_writes
            and size is not None
            and size > context.config.keep_cache_size
        )
        # Held by a disk thread while it works on the files; see _give_up.
        self._busy = threading.Lock()
        self._given_up = False

    def __enter__(self) -> ObjectWriter:
        # Now, that is before the sender of the body is told to go on.
        if self._asks_first:
            try:
                self._in_thread(self._begin)
            except BaseException:
                self._give_up()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._commit.is_open:
            # Freeing the blocks of a large file that gets no name can take a while.
            green.in_thread(self._give_up)
        else:
            self._give_up()

    def write(self, chunk: bytes) -> None:
        """Append bytes. Yields when enough have come. Raises DiskFull and the like."""
        self._chunks.append(chunk)
        self._chunks_size += len(chunk)
        self.size += len(chunk)
        if self._chunks_size >= BATCH_SIZE:
            self._in_thread(self._write_out)

    def owns(self, source: Closable) -> None:
        """Close `source` at the end, when no disk thread uses it any more."""
        self._source = source

    def take(self, receive: Callable[[memoryview], int]) -> None:
        """Append what `receive` gives until it gives nothing, all on a disk thread.

        receive: puts bytes into a buffer without waiting; how many, 0 for none. Yields.
        Raises what it raises, DiskFull and the like.
        """
        self._in_thread(self._take, receive)

    @property
    def etag(self) -> str:
        """MD5 in hex of all bytes written, which is the end of them. May yield."""
        self._close_batch()
        if self.size - self._hashed > INLINE_MD5_MAX:
            self._in_thread(self._hash_all)
        else:
            self._hash_all()
        return self._digest.hexdigest()

    def commit(
        self,
        metadata: Headers,
        timestamp: Timestamp,
        *,
        fragment_index: int | None = None,
        durable: bool = False,
        admit: Admit | None = None,
    ) -> None:
        """Make the object durable and visible. Yields.

        admit: what it raises comes back to the caller. It saves the hop of a look at
        what stands in the object's place (`existing.look`), for small bodies.

        metadata: what to store beside Content-Length and ETag, which are the writer's
        own. Whoever gets an answer may tell the client; an error means the object is as
        it was, but for DeviceUnavailable, after which either may stand.
        Raises DiskFull, DeviceUnavailable, LockTimeout, RecordTooLarge.
        """
        body = {CONTENT_LENGTH: str(self.size), ETAG: self.etag}
        record = self._place.record(timestamp, metadata, body)
        part = FilePart(timestamp, DATA, None, fragment_index, durable)
        if self._group is None:
            self._in_thread(self._finish, part, record, admit)
            return
        self._group.finish(
            Order(
                self._commit,
                part,
                attributes(record),
                self._chunks,
                self._drops_cache,
                self._held(),
                None if admit is None else partial(self._let_in, admit),
            )
        )

    def _close_batch(self) -> None:
        """Treat what the buffer holds as the last chunk."""
        if self._batch is not None and self._batch.filled and not self._chunks:
            self._chunks.append(self._batch.content)

    # --- on a disk thread -------------------------------------------------------------

    def _in_thread(self, function: Callable[..., None], *arguments: object) -> None:
        green.in_thread(self._work, function, arguments)

    def _work(
        self, function: Callable[..., None], arguments: tuple[object, ...]
    ) -> None:
        with self._held() as is_wanted:
            if is_wanted:
                function(*arguments)

    @contextmanager
    def _held(self) -> Iterator[bool]:
        """Keep the files for a disk thread; False when the writer was given up."""
        try:
            with self._busy:
                yield not self._given_up
        finally:
            if self._given_up:
                self._give_up()

    def _give_up(self) -> None:
        """Close the files, now or when the disk thread that uses them is done.

        The green thread may have been killed while a disk thread works for it; whoever
        of the two comes last closes.
        """
        self._given_up = True
        if self._busy.acquire(blocking=False):
            try:
                self._commit.close()
                batch, self._batch = self._batch, None
                if batch is not None:
                    give_back(batch)
                source, self._source = self._source, None
                if source is not None:
                    source.close()
            finally:
                self._busy.release()

    def _begin(self) -> None:
        self._commit.begin(self._expected)
        self._begun = True

    def _take(self, receive: Callable[[memoryview], int]) -> None:
        if self._batch is None:
            self._batch = take_batch()
        batch = self._batch
        until = self.size + TAKE_MAX
        while self.size < until and not self._given_up:
            room = batch.room
            count = receive(room)
            if not count:
                break
            # At once, while the bytes are in the processor's cache.
            self._digest.update(room[:count])
            batch.filled += count
            self.size += count
            self._hashed = self.size
            if not batch.room:
                self._chunks.append(batch.content)
                self._write_out()
                batch.filled = 0

    def _write_out(self) -> None:
        if not self._begun:
            self._begin()
        self._hash_all()
        chunks, self._chunks = self._chunks, []
        self._chunks_size = 0
        if self._batch is not None and self._is_direct:
            self._commit.write_batch(self._batch.content)
        else:
            self._commit.write(chunks)
        if self.size - self._flushed >= self._flush_every:
            self._commit.flush(self._flushed, self.size - self._flushed)
            self._flushed = self.size

    @property
    def _drops_cache(self) -> bool:
        return self.size > self._context.config.keep_cache_size

    def _hash_all(self) -> None:
        # The chunks that are kept are the end of the body; those before were hashed
        # when they were written out.
        if self._hashed == self.size:
            return
        for chunk in self._chunks:
            self._digest.update(chunk)
        self._hashed = self.size

    def _let_in(self, admit: Admit) -> None:
        self._commit.knows(admit())

    def _finish(
        self, part: FilePart, record: dict[str, str], admit: Admit | None
    ) -> None:
        if admit is not None:
            self._let_in(admit)
        self._commit.finish(
            part, attributes(record), self._chunks, drop_cache=self._drops_cache
        )
        self._commit.close()
