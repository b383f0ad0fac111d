# SPDX-License-Identifier: Apache-2.0
"""One object on a disk: written, read, posted to, deleted, found corrupt."""

from __future__ import annotations

import os
from hashlib import md5
from pathlib import Path

import pytest
from fake_disk import IO_ERROR, NO_SPACE, FakeDisk
from object_store import NAME, NOW, Store, at

from swift.core import metadata as records
from swift.core.errors import (
    DeviceUnavailable,
    DiskFull,
    InvalidInput,
    LockTimeout,
    ObjectCollision,
    ObjectDeleted,
    ObjectExpired,
    ObjectMissing,
    ObjectQuarantined,
    RecordTooLarge,
)
from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.settings import Reserve

XATTR = "user.swift.metadata"
LARGE = 3 * 256 * 1024 + 17


def bytes_of(size: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


def collect(reader, chunks: list[bytes]) -> None:
    """Read all there is into `chunks`, which keeps what came before an error."""
    chunks.extend(iter(reader))


@pytest.fixture
def store(tmp_path):
    disk = FakeDisk()
    yield Store(tmp_path, disk)
    assert not disk.open_fds, "descriptors are left open"


@pytest.mark.parametrize("size", [0, 1, 4096, 65536, 65537, 256 * 1024, LARGE])
def test_what_was_put_is_read(store, size):
    body = bytes_of(size)
    store.put(body, at(1), **{"X-Object-Meta-Color": "blau\xc3\xa9"})
    with store.file().open(NOW) as opened:
        assert b"".join(opened.reader()) == body
        assert opened.content_length == size
        assert opened.etag == md5(body).hexdigest()
        assert opened.timestamp == opened.data_timestamp == at(1)
        assert opened.content_type_timestamp == opened.durable_timestamp == at(1)
        assert opened.name == NAME.path
        assert dict(opened.metadata) == {
            "X-Timestamp": at(1).internal,
            "Content-Type": "text/plain",
            "Content-Length": str(size),
            "Etag": md5(body).hexdigest(),
            "X-Object-Meta-Color": "blau\xc3\xa9",
        }
    assert store.names() == [f"{at(1).internal}.data"]


@pytest.mark.parametrize("size", [4096, LARGE])
@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (1, None), (100, 200), (0, None), (4095, 4096), (7, 7)]
)
def test_a_part_is_read(store, size, start, stop):
    body = bytes_of(size)
    store.put(body, at(1))
    with store.file().open(NOW) as opened:
        assert b"".join(opened.reader(start, stop)) == body[start:stop]


def test_a_small_body_is_given_at_once(store):
    store.put(b"small", at(1))
    reader = store.file().open(NOW).reader(owner=True)
    assert reader.at_once() == b"small"
    store.put(bytes_of(LARGE), at(2))
    reader = store.file().open(NOW).reader(owner=True)
    assert reader.at_once() is None
    assert b"".join(reader) == bytes_of(LARGE)
    reader.close()


def test_a_body_may_come_in_very_small_pieces(store):
    with store.file().writer(None) as writer:
        for number in range(3000):
            writer.write(bytes([number % 256]))
        writer.commit(Headers(), at(1))
    assert store.get() == bytes(number % 256 for number in range(3000))


def test_leaving_without_commit_leaves_nothing(store):
    for size in (10, LARGE):
        with store.file().writer(size) as writer:
            writer.write(bytes_of(size))
            assert writer.etag == md5(bytes_of(size)).hexdigest()
    assert store.names() == []
    assert not list(store.device.glob("tmp/*"))
    assert not list(store.device.glob("objects/*/*"))


def test_leaving_without_commit_spares_the_directory_of_another_writer(store):
    with store.file().writer(LARGE) as leaving:
        leaving.write(bytes_of(LARGE))
        store.put(b"x", at(1))
    assert store.get() == b"x"

    with store.file().writer(LARGE) as leaving:
        leaving.write(bytes_of(LARGE))
    assert store.get() == b"x"


def test_nothing_is_missing(store):
    with pytest.raises(ObjectMissing) as caught:
        store.file().open(NOW)
    assert not isinstance(caught.value, ObjectDeleted)


def test_a_newer_put_takes_the_older_ones_place(store):
    store.put(b"old", at(1))
    store.put(b"new", at(2))
    assert store.get() == b"new"
    assert store.names() == [f"{at(2).internal}.data"]


