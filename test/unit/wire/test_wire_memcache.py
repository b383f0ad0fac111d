# SPDX-License-Identifier: Apache-2.0
"""The cache: on real memcached servers, on one that misbehaves, and in process."""

from __future__ import annotations

from hashlib import md5

import pytest

from swift.core.errors import PeerTimeout
from swift.runtime import green
from swift.wire.client import open_channel
from swift.wire.local_cache import LocalCache
from swift.wire.memcache import (
    CacheUnavailable,
    MemcacheClient,
    ServerRing,
    hashed,
)
from swift.wire.memcache_server import MemcacheOptions, split_server
from test.support.memcached import Memcached, client_of
from test.support.ports import free_port


@pytest.fixture
def servers():
    running = [Memcached(), Memcached()]
    yield running
    for server in running:
        server.stop()


@pytest.fixture
def client(servers):
    made = client_of(*servers)
    yield made
    made.close()


@pytest.fixture(params=["memcached", "local"])
def cache(request):
    if request.param == "local":
        return LocalCache()
    return request.getfixturevalue("client")


def test_what_is_set_is_got(cache):
    value = {"é": [1, 2.5, None], "x": "y" * 70000}
    cache.set("kéy", value, 60)
    assert cache.get("kéy") == value
    assert cache.get("other") is None


def test_what_is_deleted_is_gone(cache):
    cache.set("key", [1], 60)
    cache.delete("key")
    cache.delete("key")
    assert cache.get("key") is None


def test_counters_are_made_and_do_not_go_below_zero(cache):
    assert cache.incr("n", 5, 60) == 5
    assert cache.incr("n", 2) == 7
    assert cache.decr("n", 10) == 0
    assert cache.decr("m", 3) == 0


def test_many_values_at_once(cache):
    values = {f"key{index}": index for index in range(20)}
    cache.set_multi(values, 60)
    asked = [*values, "missing"]
    assert cache.get_multi(asked) == [*values.values(), None]


def test_both_servers_are_used(client, servers):
    for index in range(60):
        client.set(f"key{index}", index, 60)
    for server in servers:
        alone = MemcacheClient([server.name], open_channel, MemcacheOptions())
        kept = sum(alone.get(f"key{index}") is not None for index in range(60))
        assert 10 < kept < 50


def test_a_value_of_another_kind_is_ignored(client, servers):
    for server in servers:
        channel = open_channel("127.0.0.1", server.port, 1)
        channel.send(b"set %b 1 0 4\r\nevil\r\n" % hashed("key"), 1)
        assert channel.recv(100, 1) == b"STORED\r\n"
        channel.close()
    assert client.get("key") is None


def test_a_lost_server_makes_the_next_one_answer(client, servers):
    servers[0].stop()
    for index in range(20):
        client.set(f"key{index}", index, 60)
    assert client.get_multi([f"key{index}" for index in range(20)]) == list(range(20))


def test_a_kept_connection_that_died_is_replaced(servers):
    client = MemcacheClient([servers[0].name], open_channel, MemcacheOptions())
    client.set("key", 1, 60)
    servers[0].stop()
    servers[0].start()
    client.set("key", 2, 60)
    assert client.get("key") == 2


def test_without_any_server_gets_are_none_and_counting_fails():
    client = MemcacheClient(
        [f"127.0.0.1:{free_port()}"], open_channel, MemcacheOptions()
    )
    client.set("key", 1)
    assert client.get("key") is None
    assert client.get_multi(["a", "b"]) == [None, None]
    with pytest.raises(CacheUnavailable):
        client.incr("n")


class Script:
    """A stream that plays a script of answers; None is silence."""

    def __init__(self, answers):
        self.answers = answers
        self.sent = []
        self.closed = False

    def send(self, data, timeout_s):
        self.sent.append(data)

    def recv(self, size, timeout_s):
        if not self.answers:
            return b""
        answer = self.answers.pop(0)
        if answer is None:
            raise TimeoutError("read")
        return answer

    def close(self):
        self.closed = True


def scripted(*scripts, **options):
    streams = [Script(list(script)) for script in scripts]
    left = list(streams)

    def dial(host, port, timeout_s):
        if not left:
            raise PeerTimeout(f"{host}:{port}", "no connection in time")
        return left.pop(0)

    return MemcacheClient(["one:1"], dial, MemcacheOptions(**options)), streams


def test_an_answer_in_pieces_is_put_together():
    head = b"VALUE %b 2 4\r\n" % hashed("k")
    client, streams = scripted([head[:9], head[9:] + b'"a', b'b"', b"\r\nEN", b"D\r\n"])
    assert client.get("k") == "ab"
    assert not streams[0].closed


def test_a_silent_server_costs_its_connection():
    client, streams = scripted([None], [b"END\r\n"])
    assert client.get("k") is None
    assert streams[0].closed
    assert client.get("k") is None
    assert streams[1].sent


@pytest.mark.parametrize(
    "answer",
    [b"ERROR\r\n", b"VALUE x\r\n", b"VALUE k 2 99999999999\r\n", b"x" * 5000],
    ids=["error", "short line", "huge value", "endless line"],
)
def test_nonsense_is_no_value(answer):
    client, streams = scripted([answer])
    assert client.get("k") is None
    assert streams[0].closed


def test_a_server_that_keeps_failing_is_left_alone_for_a_while():
    clock = green.JumpingClock()
    green.install(clock)
    try:
        client, streams = scripted(
            *[[None]] * 4, error_suppression_limit=3, error_suppression_interval_s=60
        )
        for _ in range(6):
            client.get("k")
        assert [bool(stream.sent) for stream in streams] == [True] * 4
        clock.sleep(61)
        client.get("k")
    finally:
        green.install(None)


def test_long_times_become_absolute():
    client, streams = scripted([b"STORED\r\n", b"STORED\r\n"])
    client.set("k", 1, 3600)
    client.set("k", 1, 31 * 24 * 3600)
    relative, absolute = (int(sent.split()[3]) for sent in streams[0].sent)
    assert relative == 3600
    assert absolute > green.now()


def test_keys_lie_on_the_ring_as_the_contract_says():
    names = ["10.0.0.2:11211", "10.0.0.1:11211"]
    ring = ServerRing(names)
    points = sorted(
        (md5(f"{name}-{index}".encode()).hexdigest(), name)
        for name in names
        for index in range(50)
    )
    for key in map(str, range(100)):
        place = md5(key.encode()).hexdigest()
        above = [name for point, name in points if point > place]
        first = above[0] if above else points[0][1]
        order = list(ring.order(hashed(key)))
        assert order[0] == first
        assert sorted(order) == sorted(names)


@pytest.mark.parametrize(
    ("server", "host", "port"),
    [
        ("host", "host", 11211),
        ("host:1", "host", 1),
        ("[::1]:2", "::1", 2),
        ("[::1]", "::1", 11211),
        ("::1", "::1", 11211),
    ],
)
def test_servers_are_split(server, host, port):
    assert split_server(server) == (host, port)


def test_a_full_local_cache_forgets_the_oldest():
    cache = LocalCache(entries_max=100)
    for index in range(150):
        cache.set(str(index), index)
    assert cache.get("149") == 149
    assert cache.get("0") is None
    assert sum(cache.get(str(index)) is not None for index in range(150)) <= 100


def test_a_local_value_ends_with_its_time():
    clock = green.JumpingClock()
    green.install(clock)
    try:
        cache = LocalCache()
        cache.set("k", 1, 10)
        clock.sleep(9)
        assert cache.get("k") == 1
        clock.sleep(1)
        assert cache.get("k") is None
    finally:
        green.install(None)
