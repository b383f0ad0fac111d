# SPDX-License-Identifier: Apache-2.0
"""Large bodies: received by disk threads, and sent by the kernel."""

from __future__ import annotations

import errno
import fcntl
import os
from hashlib import md5

import pytest
from fake_disk import IO_ERROR, FakeDisk
from object_store import NOW, Store, at

from swift.core.errors import ClientDisconnect, ObjectQuarantined
from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.runtime import green

LARGE = 3 * 256 * 1024 + 17


def bytes_of(size):
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


@pytest.fixture
def store(tmp_path):
    disk = FakeDisk()
    yield Store(tmp_path, disk)
    assert not disk.open_fds, "descriptors are left open"


# --- bodies that a disk thread receives -----------------------------------------------


class Source:
    """Gives bytes as they are asked for, in pieces, with nothing between some."""

    def __init__(self, body, piece):
        self._body = memoryview(body)
        self._piece = piece
        self._gave = False
        self.closed = 0

    @property
    def left(self):
        return len(self._body)

    def receive(self, room):
        assert len(room) > 0
        if self._gave:
            self._gave = False
            return 0
        count = min(self._piece, len(room), len(self._body))
        room[:count] = self._body[:count]
        self._body = self._body[count:]
        self._gave = self._piece % 2 == 1
        return count

    def close(self):
        self.closed += 1


def take_all(store, body, piece, when):
    source = Source(body, piece)
    with store.file().writer(len(body)) as writer:
        writer.owns(source)
        while source.left:
            writer.take(source.receive)
        assert writer.etag == md5(body).hexdigest()
        writer.commit(Headers(), when)
    assert source.closed == 1


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("piece", [1 << 20, 65536, 99_999])
@pytest.mark.parametrize(
    "size", [300_000, 1 << 20, (6 << 20) - 4096, 6 << 20, (6 << 20) + 7]
)
def test_a_body_may_be_received_by_the_disk_thread(tmp_path, size, piece, direct):
    store = Store(tmp_path, direct_writes=direct)
    body = bytes_of(size)
    take_all(store, body, piece, at(1))
    assert store.get() == body
    with store.file().open(NOW) as opened:
        assert opened.content_length == size


def test_received_bodies_do_not_meet_in_their_buffers(tmp_path):
    store = Store(tmp_path, FakeDisk())
    names = [ObjectName("a", "c", f"o{number}") for number in range(6)]

    def put(name, number):
        source = Source(bytes([number]) * LARGE, 65_537)
        with store.file(name).writer(LARGE) as writer:
            writer.owns(source)
            while source.left:
                writer.take(source.receive)
            writer.commit(Headers(), at(1))

    threads = [green.spawn(put, name, number) for number, name in enumerate(names)]
    for thread in threads:
        thread.wait()
    for number, name in enumerate(names):
        assert store.get(name) == bytes([number]) * LARGE


def test_a_disk_of_odd_blocks_is_written_through_the_cache(store):
    write = store.fs.write
    refused = []

    def choosy(fd, chunks):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(fd)
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(fd, chunks)

    store.fs.write = choosy
    body = bytes_of((6 << 20) + 5)
    take_all(store, body, 1 << 20, at(1))
    assert store.get() == body
    assert len(refused) <= 1


def test_a_source_that_fails_leaves_nothing(store):
    source = Source(bytes_of(LARGE), 65536)

    def fail(room):
        raise ClientDisconnect("gone")

    with store.file().writer(LARGE) as writer:
        writer.owns(source)
        writer.take(source.receive)
        with pytest.raises(ClientDisconnect):
            writer.take(fail)
    assert source.closed == 1
    assert store.names() == []


# --- bytes that the kernel sends ------------------------------------------------------


def passed(span, chunks):
    """Append all windows that `span` lets pass to `chunks`."""
    offset, end = span.offset, span.offset + span.length
    while offset < end:
        count = span.passable(offset)
        chunks.append(os.pread(span.fileno(), min(count, end - offset), offset))
        offset += count


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (0, 1), (5, None), (300_000, 1_500_000)]
)
def test_a_span_lets_all_its_bytes_pass(store, start, stop):
    body = bytes_of(4 * LARGE)
    store.put(body, at(1))
    span = store.file().open(NOW).span(start, stop, owner=True)
    chunks = []
    passed(span, chunks)
    assert b"".join(chunks) == body[start:stop]
    span.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(span.fileno())


@pytest.mark.parametrize("size", [4096, LARGE, 4 * LARGE])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_span_with_a_flipped_bit_keeps_its_last_window(store, size, share):
    body = bytes_of(size)
    store.put(body, at(1))
    path = store.path() / store.names()[0]
    place = int(share * (size - 1))
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([body[place] ^ 1]))
    span = store.file().open(NOW).span(owner=True)
    chunks = []
    with pytest.raises(ObjectQuarantined):
        passed(span, chunks)
    assert sum(map(len, chunks)) < size
    assert not store.path().exists()
    span.close()


def test_a_span_of_a_file_cut_short_breaks_off(store):
    store.put(bytes_of(4 * LARGE), at(1))
    path = store.path() / store.names()[0]
    span = store.file().open(NOW).span(owner=True)
    os.truncate(path, 2 * LARGE)
    with pytest.raises(ObjectQuarantined):
        passed(span, [])
    span.close()


def test_a_span_that_cannot_be_read_is_quarantined(store):
    store.put(bytes_of(LARGE), at(1))

    def fail(fd, buffer, offset):
        raise OSError(IO_ERROR, "Input/output error")

    span = store.file().open(NOW).span(10, 20, owner=True)
    store.fs.read_into = fail
    with pytest.raises(ObjectQuarantined):
        span.passable(10)
    span.close()
    assert not store.path().exists()


def test_with_splice_nothing_is_looked_at(tmp_path):
    store = Store(tmp_path, splice=True)
    store.put(b"0123456789", at(1))
    (store.path() / store.names()[0]).write_bytes(b"01234x6789")
    span = store.file().open(NOW).span(owner=True)
    assert span.passable(0) == 10
    assert b"".join(span) == b"01234x6789"
    span.close()


@pytest.mark.parametrize(("start", "stop"), [(0, None), (5, 1_900_000)])
def test_who_iterates_a_span_gets_what_was_looked_at_too(store, start, stop):
    body = bytes_of(4 * LARGE)
    store.put(body, at(1))
    span = store.file().open(NOW).span(start, stop, owner=True)
    assert span.passable(span.offset)
    assert b"".join(span) == body[start:stop]
    span.close()