def test_a_put_at_the_same_time_replaces_the_file(store):
    store.put(b"old", at(1))
    store.put(b"new!", at(1))
    assert store.get() == b"new!"
    assert store.names() == [f"{at(1).internal}.data"]


def test_a_late_put_does_not_come_back(store):
    store.put(b"new", at(2))
    store.put(b"old", at(1))
    assert store.get() == b"new"
    assert store.names() == [f"{at(2).internal}.data"]


def test_a_tombstone_takes_the_objects_place(store):
    store.put(b"x", at(1))
    store.file().delete(at(2))
    with pytest.raises(ObjectDeleted) as caught:
        store.file().open(NOW)
    assert caught.value.timestamp == at(2)
    assert store.names() == [f"{at(2).internal}.ts"]


def test_an_old_tombstone_is_removed(tmp_path):
    store = Store(tmp_path, reclaim_age=3600)
    store.put(b"x", at(1))
    store.file().delete(at(2))
    assert store.names() == []
    with pytest.raises(ObjectMissing):
        store.file().open(NOW)


def test_a_post_replaces_metadata(store):
    store.put(b"x", at(1), **{"X-Object-Meta-A": "1", "X-Object-Sysmeta-S": "s"})
    store.file().post(Headers({"X-Object-Meta-B": "2"}), at(2))
    with store.file().open(NOW) as opened:
        assert opened.metadata["X-Object-Meta-B"] == "2"
        assert "X-Object-Meta-A" not in opened.metadata
        assert opened.metadata["X-Object-Sysmeta-S"] == "s"
        assert opened.metadata["Content-Type"] == "text/plain"
        assert (opened.timestamp, opened.data_timestamp) == (at(2), at(1))
        assert opened.meta_metadata is not None
        assert b"".join(opened.reader()) == b"x"


def test_a_post_with_content_type_says_so_in_its_name(store):
    store.put(b"x", at(1))
    headers = Headers({"Content-Type": "a/b"})
    headers["Content-Type-Timestamp"] = at(2).internal
    store.file().post(headers, at(2))
    store.file().post(Headers({"X-Object-Meta-B": "2"}), at(3))
    assert store.names() == [
        f"{at(1).internal}.data",
        f"{at(2).internal}+0.meta",
        f"{at(3).internal}.meta",
    ]
    with store.file().open(NOW) as opened:
        assert opened.metadata["Content-Type"] == "a/b"
        assert opened.content_type_timestamp == at(2)
        assert opened.timestamp == at(3)


def test_an_expired_object_is_told_from_a_live_one(store):
    store.put(b"x", at(1), **{"X-Delete-At": str(int(NOW) + 100)})
    assert store.get(now=NOW + 99) == b"x"
    with pytest.raises(ObjectExpired) as caught:
        store.file().open(NOW + 100)
    assert caught.value.timestamp == at(1)
    with store.file().open(NOW + 100, open_expired=True) as opened:
        assert b"".join(opened.reader()) == b"x"


def test_another_name_in_the_directory_is_a_collision(store):
    store.put(b"x", at(1))
    path = store.path() / store.names()[0]
    record = records.decode(os.getxattr(path, XATTR))
    record[records.NAME] = "/AUTH_test/c/other"
    set_record(path, records.encode(record))
    with pytest.raises(ObjectCollision):
        store.file().open(NOW)


def set_record(path: Path, data: bytes, *, checksum: bytes | None = None) -> None:
    os.setxattr(path, XATTR, data)
    os.setxattr(
        path,
        f"{XATTR}_checksum",
        records.checksum(data) if checksum is None else checksum,
    )


def truncate(path):
    os.truncate(path, 100)


def flip_in_record(path):
    data = bytearray(os.getxattr(path, XATTR))
    data[60] ^= 1
    os.setxattr(path, XATTR, bytes(data))


def lose_record(path):
    os.removexattr(path, XATTR)


def break_pickle(path):
    set_record(path, b"cos\nsystem\n(S'true'\ntR.")


def change_record(**values):
    def change(path):
        record = records.decode(os.getxattr(path, XATTR))
        for name, value in values.items():
            if value is None:
                del record[name.replace("_", "-")]
            else:
                record[name.replace("_", "-")] = value
        set_record(path, records.encode(record))

    return change


