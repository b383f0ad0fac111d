# SPDX-License-Identifier: Apache-2.0
"""Fragments that are damaged on disk, and nodes that send what is none: the object is
given from the others, and no wrong body is ever whole."""

from __future__ import annotations

import os
import random
import struct
from zlib import crc32

import pytest

from swift.core.errors import PeerError
from swift.core.headers import Headers
from swift.runtime import green
from swift.wire.request import Response, call
from test.support.fragments import (
    BIG,
    OBJECT,
    SEGMENT,
    SMALL,
    FragmentSetup,
    assert_whole,
    get,
    put,
)


@pytest.fixture
def setup(tmp_path):
    made = FragmentSetup(tmp_path)
    made.container()
    yield made
    made.nodes.close()


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


def test_whatever_is_damaged_no_wrong_body_is_ever_whole(setup):
    seed = int(os.environ.get("SEED") or random.randrange(1 << 32))
    print(f"SEED={seed}")
    rng = random.Random(seed)
    for number in range(25):
        body = rng.randbytes(rng.choice([1, 1000, SEGMENT, 3 * SEGMENT + 1000]))
        name = f"/v1/a/c/o{number}"
        setup.ask("PUT", name, body, Headers({"Content-Type": "x/y"}))
        for ip in rng.sample(setup.primaries(f"/a/c/o{number}"), rng.choice([1, 2])):
            path = max(setup.nodes.paths(ip), key=lambda path: path.stat().st_mtime_ns)
            data = bytearray(path.read_bytes())
            if rng.random() < 0.5:
                data = data[: rng.randrange(len(data))]
            else:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            with path.open("r+b") as stream:
                stream.write(data)
                stream.truncate(len(data))
        for _ in range(2):
            response = setup.start("GET", name)
            assert response.status == 200
            chunks = response.app_iter or [response.body]
            try:
                received = b"".join(chunks)
            except PeerError:
                continue
            assert received == body
    # What was found is in quarantine, so that a second read has nothing to break it.
    assert setup.ask("GET", name).body == body


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
    let_it_lie(setup, liar, change)
    answer = get(setup, **wanted)
    assert answer.body == (BIG[70000:80001] if wanted else BIG)
    assert setup.nodes.paths(liar)


def let_it_lie(setup, ip, change=(), falsify=bytes):
    """Have a node answer with other headers, or with a body that `falsify` makes."""
    real = setup.nodes.server(ip)

    def lying(environ, start_response):
        response = call(real, environ)
        response.headers.update(change)
        if falsify is not bytes and response.status == 200:
            whole = b"".join(response.app_iter or [response.body or b""])
            response = Response(200, response.headers, body=falsify(whole))
        return response(environ, start_response)

    setup.nodes._servers[ip] = lying


def with_header(body, **fields):
    """An archive whose first fragment says something else, under a right checksum."""
    header = bytearray(body[:80])
    for name, value in fields.items():
        struct.pack_into(
            "<I", header, {"index": 0, "size": 4, "segment": 12}[name], value
        )
    struct.pack_into("<I", header, 67, crc32(bytes(header[:59])))
    return bytes(header) + body[80:]


@pytest.fixture
def strict(tmp_path):
    """A proxy that leaves a node alone after one error."""
    made = FragmentSetup(tmp_path, error_suppression_limit="0")
    made.container()
    put(made)
    yield made
    made.nodes.close()


def is_left_alone(setup, position):
    proxy = setup.app.proxy
    ring = setup.cluster.object_ring(0)
    partition = ring.partition(setup.cluster.salt.digest_of_path("/a/c/o"))
    node = ring.primaries(partition)[position]
    return proxy.backends.limiter.is_limited(node, green.now())


@pytest.mark.parametrize(
    "change",
    [
        {"X-Object-Sysmeta-Ec-Frag-Index": "77"},
        {"X-Object-Sysmeta-Ec-Frag-Index": "x"},
        {"X-Object-Sysmeta-Ec-Etag": "0" * 32},
        {"X-Object-Sysmeta-Ec-Content-Length": "5"},
        {"X-Object-Sysmeta-Ec-Scheme": "isa_l_rs_vand 8+4"},
        {"X-Backend-Data-Timestamp": "soon"},
    ],
)
def test_what_a_node_says_wrongly_of_a_fragment_counts_against_it(strict, change):
    let_it_lie(strict, strict.primaries()[1], change)
    assert_whole(get(strict), BIG)
    assert is_left_alone(strict, 1)
    assert not any(is_left_alone(strict, position) for position in (0, 2, 3, 4, 5))


@pytest.mark.parametrize(
    "falsify",
    [
        pytest.param(lambda body: with_header(body, index=2), id="another index"),
        pytest.param(lambda body: with_header(body, size=5), id="another length"),
        pytest.param(lambda body: with_header(body, segment=7), id="a short segment"),
        pytest.param(
            lambda body: with_header(body, segment=1 << 30), id="a vast segment"
        ),
        pytest.param(lambda body: bytes(len(body)), id="zeroes"),
        pytest.param(lambda body: body[1:], id="a byte too few"),
        pytest.param(lambda body: body[:100], id="the beginning"),
        pytest.param(lambda body: b"", id="nothing"),
    ],
)
def test_what_is_no_fragment_of_the_object_counts_against_its_node(strict, falsify):
    let_it_lie(strict, strict.primaries()[1], falsify=falsify)
    assert_whole(get(strict), BIG)
    assert is_left_alone(strict, 1)
    assert not any(is_left_alone(strict, position) for position in (0, 2, 3, 4, 5))


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
