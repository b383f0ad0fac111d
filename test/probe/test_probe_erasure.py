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
from swift.core.errors import PeerError
from swift.core.headers import Headers
from swift.wire import environ as env
from swift.wire.request import Response, call
from test.support.fragments import CODING, SEGMENT, FragmentSetup

BIG = os.urandom(3 * SEGMENT + 1000)
SMALL = b"a small body"
OBJECT = "/v1/a/c/o"
PAIRS = list(combinations(range(6), 2))


@pytest.fixture
def setup(tmp_path):
    made = FragmentSetup(tmp_path)
    made.container()
    yield made
    made.nodes.close()


def put(setup, body=BIG, **headers):
    given = Headers(**{"Content-Type": "x/y", **headers})
    return setup.ask("PUT", OBJECT, body, given)


def get(setup, **headers):
    return setup.ask("GET", OBJECT, headers=Headers(**headers))


def lose(setup, positions):
    setup.nodes.refusing |= {setup.primaries()[at] for at in positions}
    setup.pool.close()  # kept connections are lost too


def assert_whole(answer, body):
    assert answer.status == 200
    assert answer.body == body
    assert answer.headers[h.CONTENT_LENGTH] == str(len(body))
    assert answer.headers[h.ETAG] == md5(body).hexdigest()
    assert not any("-Ec-" in name for name in answer.headers)


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


# --- Damage ---------------------------------------------------------------------------


def damage(setup, position, change):
    [path] = setup.nodes.paths(setup.primaries()[position])
    data = bytearray(path.read_bytes())
    changed = change(data)
    with path.open("r+b") as stream:
        stream.write(changed)
        stream.truncate(len(changed))
    return path


def flip(at):
    def change(data):
        data[at % len(data)] ^= 4
        return data

    return change


@pytest.mark.parametrize("body", [SMALL, BIG[: SEGMENT - 5]], ids=["tiny", "segment"])
@pytest.mark.parametrize("at", [0, 30, 60, 79, 80, 82, -1])
def test_a_flipped_bit_costs_a_fragment_not_the_object(setup, body, at):
    put(setup, body)
    for position in (0, 2):
        path = damage(setup, position, flip(at))
        assert_whole(get(setup), body)
        assert not path.exists(), "it went into quarantine"


@pytest.mark.parametrize("at", [100, 20_000, 40_000, -1])
def test_a_flipped_bit_in_a_long_body_never_gives_all_of_a_wrong_one(setup, at):
    put(setup)
    path = damage(setup, 1, flip(at))
    response = setup.start("GET", OBJECT)
    assert response.status == 200
    received = b""
    try:
        for chunk in response.app_iter:
            received += chunk
    except PeerError:
        assert len(received) < len(BIG)
    else:
        assert received == BIG
    finally:
        response.app_iter.close()
    assert not path.exists(), "it went into quarantine"
    assert_whole(get(setup), BIG)


@pytest.mark.parametrize("size", [0, 1, 79, 80, 5000, -1])
def test_a_truncated_fragment_is_not_used(setup, size):
    put(setup)
    damage(setup, 3, lambda data: data[:size])
    damage(setup, 0, lambda data: data[:size])
    assert_whole(get(setup), BIG)


@pytest.mark.parametrize(
    "change",
    [
        {"X-Object-Sysmeta-Ec-Frag-Index": "1"},
        {"X-Object-Sysmeta-Ec-Frag-Index": "77"},
        {"X-Object-Sysmeta-Ec-Frag-Index": "x"},
        {"X-Object-Sysmeta-Ec-Etag": "0" * 32},
        {"X-Object-Sysmeta-Ec-Content-Length": "5"},
        {"X-Object-Sysmeta-Ec-Scheme": "isa_l_rs_vand 8+4"},
        {"X-Backend-Data-Timestamp": "soon"},
        {"Content-Range": "bytes 1-2/3"},
        {"X-Backend-Fragments": "[["},
        {"X-Backend-Durable-Timestamp": "x"},
    ],
)
@pytest.mark.parametrize("wanted", [{}, {"Range": "bytes=70000-80000"}])
def test_a_node_that_lies_is_not_believed(setup, change, wanted):
    put(setup)
    liar = setup.primaries()[0]
    real = setup.nodes.server(liar)

    def lying(environ, start_response):
        response = call(real, environ)
        response.headers.update(change)
        return response(environ, start_response)

    setup.nodes._servers[liar] = lying
    answer = get(setup, **wanted)
    assert answer.body == (BIG[70000:80001] if wanted else BIG)
    assert setup.nodes.paths(liar)


def test_other_bytes_under_the_right_headers_are_not_decoded(setup):
    put(setup)
    [path] = setup.nodes.paths(setup.primaries()[0])
    [other] = setup.nodes.paths(setup.primaries()[5])
    wrong = other.read_bytes()
    with path.open("r+b") as stream:
        stream.write(wrong)
    response = setup.start("GET", OBJECT)
    received = b"".join(response.app_iter)
    assert received == BIG


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


@pytest.mark.parametrize("wanted", ["bytes=9999999-", "bytes=-0", "bytes=196609000-"])
def test_ranges_beyond_the_object_cannot_be_satisfied(setup, wanted):
    put(setup)
    answer = get(setup, Range=wanted)
    assert answer.status == 416
    assert answer.headers[h.CONTENT_RANGE] == f"bytes */{len(BIG)}"


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