@pytest.mark.parametrize(
    "corrupt",
    [
        pytest.param(truncate, id="truncated"),
        pytest.param(flip_in_record, id="a bit of the record flipped"),
        pytest.param(lose_record, id="attribute lost"),
        pytest.param(break_pickle, id="hostile record"),
        pytest.param(change_record(Content_Length="5"), id="another length"),
        pytest.param(change_record(Content_Length="many"), id="no length"),
        pytest.param(change_record(Content_Length=None), id="length lost"),
        pytest.param(change_record(X_Delete_At="soon"), id="bad delete time"),
        pytest.param(change_record(X_Timestamp=None), id="time lost"),
        pytest.param(change_record(name=None), id="name lost"),
    ],
)
def test_what_cannot_be_trusted_goes_into_quarantine(store, corrupt):
    store.put(bytes_of(4096), at(1))
    (store.partition() / "hashes.invalid").unlink()
    corrupt(store.path() / store.names()[0])
    with pytest.raises(ObjectQuarantined):
        store.file().open(NOW)
    path_hash = store.path().name
    assert not store.path().exists()
    moved = store.device / "quarantined" / "objects" / path_hash
    assert [entry.name for entry in moved.iterdir()] == [f"{at(1).internal}.data"]
    assert store.invalid() == [path_hash[-3:]]
    assert store.metrics.counts == {"quarantines": 1}
    with pytest.raises(ObjectMissing):
        store.file().open(NOW)


def test_two_quarantined_directories_of_one_hash_do_not_meet(store):
    for number in (1, 2):
        store.put(b"x" * 200, at(number))
        truncate(store.path() / store.names()[0])
        with pytest.raises(ObjectQuarantined):
            store.file().open(NOW)
    path_hash = store.file().path_hash
    names = sorted(os.listdir(store.device / "quarantined" / "objects"))
    assert names[0] == path_hash
    assert names[1].startswith(f"{path_hash}-")
    assert len(names) == 2


def test_an_unreadable_tombstone_counts_as_absent(store):
    store.file().delete(at(1))
    lose_record(store.path() / store.names()[0])
    with pytest.raises(ObjectQuarantined):
        store.file().open(NOW)
    with pytest.raises(ObjectMissing) as caught:
        store.file().open(NOW)
    assert not isinstance(caught.value, ObjectDeleted)


def test_a_file_in_the_place_of_the_directory_is_moved_aside(store):
    store.put(b"x", at(1))
    path = store.path()
    (path / store.names()[0]).unlink()
    path.rmdir()
    path.write_bytes(b"junk")
    with pytest.raises(ObjectQuarantined):
        store.file().open(NOW)
    with pytest.raises(ObjectMissing):
        store.file().open(NOW)


