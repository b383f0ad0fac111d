# SPDX-License-Identifier: Apache-2.0
"""The cache filter: which cache, from which file; and all the filters together."""

from __future__ import annotations

import socket

import pytest
from filter_pipeline import Bench, found

from swift.core.errors import ConfigError
from swift.middleware import memcache
from swift.wire import environ as env
from swift.wire.infocache import InfoFetcher
from swift.wire.local_cache import LocalCache
from swift.wire.memcache import MemcacheClient


def cache_of(bench: Bench):
    bench.ask("GET", "/v1/a")
    return bench.end.last[env.CACHE]


def test_named_servers_are_memcached():
    assert isinstance(
        cache_of(Bench("memcache", memcache_servers="127.0.0.1:1, [::1]:2")),
        MemcacheClient,
    )


def test_no_servers_keep_everything_in_the_process():
    assert isinstance(cache_of(Bench("memcache", memcache_servers="")), LocalCache)


@pytest.mark.parametrize(
    ("workers", "kept"), [("0", True), ("1", True), ("2", False), ("auto", False)]
)
def test_several_workers_without_memcached_keep_no_facts(workers, kept):
    bench = Bench("memcache", conf={"workers": workers}, memcache_servers="")
    assert cache_of(bench).keeps_facts is kept


@pytest.mark.parametrize("listens", [True, False], ids=["answers", "does not"])
def test_when_nothing_is_said_the_usual_server_is_taken_if_it_answers(
    monkeypatch, listens
):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        if listens:
            sock.listen()
        server = f"127.0.0.1:{sock.getsockname()[1]}"
        monkeypatch.setattr(memcache, "DEFAULT_SERVER", server)
        cache = cache_of(Bench("memcache"))
    assert isinstance(cache, MemcacheClient if listens else LocalCache)


@pytest.mark.parametrize(
    ("file_text", "options", "tries", "connections"),
    [
        pytest.param("tries = 7\nmemcache_servers = x:1", {}, 7, 2, id="the file"),
        pytest.param(
            "tries = 7\nmax_connections = 5", {"memcache_servers": "y:1"}, 7, 5,
            id="the file fills in",
        ),
        pytest.param(
            "tries = 7", {"memcache_servers": "y:1", "tries": "1"}, 1, 2,
            id="the filter comes first",
        ),
        pytest.param(
            "tries = 7",
            {"memcache_servers": "y:1", "memcache_max_connections": "4"}, 3, 4,
            id="the file is not needed",
        ),
    ],
)  # fmt: skip
def test_options_come_from_both_places(
    tmp_path, file_text, options, tries, connections
):
    (tmp_path / "memcache.conf").write_text(f"[memcache]\n{file_text}\n")
    bench = Bench()
    bench.process.swift_dir = str(tmp_path)
    made = memcache.filter_factory(bench.context, **options)(bench.end)
    assert made.config.tries == tries
    assert made.config.memcache_max_connections == connections


@pytest.mark.parametrize(
    "options", [{"memcache_servers": "host:port"}, {"io_timeout": "-1"}, {"tries": "0"}]
)
def test_a_bad_option_refuses_to_start(options):
    with pytest.raises(ConfigError):
        Bench("memcache", **options)


def test_the_proxys_fetcher_reaches_the_filters():
    bench = Bench("memcache", memcache_servers="")
    bench.ask("GET", "/v1/a")
    assert env.INFO_FETCHER not in bench.end.last
    fetcher = bench.process.info_fetcher = InfoFetcher(lambda environ, name: found())
    bench.ask("GET", "/v1/a")
    assert bench.end.last[env.INFO_FETCHER] is fetcher


def test_the_default_pipeline_stands():
    names = "catch_errors gatekeeper healthcheck proxy_logging memcache "
    names += "listing_formats tempauth copy proxy_logging"
    bench = Bench(*names.split())
    bench.end.authorizes = True
    bench.end.answers["*"] = lambda environ: found(b"x", X_Backend_Timestamp="1")
    assert bench.ask("GET", "/healthcheck").status == 200
    response = bench.ask("GET", "/v1/AUTH_a/c/o")
    assert response.status == 401
    assert response.headers["X-Trans-Id"].startswith("tx")
    accesses = [line for line in bench.log_lines if "/v1/AUTH_a/c/o" in line]
    assert len(accesses) == 1
