# SPDX-License-Identifier: Apache-2.0
"""Objects through the proxy: quorums, handoffs, failover, conditions and ranges."""

from __future__ import annotations

import io
import socket
from hashlib import md5

import pytest

from swift.core import headers as h
from swift.core.errors import PeerError
from swift.core.headers import Headers
from swift.core.names import Limits
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.request import Response
from test.support.nodes import PORTS, Seen, Setup, make_cluster

LIMIT_S = 60.0

BIG = bytes(range(256)) * 2048  # 512 KiB
OBJECT = "/v1/a/c/o"


@pytest.fixture
def setup():
    made = Setup()
    made.container()
    return made


def primaries(setup, path="/a/c/o"):
    ring = setup.cluster.object_ring(0)
    partition = ring.partition(setup.cluster.salt.digest_of_path(path))
    return [node.ip for node in ring.primaries(partition)]


def handoffs(setup, path="/a/c/o"):
    ring = setup.cluster.object_ring(0)
    partition = ring.partition(setup.cluster.salt.digest_of_path(path))
    return [node.ip for node in ring.handoffs(partition)]


def put(setup, body, **headers):
    return setup.ask("PUT", OBJECT, body, Headers(**{"Content-Type": "x/y", **headers}))


@pytest.mark.parametrize("body", [b"", b"small", BIG], ids=["empty", "small", "big"])
def test_what_was_put_is_got_and_lies_on_all_primaries(setup, body):
    answer = put(setup, body)
    assert answer.status == 201
    assert answer.headers[h.ETAG] == md5(body).hexdigest()
    assert set(setup.nodes.stored("/a/c/o")) == set(primaries(setup))
    got = setup.ask("GET", OBJECT)
    assert (got.status, got.body) == (200, body)
    assert got.headers[h.ETAG] == md5(body).hexdigest()
    assert got.headers[h.ACCEPT_RANGES] == "bytes"
    assert got.headers[h.CONTENT_LENGTH] == str(len(body))
    head = setup.ask("HEAD", OBJECT)
    assert (head.status, head.body) == (200, b"")
    assert head.headers[h.CONTENT_LENGTH] == str(len(body))


def test_a_small_body_travels_with_the_head_and_a_big_one_waits_for_100(setup):
    put(setup, b"small")
    assert all(h.EXPECT not in seen.headers for seen in setup.nodes.of("object"))
    setup.nodes.requests.clear()
    put(setup, BIG)
    assert all(h.EXPECT in seen.headers for seen in setup.nodes.of("object"))


def test_a_body_without_length_is_passed_on_in_chunks(setup):
    environ = {env.HTTP_TRANSFER_ENCODING: "chunked", env.WSGI_INPUT: io.BytesIO(BIG)}
    answer = setup.ask("PUT", OBJECT, headers={"Content-Type": "x/y"}, environ=environ)
    assert answer.status == 201
    assert setup.ask("GET", OBJECT).body == BIG


def test_writes_tell_the_next_part_power_while_the_ring_has_one(setup):
    ring = setup.cluster.rings["object"].get()
    put(setup, b"before")
    ring.next_part_power = 5
    setup.ask("POST", OBJECT, headers={"Content-Type": "x/y"})
    setup.ask("GET", OBJECT)
    setup.ask("DELETE", OBJECT)
    told = {
        (seen.method, seen.headers.get(h.X_BACKEND_NEXT_PART_POWER))
        for seen in setup.nodes.of("object")
    }
    assert told == {("PUT", None), ("POST", "5"), ("GET", None), ("DELETE", "5")}


def test_connections_are_kept_from_one_request_to_the_next(setup):
    put(setup, b"one")
    put(setup, BIG)
    setup.ask("GET", OBJECT)
    dialled = setup.nodes.dialled
    put(setup, b"two")
    put(setup, BIG)
    for _ in range(5):
        setup.ask("GET", OBJECT)
    assert setup.nodes.dialled <= dialled + 3


def test_a_write_on_kept_connections_needs_no_further_thread(setup, monkeypatch):
    put(setup, b"one")
    spawned = []
    monkeypatch.setattr(green, "spawn", lambda *args: spawned.append(args))
    assert put(setup, b"two").status == 201
    assert spawned == []
    assert {found.body for found in setup.nodes.stored("/a/c/o").values()} == {b"two"}


