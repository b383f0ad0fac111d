# SPDX-License-Identifier: Apache-2.0
"""Which files of an object directory win: the table of the rules, and the laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.objectfiles import (
    DATA,
    META,
    TOMBSTONE,
    FilePart,
    choose_replicated,
    parse,
    plain_name,
)
from swift.core.timestamp import Timestamp

T = {number: f"17000000{number:02d}.00000" for number in range(30)}


def names_of(parts):
    return {part.name for part in parts}


@pytest.mark.parametrize(
    ("names", "data", "meta", "content_type", "tombstone", "obsolete"),
    [
        pytest.param([], None, None, None, None, [], id="nothing"),
        pytest.param(
            [f"{T[1]}.data"], f"{T[1]}.data", None, None, None, [], id="plain data"
        ),
        pytest.param(
            [f"{T[1]}.data", f"{T[2]}.data"],
            f"{T[2]}.data",
            None,
            None,
            None,
            [f"{T[1]}.data"],
            id="newer data wins",
        ),
        pytest.param(
            [f"{T[1]}.data", f"{T[2]}.ts"],
            None,
            None,
            None,
            f"{T[2]}.ts",
            [f"{T[1]}.data"],
            id="a tombstone takes older data",
        ),
        pytest.param(
            [f"{T[2]}.data", f"{T[2]}.ts"],
            None,
            None,
            None,
            f"{T[2]}.ts",
            [f"{T[2]}.data"],
            id="at one time the tombstone wins",
        ),
        pytest.param(
            [f"{T[3]}.data", f"{T[2]}.ts"],
            f"{T[3]}.data",
            None,
            None,
            None,
            [f"{T[2]}.ts"],
            id="newer data takes a tombstone",
        ),
        pytest.param(
            [f"{T[1]}.ts", f"{T[2]}.ts"],
            None,
            None,
            None,
            f"{T[2]}.ts",
            [f"{T[1]}.ts"],
            id="one tombstone is enough",
        ),
        pytest.param(
            [f"{T[1]}.data", f"{T[2]}.meta", f"{T[3]}.meta"],
            f"{T[1]}.data",
            f"{T[3]}.meta",
            None,
            None,
            [f"{T[2]}.meta"],
            id="the newest metadata stands",
        ),
        pytest.param(
            [f"{T[3]}.data", f"{T[3]}.meta"],
            f"{T[3]}.data",
            None,
            None,
            None,
            [f"{T[3]}.meta"],
            id="metadata as old as the data is obsolete",
        ),
        pytest.param(
            [f"{T[1]}.data", f"{T[2]}+0.meta", f"{T[3]}.meta"],
            f"{T[1]}.data",
            f"{T[3]}.meta",
            f"{T[2]}+0.meta",
            None,
            [],
            id="an older file stays for its content type",
        ),
        pytest.param(
            [f"{T[1]}.data", f"{T[2]}+0.meta", f"{T[3]}+0.meta"],
            f"{T[1]}.data",
            f"{T[3]}+0.meta",
            f"{T[3]}+0.meta",
            None,
            [f"{T[2]}+0.meta"],
            id="the newest file may hold the content type too",
        ),
        pytest.param(
            [f"{T[1]}.data", f"{T[4]}-186a0.meta", f"{T[4]}.meta"],
            f"{T[1]}.data",
            f"{T[4]}-186a0.meta",
            f"{T[4]}-186a0.meta",
            None,
            [f"{T[4]}.meta"],
            id="of two at one time the newer content type stays",
        ),
        pytest.param(
            [f"{T[3]}.data", f"{T[4]}-30d40.meta"],
            f"{T[3]}.data",
            f"{T[4]}-30d40.meta",
            None,
            None,
            [],
            id="a content type older than the data counts for nothing",
        ),
        pytest.param(
            [f"{T[5]}.meta"], None, None, None, None, [], id="metadata without data"
        ),
        pytest.param(
            [f"{T[5]}.ts", f"{T[4]}.meta", f"{T[6]}.meta"],
            None,
            None,
            None,
            f"{T[5]}.ts",
            [f"{T[4]}.meta"],
            id="metadata newer than the tombstone waits for its data",
        ),
        pytest.param(
            [f"{T[1]}.data", f"{T[1]}_0000000000000001.data"],
            f"{T[1]}_0000000000000001.data",
            None,
            None,
            None,
            [f"{T[1]}.data"],
            id="the offset decides between equal times",
        ),
        pytest.param(
            [f"{T[2]}.data", f"{T[1]}.weird", f"{T[3]}.weird"],
            f"{T[2]}.data",
            None,
            None,
            None,
            [],
            id="unknown kinds do not mind data",
        ),
        pytest.param(
            [f"{T[2]}.ts", f"{T[1]}.weird", f"{T[3]}.weird"],
            None,
            None,
            None,
            f"{T[2]}.ts",
            [f"{T[1]}.weird"],
            id="unknown kinds mind tombstones",
        ),
    ],
)
def test_the_files_that_make_an_object(
    names, data, meta, content_type, tombstone, obsolete
):
    files = choose_replicated(names)

    def name(part):
        return part.name if part else None

    assert name(files.data) == data
    assert name(files.meta) == meta
    assert name(files.content_type) == content_type
    assert name(files.tombstone) == tombstone
    assert names_of(files.obsolete) == set(obsolete)


def test_metadata_without_data_may_be_reclaimed():
    files = choose_replicated([f"{T[5]}.meta", f"{T[6]}.meta"])
    assert names_of(files.reclaimable) == {f"{T[6]}.meta"}
    assert names_of(files.obsolete) == {f"{T[5]}.meta"}
    assert files.is_empty


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".data",
        "data",
        "garbage.data",
        "nan.data",
        "-1.00000.data",
        "99999999999.00000.data",
        f"{T[1]}#3.data",
        f"{T[1]}#3#d.data",
        f".{T[1]}.data.a1B2c3",
        f"{T[1]}_xyz.data",
        f"{T[1]}+zz.meta",
        "hashes.pkl",
    ],
)
def test_other_names_are_unexpected_and_kept(name):
    assert parse(name) is None
    files = choose_replicated([name, f"{T[9]}.ts"])
    assert list(files.unexpected) == [name]
    assert not files.obsolete


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (FilePart(Timestamp.parse(T[1]), DATA), f"{T[1]}.data"),
        (
            FilePart(Timestamp.parse(f"{T[1]}_a"), TOMBSTONE),
            f"{T[1]}_000000000000000a.ts",
        ),
        (FilePart(Timestamp.parse(T[1]), META), f"{T[1]}.meta"),
        (
            FilePart(
                Timestamp.parse("1700000009.00000"),
                META,
                Timestamp.parse("1700000008.50000"),
            ),
            "1700000009.00000-c350.meta",
        ),
        (
            FilePart(Timestamp.parse(f"{T[6]}_1f"), META, Timestamp.parse(T[6])),
            f"{T[6]}_1f+0.meta",
        ),
    ],
)
def test_a_file_is_named_by_its_times(part, name):
    assert plain_name(part) == name
    found = parse(name)
    assert found is not None
    assert (found.timestamp, found.kind) == (part.timestamp, part.kind)


moments = st.integers(0, 6).map(lambda number: Timestamp.parse(T[number]))
parts = st.one_of(
    st.builds(FilePart, moments, st.sampled_from([DATA, TOMBSTONE, META, ".odd"])),
    st.builds(FilePart, moments, st.just(META), moments),
)
directories = st.lists(parts.map(plain_name), max_size=8, unique=True)


@given(directories, st.randoms(use_true_random=False))
def test_the_order_of_names_does_not_matter(names, rng):
    shuffled = list(names)
    rng.shuffle(shuffled)
    first, second = choose_replicated(names), choose_replicated(shuffled)
    assert (first.data, first.meta, first.content_type, first.tombstone) == (
        second.data,
        second.meta,
        second.content_type,
        second.tombstone,
    )
    assert names_of(first.obsolete) == names_of(second.obsolete)


@given(directories)
def test_a_clean_up_changes_nothing_and_leaves_nothing_to_do(names):
    before = choose_replicated(names)
    left = [name for name in names if name not in names_of(before.obsolete)]
    after = choose_replicated(left)
    assert not after.obsolete
    assert (before.data, before.meta, before.content_type, before.tombstone) == (
        after.data,
        after.meta,
        after.content_type,
        after.tombstone,
    )


@given(directories, directories)
def test_an_early_clean_up_does_not_change_what_comes_of_all_files(first, second):
    tidied = [
        name
        for name in first
        if name not in names_of(choose_replicated(first).obsolete)
    ]
    early = choose_replicated(dict.fromkeys([*tidied, *second]))
    late = choose_replicated(dict.fromkeys([*first, *second]))
    assert (early.data, early.tombstone) == (late.data, late.tombstone)
    assert early.meta == late.meta


@given(directories)
def test_no_more_than_one_thing_stands(names):
    files = choose_replicated(names)
    assert files.data is None or files.tombstone is None
    assert files.meta is None or files.data is not None
    kept = set(names) - names_of(files.obsolete)
    for part in (files.data, files.meta, files.content_type, files.tombstone):
        assert part is None or part.name in kept
