# SPDX-License-Identifier: Apache-2.0
"""Fragments on a disk: stored, committed, cleaned up, found corrupt."""

from __future__ import annotations

import os

import pytest
from object_store import NOW, Store, at

from swift.core.erasure import ErasureCoding
from swift.core.errors import ObjectMissing, ObjectQuarantined
from swift.core.headers import Headers
from swift.core.objectfiles import Preference
from swift.runtime import green

CODING = ErasureCoding("isa_l_rs_vand", 4, 2, segment_size=65536)
BODY = os.urandom(200_000)


def archives():
    encoder = CODING.encoder(6)
    pieces = zip(encoder.feed(BODY), encoder.finish(), strict=True)
    return [first + last for first, last in pieces]


ARCHIVES = archives()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, redundancy=CODING)


def put(store, when, index=2, *, commit=True, **keywords):
    """Store one fragment as a PUT in two phases does."""
    file = store.file(**keywords)
    headers = Headers({"X-Object-Sysmeta-Ec-Frag-Index": str(index)})
    with file.writer(None) as writer:
        writer.write(ARCHIVES[index])
        writer.commit(headers, when, fragment_index=index)
        if commit:
            file.make_durable(when, index)


def read(store, **options):
    with store.file().open(NOW, **options) as opened:
        return b"".join(opened.reader())


def test_data_without_its_commit_is_there_for_those_who_prefer_it(store):
    put(store, at(1), commit=False)
    assert store.names() == [f"{at(1).internal}#2.data"]
    with pytest.raises(ObjectMissing):
        read(store)
    assert read(store, preferences=[]) == ARCHIVES[2]


def test_a_commit_replaces_what_is_older(store):
    put(store, at(1), 0)
    put(store, at(2), 1, commit=False)
    assert len(store.names()) == 2
    store.file().make_durable(at(2), 1)
    assert store.names() == [f"{at(2).internal}#1#d.data"]
    assert read(store) == ARCHIVES[1]
    assert store.invalid()


def test_a_commit_that_comes_twice_or_too_late_is_no_error(store):
    put(store, at(1))
    store.file().make_durable(at(1), 2)
    put(store, at(2), 3, commit=False)
    store.file().delete(at(3))
    store.file().make_durable(at(2), 3)
    assert store.names() == [f"{at(3).internal}.ts"]


def test_a_commit_of_what_never_came_is_an_error(store):
    put(store, at(1), 0)
    with pytest.raises(Exception, match="sda1"):
        store.file().make_durable(at(2), 1)


def test_other_fragments_of_the_same_time_stay(store):
    put(store, at(1), 0)
    put(store, at(1), 5)
    assert store.names() == [
        f"{at(1).internal}#0#d.data",
        f"{at(1).internal}#5#d.data",
    ]
    wanted = [Preference(at(1), frozenset({5}))]
    assert read(store, preferences=wanted) == ARCHIVES[0]
    assert read(store, fragment_index=5) == ARCHIVES[5]
    with pytest.raises(ObjectMissing):
        read(store, fragment_index=1)


def test_a_growing_ring_has_the_commit_in_both_partitions(store):
    file = store.file(next_part_power=8)
    put(store, at(1), next_part_power=8)
    found = sorted(store.device.rglob("*.data"))
    assert len(found) == 2
    assert {path.name for path in found} == {f"{at(1).internal}#2#d.data"}
    assert file.partition in {path.parts[-4] for path in found}


def test_old_data_without_commit_goes_and_fresh_data_stays(tmp_path):
    store = Store(tmp_path, redundancy=CODING, reclaim_age=1000, commit_window=60)
    put(store, at(0), commit=False)
    [path] = store.path().iterdir()
    store.manager.suffix_hashes("sda1", "7", [store.file().suffix])
    assert path.exists(), "its file was written a moment ago"
    os.utime(path, (green.now() - 61,) * 2)
    store.manager.suffix_hashes("sda1", "7", [store.file().suffix])
    assert not path.exists()


def test_suffix_hashes_tell_indexes_apart(store):
    put(store, at(1), 0)
    put(store, at(1), 5)
    put(store, at(2), 3, commit=False)
    suffix = store.file().suffix
    digests = store.manager.suffix_hashes("sda1", "7")[suffix]
    assert set(digests) == {None, 0, 5, 3}
    assert digests[0] == digests[5] != digests[3]


@pytest.mark.parametrize("fragment", [0, 1, 3])
def test_a_fragment_with_a_broken_header_goes_into_quarantine(store, fragment):
    put(store, at(1))
    [path] = store.path().iterdir()
    data = bytearray(path.read_bytes())
    data[fragment * CODING.fragment_size + 60] ^= 1
    with path.open("r+b") as stream:
        stream.write(data)
    opened = store.file().open(NOW)
    with opened, pytest.raises(ObjectQuarantined):
        # Not even a whole read is needed to find it.
        list(opened.reader(0, fragment * CODING.fragment_size + 100))
    assert list((store.device / "quarantined" / "objects").iterdir())


def test_a_truncated_fragment_is_not_opened(store):
    put(store, at(1))
    [path] = store.path().iterdir()
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ObjectQuarantined):
        read(store)
