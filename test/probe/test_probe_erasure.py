# SPDX-License-Identifier: Apache-2.0
"""Erasure-coded objects through the proxy, on real disks, while nodes are lost.

All servers run in this process, so that every pair of nodes can be lost at every stage
of a request in a few seconds each.
"""

from __future__ import annotations

import io
import os
from hashlib import md5
from itertools import combinations

import pytest

from swift.core import headers as h
from swift.core.erasure import ErasureCoding
from swift.core.headers import Headers
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.request import Response
from test.support.fragments import (
    BIG,
    CODING,
    OBJECT,
    SEGMENT,
    SMALL,
    FragmentSetup,
    assert_whole,
    get,
    put,
)

PAIRS = list(combinations(range(6), 2))


@pytest.fixture
def setup(tmp_path):
    made = FragmentSetup(tmp_path)
    made.container()
    yield made
    made.nodes.close()


def lose(setup, positions):
    setup.nodes.refusing |= {setup.primaries()[at] for at in positions}
    setup.pool.close()  # kept connections are lost too


@pytest.mark.parametrize(
    "size", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 1000]
)
def test_what_was_put_is_got(setup, size):
    body = os.urandom(size)
    answer = put(setup, body)
    assert answer.status == 201
    assert answer.headers[h.ETAG] == md5(body).hexdigest()
    assert_whole(get(setup), body)
    head = setup.ask("HEAD", OBJECT)
    assert head.headers[h.CONTENT_LENGTH] == str(size)
    assert head.headers[h.ETAG] == md5(body).hexdigest()
    for position, ip in enumerate(setup.primaries()):
        [name] = setup.nodes.files()[ip]
        assert name.endswith(f"#{position}#d.data")


def test_whole_data_is_joined_from_data_fragments_alone(setup):
    put(setup)
    setup.nodes.requests.clear()
    assert_whole(get(setup), BIG)
    asked = {seen.ip for seen in setup.nodes.of("object", "GET")}
    assert asked == set(setup.primaries()[:4])


def test_the_container_hears_of_the_object_not_of_the_archive(setup):
    put(setup)
    told = [
        seen for seen in setup.nodes.of("container", "PUT") if seen.path == "/a/c/o"
    ]
    assert told
    for seen in told:
        assert seen.headers["X-Size"] == str(len(BIG))
        assert seen.headers["X-Etag"] == md5(BIG).hexdigest()


# --- Any two of six -------------------------------------------------------------------


@pytest.mark.parametrize("lost", PAIRS)
def test_two_lost_before_a_put_are_replaced_by_handoffs(setup, lost):
    lose(setup, lost)
    assert put(setup).status == 201
    indexes = sorted(
        name.split("#")[1] for names in setup.nodes.files().values() for name in names
    )
    assert indexes == list("012345")
    assert_whole(get(setup), BIG)


@pytest.mark.parametrize("lost", PAIRS)
def test_two_lost_after_a_put_are_not_missed(setup, lost):
    put(setup)
    lose(setup, lost)
    assert_whole(get(setup), BIG)
    span = get(setup, Range="bytes=65530-131080")
    assert (span.status, span.body) == (206, BIG[65530:131081])
    assert setup.ask("HEAD", OBJECT).status == 200


@pytest.mark.parametrize("lost", PAIRS)
def test_two_lost_within_a_get_are_replaced(setup, lost):
    put(setup)
    sizes = (CODING.fragment_size + 100, 2 * CODING.fragment_size - 1)
    for at, size in zip(lost, sizes, strict=True):
        setup.nodes.cut[setup.primaries()[at]] = size
    assert_whole(get(setup), BIG)


@pytest.mark.parametrize("lost", PAIRS)
def test_two_lost_within_a_put_leave_the_old_object_or_the_new_one(setup, lost):
    put(setup, SMALL)
    for at in lost:
        setup.nodes.deaf[setup.primaries()[at]] = 30_000
    answer = put(setup)
    assert answer.status == 503
    assert_whole(get(setup), SMALL)
    setup.nodes.deaf.clear()
    assert put(setup).status == 201
    assert_whole(get(setup), BIG)


def test_one_lost_within_a_put_is_not_missed(setup):
    setup.nodes.deaf[setup.primaries()[2]] = 30_000
    assert put(setup).status == 201
    assert_whole(get(setup), BIG)


def test_nodes_that_failed_one_after_another_are_asked_again(setup):
    put(setup)
    for pair in combinations(setup.primaries(), 2):
        for ip in pair:
            setup.nodes.faults[ip] = lambda seen: Response(507)
        assert_whole(get(setup), BIG)
        setup.nodes.faults.clear()


def test_three_lost_are_too_many(setup):
    put(setup)
    lose(setup, (0, 1, 5))
    assert get(setup).status == 503


