# SPDX-License-Identifier: Apache-2.0
"""Options of the proxy, and what a policy's section changes."""

from __future__ import annotations

import pytest

from swift.core.errors import ConfigError
from swift.services.proxy.options import read_options
from swift.wire.nodes import NodeCount, Place


def read(values=(), sections=()):
    return read_options(
        dict(values), dict(sections), policies=[0, 1], source="proxy.conf"
    )


def test_defaults():
    options = read()
    assert options.proxy.request_node_count == NodeCount(2, True)
    assert options.proxy.read_timeout_s == 10
    assert options.common.sorting_method == "shuffle"
    assert options.of_policy(1) is options.common
    assert options.concurrency_timeout_s(options.common) == 0.5


def test_a_policy_changes_what_it_names_and_keeps_the_rest():
    options = read(
        {"sorting_method": "affinity", "read_affinity": "r1=1", "conn_timeout": "0.2"},
        {"proxy-server:policy:1": {"read_affinity": "r2z3=5", "concurrent_gets": "on"}},
    )
    assert options.of_policy(0).read_affinity == ((Place(1, None), 1),)
    assert options.of_policy(1).read_affinity == ((Place(2, 3), 5),)
    assert options.of_policy(1).sorting_method == "affinity"
    assert options.of_policy(1).concurrent_gets
    assert not options.of_policy(0).concurrent_gets
    assert options.concurrency_timeout_s(options.of_policy(1)) == 0.2


@pytest.mark.parametrize(
    ("values", "sections"),
    [
        ({"sorting_method": "random"}, {}),
        ({"read_affinity": "r1"}, {}),
        ({"write_affinity_node_count": "many"}, {}),
        ({"request_node_count": "x"}, {}),
        ({"account_existence_skip_cache_pct": "101"}, {}),
        ({"node_timeout": "-1"}, {}),
        ({}, {"proxy-server:policy:7": {}}),
        ({}, {"proxy-server:policy:x": {}}),
        ({}, {"proxy-server:policy:1": {"sorting_method": "x"}}),
    ],
)
def test_a_proxy_with_bad_options_does_not_start(values, sections):
    with pytest.raises(ConfigError):
        read(values, sections)
