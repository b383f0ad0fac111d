# SPDX-License-Identifier: Apache-2.0
"""Which files of a directory of fragments count, by their names alone."""

from __future__ import annotations

from itertools import permutations

import pytest

from swift.core.fragmentfiles import choose_fragments
from swift.core.objectfiles import Preference
from swift.core.timestamp import Timestamp

T = [f"170000000{n}.00000" for n in range(10)]


def chosen(*names, preferences=None, index=None):
    wanted = None
    if preferences is not None:
        wanted = [
            Preference(Timestamp.parse(when), frozenset(exclude))
            for when, exclude in preferences
        ]
    return choose_fragments(names, 6, preferences=wanted, fragment_index=index)


def names(parts):
    return sorted(part.name for part in parts)


def test_a_durable_set_makes_all_older_files_obsolete():
    old = [f"{T[1]}#0#d.data", f"{T[1]}#1.data", f"{T[2]}.meta", f"{T[2]}#3.data"]
    new = [f"{T[3]}#0.data", f"{T[3]}#4#d.data"]
    files = chosen(*old, *new)
    assert files.data.name == new[1]
    assert names(files.obsolete) == sorted(old)
    assert files.durable_timestamp.internal == T[3]
    assert dict(files.fragments) == {Timestamp.parse(T[3]): [0, 4]}


def test_data_without_a_commit_replaces_nothing():
    files = chosen(f"{T[1]}#0#d.data", f"{T[2]}#0.data", f"{T[1]}.durable")
    assert files.data.name == f"{T[1]}#0#d.data"
    assert not files.obsolete
    assert names(files.reclaimable) == [f"{T[2]}#0.data"]
    assert list(files.fragments) == [Timestamp.parse(T[2]), Timestamp.parse(T[1])]


def test_a_legacy_mark_makes_its_set_durable():
    files = chosen(f"{T[1]}#0.data", f"{T[2]}#3.data", f"{T[2]}.durable")
    assert files.data.name == f"{T[2]}#3.data"
    assert files.data.durable
    assert names(files.obsolete) == [f"{T[1]}#0.data"]


def test_a_mark_without_fragments_is_obsolete():
    files = chosen(f"{T[1]}#0#d.data", f"{T[2]}.durable", f"{T[0]}.durable")
    assert files.data.name == f"{T[1]}#0#d.data"
    assert names(files.obsolete) == [f"{T[0]}.durable", f"{T[2]}.durable"]


def test_a_tombstone_removes_what_is_not_newer():
    files = chosen(f"{T[1]}#0#d.data", f"{T[2]}#1.data", f"{T[2]}.ts")
    assert files.data is None
    assert files.tombstone.name == f"{T[2]}.ts"
    assert len(files.obsolete) == 2
    assert not files.fragments


def test_an_index_that_was_asked_for_is_the_only_one_that_will_do():
    stored = (f"{T[1]}#0#d.data", f"{T[1]}#3#d.data")
    assert chosen(*stored, index=0).data.name == stored[0]
    assert chosen(*stored, index=1).data is None
    assert chosen(*stored).data.name == stored[1]


def test_preferences_are_tried_in_order_then_the_newest_left():
    stored = (f"{T[1]}#0#d.data", f"{T[2]}#2.data", f"{T[3]}#4.data")
    found = {
        prefer: chosen(*stored, preferences=[(T[i], e) for i, e in prefer]).data
        for prefer in (
            (),
            ((1, ()),),
            ((1, (0,)),),
            ((3, (4,)),),
            ((3, (4,)), (2, (2,))),
            ((3, (4,)), (2, (2,)), (1, (0,))),
            ((9, ()),),
        )
    }
    assert [part and part.name for part in found.values()] == [
        stored[2],
        stored[0],
        stored[2],
        stored[1],
        stored[0],
        None,
        stored[2],
    ]


def test_a_post_below_chosen_data_is_kept_and_not_shown():
    stored = (f"{T[1]}#0#d.data", f"{T[2]}.meta", f"{T[3]}#1.data")
    files = chosen(*stored, preferences=[])
    assert files.data.name == stored[2]
    assert files.meta is None
    assert not files.obsolete
    assert chosen(*stored).meta.name == stored[1]


@pytest.mark.parametrize(
    "name",
    [
        f"{T[1]}.data",
        f"{T[1]}#.data",
        f"{T[1]}#6.data",
        f"{T[1]}#-1.data",
        f"{T[1]}#1#e.data",
        f"{T[1]}#1#d#d.data",
        f"{T[1]}#1d.data",
        f"{T[1]}#٣.data",
        "x#1.data",
        "#1.data",
    ],
)
def test_what_is_no_fragment_is_kept_and_ignored(name):
    files = chosen(name, f"{T[2]}#1#d.data")
    assert list(files.unexpected) == [name]
    assert files.data.name == f"{T[2]}#1#d.data"


def test_a_clean_up_in_between_changes_nothing():
    stored = [
        f"{T[0]}.ts",
        f"{T[1]}#1#d.data",
        f"{T[2]}#2.data",
        f"{T[3]}.meta",
        f"{T[4]}#0.data",
        f"{T[4]}#5#d.data",
    ]
    for order in permutations(stored):
        files = chosen(*order)
        assert files.data.name == stored[5]
        early = {part.name for part in chosen(*order[:4]).obsolete}
        again = chosen(*(name for name in order if name not in early))
        assert again.data == files.data
        assert again.meta == files.meta
