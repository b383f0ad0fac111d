# SPDX-License-Identifier: Apache-2.0
"""What a write finds in its place: at a glance, or by opening the object."""

from __future__ import annotations

import os

import pytest
from object_store import NOW, Store, at

from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.timestamp import ZERO
from swift.storage.object.existing import existing, look


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def post(store, when, **headers):
    store.file().post(Headers(headers), when)


def damage_record(store):
    (path,) = store.device.rglob("*.data")
    os.setxattr(path, "user.swift.metadata", b"no record")


SCENES = [
    pytest.param(lambda store: None, id="nothing"),
    pytest.param(lambda store: store.put(b"x", at(1)), id="data"),
    pytest.param(
        lambda store: store.put(b"x", at(1), **{"X-Delete-At": str(int(NOW) + 9)}),
        id="data that will expire",
    ),
    pytest.param(
        lambda store: store.put(b"x", at(1), **{"X-Delete-At": str(int(NOW) - 9)}),
        id="data that has expired",
    ),
    pytest.param(lambda store: store.file().delete(at(2)), id="a tombstone"),
    pytest.param(
        lambda store: (
            store.put(b"x", at(1)),
            post(store, at(2), **{"X-Delete-At": str(int(NOW) + 9)}),
        ),
        id="data that a POST lets expire",
    ),
    pytest.param(
        lambda store: (store.put(b"x", at(1)), damage_record(store)), id="damage"
    ),
]


@pytest.mark.parametrize("scene", SCENES)
def test_a_glance_tells_what_opening_tells(tmp_path, scene):
    glanced, opened = Store(tmp_path / "a"), Store(tmp_path / "b")
    scene(glanced)
    scene(opened)

    found = look(glanced.file(), NOW)
    expected = existing(opened.file().open_blocking, NOW)

    for fact in ("timestamp", "is_live", "delete_at", "content_type", "etag"):
        assert getattr(found, fact) == getattr(expected, fact), fact
    quick = look(glanced.file(), NOW, wants_record=False)
    for fact in ("timestamp", "is_live", "delete_at"):
        assert getattr(quick, fact) == getattr(expected, fact), fact


def test_names_with_bytes_beyond_ascii_are_recognised(store):
    name = ObjectName("AUTH_test", "c", "Übermaß\udcff")
    store.put(b"x", at(1), name)
    found = look(store.file(name), NOW, wants_record=False)
    assert (found.timestamp, found.is_live) == (at(1), True)


def test_a_glance_gives_the_names_that_stand(store):
    assert look(store.file(), NOW).names == ()
    store.put(b"x", at(1))
    assert look(store.file(), NOW).names == [f"{at(1).internal}.data"]


def test_what_replaces_an_object_removes_the_names_that_it_was_told(store):
    store.put(b"old", at(1))
    with store.file().writer(3) as writer:
        writer.write(b"new")
        writer.commit(Headers(), at(2), admit=lambda: look(store.file(), NOW).names)
    assert [path.name for path in store.device.rglob("*.data")] == [
        f"{at(2).internal}.data"
    ]
    store.file().delete(at(3), admit=lambda: look(store.file(), NOW).names)
    assert not list(store.device.rglob("*.data"))


def test_a_writer_that_comes_first_into_a_missing_directory_is_tidied_up(store):
    def look_and_lose():
        names = look(store.file(), NOW).names
        store.put(b"old", at(1))
        return names

    with store.file().writer(3) as writer:
        writer.write(b"new")
        writer.commit(Headers(), at(2), admit=look_and_lose)
    assert len(list(store.device.rglob("*.data"))) == 1
    assert look(store.file(), NOW).timestamp == at(2) > ZERO
