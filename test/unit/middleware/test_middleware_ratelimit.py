# SPDX-License-Identifier: Apache-2.0
"""ratelimit: rates by size, waits by shared counters."""

from __future__ import annotations

import pytest
from filter_facts import Facts
from filter_pipeline import Bench, found

from swift.core.errors import ConfigError, Unavailable
from swift.middleware.ratelimit import Rates
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.local_cache import LocalCache


@pytest.fixture
def clock():
    jumping = green.JumpingClock()
    green.install(jumping)
    yield jumping
    green.install(None)


class Rated(Bench):
    def __init__(self, objects=0, mark="", **options):
        super().__init__("ratelimit", **options)
        self.cache = LocalCache()
        facts = Facts().give_to(self)
        facts.set("/a", X_Account_Sysmeta_Global_Write_Ratelimit=mark)
        facts.set("/a/c", X_Container_Object_Count=str(objects))
        self.end.answers["*"] = lambda environ: found()

    def waits(self, clock, method, path, count):
        """Seconds that each of `count` requests took, or its status."""
        took = []
        for _ in range(count):
            before = clock.now()
            got = self.ask(method, path, **{env.CACHE: self.cache})
            took.append(
                round(clock.now() - before, 3) if got.status == 200 else got.status
            )
        return took


def test_rates_lie_on_lines_between_the_sizes():
    rates = Rates([(100, 100.0), (200, 50.0)])
    assert [rates.at(size) for size in (0, 99, 100, 150, 200, 10**9)] == [
        None, None, 100.0, 75.0, 50.0, 50.0,
    ]  # fmt: skip
    assert Rates([]).at(5) is None
    assert Rates([(0, 10.0)]).at(0) is None


def test_writes_to_a_large_container_wait(clock):
    bench = Rated(1000, container_ratelimit_100="10", rate_buffer_seconds="0")
    assert bench.waits(clock, "PUT", "/v1/a/c/o", 4) == [0, 0.1, 0.1, 0.1]


def test_idle_time_within_the_buffer_is_caught_up(clock):
    bench = Rated(1000, container_ratelimit_100="10", rate_buffer_seconds="5")
    bench.waits(clock, "PUT", "/v1/a/c/o", 1)
    clock.sleep(0.5)
    assert bench.waits(clock, "PUT", "/v1/a/c/o", 7)[:4] == [0, 0, 0, 0]
    clock.sleep(60)
    assert bench.waits(clock, "PUT", "/v1/a/c/o", 3) == [0, 0.1, 0.1]


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "/v1/a/c/o", {"container_ratelimit_1": "1"}),
        ("GET", "/v1/a/c", {"container_ratelimit_1": "1"}),
        ("HEAD", "/v1/a/c", {"container_listing_ratelimit_1": "1"}),
        ("GET", "/v1/a/c/o", {"container_listing_ratelimit_1": "1"}),
        ("PUT", "/v1/a/c", {"container_ratelimit_1": "1"}),
        ("PUT", "/v1/a/c/o", {"account_ratelimit": "1"}),
        ("POST", "/v1/a/c", {"account_ratelimit": "1"}),
        ("PUT", "/v1/a/c/o", {"container_ratelimit_2000": "1"}),
        ("PUT", "/info", {"container_ratelimit_1": "1"}),
    ],
)
def test_what_is_not_limited_does_not_wait(clock, method, path, options):
    bench = Rated(1000, **options)
    assert bench.waits(clock, method, path, 3) == [0, 0, 0]


@pytest.mark.parametrize(
    ("method", "path", "options", "mark"),
    [
        ("PUT", "/v1/a/c", {"account_ratelimit": "10"}, ""),
        ("DELETE", "/v1/a/c/", {"account_ratelimit": "10"}, ""),
        ("COPY", "/v1/a/c/o", {"container_ratelimit_1": "10"}, ""),
        ("GET", "/v1/a/c", {"container_listing_ratelimit_1": "10"}, ""),
        ("POST", "/v1/a/c/o", {}, "10"),
        ("POST", "/v1/a", {}, "10"),
    ],
)
def test_what_is_limited_waits(clock, method, path, options, mark):
    bench = Rated(1000, mark, **options)
    assert bench.waits(clock, method, path, 3)[-1] == 0.1


def test_too_long_a_wait_is_refused_and_gives_its_place_back(clock):
    bench = Rated(
        1000, container_ratelimit_1="1", max_sleep_time_seconds="0.5",
        rate_buffer_seconds="0",
    )  # fmt: skip
    assert bench.waits(clock, "PUT", "/v1/a/c/o", 3) == [0, 498, 498]
    clock.sleep(1)
    assert bench.waits(clock, "PUT", "/v1/a/c/o", 1) == [0]


def test_lists_of_accounts(clock):
    limits = {"container_ratelimit_1": "0.1"}
    bench = Rated(1000, "WHITELIST", **limits)
    assert bench.waits(clock, "PUT", "/v1/a/c/o", 3) == [0, 0, 0]
    bench = Rated(1000, account_whitelist="a, b", **limits)
    assert bench.waits(clock, "PUT", "/v1/a/c/o", 3) == [0, 0, 0]
    before = clock.now()
    assert Rated(1, "BLACKLIST").waits(clock, "PUT", "/v1/a/c/o", 1) == [497]
    assert clock.now() - before == pytest.approx(1)
    bench = Rated(1, account_blacklist="a")
    assert bench.waits(clock, "PUT", "/v1/a/c/o", 1) == [497]


def test_without_a_cache_or_with_a_broken_one_nothing_is_limited(clock):
    bench = Rated(1000, container_ratelimit_1="1")
    assert bench.ask("PUT", "/v1/a/c/o").status == 200

    class Broken(LocalCache):
        def incr(self, key, delta=1, ttl_s=0):
            raise Unavailable("cache")

    bench.cache = Broken()
    assert bench.waits(clock, "PUT", "/v1/a/c/o", 3) == [0, 0, 0]


def test_a_request_is_counted_once(clock):
    bench = Rated(1000, container_ratelimit_1="10", rate_buffer_seconds="0")
    extra = {env.CACHE: bench.cache, env.RATELIMIT_HANDLED: True}
    before = clock.now()
    for _ in range(3):
        bench.ask("PUT", "/v1/a/c/o", **extra)
    assert clock.now() == before


def test_long_waits_are_logged(clock):
    bench = Rated(
        9, container_ratelimit_1="1", log_sleep_time_seconds="0.5",
        rate_buffer_seconds="0",
    )  # fmt: skip
    bench.waits(clock, "PUT", "/v1/a/c/o", 2)
    assert any("ratelimit/a/c waits" in line for line in bench.log_lines)


def test_options_are_checked_and_shown():
    for name in ("container_ratelimit_x", "container_listing_ratelimit_"):
        with pytest.raises(ConfigError):
            Rated(**{name: "1"})
    facts = Rated(container_ratelimit_5="2", account_ratelimit="3").process.info
    assert facts.features["ratelimit"] == {
        "account_ratelimit": 3.0,
        "max_sleep_time_seconds": 60.0,
        "container_ratelimits": [[5, 2.0]],
        "container_listing_ratelimits": [],
    }
