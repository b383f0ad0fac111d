# SPDX-License-Identifier: Apache-2.0
"""The fakes in the doors know all that the real doors do."""

from __future__ import annotations

import errno
import random
import sqlite3
from pathlib import Path

import pytest

from swift.core.errors import ClientDisconnect, ClientTimeout
from swift.runtime import green
from swift.storage.fs import FileSystem
from test.sim import databases
from test.sim.clients import LeavingClient
from test.sim.databases import SimDatabases
from test.sim.doors import CHANGES, STEPS, DiskThreads, SimClock, SimDisk

NO_STEPS = frozenset(
    (
        "close", "drop_cache", "keeps_log", "locked", "orders_names", "random_bytes",
        "read_file", "read_once", "start_sync", "sync_directory",
    )
)  # fmt: skip
"""What no disk refuses, and what is made of other steps."""


def test_every_method_of_the_disk_door_is_a_step_or_known_to_be_none():
    methods = {
        name
        for name, value in vars(FileSystem).items()
        if callable(value) and not name.startswith("_")
    }

    assert methods - STEPS == NO_STEPS
    assert CHANGES <= STEPS <= methods


class NoLuck(random.Random):
    """Chance that never saves anything."""

    def random(self):
        return 0.99


def test_an_empty_directory_that_was_synced_comes_back_as_one(tmp_path):
    path = tmp_path / "n1" / "sda"
    path.mkdir(parents=True)
    disk = SimDisk(str(tmp_path), NoLuck())
    disk.add("n1", "sda")
    disk.make_directory(f"{path}/cfb")
    disk.sync_directory(f"{path}/cfb")
    disk.sync_directory(str(path))
    disk.remove_directory(f"{path}/cfb")

    disk.lose_power("n1", "sda")

    assert (path / "cfb").is_dir()


@pytest.fixture
def full_disk(tmp_path):
    """The disk of a node that has room for five bytes, and the path of its device."""
    path = tmp_path / "n1" / "sda"
    path.mkdir(parents=True)
    disk = SimDisk(str(tmp_path), NoLuck())
    disk.add("n1", "sda")
    disk.nodes["n1"].room = 5
    return disk, path


def test_a_full_disk_takes_what_fits_and_refuses_the_rest(full_disk):
    disk, path = full_disk
    fd, name = disk.open_temporary(str(path))

    disk.write(fd, [b"abc"])
    with pytest.raises(OSError, match="No space") as refused:
        disk.write(fd, [b"de", b"fg"])
    disk.close(fd)

    assert refused.value.errno == errno.ENOSPC
    assert Path(name).read_bytes() == b"abcde"


def test_a_full_disk_says_how_much_is_left(full_disk):
    disk, path = full_disk
    fd, _ = disk.open_temporary(str(path))

    assert disk.space(fd)[0] == 5
    disk.preallocate(fd, 5)
    with pytest.raises(OSError, match="No space"):
        disk.preallocate(fd, 6)
    disk.close(fd)


@pytest.fixture
def database(tmp_path):
    """A small database, the room that is left for it, and who watches it."""
    room = []
    watcher = SimDatabases(
        NoLuck(), lambda _: False, lambda _, size: size < room[0], lambda: 0.0
    )
    databases.install(watcher)
    connection = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    connection.execute("CREATE TABLE t (text)")
    yield connection, room
    connection.close()
    databases.install(None)


def test_a_database_has_no_room_on_a_full_disk_until_there_is_some(database):
    connection, room = database
    room.append(0)

    databases.tighten(True)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        connection.execute("INSERT INTO t VALUES ('one')")
    databases.tighten(False)
    connection.execute("INSERT INTO t VALUES ('two')")

    assert connection.execute("SELECT text FROM t").fetchall() == [("two",)]


@pytest.fixture
def clock():
    """A clock that jumps."""
    green.install(SimClock())
    yield
    green.install(None)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("seed", range(8))
def test_a_client_that_leaves_sends_the_beginning_of_what_it_meant(seed):
    client = LeavingClient(random.Random(seed), b"0123456789" * 700)
    sent = []

    with pytest.raises((ClientDisconnect, ClientTimeout)):
        sent.extend(iter(lambda: client.read(65536), b""))

    assert sent == [] or client.body.startswith(b"".join(sent))


@pytest.fixture
def threads():
    """Disk threads that run apart from who waits for them."""
    made = DiskThreads(AlwaysApart(), apart=True)
    green.install_threads(made)
    yield made
    green.install_threads(None)


class AlwaysApart(random.Random):
    """Chance that gives every call a thread of its own."""

    def random(self):
        return 0.5


def test_a_disk_thread_gives_back_what_its_call_returned_or_raised(threads):
    assert green.in_thread(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        green.in_thread(int, "seven")
    assert not threads.running


def test_a_disk_thread_ends_its_call_when_nobody_waits_any_more(threads):
    done = []

    def work():
        green.yield_now()
        done.append("all of it")

    waiting = green.spawn(green.in_thread, work)
    while not threads.running:
        green.yield_now()
    waiting.kill()
    while threads.running:
        green.yield_now()

    assert done == ["all of it"]


def test_who_waits_for_a_disk_thread_that_is_killed_goes_with_it(threads):
    waiting = green.spawn(green.in_thread, green.sleep, 60)
    while not threads.running:
        green.yield_now()

    for thread in set(threads.running):
        thread.kill()

    assert waiting.wait() is None
