# SPDX-License-Identifier: Apache-2.0
"""backend_ratelimit: per device and method, with a buffer, from a file that changes."""

from __future__ import annotations

import pytest
from filter_pipeline import Bench, found

from swift.runtime import green


@pytest.fixture
def clock():
    jumping = green.JumpingClock()
    green.install(jumping)
    yield jumping
    green.install(None)


class Node(Bench):
    def __init__(self, **options):
        super().__init__("backend_ratelimit", **options)
        self.end.answers["*"] = lambda environ: found()

    def statuses(self, count, method="GET", path="/sda/9/a/c/o"):
        return [self.ask(method, path).status for _ in range(count)]


ALL = "requests_per_device_per_second"
NO_BUFFER = {"requests_per_device_rate_buffer": "0"}


def test_by_default_nothing_is_limited(clock):
    assert Node().statuses(50) == [200] * 50


def test_a_device_serves_its_rate_and_no_more(clock):
    node = Node(**{ALL: "10", **NO_BUFFER})
    assert node.statuses(3) == [200, 529, 529]
    clock.sleep(0.11)
    assert node.statuses(2, "PUT") == [200, 529]
    assert node.statuses(1, path="/sdb/9/a/c/o") == [200]


def test_idle_time_may_be_caught_up(clock):
    node = Node(**{ALL: "10", "requests_per_device_rate_buffer": "0.5"})
    clock.sleep(100)
    assert node.statuses(9).count(200) in (5, 6)


def test_methods_have_their_own_limits(clock):
    node = Node(put_requests_per_device_per_second="1", **NO_BUFFER)
    assert node.statuses(2, "PUT") == [200, 529]
    assert node.statuses(5, "GET") == [200] * 5


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/recon/mem"),
        ("GET", "/healthcheck"),
        ("SSYNC", "/sda/9"),
        ("GET", "/sda/x/a"),
    ],
)
def test_what_asks_no_device_is_not_limited(clock, method, path):
    node = Node(**{ALL: "1", **NO_BUFFER})
    assert node.statuses(3, method, path) == [200] * 3


def test_a_file_stands_before_the_section_and_is_read_again(clock, tmp_path):
    path = tmp_path / "limits.conf"
    path.write_text(f"[backend_ratelimit]\n{ALL} = 1\n")
    node = Node(
        backend_ratelimit_conf_path=str(path), config_reload_interval="10", **NO_BUFFER
    )
    assert node.statuses(2) == [200, 529]
    path.write_text(f"[backend_ratelimit]\n{ALL} = 0\n")
    clock.sleep(11)
    assert node.statuses(5) == [200] * 5
    path.write_text(f"[backend_ratelimit]\n{ALL} = many\n")
    clock.sleep(11)
    assert node.statuses(5) == [200] * 5
    assert any("old rates stay" in line for line in node.log_lines)


def test_a_missing_file_is_told_once_if_it_was_named(clock):
    node = Node(backend_ratelimit_conf_path="/nowhere/x", config_reload_interval="1")
    for _ in range(3):
        clock.sleep(2)
        node.statuses(1)
    assert len([line for line in node.log_lines if "/nowhere/x" in line]) == 1
    assert Node().log_lines == []
