# SPDX-License-Identifier: Apache-2.0
"""What a node does with fragments, decided from suffix hashes and file names."""

from __future__ import annotations

import random

import pytest

from swift.core.erasure import ErasureCoding
from swift.core.fragments import Described
from swift.core.headers import Headers
from swift.core.quorum import Answer
from swift.core.rebuilding import FragmentSources, Sought
from swift.core.reconstruction import (
    Layout,
    Revert,
    Sync,
    given_back,
    out_of_sync,
    plan_of,
)
from swift.core.timestamp import Timestamp

SINGLE = Layout(positions=6, unique=6, needed=4)
TWICE = Layout(positions=6, unique=3, needed=2)
CODING = ErasureCoding("isa_l_rs_vand", 4, 2)
OLD, WHEN = Timestamp.parse("1700000000.00000"), Timestamp.parse("1700000005.00000")


def plan(hashes, position, layout=SINGLE):
    return plan_of(hashes, position, layout, random.Random(1))


# --- Plans ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "position", "partners"),
    [
        (SINGLE, 0, (5, 1, 3)),
        (SINGLE, 5, (4, 0, 2)),
        (Layout(2, 2, 1), 0, (1,)),
        (Layout(3, 3, 2), 1, (0, 2)),
        (Layout(14, 14, 10), 13, (12, 0, 6)),
    ],
)
def test_partners_are_the_neighbours_and_the_opposite(layout, position, partners):
    assert layout.partners(position) == partners


def test_a_primary_keeps_its_own_in_step_and_gives_back_the_rest():
    hashes = {
        "aaa": {None: "x", 2: "y"},
        "bbb": {None: "x", 2: "y", 4: "z"},
        "ccc": {4: "z", 1: "q"},
        "ddd": {None: "only a tombstone"},
    }
    found = plan(hashes, 2)
    assert found.sync == Sync(2, ("aaa", "bbb", "ddd"))
    assert found.reverts == (
        Revert(1, ("ccc",), (1,)),
        Revert(4, ("bbb", "ccc"), (4,)),
    )


def test_a_handoff_gives_back_everything_the_fewest_first():
    hashes = {"aaa": {0: "x", 5: "y"}, "bbb": {5: "x"}, "ccc": {None: "t"}}
    found = plan(hashes, None)
    assert found.sync is None
    assert found.reverts == (
        Revert(0, ("aaa", "ccc"), (0,)),
        Revert(5, ("aaa", "bbb"), (5,)),
    )


def test_fragments_that_are_kept_twice_go_to_both():
    assert plan({"aaa": {1: "x"}}, None, TWICE).reverts[0].positions == (1, 4)
    assert plan({"aaa": {1: "x"}}, 4, TWICE).sync == Sync(1, ("aaa",))
    assert plan({"aaa": {1: "x"}}, 4, TWICE).reverts == ()


def test_tombstones_alone_go_to_so_many_that_a_reader_meets_one():
    [revert] = plan({"aaa": {None: "t"}}, None).reverts
    assert revert.fragment_index is None
    assert len(set(revert.positions)) == 3
    assert len(plan({"aaa": {None: "t"}}, None, TWICE).reverts[0].positions) == 5


def test_indexes_that_nobody_has_are_named_and_left():
    found = plan({"aaa": {6: "x", 1: "y"}}, 1)
    assert found.unknown == (6,)
    assert found.reverts == ()


def test_an_empty_partition_has_nothing_to_do():
    assert plan({}, None).reverts == ()
    assert plan({}, 3).sync == Sync(3, ())


@pytest.mark.parametrize(
    ("local", "remote", "differs"),
    [
        ({None: "d", 0: "t"}, {None: "d", 1: "t"}, False),
        ({None: "d", 0: "t"}, {None: "e", 1: "t"}, True),
        ({None: "d", 0: "t"}, {None: "d", 1: "u"}, True),
        ({None: "d", 0: "t"}, {None: "d", 0: "t"}, True),
        ({None: "d", 0: "t"}, None, True),
        ({None: "d", 0: "t"}, "a digest of whole copies", True),
        ({None: "d"}, {None: "d"}, False),
        ({None: "d", 0: "t", 4: "x"}, {None: "d", 1: "t", 5: "y"}, False),
    ],
)
def test_a_suffix_is_compared_by_what_each_should_have(local, remote, differs):
    found = out_of_sync(
        {"aaa": local}, {"aaa": remote, "bbb": {1: "z"}}, own_index=0, peer_index=1
    )
    assert found == (["aaa"] if differs else [])


# --- What is removed ------------------------------------------------------------------


def names_given_back(offered, names, index, is_handoff, preferences=()):
    files = CODING.choose(offered, preferences=preferences, fragment_index=index)
    standing = CODING.choose(names, preferences=preferences, fragment_index=index)
    return [part.name for part in given_back(files, standing, is_handoff=is_handoff)]


DATA, OTHER = f"{WHEN.internal}#3#d.data", f"{WHEN.internal}#1#d.data"
META = "1700000009.00000.meta"
LATER = "1700000010.00000.meta"
TOMBSTONE = "1700000009.00000.ts"


