# SPDX-License-Identifier: Apache-2.0
"""What a read makes of fragments of several versions, and what it asks for next."""

from __future__ import annotations

import json
import os
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.erasure import BadFragment, ErasureCoding
from swift.core.errors import FormatError, InvalidInput
from swift.core.fragmentformat import read_header
from swift.core.headers import Headers
from swift.core.quorum import Answer
from swift.core.timestamp import Timestamp

CODING = ErasureCoding("isa_l_rs_vand", 4, 2, segment_size=4096)
OLD, NEW, LATER = (Timestamp.parse(f"170000000{n}.00000") for n in (1, 2, 3))


def collector(**options):
    options = {"newest": False, "suppress_missing": 0, "wants_body": True, **options}
    return CODING.collector(**options)


def fragment(index, when=OLD, *, durable=True, status=200, etag="e", **changes):
    headers = {
        "X-Backend-Data-Timestamp": when.internal,
        "X-Backend-Timestamp": when.internal,
        "X-Object-Sysmeta-Ec-Frag-Index": str(index),
        "X-Object-Sysmeta-Ec-Etag": f"{etag}-{when.internal}",
        "X-Object-Sysmeta-Ec-Content-Length": "100",
        "X-Object-Sysmeta-Ec-Scheme": CODING.scheme,
        **changes,
    }
    if durable:
        headers["X-Backend-Durable-Timestamp"] = when.internal
    return Answer(status, Headers(headers), source=(when, index))


def missing(when=None, *, is_handoff=False):
    headers = {"X-Backend-Timestamp": when.internal} if when else {}
    return Answer(404, Headers(headers), is_handoff=is_handoff)


def fed(answers, **options):
    made = collector(**options)
    made.enough = [made.feed(answer) for answer in answers]
    return made


def test_four_fragments_of_six_are_enough():
    found = fed([fragment(index) for index in (5, 1, 3, 0)])
    assert found.enough == [False, False, False, True]
    assert sorted(found.sources) == [0, 1, 3, 5]
    assert found.chosen is not None
    assert not found.dropped


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_half_of_a_newer_generation_does_not_hide_the_older(order):
    groups = [
        [fragment(0, OLD), fragment(1, OLD)],
        [fragment(2, OLD), fragment(3, OLD)],
        [fragment(4, NEW, durable=False), fragment(5, NEW, durable=False)],
    ]
    found = fed([answer for at in order for answer in groups[at]])
    assert sorted(found.sources) == [0, 1, 2, 3]
    assert {answer.source[0] for answer in found.dropped} <= {NEW}


def test_a_newer_generation_that_is_durable_is_looked_for():
    found = fed([fragment(index) for index in range(3)])
    assert not found.feed(fragment(4, NEW))
    assert not found.feed(fragment(3, OLD))
    for index in (0, 1):
        assert not found.feed(fragment(index, NEW, durable=False))
    assert found.feed(fragment(2, NEW, durable=False))
    assert {answer.source[0] for answer in found.sources.values()} == {NEW}
    assert len(found.dropped) == 4


def test_fragments_without_any_commit_are_missing():
    found = fed([fragment(index, durable=False) for index in range(6)])
    assert not any(found.enough)
    assert found.chosen is None
    assert found.refusal().status == 404


def test_a_committed_object_is_looked_for_wherever_it_may_be():
    assert fed([fragment(0), *(missing() for _ in range(5))]).undecided
    assert not fed([missing() for _ in range(6)]).undecided
    assert not fed([fragment(0), *(missing(NEW) for _ in range(5))]).undecided


def test_one_commit_stands_for_all_of_its_time():
    answers = [fragment(index, durable=False) for index in range(4)]
    assert fed([*answers, fragment(4)]).enough[-1]


def test_a_later_deletion_wins():
    found = fed([*(fragment(index) for index in range(3)), missing(NEW)])
    assert not found.feed(fragment(3))
    assert found.chosen is None
    refusal = found.refusal()
    assert refusal is None or refusal.status == 404


def test_an_earlier_deletion_does_not():
    found = fed([missing(OLD), *(fragment(index, NEW) for index in range(4))])
    assert found.enough[-1]


def test_too_few_fragments_cannot_be_read_now():
    found = fed([*(fragment(index) for index in range(3)), Answer(503), Answer(503)])
    assert found.chosen is None
    assert found.undecided or found.refusal().status == 503


