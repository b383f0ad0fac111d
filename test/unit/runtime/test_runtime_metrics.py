# SPDX-License-Identifier: Apache-2.0
"""What statsd receives, plain and labelled."""

import random
import socket
from collections.abc import Iterator

import pytest

from swift.core.errors import ConfigError
from swift.runtime import green
from swift.runtime.metrics import NO_METRICS, get_metrics, labelled_line


@pytest.fixture
def statsd() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        yield server


def conf(server: socket.socket, **more: str) -> dict[str, str]:
    host, port = server.getsockname()
    return {"log_statsd_host": host, "log_statsd_port": str(port), **more}


def test_metrics_are_off_without_a_host() -> None:
    metrics = get_metrics({}, "proxy-server")

    metrics.increment("x")

    assert metrics is NO_METRICS
    assert not metrics.is_on
    assert not metrics.is_labelled


def test_legacy_names_have_prefix_and_tail(statsd: socket.socket) -> None:
    metrics = get_metrics(conf(statsd, log_statsd_metric_prefix="cl"), "proxy-server")

    metrics.increment("errors")
    metrics.decrement("errors")
    metrics.count("xfer", 4096)
    metrics.timing("GET.timing", 12.34567)
    metrics.gauge("level", 3)
    metrics.transfer_rate("rate", 1.0, 500)
    metrics.transfer_rate("rate", 1.0, 0)
    metrics.increment("last")

    assert [statsd.recv(200) for _ in range(7)] == [
        b"cl.proxy-server.errors:1|c",
        b"cl.proxy-server.errors:-1|c",
        b"cl.proxy-server.xfer:4096|c",
        b"cl.proxy-server.GET.timing:12.3457|ms",
        b"cl.proxy-server.level:3|g",
        b"cl.proxy-server.rate:2000.0|ms",
        b"cl.proxy-server.last:1|c",
    ]


def test_time_since_is_in_milliseconds(statsd: socket.socket) -> None:
    clock = green.JumpingClock()
    green.install(clock)
    try:
        start = green.now()
        clock.sleep(0.25)
        get_metrics(conf(statsd), "x").timing_since("t", start)
    finally:
        green.install(None)

    assert statsd.recv(200) == b"x.t:250.0|ms"


def test_sampling_sends_a_share_and_says_so(statsd: socket.socket) -> None:
    metrics = get_metrics(conf(statsd, log_statsd_sample_rate_factor="0.5"), "x")
    metrics._random = random.Random(1).random  # type: ignore[attr-defined]

    for _ in range(1000):
        metrics.increment("n", rate=0.5)

    statsd.setblocking(False)
    received = []
    try:
        while True:
            received.append(statsd.recv(200))
    except BlockingIOError:
        pass
    assert set(received) == {b"x.n:1|c|@0.25"}
    assert 150 < len(received) < 350


def test_labelled_only(statsd: socket.socket) -> None:
    metrics = get_metrics(
        conf(
            statsd,
            statsd_emit_legacy="no",
            statsd_label_mode="librato",
            statsd_user_label_site="x1",
        ),
        "x",
    )

    metrics.increment("unseen")
    metrics.labelled_timing("swift_t", {"method": "GET", "account": None}, 1.5)
    metrics.labelled_count("swift_c", {"status": 200})

    assert not metrics.is_on
    assert statsd.recv(200) == b"swift_t#method=GET,user_site=x1:1.5|ms"
    assert statsd.recv(200) == b"swift_c#status=200,user_site=x1:1|c"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("librato", "m#a=1,b=2:5|c|@0.5"),
        ("influxdb", "m,a=1,b=2:5|c|@0.5"),
        ("graphite", "m;a=1;b=2:5|c|@0.5"),
        ("dogstatsd", "m:5|c|@0.5|#a:1,b:2"),
    ],
)
def test_dialects_of_labels(mode: str, expected: str) -> None:
    assert labelled_line(mode, "m", {"b": 2, "a": 1}, "5|c", "|@0.5") == expected


def test_a_statsd_that_is_away_raises_nothing(statsd: socket.socket) -> None:
    metrics = get_metrics(conf(statsd), "x")
    statsd.close()

    for _ in range(3):
        metrics.increment("n")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("statsd_label_mode", "prometheus"),
        ("log_statsd_sample_rate_factor", "2"),
        ("log_statsd_port", "0"),
    ],
)
def test_a_bad_statsd_option_is_refused_by_name(option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=option):
        get_metrics({option: value}, "x")
