# SPDX-License-Identifier: Apache-2.0
"""domain_remap and cname_lookup: host names that stand for paths and for others."""

from __future__ import annotations

import pytest
from filter_pipeline import Bench, found

from swift.core.errors import ConfigError
from swift.middleware.cname_lookup import nameservers
from swift.wire import environ as env
from swift.wire.local_cache import LocalCache


class Hosts(Bench):
    def __init__(self, name, **options):
        super().__init__(name, **options)
        self.end.answers["*"] = lambda environ: found(**self.headers)
        self.headers = {}

    def path(self, host, path="/o"):
        got = self.ask("GET", path, HTTP_HOST=host)
        return self.end.last["PATH_INFO"] if got.status == 200 else got.status


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("c.AUTH_a.example.com", "/v1/AUTH_a/c/o"),
        ("c.auth-a.example.com:8080", "/v1/AUTH_a/c/o"),
        ("c.auth-a-b.EXAMPLE.com", "/v1/AUTH_a-b/c/o"),
        ("AUTH_a.example.com", "/v1/AUTH_a/o"),
        ("x.c.AUTH_a.example.com", 400),
        (".AUTH_a.example.com", 400),
        ("other.example.com", "/o"),
        ("example.com", "/o"),
        ("c.AUTH_a.other.org", "/o"),
        ("badexample.com", "/o"),
    ],
)
def test_host_names_are_paths(host, expected):
    assert Hosts("domain_remap").path(host) == expected


def test_options_of_the_mapping():
    bench = Hosts(
        "domain_remap", storage_domain="a.org, b.org", path_root="/v2/",
        default_reseller_prefix="PRE", mangle_client_paths="yes",
    )  # fmt: skip
    assert bench.path("c.x.b.org") == "/v2/PRE_x/c/o"
    assert bench.path("c.x-y.a.org", "/v2/o") == "/v2/PRE_x-y/c/o"
    assert bench.path("c.x.b.org", "/") == "/v2/PRE_x/c/"
    assert bench.process.info.features["domain_remap"] == {
        "default_reseller_prefix": "PRE"
    }


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("http://h/v1/AUTH_a/c/d/?x=1", "http://h/d/?x=1"),
        ("/v1/AUTH_a/c", "/"),
        ("/v1/AUTH_a/cc/d", "/v1/AUTH_a/cc/d"),
    ],
)
def test_addresses_are_mapped_back(sent, seen):
    bench = Hosts("domain_remap")
    bench.headers = {"Content_Location": sent}
    got = bench.ask("GET", "/o", HTTP_HOST="c.auth-a.example.com")
    assert got.headers["Content-Location"] == seen


# --- Aliases ------------------------------------------------------------------------


class Aliases(Hosts):
    def __init__(self, aliases, **options):
        super().__init__("cname_lookup", **options)
        self.asked = []
        self.cache = LocalCache()

        def lookup(name):
            self.asked.append(name)
            return 30.0, aliases.get(name)

        self.app.lookup = lookup

    def host(self, host):
        got = self.ask("GET", "/o", HTTP_HOST=host, **{env.CACHE: self.cache})
        return self.end.last["HTTP_HOST"] if got.status == 200 else got.status


def test_an_alias_of_a_storage_name_is_that_name():
    bench = Aliases({"www.me.org": "c.a.example.com"})
    assert bench.host("www.me.org:81") == "c.a.example.com:81"
    assert bench.host("www.me.org") == "c.a.example.com"
    assert bench.asked == ["www.me.org"]


def test_absence_is_remembered_too():
    bench = Aliases({})
    assert [bench.host("www.me.org") for _ in range(2)] == [400, 400]
    assert bench.asked == ["www.me.org"]


@pytest.mark.parametrize(("depth", "expected"), [("1", 400), ("2", "c.example.com")])
def test_aliases_of_aliases(depth, expected):
    aliases = {"a.org": "b.org", "b.org": "c.example.com"}
    assert Aliases(aliases, lookup_depth=depth).host("a.org") == expected


@pytest.mark.parametrize(
    "host", ["c.a.example.com", "example.com", "127.0.0.1:80", "[::1]:80", "::1"]
)
def test_addresses_and_own_names_are_not_looked_up(host):
    bench = Aliases({})
    assert bench.host(host) == host
    assert bench.asked == []


def test_addresses_in_answers_name_what_the_client_knows():
    bench = Aliases({"www.me.org": "c.example.com"})
    bench.headers = {"Location": "http://c.example.com/x"}
    got = bench.ask("GET", "/o", HTTP_HOST="www.me.org")
    assert got.headers["Location"] == "http://www.me.org/x"


def test_name_servers_are_addresses():
    assert nameservers("1.2.3.4, [::1]:53, 5.6.7.8:99, ::2") == (
        ("1.2.3.4", 53), ("::1", 53), ("5.6.7.8", 99), ("::2", 53),
    )  # fmt: skip
    for bad in ("name.org", "1.2.3.4:99999", "[::1", "[::1]53"):
        with pytest.raises(ConfigError):
            Hosts("cname_lookup", nameservers=bad)
    facts = Hosts("cname_lookup").process.info.features
    assert facts["cname_lookup"] == {"lookup_depth": 1}
