# SPDX-License-Identifier: Apache-2.0
"""A crash between any two steps of a commit leaves the old object or the new, whole.

Each test counts the steps that a write makes on the disk and repeats it once for each
of them, the process gone, or the power, just before that step. The steps are those of
the disk door: making directories and the unnamed file, bytes, attributes, sync, the log
of changed suffixes, the link, the directory's sync, the removal of what is obsolete.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from fake_disk import Crash, FakeDisk, ForgetfulDisk
from object_store import NOW, Store, at

from swift.core.errors import ObjectDeleted, ObjectMissing
from swift.core.headers import Headers

LARGE = 600 * 1024
OLD = b"old body"


def put_small(store):
    store.put(b"new body", at(2))


def put_large(store):
    store.put(b"n" * LARGE, at(2))


def put_at_the_same_time(store):
    store.put(b"new body", at(1))


def delete(store):
    store.file().delete(at(2))


def post(store):
    store.file().post(Headers({"X-Object-Meta-New": "1"}), at(2))


def state_of(store):
    """What a reader gets: body and metadata that tells states apart, or why not."""
    try:
        with store.file().open(NOW) as opened:
            body = b"".join(opened.reader())
            return body, opened.metadata.get("X-Object-Meta-New")
    except ObjectDeleted as error:
        return "deleted", error.timestamp
    except ObjectMissing:
        return "missing", None


def prepare(root, with_old):
    store = Store(root)
    if with_old:
        store.put(OLD, at(1))
    store.manager.suffix_hashes("sda1", "7", list_directory=True)
    return store


WRITES = [put_small, put_large, put_at_the_same_time, delete, post]
OVER = pytest.mark.parametrize("with_old", [False, True], ids=["new", "over old"])


@OVER
@pytest.mark.parametrize("write", WRITES)
def test_a_killed_process_leaves_old_or_new_and_a_suffix_to_hash(
    tmp_path, write, with_old
):
    before = state_of(prepare(tmp_path / "before", with_old))
    finished = prepare(tmp_path / "finished", with_old)
    disk = FakeDisk()
    write(Store(tmp_path / "finished", disk))
    after = state_of(finished)
    hashes_after = hashes_of(finished)
    assert len(disk.steps) > 6
    outcomes = []
    for step in range(len(disk.steps)):
        root = tmp_path / f"step{step}"
        remembered = hashes_of(prepare(root, with_old))
        dying = FakeDisk()
        dying.crash_at = step
        with pytest.raises(Crash):
            write(Store(root, dying))
        for fd in list(dying.open_fds):
            dying.close(fd)
        survivor = Store(root)
        state = state_of(survivor)
        outcomes.append(state)
        context = f"after {disk.steps[:step]}"
        assert state in (before, after), context
        if state == after != before:
            # The digest from before must not be believed any more.
            assert hashes_of(survivor) == hashes_after, context
        else:
            assert hashes_of(survivor) in (remembered, hashes_after), context
        leftovers = list(root.glob("sda1/tmp/*"))
        assert not leftovers, context
    assert outcomes[0] == before


@OVER
@pytest.mark.parametrize("write", [put_small, put_large, delete, post])
def test_lost_power_leaves_old_or_new_and_never_half(tmp_path, write, with_old):
    before = state_of(prepare(tmp_path / "before", with_old))
    finished = prepare(tmp_path / "finished", with_old)
    disk = ForgetfulDisk(tmp_path / "finished")
    write(Store(tmp_path / "finished", disk))
    after = state_of(finished)
    # What was acknowledged survives, whatever the kernel kept to itself.
    survivor = Store(disk.lose_power(tmp_path / "restarted"))
    assert state_of(survivor) == after
    assert hashes_of(survivor) == hashes_of(finished)
    for step in range(len(disk.steps)):
        root = tmp_path / f"step{step}"
        prepare(root, with_old)
        dying = ForgetfulDisk(root)
        dying.crash_at = step
        with suppress(Crash):
            write(Store(root, dying))
        restarted = Store(dying.lose_power(tmp_path / f"restarted{step}"))
        assert state_of(restarted) in (before, after), f"after {disk.steps[:step]}"
        assert hashes_of(restarted) == hashes_anew(restarted)
        for fd in list(dying.open_fds):
            dying.close(fd)


def hashes_of(store):
    return store.manager.suffix_hashes("sda1", "7")


def hashes_anew(store):
    (store.partition() / "hashes.pkl").unlink(missing_ok=True)
    return hashes_of(store)


def test_a_small_put_is_synced_before_it_is_named_and_noted_before(tmp_path):
    prepare(tmp_path, True)
    disk = FakeDisk()
    put_small(Store(tmp_path, disk))
    assert disk.steps == [
        "open_unnamed",
        "write",
        "set_xattr",
        "set_xattr",
        "sync",
        "lock",
        "open_append",
        "write",
        "set_time",
        "link_unnamed",
        *["sync"] * 5,  # the object's directory and those that lead to it
        "unlink",
    ]


def test_names_made_by_who_gave_up_are_synced_by_who_stores(tmp_path):
    store = Store(tmp_path)
    store.device.mkdir(exist_ok=True)
    disk = ForgetfulDisk(tmp_path)
    store = Store(tmp_path, disk)
    with store.file().writer(LARGE):  # makes the directories
        put_small(store)
    survivor = Store(disk.lose_power(tmp_path / "restarted"))
    assert state_of(survivor) == (b"new body", None)


def test_new_directories_are_synced_in_their_parents(tmp_path):
    disk = FakeDisk()
    synced = []
    inner = disk.sync_directory

    def note(path):
        synced.append(path)
        inner(path)

    disk.sync_directory = note
    store = Store(tmp_path, disk)
    put_small(store)
    path = store.path()
    assert set(synced) == {
        str(path.parent),
        str(store.partition()),
        str(store.device / "objects"),
        str(store.device),
    }


def test_the_log_of_changes_is_consolidated_step_by_step(tmp_path):
    prepared = prepare(tmp_path / "finished", True)
    put_small(prepared)
    disk = FakeDisk()
    expected = Store(tmp_path / "finished", disk).manager.suffix_hashes("sda1", "7")
    for step in range(len(disk.steps)):
        root = tmp_path / f"step{step}"
        put_small(prepare(root, True))
        dying = FakeDisk()
        dying.crash_at = step
        with pytest.raises(Crash):
            Store(root, dying).manager.suffix_hashes("sda1", "7")
        for fd in list(dying.open_fds):
            dying.close(fd)
        assert hashes_of(Store(root)) == expected, f"after {disk.steps[:step]}"
        names = {
            path.name for path in Store(root).partition().iterdir() if path.is_file()
        }
        assert names == {".lock", "hashes.pkl", "hashes.invalid"}, disk.steps[:step]