# --- Generations ----------------------------------------------------------------------


def refuse_commit(setup, positions):
    """Nodes that take a fragment and never hear the commit."""
    for at in positions:
        setup.nodes.server(setup.primaries()[at])._put = _NoCommit(
            setup.nodes.server(setup.primaries()[at])._put
        )


class _NoCommit:
    """The PUTs of a server that dies between the phases."""

    def __init__(self, put):
        self._put = put

    def run(self, call, *rest):
        call.headers[h.X_BACKEND_NO_COMMIT] = "true"
        return self._put.run(call, *rest)


@pytest.mark.parametrize("landed", [(0, 1), (3, 4, 5), (0, 1, 2, 3, 4, 5)])
def test_a_generation_without_any_commit_is_not_the_object(setup, landed):
    put(setup, SMALL)
    refuse_commit(setup, range(6))
    others = [at for at in range(6) if at not in landed]
    lose(setup, others)
    spare = {f"10.0.0.{n}" for n in range(1, 9)} - set(setup.primaries())
    setup.nodes.refusing |= spare
    put(setup)
    setup.nodes.refusing.clear()
    assert_whole(get(setup), SMALL)


@pytest.mark.parametrize("committed", [(0,), (2, 5), (1, 2, 3)])
def test_one_commit_makes_all_fragments_of_its_time_the_object(setup, committed):
    put(setup, SMALL)
    refuse_commit(setup, [at for at in range(6) if at not in committed])
    put(setup)
    assert_whole(get(setup), BIG)


def test_fragments_alone_are_no_object(setup):
    refuse_commit(setup, range(6))
    put(setup)
    assert get(setup).status == 404
    assert setup.ask("HEAD", OBJECT).status == 404


def test_a_deletion_is_not_undone_by_fragments_that_missed_it(setup):
    put(setup)
    lose(setup, (0, 1))
    assert setup.ask("DELETE", OBJECT).status == 204
    setup.nodes.refusing.clear()
    assert get(setup).status == 404


def test_a_post_shows_and_the_bytes_stay(setup):
    put(setup)
    answer = setup.ask("POST", OBJECT, headers={"X-Object-Meta-Colour": "blue"})
    assert answer.status == 202
    got = get(setup)
    assert_whole(got, BIG)
    assert got.headers["X-Object-Meta-Colour"] == "blue"


# --- Conditions, ranges and framing ---------------------------------------------------


def test_conditions_are_held_against_the_objects_own_etag(setup):
    put(setup)
    etag = md5(BIG).hexdigest()
    assert get(setup, **{"If-None-Match": etag}).status == 304
    assert get(setup, **{"If-Match": f'"{etag}"'}).status == 200
    assert get(setup, **{"If-Match": "0"}).status == 412
    assert setup.ask("HEAD", OBJECT, headers={"If-None-Match": etag}).status == 304


@pytest.mark.parametrize(
    ("wanted", "spans"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=-1", [(len(BIG) - 1, len(BIG))]),
        ("bytes=-1000000", [(0, len(BIG))]),
        ("bytes=65535-65536", [(65535, 65537)]),
        ("bytes=131072-", [(131072, len(BIG))]),
        ("bytes=0-1,70000-70001,3-4", [(0, 2), (70000, 70002), (3, 5)]),
        ("bytes=9999999-,5-6", [(5, 7)]),
        ("bytes=-70000", [(len(BIG) - 70000, len(BIG))]),
        ("bytes=196608-196610,-3", [(196608, 196611), (len(BIG) - 3, len(BIG))]),
    ],
)
@pytest.mark.parametrize("lost", [(), (0, 5)])
def test_ranges_are_cut_out_of_the_object(setup, wanted, spans, lost):
    put(setup)
    lose(setup, lost)
    answer = get(setup, Range=wanted)
    assert answer.status == 206
    assert len(answer.body) == int(answer.headers[h.CONTENT_LENGTH])
    if len(spans) == 1:
        [(start, stop)] = spans
        assert answer.body == BIG[start:stop]
        told = f"bytes {start}-{stop - 1}/{len(BIG)}"
        assert answer.headers[h.CONTENT_RANGE] == told
        return
    boundary = answer.headers[h.CONTENT_TYPE].partition("boundary=")[2]
    parts = answer.body.split(f"--{boundary}".encode())[1:-1]
    assert [part.split(b"\r\n\r\n", 1)[1][:-2] for part in parts] == [
        BIG[start:stop] for start, stop in spans
    ]


