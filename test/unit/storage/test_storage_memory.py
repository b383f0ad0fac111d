# SPDX-License-Identifier: Apache-2.0
"""The disk door in memory does what the real one does, and stays within its bound."""

from __future__ import annotations

import errno
import inspect
import threading

import pytest
from object_store import NAME, NOW, Store, at

from swift.core.erasure import ErasureCoding
from swift.core.errors import DiskFull, LockTimeout, ObjectDeleted, ObjectMissing
from swift.core.headers import Headers
from swift.storage.fs import FileSystem
from swift.storage.memory import MemoryDisk

MADE_OF_OTHERS = {"locked", "random_bytes", "read_file", "sync_directory"}
"""Methods of the door that only call its other methods, or no disk at all."""

SIZE = 1 << 20


@pytest.fixture(params=["real", "memory"])
def door(request, tmp_path):
    """(a door, the path of an empty directory behind it)."""
    path = str(tmp_path / "d")
    fs = FileSystem() if request.param == "real" else MemoryDisk(str(tmp_path), SIZE)
    if request.param == "real":
        fs.make_directory(path)
    return fs, path


def filled(fs, path, content=b"content"):
    """Make a file with content; its path."""
    fd = fs.open_append(path)
    fs.write(fd, [content])
    fs.close(fd)
    return path


def code_of(call, *arguments, **keywords):
    """The errno that a call raises."""
    with pytest.raises(OSError) as raised:  # noqa: PT011 (its number is the result)
        call(*arguments, **keywords)
    return raised.value.errno


def test_no_method_of_the_door_reaches_the_real_disk():
    public = {
        name
        for name, _ in inspect.getmembers(FileSystem, inspect.isfunction)
        if not name.startswith("_")
    }

    assert public - set(vars(MemoryDisk)) == MADE_OF_OTHERS


def test_both_doors_keep_files_alike(door):
    fs, top = door
    fs.make_directory(f"{top}/sub")
    path = filled(fs, f"{top}/sub/file", b"0123")
    filled(fs, path, b"4567")
    fd = fs.open_write(path)
    assert fs.size(fd) == 8
    assert fs.read(fd, 4, 2) == b"2345"
    buffer = memoryview(bytearray(10))
    assert fs.read_into(fd, buffer, 5) == 3
    fs.truncate(fd, 2)
    fs.write(fd, [b"-"])
    fs.truncate(fd, 11)
    fs.set_time(fd, 12.0)
    facts = fs.status(path)
    assert (facts.st_size, facts.st_mtime) == (11, 12.0)
    assert fs.read(fd, 99, 0) == b"01\0\0\0\0\0\0-\0\0"
    fs.close(fd)

    assert fs.list(top) == ["sub"]
    assert (fs.is_file(path), fs.is_directory(path)) == (True, False)
    assert (fs.is_file(top), fs.is_directory(top)) == (False, True)
    assert (fs.is_file(f"{path}/x"), fs.is_directory(f"{top}/x")) == (False, False)


def test_both_doors_name_files_alike(door):
    fs, top = door
    directory_fd = fs.open_directory(top)
    fd = fs.open_unnamed(directory_fd)
    if fd is None:
        pytest.skip("no unnamed files on this file system")
    fs.write(fd, [b"unnamed"])
    assert fs.list(directory_fd) == []
    fs.link_unnamed(fd, "name", directory_fd)
    assert code_of(fs.link_unnamed, fd, "name", directory_fd) == errno.EEXIST
    fs.link(f"{top}/name", f"{top}/other")
    assert fs.status(f"{top}/other").st_ino == fs.status(f"{top}/name").st_ino
    fs.rename(f"{top}/name", f"{top}/other")
    assert sorted(fs.list(top)) == ["name", "other"]  # POSIX: one file stays as it is
    filled(fs, f"{top}/name2")
    fs.rename(f"{top}/other", f"{top}/name2")
    fs.unlink("name", directory_fd=directory_fd)
    assert fs.read_file(f"{top}/name2", 99) == b"unnamed"
    fs.unlink(f"{top}/name2")
    assert fs.list(top) == []
    fs.close(fd)
    fs.close(directory_fd)


