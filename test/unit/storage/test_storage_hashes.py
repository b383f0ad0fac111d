# SPDX-License-Identifier: Apache-2.0
"""Suffix hashes: remembered, invalidated, calculated anew."""

from __future__ import annotations

import errno
import os
import pickle
from hashlib import md5

import pytest
from fake_disk import FakeDisk
from object_store import Store, at

from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.storage.fs import FileSystem
from swift.storage.object.hashes import invalidate


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def hashes_of(store, *suffixes, **keywords):
    return store.manager.suffix_hashes("sda1", "7", suffixes, **keywords)


def digest(*names):
    return md5("".join(names).encode()).hexdigest()


def stored(store):
    return pickle.loads((store.partition() / "hashes.pkl").read_bytes())


def test_a_partition_that_is_not_there_has_no_hashes(store):
    assert hashes_of(store) == {}
    assert not store.partition().exists()


def test_a_put_a_post_and_a_delete_change_the_digest(store):
    suffix = store.file().suffix
    store.put(b"x", at(1))
    assert hashes_of(store) == {suffix: digest(f"{at(1).internal}.data")}
    store.file().post(Headers(), at(2))
    assert hashes_of(store) == {
        suffix: digest(f"{at(2).internal}.meta", f"{at(1).internal}.data")
    }
    store.file().delete(at(3))
    assert hashes_of(store) == {suffix: digest(f"{at(3).internal}.ts")}
    assert store.invalid() == []


def test_digests_are_remembered_until_they_are_invalidated(store):
    store.put(b"x", at(1))
    first = hashes_of(store)
    path = store.path() / store.names()[0]
    path.rename(path.with_name(f"{at(2).internal}.data"))
    assert hashes_of(store) == first
    store.manager.invalidate("sda1", "7", store.file().suffix)
    assert hashes_of(store) != first


def test_named_suffixes_are_calculated_anew(store):
    store.put(b"x", at(1))
    first = hashes_of(store)
    path = store.path() / store.names()[0]
    path.rename(path.with_name(f"{at(2).internal}.data"))
    assert hashes_of(store, store.file().suffix, "not a suffix") != first


def test_a_suffix_that_is_gone_is_dropped(store):
    store.put(b"x", at(1))
    hashes_of(store)
    path = store.path()
    (path / store.names()[0]).unlink()
    store.manager.invalidate("sda1", "7", store.file().suffix)
    assert hashes_of(store) == {}
    assert not path.parent.exists()
    assert set(stored(store)) == {"valid", "updated"}


def test_suffixes_that_nobody_announced_are_found_by_listing(store):
    store.put(b"x", at(1))
    hashes_of(store)
    other = next(
        name
        for number in range(100)
        if store.file(name := ObjectName("a", "c", str(number))).suffix
        != store.file().suffix
    )
    store.put(b"x", at(1), other)
    (store.partition() / "hashes.invalid").write_bytes(b"")
    assert set(hashes_of(store)) == {store.file().suffix}
    assert set(hashes_of(store, list_directory=True)) == {
        store.file().suffix,
        store.file(other).suffix,
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        pickle.dumps([]),
        pickle.dumps({"xyz": "not hex"}),
        pickle.dumps({"valid": False, "abc": "0" * 32}),
        pickle.dumps({"abcd": "0" * 32}),
        b"cos\nsystem\n(S'true'\ntR.",
    ],
)
def test_broken_hashes_are_made_anew_from_the_directories(store, content):
    store.put(b"x", at(1))
    expected = hashes_of(store)
    (store.partition() / "hashes.pkl").write_bytes(content)
    assert hashes_of(store) == expected
    assert stored(store)["valid"] is True


def test_hashes_without_valid_and_updated_are_taken(store):
    store.put(b"x", at(1))
    expected = hashes_of(store)
    (store.partition() / "hashes.pkl").write_bytes(pickle.dumps(expected, 2))
    assert hashes_of(store) == expected


def test_junk_in_the_log_is_ignored(store):
    store.put(b"x", at(1))
    expected = hashes_of(store)
    (store.partition() / "hashes.invalid").write_bytes(b"xyz\n\xff\n../\n\n")
    assert hashes_of(store) == expected
    assert (store.partition() / "hashes.invalid").read_bytes() == b""


def test_the_time_of_the_log_says_how_long_it_is(store):
    log = store.partition() / "hashes.invalid"
    store.put(b"x", at(1))
    assert log.stat().st_mtime == len(store.file().suffix) + 1
    store.manager.invalidate("sda1", "7", store.file().suffix)
    assert log.stat().st_mtime == log.stat().st_size == 8
    hashes_of(store)
    assert log.stat().st_mtime == log.stat().st_size == 0


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(b"", id="nothing was written back"),
        pytest.param(b"abc\n", id="the first line was written back"),
        pytest.param(b"abc\n\0\0\0\0", id="the second line's block was not"),
    ],
)
def test_a_log_that_lost_lines_has_its_partition_hashed_again(store, left):
    store.put(b"x", at(1))
    first = hashes_of(store)
    store.manager.invalidate("sda1", "7", "abc")
    store.put(b"y", at(2))
    log = store.partition() / "hashes.invalid"
    told_s = log.stat().st_mtime
    log.write_bytes(left)
    os.utime(log, (told_s, told_s))
    assert hashes_of(store) != first
    assert hashes_of(store) == hashes_of(store, *first)
    assert log.stat().st_mtime == log.stat().st_size == 0


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(b"", id="nothing was written back"),
        pytest.param(b"ab", id="half a line was written back"),
    ],
)
def test_a_log_that_lost_lines_has_still_lost_them_when_more_are_written(store, left):
    store.put(b"x", at(1))
    first = hashes_of(store)
    store.put(b"y", at(2))
    log = store.partition() / "hashes.invalid"
    told_s = log.stat().st_mtime
    log.write_bytes(left)
    os.utime(log, (told_s, told_s))

    store.manager.invalidate("sda1", "7", "abc")

    assert hashes_of(store) != first
    assert log.stat().st_mtime == log.stat().st_size == 0