@pytest.mark.parametrize(
    "wanted", ["bytes=9999999-,5-6", "bytes=9999999-,70000-70001,-3"]
)
def test_a_first_range_beyond_the_object_hides_nothing_of_it(setup, wanted):
    put(setup)
    kind = get(setup, Range=wanted).headers[h.CONTENT_TYPE]
    assert kind == "x/y" or kind.startswith("multipart/byteranges")
    assert b"text/html" not in get(setup, Range=wanted).body
    lose(setup, (0, 1, 2))
    assert get(setup, Range=wanted).status == 503


@pytest.mark.parametrize("wanted", ["bytes=9999999-", "bytes=-0", "bytes=196609000-"])
def test_ranges_beyond_the_object_cannot_be_satisfied(setup, wanted):
    put(setup)
    answer = get(setup, Range=wanted)
    assert answer.status == 416
    assert answer.headers[h.CONTENT_RANGE] == f"bytes */{len(BIG)}"


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ("bytes=-0", 416),
        ("bytes=0-", 416),
        ("bytes=-5", 200),
        ("bytes=1-2,-5", 200),
        ("bytes=-0,-5", 200),
    ],
)
def test_ranges_of_an_empty_object(setup, wanted, status):
    put(setup, b"")
    answer = get(setup, Range=wanted)
    assert answer.status == status
    if status == 200:
        assert (answer.headers[h.CONTENT_TYPE], answer.body) == ("x/y", b"")
    else:
        assert answer.headers[h.CONTENT_RANGE] == "bytes */0"


def test_an_etag_that_does_not_fit_leaves_nothing_behind(setup):
    assert put(setup, ETag="0" * 32).status == 422
    assert put(setup, ETag=md5(BIG).hexdigest()).status == 201
    assert put(setup, SMALL, ETag="0" * 32).status == 422
    assert_whole(get(setup), BIG)


@pytest.mark.parametrize("sent", [10, SEGMENT, 3 * SEGMENT])
def test_a_client_that_leaves_makes_nothing_durable(setup, sent):
    put(setup, SMALL)
    environ = {
        env.WSGI_INPUT: io.BytesIO(BIG[:sent]),
        env.CONTENT_LENGTH: str(len(BIG)),
    }
    answer = setup.ask("PUT", OBJECT, headers={"Content-Type": "x/y"}, environ=environ)
    assert answer.status == 499
    assert_whole(get(setup), SMALL)


def test_a_body_without_length_is_stored(setup):
    environ = {env.HTTP_TRANSFER_ENCODING: "chunked", env.WSGI_INPUT: io.BytesIO(BIG)}
    answer = setup.ask("PUT", OBJECT, headers={"Content-Type": "x/y"}, environ=environ)
    assert answer.status == 201
    assert_whole(get(setup), BIG)


def test_what_filters_add_is_stored_with_every_fragment(setup):
    def footers(headers):
        headers["X-Object-Sysmeta-Added"] = "1"
        headers["X-Object-Sysmeta-Ec-Etag"] = "forged"

    environ = {env.UPDATE_FOOTERS: footers}
    answer = setup.ask(
        "PUT", OBJECT, BIG, Headers({"Content-Type": "x/y"}), environ=environ
    )
    assert answer.status == 201
    assert_whole(get(setup), BIG)
    assert get(setup).headers["X-Object-Sysmeta-Added"] == "1"


def test_a_full_disk_is_replaced_by_a_handoff(setup):
    full = setup.primaries()[1]
    setup.nodes.faults[full] = lambda seen: Response(507)
    assert put(setup).status == 201
    assert_whole(get(setup), BIG)


def test_the_latest_of_all_is_got_when_asked(setup):
    put(setup, SMALL)
    lose(setup, (0, 1))
    put(setup)
    setup.nodes.refusing.clear()
    assert_whole(get(setup, **{"X-Newest": "true"}), BIG)
    assert_whole(get(setup), BIG)


@pytest.mark.parametrize("lost", [(), (0, 3), (4, 5)])
def test_slow_nodes_are_not_waited_for(tmp_path, lost):
    setup = FragmentSetup(
        tmp_path,
        concurrent_gets="yes",
        concurrency_timeout="0.05",
        concurrent_ec_extra_requests="1",
    )
    setup.container()
    put(setup)
    lose(setup, lost)
    assert_whole(get(setup), BIG)


@pytest.mark.parametrize("lost", [(), (0, 4), (1, 2), (0, 3)])
def test_fragments_that_are_kept_twice_are_read_once(tmp_path, lost):
    coding = ErasureCoding("isa_l_rs_vand", 2, 1, segment_size=SEGMENT, duplication=2)
    setup = FragmentSetup(tmp_path, coding)
    setup.container()
    assert put(setup).status == 201
    for position, ip in enumerate(setup.primaries()):
        [name] = setup.nodes.files()[ip]
        assert name.endswith(f"#{position % 3}#d.data")
    lose(setup, lost)
    assert_whole(get(setup), BIG)
    setup.nodes.close()