@pytest.mark.parametrize(
    "change",
    [
        {"X-Object-Sysmeta-Ec-Frag-Index": "x"},
        {"X-Object-Sysmeta-Ec-Frag-Index": "-1"},
        {"X-Object-Sysmeta-Ec-Etag": "other"},
        {"X-Object-Sysmeta-Ec-Content-Length": "101"},
        {"X-Object-Sysmeta-Ec-Scheme": "isa_l_rs_vand 5+2"},
        {"X-Backend-Data-Timestamp": "never"},
    ],
)
def test_an_answer_that_does_not_fit_is_not_used(change):
    good = [fragment(index) for index in range(3)]
    odd = fragment(3, **change)
    found = fed([*good, odd])
    assert not found.enough[-1]
    assert found.feed(fragment(4))
    assert found.useless == [odd]
    assert odd in found.dropped
    first = fed([odd, *good])
    assert first.feed(fragment(4))
    assert first.useless == [odd]


def test_a_second_copy_of_a_fragment_does_not_count():
    found = fed([fragment(index) for index in (0, 1, 2, 2)])
    assert not found.enough[-1]
    assert found.wanted == 1


def test_the_next_node_is_told_what_is_there():
    found = collector()
    assert found.extra() == [("X-Backend-Fragment-Preferences", "[]")]
    found.feed(fragment(5, NEW, durable=False))
    found.feed(fragment(1))
    [(_, text)] = found.extra()
    assert json.loads(text) == [
        {"timestamp": OLD.internal, "exclude": [1]},
        {"timestamp": NEW.internal, "exclude": [5]},
    ]


def test_a_node_with_more_is_asked_again():
    both = json.dumps({NEW.internal: [4], OLD.internal: [3]})
    first = fragment(4, NEW, durable=False)
    first.headers["X-Backend-Fragments"] = both
    first.headers["X-Backend-Durable-Timestamp"] = OLD.internal
    found = fed([first, *(fragment(index) for index in range(3))])
    assert found.revisit() == first.source
    assert found.revisit() is None
    assert found.feed(fragment(3))


def test_a_node_that_gave_what_another_gave_is_asked_for_what_else_it_has():
    told = json.dumps({OLD.internal: [1, 5]})
    more = fragment(5, **{"X-Backend-Fragments": told})
    found = fed([fragment(5), more, fragment(2), fragment(3)])
    assert found.chosen is None
    assert found.revisit() is more.source
    assert found.revisit() is None
    assert found.feed(fragment(1))


def test_a_node_that_always_gives_the_same_is_not_asked_for_ever():
    told = json.dumps({OLD.internal: [1, 5]})
    liar = fragment(5, **{"X-Backend-Fragments": told})
    found = fed([liar, liar, fragment(2)])
    asked = 0
    while found.revisit() is not None:
        asked += 1
        assert not found.feed(liar)
    assert asked <= 2 * CODING.unique


def test_conditions_that_nodes_have_judged_are_passed_on():
    found = fed([fragment(index, status=304) for index in range(4)])
    assert found.enough[-1]
    assert found.chosen.status == 304
    assert not found.sources


def test_the_latest_post_is_shown():
    answers = [fragment(index) for index in range(4)]
    answers[2].headers["X-Backend-Timestamp"] = LATER.internal
    assert fed(answers).chosen is answers[2]


def test_the_newest_of_all_is_taken_when_asked():
    answers = [fragment(index) for index in range(4)]
    answers += [fragment(index, NEW) for index in range(4)]
    found = fed(answers, newest=True)
    assert not any(found.enough)
    assert found.chosen.source[0] == NEW


def test_a_head_takes_any_durable_fragment():
    found = collector(wants_body=False)
    assert found.feed(fragment(3))
    assert found.extra() == ()


# --- Decoding -------------------------------------------------------------------------