def test_half_a_line_without_a_time_spoils_no_other(store):
    store.put(b"x", at(1))
    first = hashes_of(store)
    (store.partition() / "hashes.invalid").write_bytes(b"ab")

    store.put(b"y", at(2))

    assert hashes_of(store) != first


class NearlyFullDisk(FileSystem):
    """Takes half of what is written, and says that it has no more room."""

    def write(self, fd, chunks):
        data = b"".join(chunks)
        super().write(fd, [data[: len(data) // 2]])
        raise OSError(errno.ENOSPC, "no room")


def test_a_line_for_which_there_is_no_room_leaves_nothing_in_the_log(store):
    store.put(b"x", at(1))
    log = store.partition() / "hashes.invalid"
    before = log.read_bytes()

    with pytest.raises(OSError, match="no room"):
        invalidate(NearlyFullDisk(), str(store.partition()), "abc")

    assert log.read_bytes() == before
    assert log.stat().st_mtime == log.stat().st_size


def test_a_log_of_another_system_is_taken_for_what_it_holds(store):
    store.put(b"x", at(1))
    first = hashes_of(store)
    path = store.path() / store.names()[0]
    path.rename(path.with_name(f"{at(2).internal}.data"))
    log = store.partition() / "hashes.invalid"
    log.write_bytes(b"abc\n")  # which leaves the present for a time
    assert hashes_of(store) == first
    with log.open("ab") as stream:
        stream.write(f"{store.file().suffix}\n".encode())
    assert hashes_of(store) != first
    assert log.read_bytes() == b""


def test_what_has_not_changed_is_read_without_a_lock(store):
    store.put(b"x", at(1))
    expected = hashes_of(store)
    disk = FakeDisk()
    assert hashes_of(Store(store.root, disk)) == expected
    assert disk.steps == []


def test_lines_that_come_during_a_calculation_are_kept(store):
    store.put(b"x", at(1))
    suffix = store.file().suffix
    disk = FakeDisk()
    busy = Store(store.root, disk)
    inner = disk.list

    def disturbed(path):
        if str(path).endswith(suffix):
            disk.list = inner
            store.manager.invalidate("sda1", "7", "abc")
            store.manager.invalidate("sda1", "7", suffix)
        return inner(path)

    disk.list = disturbed
    assert set(hashes_of(busy)) == {suffix}
    assert stored(store)[suffix] is None
    assert stored(store)["abc"] is None
    assert store.invalid() == []


def test_the_file_is_written_in_protocol_2(store):
    store.put(b"x", at(1))
    hashes_of(store)
    data = (store.partition() / "hashes.pkl").read_bytes()
    assert data[:2] == b"\x80\x02"
    assert list(pickle.loads(data)) == ["valid", store.file().suffix, "updated"]


def test_hashing_tidies_directories(store):
    store.put(b"x", at(1))
    old = store.path() / f"{at(0).internal}.data"
    old.write_bytes(b"")
    store.manager.invalidate("sda1", "7", store.file().suffix)
    hashes_of(store)
    assert not old.exists()


def test_unexpected_files_stay_and_have_the_digest_of_nothing(store):
    store.put(b"x", at(1))
    path = store.path()
    (path / store.names()[0]).unlink()
    (path / ".1700000001.00000.data.a1B2c3").write_bytes(b"")
    assert hashes_of(store) == {store.file().suffix: digest()}
    assert os.listdir(path) == [".1700000001.00000.data.a1B2c3"]


def test_a_file_in_the_place_of_a_hash_directory_is_quarantined(store):
    store.put(b"x", at(1))
    expected = hashes_of(store)
    junk = store.path().with_name("f" * 29 + store.file().suffix)
    junk.write_bytes(b"junk")
    store.manager.invalidate("sda1", "7", store.file().suffix)
    assert hashes_of(store) == expected
    assert (store.device / "quarantined" / "objects" / junk.name).is_file()
    assert store.metrics.counts == {"quarantines": 1}


def test_a_change_during_the_calculation_is_not_lost(store, monkeypatch):
    store.put(b"x", at(1))
    from swift.storage.object import hashes

    inner = hashes._hash_suffix
    calls = []

    def disturbed(context, path):
        result = inner(context, path)
        calls.append(path)
        if len(calls) == 1:
            # Another process consolidates a newer change in between.
            path = store.partition() / "hashes.pkl"
            path.write_bytes(pickle.dumps({"valid": True, "abc": None}, 2))
        return result

    monkeypatch.setattr(hashes, "_hash_suffix", disturbed)
    hashes_of(store)
    assert len(calls) > 1