def test_the_listing_hears_of_an_object_though_a_node_dies(setup):
    setup.nodes.deaf[setup.primaries()[2]] = 30_000
    setup.nodes.requests.clear()
    assert put(setup).status == 201
    told = [
        seen for seen in setup.nodes.of("container", "PUT") if seen.path == "/a/c/o"
    ]
    assert len({seen.ip for seen in told}) >= 3
    assert {seen.headers["X-Etag"] for seen in told} == {md5(BIG).hexdigest()}
    assert {seen.headers["X-Size"] for seen in told} == {str(len(BIG))}


@pytest.mark.parametrize("last", range(4))
def test_a_fragment_that_waits_to_be_moved_hides_none_behind_it(setup, last):
    # As after a change of the ring: a node has its own fragment and one that is another
    # node's, and of the two it gives the latter.
    put(setup)
    primaries = setup.primaries()
    [own], [other] = (setup.nodes.paths(primaries[at]) for at in (1, 5))
    copy = own.with_name(other.name)
    copy.write_bytes(other.read_bytes())
    for name in os.listxattr(other):
        os.setxattr(copy, name, os.getxattr(other, name))
    lose(setup, (0, 2))
    slow = [primaries[at] for at in (1, 5, 3, 4)][last]
    setup.nodes.faults[slow] = lambda seen: green.sleep(0.05)
    assert_whole(get(setup), BIG)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_any_version_is_required_of_an_object_that_is_missing(setup, method):
    condition = {"If-Match": "*"}
    for _ in range(12):  # more often than a node may fail
        assert setup.ask(method, OBJECT, headers=condition).status == 412
    assert put(setup).status == 201
    assert setup.ask(method, OBJECT, headers=condition).status == 200
    # No node was blamed, so none was left out.
    for ip in setup.primaries():
        assert len(setup.nodes.files()[ip]) == 1
    setup.ask("DELETE", OBJECT)
    assert setup.ask(method, OBJECT, headers=condition).status == 412


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_node_without_a_fragment_refuses_no_condition(setup, method):
    put(setup)
    for ip in setup.primaries()[:2]:
        for path in setup.nodes.paths(ip):
            path.unlink()
    for _ in range(6):
        answer = setup.ask(method, OBJECT, headers={"If-Match": "*"})
        assert answer.status == 200


@pytest.fixture
def overwritten(setup):
    """An object whose first two nodes have missed that it was overwritten."""
    put(setup, SMALL)
    lose(setup, (0, 1))
    assert put(setup).status == 201
    setup.nodes.refusing.clear()
    return setup


@pytest.mark.parametrize("newest", [{}, {"X-Newest": "true"}], ids=["any", "newest"])
@pytest.mark.parametrize(
    ("condition", "body", "status"),
    [
        pytest.param("If-None-Match", BIG, 304, id="it is the one known"),
        pytest.param("If-None-Match", SMALL, 200, id="the one known is the old one"),
        pytest.param("If-Match", BIG, 200, id="it is the one wanted"),
        pytest.param("If-Match", SMALL, 412, id="the one wanted is the old one"),
    ],
)
def test_conditions_are_judged_by_the_object_that_stands(
    overwritten, newest, condition, body, status
):
    etag = md5(body).hexdigest()
    for _ in range(4):  # whichever nodes are asked first
        answer = get(overwritten, **{condition: f'"{etag}"', **newest})
        assert answer.status == status
        assert answer.body == (BIG if status == 200 else b"")
        assert answer.headers[h.ETAG] == md5(BIG).hexdigest()


@pytest.mark.parametrize("condition", ["If-None-Match", "If-Match"])
def test_conditions_of_a_head_are_judged_alike(overwritten, condition):
    for body in (SMALL, BIG):
        etag = md5(body).hexdigest()
        headers = {condition: etag, "X-Newest": "true"}
        answer = overwritten.ask("HEAD", OBJECT, headers=headers)
        expected = {
            ("If-None-Match", BIG): 304,
            ("If-None-Match", SMALL): 200,
            ("If-Match", BIG): 200,
            ("If-Match", SMALL): 412,
        }
        assert answer.status == expected[condition, body]
        assert answer.headers[h.ETAG] == md5(BIG).hexdigest()


def test_a_range_of_the_latest_is_got_when_asked(overwritten):
    wanted = {"Range": "bytes=65530-131080", "X-Newest": "true"}
    answer = get(overwritten, **wanted)
    assert (answer.status, answer.body) == (206, BIG[65530:131081])
    # No node has so much of the old object: it is the new one that is judged.
    beyond = get(overwritten, Range=f"bytes={len(BIG)}-", **{"X-Newest": "true"})
    assert beyond.status == 416
