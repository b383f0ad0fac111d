# SPDX-License-Identifier: Apache-2.0
"""list_endpoints: where things are, as URLs, in two forms."""

from __future__ import annotations

import json
import random

import pytest
from filter_facts import Facts
from filter_pipeline import Bench

from swift.core.names import split_name
from swift.core.ring.builder import RingBuilder


class _File:
    def __init__(self, ring):
        self.ring = ring

    def get(self):
        return self.ring


def _ring(port):
    builder = RingBuilder(4, 2, 1)
    for number in range(3):
        builder.add_device(
            region=1, zone=number, ip=f"10.0.0.{number}", port=port,
            name=f"sd{number}", weight=1.0,
        )  # fmt: skip
    builder.rebalance(now=0, rng=random.Random(1))
    return builder.ring()


class Endpoints(Bench):
    def __init__(self, **options):
        super().__init__("list_endpoints", **options)
        self.facts = Facts().give_to(self)
        self.facts.set("/a/c", X_Backend_Storage_Policy_Index="0")
        cluster = self.context.cluster
        for port, name in ((6002, "account"), (6001, "container"), (6000, "object")):
            cluster.rings[name] = _File(_ring(port))

    def get(self, path):
        got = self.ask("GET", path)
        return json.loads(got.body) if got.status == 200 else got.status


@pytest.mark.parametrize(
    ("name", "port"), [("/a", 6002), ("/a/c", 6001), ("/a/c/o%20%C3%BC/x", 6000)]
)
def test_urls_are_those_of_the_primaries(name, port):
    bench = Endpoints()
    urls = bench.get(f"/endpoints{name}")
    assert urls == bench.get(f"/endpoints/v1{name}")
    cluster = bench.context.cluster
    decoded = split_name(name.replace("%20%C3%BC", " ü"))
    partition = _ring(port).partition(cluster.salt.digest_of(decoded))
    assert len(urls) == 2
    for url in urls:
        assert url.startswith("http://10.0.0.")
        assert url.endswith(f"/{partition}{name}")
        assert f":{port}/sd" in url


def test_the_second_form_names_the_policy():
    bench = Endpoints()
    found = bench.get("/endpoints/v2/a/c/o")
    assert found["headers"] == {"X-Backend-Storage-Policy-Index": "0"}
    assert found["endpoints"] == bench.get("/endpoints/v1/a/c/o")
    assert bench.get("/endpoints/v2/a/c")["headers"] == {}


def test_bad_requests():
    bench = Endpoints(list_endpoints_path="/where")
    assert bench.get("/where/v3/a") == 400
    assert bench.get("/where/") == 400
    assert bench.get("/where/a//o") == 400
    assert bench.ask("PUT", "/where/a").status == 405
    assert bench.get("/endpoints/a") == 404