@pytest.mark.parametrize("way", [socket.SHUT_RDWR, socket.SHUT_WR])
def test_a_kept_connection_that_has_died_costs_no_node(setup, way):
    put(setup, b"one")
    for connection in setup.pool._idle[primaries(setup)[1], 6200]:
        connection.channel.sock.shutdown(way)
    assert put(setup, b"two").status == 201
    stored = setup.nodes.stored("/a/c/o")
    assert set(stored) == set(primaries(setup))
    assert {found.body for found in stored.values()} == {b"two"}


@pytest.mark.parametrize("at", range(3))
def test_a_handoff_replaces_a_node_that_fails_on_a_kept_connection(setup, at):
    put(setup, b"one")
    failing = primaries(setup)[at]
    setup.nodes.faults[failing] = lambda seen: Response(500)
    assert put(setup, b"two").status == 201
    newest = [
        ip for ip, it in setup.nodes.stored("/a/c/o").items() if it.body == b"two"
    ]
    assert set(newest) == (set(primaries(setup)) - {failing}) | {handoffs(setup)[0]}


def test_a_slow_node_holds_no_write_up_that_has_its_quorum(setup):
    put(setup, b"one")
    slow = primaries(setup)[0]
    gate = green.Event()

    def wait(seen):
        if seen.method == "PUT" and seen.kind == "object":
            gate.wait()

    setup.nodes.faults[slow] = wait
    assert put(setup, b"two").status == 201
    assert setup.nodes.stored("/a/c/o")[slow].body == b"one"
    # It is not broken off, either.
    gate.set()
    deadline = green.monotonic() + LIMIT_S
    while setup.nodes.stored("/a/c/o")[slow].body != b"two":
        assert green.monotonic() < deadline
        green.sleep(0.01)


@pytest.mark.parametrize("body", [b"small", BIG], ids=["small", "big"])
def test_a_handoff_takes_the_place_of_a_primary_that_refuses(setup, body):
    down = primaries(setup)[1]
    setup.nodes.refusing.add(down)
    setup.pool.close()
    assert put(setup, body).status == 201
    stored = set(setup.nodes.stored("/a/c/o"))
    assert stored == (set(primaries(setup)) - {down}) | {handoffs(setup)[0]}


@pytest.mark.parametrize("body", [b"small", BIG], ids=["small", "big"])
def test_a_full_disk_limits_the_node_and_uses_a_handoff(setup, body):
    full = primaries(setup)[0]
    setup.nodes.faults[full] = lambda seen: Response(507)
    assert put(setup, body).status == 201
    assert len(setup.nodes.stored("/a/c/o")) == 3
    node = next(
        node
        for node in setup.cluster.object_ring(0).primaries(0)
        + setup.cluster.object_ring(0).primaries(3)
        if node.ip == full
    )
    assert setup.app.proxy.backends.limiter.is_limited(node, green.now())
    setup.nodes.requests.clear()
    put(setup, body)
    assert full not in {seen.ip for seen in setup.nodes.of("object")}


@pytest.mark.parametrize("body", [b"small", BIG], ids=["small", "big"])
def test_too_few_nodes_are_503_and_say_nothing_of_success(setup, body):
    setup.nodes.refusing |= {f"10.0.0.{n}" for n in range(2, 7)} | {"10.0.0.1"}
    setup.nodes.refusing.discard(primaries(setup)[0])
    setup.pool.close()
    assert put(setup, body).status == 503


def test_newer_state_on_one_node_makes_a_put_accepted(setup):
    put(setup, b"old")
    stored = setup.nodes.stored("/a/c/o")[primaries(setup)[2]]
    stored.timestamp = Timestamp.at(green.now() + 1000)
    assert put(setup, b"new").status == 202
    assert put(setup, BIG).status == 202


def test_if_none_match_star_refuses_to_overwrite(setup):
    assert put(setup, b"first", **{"If-None-Match": "*"}).status == 201
    assert put(setup, b"second", **{"If-None-Match": "*"}).status == 412
    assert put(setup, BIG, **{"If-None-Match": "*"}).status == 412
    assert put(setup, b"x", **{"If-None-Match": '"abc"'}).status == 400


