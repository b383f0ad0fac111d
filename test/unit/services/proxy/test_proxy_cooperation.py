# SPDX-License-Identifier: Apache-2.0
"""When many requests lack the same entry of the cache, a few of them fetch it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swift.core import headers as h
from swift.runtime import green
from swift.runtime.metrics import Metrics
from swift.services.proxy.cooperation import Turn, session_key
from swift.wire.local_cache import LocalCache
from test.support.memcached import Memcached, client_of
from test.support.nodes import Setup

MANY = 24
LIMIT_S = 60.0


class LabelledMetrics(Metrics):
    """Keeps labelled counts."""

    is_labelled = True

    def __init__(self):
        self.told = []

    def labelled_count(self, name, labels, amount=1, rate=None):
        self.told.append((name, dict(labels)))


@pytest.fixture(params=["memcached", "in process"])
def cache(request):
    if request.param == "in process":
        yield LocalCache()
        return
    server = Memcached()
    client = client_of(server)
    yield client
    client.close()
    server.stop()


def all_at_once(count, action):
    """The results of `action(number)` in so many green threads."""
    threads = [green.spawn(action, number) for number in range(count)]
    with green.Timeout(LIMIT_S):
        return [thread.wait() for thread in threads]


# --- one entry ------------------------------------------------------------------------


def test_the_first_of_a_session_fetch_and_the_others_get_what_they_found(cache):
    fetched = []

    def look(_):
        turn = Turn(cache, "key", tokens=3, fetch_s=3.0)
        found = turn.wait()
        if found is None:
            fetched.append(turn.token)
            green.sleep(0.05)
            cache.set("key", "entry", 60)
        return found, turn.token

    found = all_at_once(MANY, look)

    assert fetched == ["with_token"] * 3
    assert found.count(("entry", "no_token")) == MANY - 3


def test_who_waits_in_vain_fetches(cache):
    first, second = (Turn(cache, "key", tokens=1, fetch_s=0.1) for _ in range(2))
    assert (first.wait(), first.token, first.is_tired) == (None, "with_token", False)

    with green.Timeout(LIMIT_S):
        found = second.wait()

    # Its own time is over, or that of a session which began before it.
    assert found is None
    assert (second.token, second.is_tired) in (
        ("no_token", True),
        ("with_token", False),
    )


def test_a_session_that_is_ended_makes_room_for_the_next():
    cache = LocalCache()
    Turn(cache, "key", tokens=1, fetch_s=60).wait()

    def end():
        green.sleep(0.01)
        cache.delete(session_key("key"))

    green.spawn(end)
    turn = Turn(cache, "key", tokens=1, fetch_s=0.5)

    assert (turn.wait(), turn.token, turn.is_tired) == (None, "with_token", False)


@pytest.mark.parametrize(("tokens", "fetch_s"), [(0, 60.0), (3, 0.0)])
def test_without_tokens_or_time_everybody_fetches(tokens, fetch_s):
    cache = LocalCache()
    turns = [Turn(cache, "key", tokens=tokens, fetch_s=fetch_s) for _ in range(9)]
    assert [turn.wait() for turn in turns] == [None] * 9
    assert {turn.token for turn in turns} == {"disabled"}
    assert cache.get(session_key("key")) is None


def test_a_cache_that_cannot_count_lets_everybody_fetch():
    server = Memcached()
    client = client_of(server)
    server.stop()
    turn = Turn(client, "key", tokens=1, fetch_s=60)
    assert (turn.wait(), turn.token) == (None, "error")
    client.close()


# --- in the proxy ---------------------------------------------------------------------


def sharded_setup(cache, waits_for=None, **options):
    """A proxy before a sharded container whose root takes its time for shards.

    waits_for: `listing` or `updating`: the root answers once MANY requests lack those
    shards.
    """
    setup = Setup(**options)
    setup.cache = cache
    setup.container()
    setup.nodes.listings["/a/c"] = [
        {"name": ".shards_a/one", "lower": "", "upper": ""},
    ]
    setup.nodes.listings["/.shards_a/one"] = [{"name": "o", "bytes": 1}]
    root = setup.nodes.stored("/a/c", "container")
    for stored in root.values():
        stored.headers[h.X_BACKEND_SHARDING_STATE] = "sharded"
    for number in range(1, 7):
        place = (f"10.0.0.{number}", 6201, "/.shards_a/one")
        setup.nodes.store[place] = next(iter(root.values()))
    cache.delete("container-info/a/c")
    assert setup.ask("HEAD", "/v1/a/c").status == 204

    def slowly(seen):
        if seen.path != "/a/c" or seen.method != "GET":
            return
        green.sleep(0.05)
        counter = session_key(f"{waits_for}-shards/a/c")
        with green.Timeout(LIMIT_S):
            while waits_for and int(cache.get(counter)) < MANY:
                green.sleep(0.01)

    setup.nodes.faults = {f"10.0.0.{number}": slowly for number in range(1, 7)}
    setup.nodes.requests.clear()
    return setup


def count_labels(setup):
    """Metrics of the proxy from now on."""
    metrics = LabelledMetrics()
    setup.app.proxy = replace(setup.app.proxy, metrics=metrics)
    return metrics


def asked_of_root(setup):
    return [seen for seen in setup.nodes.of("container", "GET") if seen.path == "/a/c"]


def test_many_writes_at_once_ask_the_root_as_often_as_there_are_tokens(cache):
    setup = sharded_setup(cache, "updating", namespace_avg_backend_fetch_time="3")
    metrics = count_labels(setup)

    answers = all_at_once(MANY, lambda n: setup.ask("PUT", f"/v1/a/c/{n}", b"x").status)

    assert set(answers) == {201}
    assert len(asked_of_root(setup)) == 3
    for seen in setup.nodes.of("object", "PUT"):
        assert seen.headers[h.X_BACKEND_QUOTED_CONTAINER_PATH] == ".shards_a/one"
    served = [labels for _, labels in metrics.told if labels["token"] == "no_token"]
    asked = [labels for _, labels in metrics.told if labels["token"] == "with_token"]
    assert (len(served), len(asked)) == (MANY - 3, 3)
    assert {name for name, _ in metrics.told} == {"swift_coop_cache"}
    assert asked[0] == {
        "resource": "shard_updating", "account": "a", "container": "c",
        "event": "backend_reqs", "token": "with_token", "status": 200,
        "set_cache_state": "set", "lack_retries": False,
    }  # fmt: skip
    assert served[0]["event"] == "cache_served"


def test_many_listings_at_once_ask_the_root_as_often_as_there_are_tokens(cache):
    setup = sharded_setup(
        cache,
        "listing",
        namespace_avg_backend_fetch_time="3",
        namespace_cache_tokens_per_session="2",
    )

    answers = all_at_once(
        MANY, lambda _: setup.ask("GET", "/v1/a/c?format=json").status
    )

    assert set(answers) == {200}
    assert len(asked_of_root(setup)) == 2


def test_no_tokens_let_every_request_ask_the_root():
    setup = sharded_setup(LocalCache(), namespace_cache_tokens_per_session="0")
    all_at_once(6, lambda n: setup.ask("PUT", f"/v1/a/c/{n}", b"x"))
    assert len(asked_of_root(setup)) == 6


def test_a_root_without_shards_keeps_nobody_waiting():
    setup = sharded_setup(LocalCache(), namespace_avg_backend_fetch_time="1")
    setup.nodes.listings["/a/c"] = []
    metrics = count_labels(setup)

    answers = all_at_once(6, lambda n: setup.ask("PUT", f"/v1/a/c/{n}", b"x").status)

    assert set(answers) == {201}
    outcomes = [(told["token"], told["lack_retries"]) for _, told in metrics.told]
    assert outcomes == [("with_token", False)] * 6


def test_shards_that_are_forgotten_are_fetched_without_waiting():
    setup = sharded_setup(
        LocalCache(),
        namespace_avg_backend_fetch_time="600",
        namespace_cache_tokens_per_session="1",
    )
    assert setup.ask("GET", "/v1/a/c?format=json").status == 200
    for key in [key for key in setup.nodes.store if key[2] == "/.shards_a/one"]:
        del setup.nodes.store[key]
    setup.nodes.listings["/a/c"] = [{"name": "a/c", "lower": "", "upper": ""}]

    with green.Timeout(LIMIT_S):
        setup.ask("GET", "/v1/a/c?format=json")
        setup.ask("GET", "/v1/a/c?format=json")