def test_both_doors_refuse_alike(door):
    fs, top = door
    fs.make_directory(f"{top}/full")
    fs.make_directory(f"{top}/empty")
    file = filled(fs, f"{top}/full/file")
    assert code_of(fs.make_directory, f"{top}/full") == errno.EEXIST
    assert code_of(fs.make_directory, f"{top}/no/sub") == errno.ENOENT
    assert code_of(fs.make_directory, f"{file}/sub") == errno.ENOTDIR
    assert code_of(fs.remove_directory, f"{top}/full") == errno.ENOTEMPTY
    assert code_of(fs.remove_directory, file) == errno.ENOTDIR
    assert code_of(fs.open_directory, file) == errno.ENOTDIR
    assert code_of(fs.list, f"{top}/no") == errno.ENOENT
    assert code_of(fs.open_read, f"{top}/no") == errno.ENOENT
    assert code_of(fs.open_write, f"{top}/no") == errno.ENOENT
    assert code_of(fs.unlink, f"{top}/full") == errno.EISDIR
    assert code_of(fs.unlink, f"{top}/no") == errno.ENOENT
    assert code_of(fs.rename, f"{top}/no", f"{top}/new") == errno.ENOENT
    assert code_of(fs.rename, f"{top}/empty", f"{top}/full") == errno.ENOTEMPTY
    assert code_of(fs.rename, f"{top}/empty", file) == errno.ENOTDIR
    assert code_of(fs.rename, file, f"{top}/empty") == errno.EISDIR
    assert code_of(fs.read_link, file) == errno.EINVAL
    fs.rename(f"{top}/full", f"{top}/empty")
    assert fs.list(top) == ["empty"]


def test_nothing_is_named_in_a_directory_that_was_removed(door):
    fs, top = door
    fs.make_directory(f"{top}/sub")
    directory_fd = fs.open_directory(f"{top}/sub")
    fd = fs.open_unnamed(directory_fd)
    if fd is None:
        pytest.skip("no unnamed files on this file system")

    fs.remove_directory(f"{top}/sub")

    assert code_of(fs.link_unnamed, fd, "name", directory_fd) == errno.ENOENT


def test_attributes_and_random_names_come_back_from_both_doors(door):
    fs, top = door
    fd, path = fs.open_temporary(top)
    assert fs.get_xattr(fd, "user.a") is None
    fs.set_xattr(path, "user.a", b"one")
    fs.set_xattr(fd, "user.a", b"two")
    assert fs.get_xattr(path, "user.a") == b"two"
    assert fs.list(top) == [path.rpartition("/")[2]]
    fs.close(fd)
    assert code_of(fs.get_xattr, fd, "user.a") == errno.EBADF


def test_a_lock_of_either_door_is_waited_for(door):
    fs, top = door
    held = fs.lock(f"{top}/lock", 1)
    with pytest.raises(LockTimeout):
        fs.lock(f"{top}/lock", 0.02)
    got = []
    waiter = threading.Thread(target=lambda: got.append(fs.lock(f"{top}/lock", 60)))
    waiter.start()
    fs.close(held)
    waiter.join(60)
    assert len(got) == 1
    fs.close(got[0])


# --- in memory only -------------------------------------------------------------------


@pytest.fixture
def memory(tmp_path):
    return Store(tmp_path, MemoryDisk(str(tmp_path), SIZE))


def test_objects_live_in_memory_and_not_on_the_disk(memory):
    body = bytes(range(256)) * 1000
    memory.put(body, at(1), **{"X-Object-Meta-Color": "blue"})

    with memory.file().open(at(2).seconds) as opened:
        assert opened.metadata["X-Object-Meta-Color"] == "blue"
        assert b"".join(opened.reader()) == body
    assert set(memory.manager.suffix_hashes("sda1", "7")) == {memory.file().suffix}
    assert list(memory.device.iterdir()) == []

    memory.file().delete(at(3))
    with pytest.raises(ObjectDeleted):
        memory.file().open(at(4).seconds)


def test_every_device_is_there_and_has_objects_of_its_own(memory):
    memory.put(b"one", at(1))
    elsewhere = memory.manager.diskfile("sdb1", "7", NAME)
    with pytest.raises(ObjectMissing):
        elsewhere.open(at(2).seconds)


def test_what_does_not_fit_is_refused_and_what_goes_makes_room(memory):
    before = memory.fs.space(0)
    for round_ in range(4):
        memory.put(bytes(SIZE // 2), at(2 * round_))
        with pytest.raises(DiskFull):
            memory.put(bytes(SIZE // 2), at(2 * round_ + 1))
        memory.file().delete(at(2 * round_ + 1))
    used = before[0] - memory.fs.space(0)[0]
    assert 0 < used < 20_000
    assert memory.fs.space(0)[1] == SIZE


def test_fragments_are_committed_in_two_phases_in_memory_too(tmp_path):
    coding = ErasureCoding("isa_l_rs_vand", 4, 2, segment_size=65536)
    store = Store(tmp_path, MemoryDisk(str(tmp_path), SIZE), redundancy=coding)
    encoder = coding.encoder(6)
    body = bytes(range(256)) * 300
    pieces = zip(encoder.feed(body), encoder.finish(), strict=True)
    archive = [first + last for first, last in pieces][2]
    file = store.file()
    with file.writer(None) as writer:
        writer.write(archive)
        headers = Headers({"X-Object-Sysmeta-Ec-Frag-Index": "2"})
        writer.commit(headers, at(1), fragment_index=2)
        with pytest.raises(ObjectMissing):
            file.open(NOW)
        file.make_durable(at(1), 2)
    with file.open(NOW) as opened:
        assert b"".join(opened.reader()) == archive