@pytest.mark.parametrize(
    ("offered", "names", "is_handoff", "gone"),
    [
        pytest.param([DATA], [DATA], True, [DATA], id="alone"),
        pytest.param([DATA, META], [DATA, META], True, [DATA, META], id="metadata"),
        pytest.param([DATA, META], [DATA, META], False, [DATA], id="of a primary"),
        pytest.param(
            [DATA, OTHER, META], [DATA, OTHER, META], True, [DATA], id="not the last"
        ),
        pytest.param([DATA, META], [DATA, META, LATER], True, [], id="posted since"),
        pytest.param([DATA], [TOMBSTONE], True, [DATA], id="deleted since"),
        pytest.param([TOMBSTONE], [TOMBSTONE], True, [TOMBSTONE], id="tombstone"),
        pytest.param([TOMBSTONE], [TOMBSTONE], False, [], id="tombstone of a primary"),
        pytest.param(
            [TOMBSTONE], [DATA, TOMBSTONE], True, [TOMBSTONE], id="older data"
        ),
    ],
)
def test_what_was_offered_goes_and_what_others_need_stays(
    offered, names, is_handoff, gone
):
    assert names_given_back(offered, names, 3, is_handoff) == gone


def test_a_fragment_that_was_committed_since_is_offered_again():
    waiting = f"{WHEN.internal}#3.data"
    assert names_given_back([waiting], [DATA], 3, True) == [waiting]
    assert waiting != DATA


# --- From what a fragment is made -----------------------------------------------------


def sources():
    own = Described(0, WHEN, "etag", 100)
    return FragmentSources(
        Sought(own, 180, target=1),
        suffices=CODING.suffices,
        needed=4,
        scheme=CODING.scheme,
        unique=6,
    )


def answer(index, source="node", **changed):
    headers = {
        "X-Object-Sysmeta-Ec-Etag": "etag",
        "X-Object-Sysmeta-Ec-Content-Length": "100",
        "X-Object-Sysmeta-Ec-Frag-Index": str(index),
        "X-Object-Sysmeta-Ec-Scheme": CODING.scheme,
        "X-Backend-Data-Timestamp": WHEN.internal,
        "X-Backend-Durable-Timestamp": WHEN.internal,
        "Content-Length": "180",
    }
    headers.update({name.replace("_", "-"): value for name, value in changed.items()})
    return Answer(200, Headers(headers), source=source)


def test_so_many_are_missing_as_the_code_needs():
    found = sources()
    assert found.missing == 3
    assert [found.feed(answer(index)) for index in (2, 3, 5)] == [2, 3, 5]
    assert found.missing == 0


@pytest.mark.parametrize(
    "bad",
    [
        answer(0),
        answer(1),
        answer(6),
        answer(2, X_Object_Sysmeta_Ec_Etag="other"),
        answer(2, X_Object_Sysmeta_Ec_Content_Length="101"),
        answer(2, X_Object_Sysmeta_Ec_Scheme="isa_l_rs_cauchy 4+2"),
        answer(2, X_Backend_Data_Timestamp=OLD.internal),
        answer(2, X_Backend_Data_Timestamp=""),
        answer(2, Content_Length="179"),
        Answer(404),
        Answer(503),
    ],
)
def test_everything_else_is_of_no_use(bad):
    found = sources()
    assert found.feed(bad) is None
    assert found.missing == 3


def test_a_fragment_counts_once():
    found = sources()
    assert found.feed(answer(2)) == 2
    assert found.feed(answer(2)) is None
    assert found.missing == 2


def test_a_node_that_has_another_is_asked_for_that():
    found = sources()
    listed = f'{{"{WHEN.internal}": [0, 1, 4], "{OLD.internal}": [3]}}'
    found.feed(answer(0, source="both", X_Backend_Fragments=listed))
    source, (name, wanted) = found.revisit()
    assert source == "both"
    assert name == "X-Backend-Fragment-Preferences"
    assert wanted == f'[{{"timestamp": "{WHEN.internal}", "exclude": [0, 1]}}]'
    assert found.revisit() is None


@pytest.mark.parametrize(
    ("answers", "threshold", "solitary"),
    [
        ([404, 404], 1, True),
        ([404, 404], 0, False),
        ([], 1, False),
        ([404, 503], 1, False),
        ([404, 507], 1, False),
        ([404, answer(2)], 1, False),
        ([404, answer(2)], 2, True),
        ([404, answer(2), answer(1)], 2, False),
        ([404, answer(0)], 1, True),
        ([404, answer(2, X_Backend_Data_Timestamp=OLD.internal)], 2, False),
        ([404, answer(2), answer(3), answer(4)], 9, False),
    ],
)
def test_a_fragment_is_solitary_only_when_all_else_is_missing(
    answers, threshold, solitary
):
    found = sources()
    for each in answers:
        found.feed(Answer(each) if isinstance(each, int) else each)
    assert found.is_solitary(threshold) is solitary


def test_a_node_that_is_not_asked_may_have_something():
    found = sources()
    found.feed(Answer(404))
    found.pass_over()
    assert not found.is_solitary(1)
    assert (
        str(found)
        == "1 of 4 fragments, 0 of 0 others durable, 1 of other data, 1 × 404"
    )