@pytest.mark.parametrize("size", [4096, LARGE])
def test_a_flipped_bit_never_reaches_the_reader_as_a_whole_body(store, size):
    body = bytes_of(size)
    store.put(body, at(1))
    path = store.path() / store.names()[0]
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes([body[size // 2] ^ 1]))
    with store.file().open(NOW) as opened:
        reader, got = opened.reader(), []
        with pytest.raises(ObjectQuarantined):
            collect(reader, got)
    assert sum(map(len, got)) < size
    assert not store.path().exists()


def test_a_file_cut_short_while_it_is_read_breaks_the_body(store):
    store.put(bytes_of(LARGE), at(1))
    path = store.path() / store.names()[0]
    with store.file().open(NOW) as opened:
        reader = opened.reader()
        next(reader)
        os.truncate(path, 300_000)
        with pytest.raises(ObjectQuarantined):
            collect(reader, [])


def test_an_unverified_read_is_not_checked(store):
    store.put(b"right", at(1))
    (store.path() / store.names()[0]).write_bytes(b"wrong")
    with store.file().open(NOW) as opened:
        assert b"".join(opened.reader(verify=False)) == b"wrong"
        assert b"".join(opened.reader(1)) == b"rong"
    assert store.path().exists()


def test_a_read_error_quarantines(store):
    store.put(bytes_of(LARGE), at(1))

    def fail(fd, size, offset):
        raise OSError(IO_ERROR, "Input/output error")

    with store.file().open(NOW) as opened:
        store.fs.read = fail
        with pytest.raises(ObjectQuarantined):
            next(opened.reader())
    assert not store.path().exists()


# --- full and failing disks -----------------------------------------------------------


@pytest.mark.parametrize("size", [4096, LARGE])
@pytest.mark.parametrize(
    ("method", "code", "expected"),
    [
        ("write", NO_SPACE, DiskFull),
        ("set_xattr", NO_SPACE, DiskFull),
        ("set_xattr", 95, DeviceUnavailable),
        ("make_directory", NO_SPACE, DiskFull),
        ("open_unnamed", NO_SPACE, DiskFull),
        ("sync", IO_ERROR, DeviceUnavailable),
        ("sync", NO_SPACE, DiskFull),
        ("link_unnamed", IO_ERROR, DeviceUnavailable),
        ("write", IO_ERROR, DeviceUnavailable),
    ],
)
def test_a_failing_disk_acknowledges_nothing(store, size, method, code, expected):
    store.fs.errors = {method: code}
    with pytest.raises(expected):
        store.put(bytes_of(size), at(1))
    assert store.names() == []


def test_a_disk_without_room_refuses_a_large_body_before_it_comes(store):
    store.fs.errors = {"preallocate": NO_SPACE}
    with pytest.raises(DiskFull), store.file().writer(LARGE):
        pytest.fail("the body was asked for")


def test_the_reserve_is_kept(tmp_path):
    disk = FakeDisk()
    store = Store(tmp_path, disk, fallocate_reserve=Reserve(percent=1.0))
    disk.space_left = (10, 1000)
    with pytest.raises(DiskFull):
        store.put(b"x", at(1))
    store.file().delete(at(2))
    assert store.names() == [f"{at(2).internal}.ts"]
    disk.space_left = (11, 1000)
    with pytest.raises(DiskFull):
        store.put(b"x", at(3))
    with pytest.raises(DiskFull), store.file().writer(4, asks_first=True):
        pytest.fail("the sender was told to go on")
    with pytest.raises(DiskFull), store.file().writer(LARGE):
        pytest.fail("the body was asked for")
    disk.space_left = (12, 1000)
    store.put(b"x", at(3))
    assert store.get() == b"x"
    assert not disk.open_fds


@pytest.mark.parametrize(
    ("size", "space_left", "expected"),
    [
        pytest.param(5000, (1 << 30, 1 << 31), RecordTooLarge, id="room on the disk"),
        pytest.param(5000, (1 << 20, 1 << 31), DiskFull, id="no room on the disk"),
        pytest.param(100, (1 << 30, 1 << 31), DiskFull, id="a small record"),
    ],
)
def test_a_record_that_does_not_fit_is_no_full_disk(store, size, space_left, expected):
    store.fs.errors = {"set_xattr": NO_SPACE}
    store.fs.space_left = space_left
    with pytest.raises(expected):
        store.put(b"x", at(1), **{"X-Object-Meta-Big": "b" * size})
    assert store.names() == []


def test_an_error_after_the_link_is_no_success_either(store):
    store.put(b"old", at(1))
    calls = []
    inner = store.fs.sync

    def fail_second(fd):
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(IO_ERROR, "Input/output error")
        inner(fd)

    store.fs.sync = fail_second
    with pytest.raises(DeviceUnavailable):
        store.put(b"new", at(2))
    assert len(calls) == 2, "a failed sync is not repeated"


def test_a_device_that_is_gone_is_unavailable(store):
    disk = store.file()
    store.device.rmdir()
    with pytest.raises(DeviceUnavailable):
        store.file()
    with disk.writer(1) as writer:
        writer.write(b"x")
        with pytest.raises(DeviceUnavailable):
            writer.commit(Headers(), at(1))
    assert not store.device.exists()


def test_a_device_that_goes_away_while_a_file_is_written_is_not_made_anew(store):
    with pytest.raises(DeviceUnavailable):
        store.manager.diskfile("nosuch", "7", NAME)


def test_a_held_lock_is_not_waited_for_forever(store, monkeypatch):
    monkeypatch.setattr("swift.storage.object.hashes.LOCK_TIMEOUT_S", 0.05)
    store.put(b"old", at(1))
    holder = store.fs.lock(str(store.partition() / ".lock"), 1)
    with pytest.raises(LockTimeout):
        store.put(b"new", at(2))
    store.fs.close(holder)
    assert store.get() == b"old"


def test_an_object_is_written_where_unnamed_files_are_unknown(store):
    store.fs.has_unnamed = False
    store.put(b"old", at(1))
    store.put(bytes_of(LARGE), at(2))
    assert store.get() == bytes_of(LARGE)
    with store.file().writer(5) as writer:
        writer.write(b"never")
    assert os.listdir(store.device / "tmp") == []


def test_a_hash_directory_that_vanishes_is_made_again(store):
    inner = store.fs.link_unnamed
    calls = []

    def vanish_once(fd, name, directory_fd):
        calls.append(name)
        if len(calls) == 1:
            store.path().rmdir()
        inner(fd, name, directory_fd)

    store.fs.link_unnamed = vanish_once
    store.put(b"x", at(1))
    assert store.get() == b"x"
    assert len(calls) == 2


def test_a_hash_directory_that_vanishes_before_the_file_is_made_is_made_again(store):
    inner = store.fs.open_unnamed
    calls = []

    def vanish_once(directory_fd):
        calls.append(directory_fd)
        if len(calls) == 1:
            store.path().rmdir()
        return inner(directory_fd)

    store.fs.open_unnamed = vanish_once
    store.put(b"x", at(1))
    assert store.get() == b"x"
    assert len(calls) == 2


def test_admit_can_stop_a_commit(store):
    store.put(b"old", at(5))

    def admit():
        with store.file().open_blocking(NOW) as opened:
            if opened.data_timestamp >= at(2):
                raise InvalidInput("there is newer")

    with store.file().writer(3) as writer:
        writer.write(b"new")
        with pytest.raises(InvalidInput):
            writer.commit(Headers(), at(2), admit=admit)
    with pytest.raises(InvalidInput):
        store.file().delete(at(2), admit=admit)
    assert store.get() == b"old"


# --- by hash --------------------------------------------------------------------------


def test_an_object_is_opened_by_its_hash(store):
    store.put(b"x", at(1))
    path_hash = store.file().path_hash
    with store.manager.diskfile_by_hash("sda1", "7", path_hash).open(NOW) as opened:
        assert opened.name == NAME.path


def test_a_name_that_belongs_elsewhere_is_quarantined_when_opened_by_hash(store):
    other = ObjectName("AUTH_test", "c", "other")
    store.put(b"x", at(1))
    store.path(other).parent.mkdir(parents=True, exist_ok=True)
    store.path().rename(store.path(other))
    path_hash = store.file(other).path_hash
    with pytest.raises(ObjectQuarantined):
        store.manager.diskfile_by_hash("sda1", "7", path_hash).open(NOW)


@pytest.mark.parametrize("path_hash", ["..", "x" * 32, "A" * 32, "", "a" * 31])
def test_only_a_hash_is_opened_by_hash(store, path_hash):
    with pytest.raises(ObjectMissing):
        store.manager.diskfile_by_hash("sda1", "7", path_hash)


# --- part power -----------------------------------------------------------------------


def test_a_write_is_linked_into_the_next_partition(store):
    path_hash = store.file().path_hash
    power = 8
    partition = str(int(path_hash[:8], 16) >> (32 - power))
    target = int(path_hash[:8], 16) >> (32 - power - 1)

    def file():
        return store.manager.diskfile(
            "sda1", partition, NAME, next_part_power=power + 1
        )

    with file().writer(1) as writer:
        writer.write(b"x")
        writer.commit(Headers(), at(1))
    with store.manager.diskfile("sda1", target, NAME).open(NOW) as opened:
        assert b"".join(opened.reader()) == b"x"
    twin = store.device / "objects" / str(target) / path_hash[-3:] / path_hash
    assert (twin / f"{at(1).internal}.data").stat().st_nlink == 2
    file().delete(at(2))
    assert os.listdir(twin) == [f"{at(2).internal}.ts"]


def test_after_the_increase_the_old_partition_is_tidied(store):
    path_hash = store.file().path_hash
    power = 9
    old = int(path_hash[:8], 16) >> (32 - power + 1)
    new = int(path_hash[:8], 16) >> (32 - power)
    disk = store.manager.diskfile("sda1", new, NAME, next_part_power=power)
    for number in (1, 2):
        left = store.manager.diskfile("sda1", old, NAME)
        directory = Path(left.directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{at(number).internal}.data").write_bytes(b"")
    disk.delete(at(3))
    assert os.listdir(directory) == [f"{at(2).internal}.data"]