def test_no_flip_of_a_header_bit_is_decoded():
    body = os.urandom(4000)
    fragments = dict(enumerate(CODING.encode(body)))
    for bit in range(8 * 59):
        broken = bytearray(fragments[1])
        broken[bit // 8] ^= 1 << bit % 8
        some = {0: fragments[0], 1: bytes(broken), 2: fragments[2], 3: fragments[3]}
        with pytest.raises(BadFragment) as caught:
            CODING.decode(some)
        assert caught.value.index == 1


@pytest.mark.parametrize("indexes", [(0, 1, 2, 3), (1, 2, 3, 5)])
@pytest.mark.parametrize("size", [0, 1, 79, 80, 81, 500])
def test_no_truncated_fragment_is_decoded(indexes, size):
    fragments = dict(enumerate(CODING.encode(os.urandom(4000))))
    some = {index: fragments[index] for index in indexes}
    some[indexes[1]] = some[indexes[1]][:size]
    with pytest.raises(BadFragment):
        CODING.decode(some)


def test_fragments_of_different_segments_do_not_mix():
    first = CODING.encode(os.urandom(4000))
    other = CODING.encode(os.urandom(3000))
    mixed = {0: first[0], 1: other[1], 2: first[2], 3: first[3]}
    with pytest.raises(BadFragment) as caught:
        CODING.decode(mixed)
    assert caught.value.index == 1


def test_a_fragment_under_another_index_is_refused():
    fragments = CODING.encode(os.urandom(4000))
    with pytest.raises(BadFragment):
        CODING.decode({0: fragments[0], 1: fragments[2], 2: fragments[1], 3: b""})


@pytest.mark.parametrize("cut", [1, 7, 79, 80, 81, 1000, 100000])
def test_the_check_finds_the_header_that_is_wrong(cut):
    encoder = CODING.encoder(6)
    archive = encoder.feed(os.urandom(3 * 4096))[2]
    at = 2 * CODING.fragment_size + 5
    broken = archive[:at] + bytes([archive[at] ^ 1]) + archive[at + 1 :]

    def verdicts(data):
        check = CODING.archive_check({"Content-Length": str(len(archive))}, 2)
        return [check.feed(data[i : i + cut]) for i in range(0, len(data), cut)]

    assert not any(verdicts(archive))
    assert any(verdicts(broken))


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([fragment(0), fragment(1), fragment(2)], id="one too few"),
        pytest.param([Answer(507), Answer(503)], id="nodes in trouble"),
        pytest.param([missing(), missing()], id="it may be with the rest"),
    ],
)
def test_nodes_that_failed_lately_are_not_left_out(answers):
    assert fed(answers).undecided


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([fragment(number) for number in range(4)], id="enough"),
        pytest.param([missing() for _ in range(3)], id="the rest cannot have it"),
        pytest.param([missing(NEW)], id="it is deleted"),
    ],
)
def test_more_nodes_than_it_takes_are_not_asked(answers):
    assert not fed(answers).undecided


def test_which_fragments_suffice_depends_on_the_code():
    assert CODING.suffices({0, 1, 4, 5})
    assert not CODING.suffices({0, 1, 5})
    xor = ErasureCoding("flat_xor_hd_3", 10, 5, segment_size=4096)
    assert xor.suffices(range(10))
    assert xor.suffices(range(2, 15))
    assert not xor.suffices(range(5, 15))


@pytest.mark.parametrize(
    "parameters",
    [
        ("nonsense", 4, 2, {}),
        ("isa_l_rs_vand", 0, 2, {}),
        ("isa_l_rs_vand", 4, 0, {}),
        ("isa_l_rs_vand", 300, 2, {}),
        ("flat_xor_hd_3", 4, 2, {}),
        ("isa_l_rs_vand", 4, 2, {"segment_size": 0}),
        ("isa_l_rs_vand", 4, 2, {"segment_size": 1 << 40}),
        ("isa_l_rs_vand", 4, 2, {"duplication": 0}),
    ],
)
def test_what_cannot_be_is_refused(parameters):
    *fixed, options = parameters
    with pytest.raises(InvalidInput):
        ErasureCoding(*fixed, **options)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_fragment(data):
    with pytest.raises(FormatError):
        read_header(data)


@given(st.text(max_size=60), st.text(max_size=60))
def test_nonsense_of_a_node_is_never_an_error(told, index):
    odd = fragment(0)
    dict.__setitem__(odd.headers, "X-Backend-Fragments", told)
    dict.__setitem__(odd.headers, "X-Object-Sysmeta-Ec-Frag-Index", index)
    dict.__setitem__(odd.headers, "X-Backend-Durable-Timestamp", told)
    found = fed([odd, *(fragment(number) for number in range(1, 5))])
    assert found.chosen is not None