@pytest.mark.parametrize("body", [b"", b"small", BIG], ids=["empty", "small", "big"])
def test_a_refused_put_is_stored_nowhere_though_a_node_lacks_the_object(setup, body):
    assert put(setup, b"first").status == 201
    lacking = primaries(setup)[0]
    del setup.nodes.store[lacking, PORTS["object"], "/a/c/o"]

    assert put(setup, body, **{"If-None-Match": "*"}).status == 412

    stored = setup.nodes.stored("/a/c/o")
    assert {each.body for each in stored.values()} == {b"first"}
    assert set(stored) == set(primaries(setup)) - {lacking}
    assert setup.ask("GET", OBJECT).body == b"first"


def test_a_wrong_etag_is_422_and_a_right_one_may_be_quoted(setup):
    assert put(setup, b"body", Etag="0" * 32).status == 422
    assert setup.nodes.stored("/a/c/o") == {}
    assert put(setup, b"body", Etag=f'"{md5(b"body").hexdigest()}"').status == 201


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": "x"}, 400),
        ({"Content-Length": "99999999999"}, 413),
        ({"Transfer-Encoding": "gzip"}, 400),
        ({"Transfer-Encoding": "gzip, chunked"}, 501),
        ({"X-Delete-At": "soon"}, 400),
        ({"X-Delete-At": "1000"}, 400),
        ({"X-Delete-After": "-1"}, 400),
        ({"X-Object-Meta-": "x"}, 400),
        ({"X-Object-Meta-A": "v" * 257}, 400),
        ({"X-Object-Meta-" + "n" * 129: "v"}, 400),
        ({"Content-Type": "a/b; swift_bytes=4"}, 400),
        ({"Content-Type": "\xff"}, 400),
    ],
)
def test_a_bad_request_never_reaches_a_node(setup, headers, status):
    answer = setup.ask(
        "PUT", OBJECT, b"", {"Content-Type": "x/y", "Content-Length": "0", **headers}
    )
    assert answer.status == status
    assert setup.nodes.of("object") == []


def test_a_put_without_length_is_411(setup):
    assert setup.ask("PUT", OBJECT, headers={"Content-Type": "x/y"}).status == 411


def test_names_are_measured_in_characters(setup):
    from urllib.parse import quote

    good = quote("é" * 1024)
    assert setup.ask("PUT", f"/v1/a/c/{good}", b"x").status == 201
    assert setup.ask("PUT", f"/v1/a/c/{good}e", b"x").status == 400


def test_a_container_that_is_missing_is_404_for_every_verb(setup):
    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        body = b"x" if method == "PUT" else None
        assert setup.ask(method, "/v1/a/none/o", body).status == 404
    assert setup.nodes.of("object") == []


@pytest.mark.parametrize("size", [100, len(BIG)], ids=["small", "big"])
def test_a_client_that_goes_away_leaves_nothing(setup, size):
    environ = {env.WSGI_INPUT: io.BytesIO(BIG[: size // 2])}
    headers = {"Content-Length": str(size), "Content-Type": "x/y"}
    answer = setup.ask("PUT", OBJECT, headers=headers, environ=environ)
    assert answer.status == 499
    green.sleep(0.05)
    assert setup.nodes.stored("/a/c/o") == {}


def test_a_chunked_body_over_the_limit_is_413_and_leaves_nothing():
    setup = Setup(make_cluster(limits=Limits(max_file_size=len(BIG) - 1)))
    setup.container()
    environ = {env.HTTP_TRANSFER_ENCODING: "chunked", env.WSGI_INPUT: io.BytesIO(BIG)}
    answer = setup.ask("PUT", OBJECT, headers={"Content-Type": "x/y"}, environ=environ)
    assert answer.status == 413
    green.sleep(0.05)
    assert setup.nodes.stored("/a/c/o") == {}


def test_a_node_that_stalls_loses_its_place_not_the_put():
    setup = Setup(node_timeout="1")
    setup.container()
    stalled = primaries(setup)[0]
    gate = green.Event()

    def stall(seen: Seen) -> Response | None:
        if seen.method == "PUT" and seen.kind == "object":
            gate.wait(LIMIT_S)
        return None

    setup.nodes.faults[stalled] = stall
    assert put(setup, BIG).status == 201
    assert put(setup, b"small").status == 201
    assert not gate.is_set()
    gate.set()
    assert setup.ask("GET", OBJECT).status == 200


def test_a_node_that_dies_in_the_middle_of_a_put_does_not_matter(setup):
    dying = primaries(setup)[0]

    class Die(Exception):
        pass

    def die(seen: Seen) -> Response | None:
        if seen.method == "PUT" and seen.kind == "object":
            raise Die
        return None

    setup.nodes.faults[dying] = die
    assert put(setup, BIG).status == 201
    assert setup.ask("GET", OBJECT).body == BIG


@pytest.mark.parametrize("body", [b"small", BIG], ids=["small", "big"])
def test_databases_that_a_dead_object_server_was_to_tell_hear_from_the_proxy(body):
    # Three nodes only: no handoff takes the place of the one that does not answer.
    setup = Setup(make_cluster(devices=3))
    setup.container()
    silent = primaries(setup)[2]
    setup.nodes.faults[silent] = lambda seen: (
        Response(503) if seen.kind == "object" else None
    )
    setup.nodes.requests.clear()

    assert put(setup, body, **{"X-Object-Meta-A": "b"}).status == 201

    (lost,) = [seen for seen in setup.nodes.of("object", "PUT") if seen.ip == silent][
        :1
    ]
    (told,) = setup.nodes.of("container", "PUT")
    assert told.ip == lost.headers[h.X_CONTAINER_HOST].partition(":")[0]
    assert told.path == "/a/c/o"
    assert told.headers[h.X_SIZE] == str(len(body))
    assert told.headers[h.X_ETAG] == md5(body).hexdigest()
    assert told.headers[h.X_CONTENT_TYPE] == "x/y"
    assert told.headers[h.X_TIMESTAMP] == lost.headers[h.X_TIMESTAMP]
    assert told.headers[h.X_BACKEND_STORAGE_POLICY_INDEX] == "0"
    assert "X-Object-Meta-A" not in told.headers


def test_databases_hear_of_a_delete_that_an_object_server_did_not_take():
    setup = Setup(make_cluster(devices=3))
    setup.container()
    put(setup, b"small")
    silent = primaries(setup)[0]
    setup.nodes.faults[silent] = lambda seen: (
        Response(503) if seen.kind == "object" else None
    )
    setup.nodes.requests.clear()

    assert setup.ask("DELETE", OBJECT).status == 204

    (told,) = setup.nodes.of("container", "DELETE")
    assert told.path == "/a/c/o"


def test_nobody_is_told_twice_when_all_object_servers_answer(setup):
    setup.nodes.requests.clear()
    put(setup, b"small")
    assert setup.nodes.of("container", "PUT") == []


def test_footers_follow_the_body_in_a_document_of_their_own(setup):
    def footers(headers: Headers) -> None:
        headers["X-Object-Meta-Foot"] = "er"
        headers["Etag"] = md5(b"with footers").hexdigest()

    answer = setup.ask(
        "PUT",
        OBJECT,
        b"with footers",
        {"Content-Type": "x/y"},
        {env.UPDATE_FOOTERS: footers},
    )
    assert answer.status == 201
    got = setup.ask("GET", OBJECT)
    assert (got.body, got.headers["X-Object-Meta-Foot"]) == (b"with footers", "er")
    seen = setup.nodes.of("object", "PUT")[0]
    assert seen.headers[h.X_BACKEND_OBJ_CONTENT_LENGTH] == "12"
    assert seen.headers[h.X_BACKEND_OBJ_METADATA_FOOTER] == "yes"


def test_every_container_database_is_told_and_two_requests_clean_the_queue(setup):
    put(setup, b"x", **{"X-Delete-At": "9999999990"})
    seen = setup.nodes.of("object", "PUT")
    assert len({one.headers[h.X_CONTAINER_HOST] for one in seen}) == 3
    assert len({one.headers[h.X_DELETE_AT_HOST] for one in seen}) == 3
    cleaners = [one.headers[h.X_BACKEND_CLEAN_EXPIRING_OBJECT_QUEUE] for one in seen]
    assert sorted(cleaners) == ["f", "t", "t"]
    assert {one.headers[h.X_CONTAINER_ROOT_DB_STATE] for one in seen} == {"unsharded"}


def test_secrets_of_the_client_stay_in_the_proxy(setup):
    setup.ask(
        "PUT", OBJECT, b"x", {"X-Auth-Token": "t", "Content-Type": "x/y", "X-Foo": "1"}
    )
    for seen in setup.nodes.of("object"):
        assert "X-Auth-Token" not in seen.headers
        assert seen.headers["X-Foo"] == "1"


def test_the_type_of_an_object_is_guessed_when_not_given(setup):
    setup.ask("PUT", "/v1/a/c/page.html", b"x")
    assert setup.ask("HEAD", "/v1/a/c/page.html").headers[h.CONTENT_TYPE] == "text/html"
    setup.ask("PUT", "/v1/a/c/thing", b"x")
    kind = setup.ask("HEAD", "/v1/a/c/thing").headers[h.CONTENT_TYPE]
    assert kind == "application/octet-stream"
    headers = {"Content-Type": "a/b", "X-Detect-Content-Type": "yes"}
    setup.ask("PUT", "/v1/a/c/p.txt", b"x", headers)
    assert setup.ask("HEAD", "/v1/a/c/p.txt").headers[h.CONTENT_TYPE] == "text/plain"


# --- Reading --------------------------------------------------------------------------


def test_a_read_goes_on_at_the_next_node_when_one_fails(setup):
    put(setup, b"there")
    first, second, _ = primaries(setup)
    setup.nodes.faults[first] = lambda seen: Response(503)
    setup.nodes.faults[second] = lambda seen: Response(507)
    for _ in range(6):
        assert setup.ask("GET", OBJECT).body == b"there"


def test_one_copy_on_a_handoff_is_enough(setup):
    put(setup, b"there")
    stored = setup.nodes.stored("/a/c/o")[primaries(setup)[0]]
    for ip in primaries(setup):
        del setup.nodes.store[(ip, 6200, "/a/c/o")]
    setup.nodes.store[(handoffs(setup)[1], 6200, "/a/c/o")] = stored
    assert setup.ask("GET", OBJECT).body == b"there"


def test_missing_everywhere_is_404_and_unreachable_is_503(setup):
    assert setup.ask("GET", OBJECT).status == 404
    setup.nodes.refusing |= set(primaries(setup)[:2])
    setup.pool.close()
    assert setup.ask("GET", OBJECT).status == 503


def test_a_tombstone_hides_an_older_copy(setup):
    put(setup, b"old")
    setup.ask("DELETE", OBJECT)
    stale = setup.nodes.stored("/a/c/o")[primaries(setup)[0]]
    deleted = Timestamp(stale.timestamp.raw)
    put(setup, b"again")
    live = setup.nodes.stored("/a/c/o")[primaries(setup)[0]]
    for ip in primaries(setup)[1:]:
        setup.nodes.store[(ip, 6200, "/a/c/o")].body = None
        setup.nodes.store[(ip, 6200, "/a/c/o")].timestamp = deleted.plus(10**6)
    live.timestamp = deleted.plus(-5)
    statuses = {setup.ask("GET", OBJECT).status for _ in range(12)}
    # The node with the stale copy may be asked first: then it is what there is.
    assert statuses <= {200, 404}
    assert setup.ask("GET", OBJECT, headers={"X-Newest": "true"}).status == 404


def test_newest_gives_the_latest_copy_whatever_the_order(setup):
    put(setup, b"old")
    keep = dict(setup.nodes.store)
    put(setup, b"new")
    for ip in primaries(setup)[:2]:
        setup.nodes.store[(ip, 6200, "/a/c/o")] = keep[(ip, 6200, "/a/c/o")]
    for _ in range(5):
        got = setup.ask("GET", OBJECT, headers={"X-Newest": "true"})
        assert got.body == b"new"


def test_newest_looks_on_handoffs_for_what_no_primary_has(setup):
    put(setup, b"kept")
    store, away = setup.nodes.store, handoffs(setup)[0]
    for ip in primaries(setup):
        store[(away, 6200, "/a/c/o")] = store.pop((ip, 6200, "/a/c/o"))
    got = setup.ask("GET", OBJECT, headers={"X-Newest": "true"})
    assert got.body == b"kept"


def cut_after(ip, count):
    """A fault: GETs of objects break off after `count` bytes."""

    def fault(setup):
        def answer(seen: Seen) -> Response | None:
            if seen.method != "GET" or seen.kind != "object":
                return None
            whole = setup.nodes._object(seen, (ip, 6200, seen.path), None)
            data = b"".join(whole.app_iter)

            def broken():
                yield data[:count]
                raise PeerError(ip, "planned")

            return Response(whole.status, whole.headers, app_iter=broken())

        return answer

    return fault


@pytest.mark.parametrize("wanted", [None, "bytes=1000-", "bytes=-400000"])
def test_a_download_goes_on_from_another_copy_at_the_right_byte(setup, wanted):
    put(setup, BIG)
    expected = {None: BIG, "bytes=1000-": BIG[1000:], "bytes=-400000": BIG[-400000:]}
    bad = primaries(setup)[:2]
    setup.nodes.faults[bad[0]] = cut_after(bad[0], 100_000)(setup)
    setup.nodes.faults[bad[1]] = cut_after(bad[1], 70_001)(setup)
    for _ in range(6):
        setup.app.proxy.backends.limiter._errors.clear()
        got = setup.ask("GET", OBJECT, headers={"Range": wanted} if wanted else {})
        assert got.body == expected[wanted]


def test_a_download_of_many_ranges_goes_on_within_its_parts(setup):
    put(setup, BIG)
    ranges = {"Range": "bytes=0-199999,200010-200019,300000-499999"}
    whole = setup.ask("GET", OBJECT, headers=ranges)
    boundary = whole.headers[h.CONTENT_TYPE].partition("boundary=")[2]
    for count in (10, 150, 100_000, 200_105, 200_300, 350_000):
        setup.app.proxy.backends.limiter._errors.clear()
        for ip in primaries(setup)[:2]:
            setup.nodes.faults[ip] = cut_after(ip, count)(setup)
        for _ in range(4):
            got = setup.start("GET", OBJECT, headers=ranges)
            if got.status == 503:
                assert count == 10
                continue
            own = got.headers[h.CONTENT_TYPE].partition("boundary=")[2]
            body = got.body.replace(own.encode(), boundary.encode())
            assert body == whole.body
            assert got.headers[h.CONTENT_LENGTH] == str(len(body))


def test_another_version_is_no_copy_to_go_on_with(setup):
    put(setup, BIG)
    keep = dict(setup.nodes.store)
    put(setup, BIG[::-1])
    bad, *others = primaries(setup)
    setup.nodes.faults[bad] = cut_after(bad, 100_000)(setup)
    for ip in others:
        setup.nodes.store[(ip, 6200, "/a/c/o")] = keep[(ip, 6200, "/a/c/o")]
    outcomes = set()
    for _ in range(12):
        setup.app.proxy.backends.limiter._errors.clear()
        got = setup.start("GET", OBJECT)
        try:
            outcomes.add(got.body == BIG)
        except PeerError:
            outcomes.add("broken off")
    assert outcomes <= {True, "broken off"}
    assert "broken off" in outcomes


def test_a_second_node_is_asked_when_the_first_is_slow():
    setup = Setup(concurrent_gets="true", concurrency_timeout="0.05")
    setup.container()
    put(setup, b"there")

    gate = green.Event()

    def slow(seen: Seen) -> Response | None:
        if seen.kind == "object":
            gate.wait(LIMIT_S)
        return None

    setup.nodes.faults[primaries(setup)[0]] = slow
    setup.nodes.faults[primaries(setup)[1]] = slow
    assert setup.ask("GET", OBJECT).body == b"there"
    gate.set()


@pytest.mark.parametrize(
    ("headers", "status", "body"),
    [
        ({"Range": "bytes=1-3"}, 206, b"123"),
        ({"Range": "bytes=-2"}, 206, b"89"),
        ({"Range": "bytes=20-"}, 416, None),
        ({"Range": "bites=1-3"}, 200, b"0123456789"),
        ({"If-None-Match": "*"}, 304, b""),
        ({"If-Match": "abc"}, 412, b""),
        ({"If-Match": '"781e5e245d69b566979b86e28d23f2c7"'}, 200, b"0123456789"),
    ],
)
def test_conditions_and_ranges(setup, headers, status, body):
    put(setup, b"0123456789")
    got = setup.ask("GET", OBJECT, headers=headers)
    assert got.status == status
    if body is not None:
        assert got.body == body
    if status == 416:
        assert got.headers[h.CONTENT_RANGE] == "bytes */10"
        assert b"<html>" in got.body


def test_if_match_star_on_a_missing_object_is_412(setup):
    assert setup.ask("GET", OBJECT, headers={"If-Match": "*"}).status == 412


# --- POST and DELETE ------------------------------------------------------------------


def test_post_reaches_all_copies_and_delete_leaves_tombstones(setup):
    put(setup, b"x")
    answer = setup.ask("POST", OBJECT, headers={"X-Object-Meta-A": "b"})
    assert answer.status == 202
    assert setup.ask("HEAD", OBJECT).headers["X-Object-Meta-A"] == "b"
    assert setup.ask("DELETE", OBJECT).status == 204
    assert all(one.body is None for one in setup.nodes.stored("/a/c/o").values())
    assert setup.ask("DELETE", OBJECT).status == 404
    assert setup.ask("POST", OBJECT).status == 404


def test_a_post_looks_for_copies_on_handoffs(setup):
    put(setup, b"x")
    stored = setup.nodes.stored("/a/c/o")[primaries(setup)[0]]
    for ip in primaries(setup)[1:]:
        del setup.nodes.store[(ip, 6200, "/a/c/o")]
    assert setup.ask("POST", OBJECT).status == 503
    setup.nodes.store[(handoffs(setup)[1], 6200, "/a/c/o")] = stored
    assert setup.ask("POST", OBJECT).status == 202


def test_some_missing_and_some_deleted_is_deleted(setup):
    put(setup, b"x")
    del setup.nodes.store[(primaries(setup)[0], 6200, "/a/c/o")]
    setup.nodes.faults[primaries(setup)[1]] = lambda seen: Response(503)
    for ip in handoffs(setup):
        setup.nodes.faults[ip] = lambda seen: Response(503)
    assert setup.ask("DELETE", OBJECT).status == 204


def test_an_expired_or_impossible_delete_time_is_refused(setup):
    put(setup, b"x")
    answer = setup.ask("POST", OBJECT, headers={"X-Delete-After": "0"})
    assert answer.status == 400
    assert setup.ask("DELETE", OBJECT, headers={"X-If-Delete-At": "x"}).status == 400


# --- Who may --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE"])
def test_the_access_list_of_the_container_reaches_the_decision(setup, method):
    setup.ask(
        "PUT",
        "/v1/a/acl",
        headers={"X-Container-Read": "readers", "X-Container-Write": "writers"},
        environ={env.OWNER: True},
    )
    asked = []

    def authorize(request):
        asked.append(request.acl)
        return Response(403)

    answer = setup.ask(method, "/v1/a/acl/o", b"x", environ={env.AUTHORIZE: authorize})
    assert answer.status == 403
    assert asked == ["readers" if method in ("GET", "HEAD") else "writers"]


def test_a_body_is_not_read_before_the_writer_is_known(setup):
    class Untouched:
        def read(self, size=-1):
            raise AssertionError("read too early")

    environ = {env.WSGI_INPUT: Untouched(), env.AUTHORIZE: lambda r: Response(401)}
    headers = {"Content-Length": "5"}
    assert setup.ask("PUT", OBJECT, headers=headers, environ=environ).status == 401


# --- Where writes land ----------------------------------------------------------------


def test_write_affinity_puts_all_copies_near_and_deletes_them_there():
    setup = Setup(write_affinity="r1", write_affinity_node_count="3")
    setup.container()
    put(setup, b"x")
    near = {f"10.0.0.{n}" for n in (1, 3, 5)}  # the devices of region 1
    assert set(setup.nodes.stored("/a/c/o")) == near
    setup.ask("DELETE", OBJECT)
    stored = setup.nodes.stored("/a/c/o")
    assert all(stored[ip].body is None for ip in near)


def test_read_affinity_prefers_the_near_copy():
    setup = Setup(sorting_method="affinity", read_affinity="r2=100")
    setup.container()
    put(setup, b"x")
    setup.nodes.requests.clear()
    for _ in range(5):
        setup.ask("GET", OBJECT)
    asked = {seen.ip for seen in setup.nodes.of("object", "GET")}
    assert asked <= {f"10.0.0.{n}" for n in (2, 4, 6)}
