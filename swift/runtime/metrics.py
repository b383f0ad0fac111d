# SPDX-License-Identifier: Apache-2.0
"""Counters, timers and gauges to statsd, plain (legacy) and labelled.

Off unless log_statsd_host is set; then `get_metrics` gives an object that does nothing.
Lines go out one a datagram without waiting; what the socket does not take is lost, as
statsd allows. Wire form and names: contract config §9.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from swift.core.settings import bind, boolean, number, one_of, option
from swift.runtime import green
from swift.runtime.config import port

Labels = Mapping[str, object]

_USER_LABEL = "statsd_user_label_"
_RETRY_S = 10.0


def sample_rate(text: str) -> float:
    """A share of events, 0 to 1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise ValueError("must be between 0 and 1")
    return value


@dataclass(frozen=True)
class StatsdConfig:
    """The statsd options."""

    host: str = option("", name="log_statsd_host", doc="Where statsd is; unset is off.")
    port: int = option(8125, name="log_statsd_port", parse=port, doc="Its UDP port.")
    default_sample_rate: float = option(
        1.0,
        name="log_statsd_default_sample_rate",
        parse=sample_rate,
        doc="Share of events that are sent, where the code names none.",
    )
    sample_rate_factor: float = option(
        1.0,
        name="log_statsd_sample_rate_factor",
        parse=sample_rate,
        doc="Multiplies every sample rate.",
    )
    prefix: str = option(
        "", name="log_statsd_metric_prefix", doc="First word of legacy names."
    )
    emit_legacy: bool = option(
        True, name="statsd_emit_legacy", parse=boolean, doc="Send legacy metrics."
    )
    label_mode: str = option(
        "disabled",
        name="statsd_label_mode",
        parse=one_of("disabled", "dogstatsd", "graphite", "influxdb", "librato"),
        doc="Dialect of labelled metrics.",
    )


class Metrics:
    """Metrics of one emitter; this class is the one that is off and does nothing.

    Legacy names are given without prefix and tail. `labelled_*` take the whole name and
    its labels; labels whose value is None are left out. rate: share of events to send.
    """

    is_on = False
    """False when legacy metrics cost nothing; ask before computing their names."""
    is_labelled = False
    sender: StatsdSender | None = None

    def increment(self, name: str, rate: float | None = None) -> None:
        """Count one."""

    def decrement(self, name: str, rate: float | None = None) -> None:
        """Count one off."""

    def count(self, name: str, amount: int, rate: float | None = None) -> None:
        """Count `amount`."""

    def timing(self, name: str, ms: float, rate: float | None = None) -> None:
        """Tell a duration in milliseconds."""

    def timing_since(self, name: str, start: float, rate: float | None = None) -> None:
        """Tell the time since `start`, a reading of green.now()."""

    def transfer_rate(
        self, name: str, seconds: float, size: int, rate: float | None = None
    ) -> None:
        """Tell milliseconds per kilobyte, for bodies that are not empty."""

    def gauge(self, name: str, value: float) -> None:
        """Tell a level."""

    def labelled_count(
        self, name: str, labels: Labels, amount: int = 1, rate: float | None = None
    ) -> None:
        """Count under labels."""

    def labelled_timing(
        self, name: str, labels: Labels, ms: float, rate: float | None = None
    ) -> None:
        """Tell a duration in milliseconds under labels."""


NO_METRICS = Metrics()


class StatsdSender:
    """The socket to one statsd; shared by all emitters of a process."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None
        self._retry_at = 0.0

    def send(self, line: str) -> None:
        """Send one line, or lose it."""
        if self._socket is None and not self._connect():
            return
        assert self._socket is not None
        try:
            self._socket.send(line.encode("utf-8", "replace"))
        except BlockingIOError:
            return
        except OSError:
            # Nobody listens (ECONNREFUSED) or the host moved: resolve again, later.
            self._socket.close()
            self._socket = None

    def _connect(self) -> bool:
        now = green.monotonic()
        if now < self._retry_at:
            return False
        self._retry_at = now + _RETRY_S
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                *self._address, type=socket.SOCK_DGRAM
            )[0]
            made = socket.socket(family, kind, protocol)
            made.setblocking(False)
            made.connect(address)
        except OSError:
            return False
        self._socket = made
        return True


class StatsdMetrics(Metrics):
    """Metrics that are sent.

    tail: what legacy names begin with after the prefix. user_labels: added to all.
    """

    def __init__(
        self,
        config: StatsdConfig,
        tail: str,
        sender: StatsdSender,
        user_labels: Mapping[str, str] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.is_on = config.emit_legacy
        self.is_labelled = config.label_mode != "disabled"
        self._config = config
        self.sender: StatsdSender = sender
        self._labels = dict(user_labels or {})
        self._random = (rng or random.Random()).random  # noqa: S311 (sampling)
        words = [word for word in (config.prefix, tail) if word]
        self._prefix = "".join(f"{word}." for word in words)

    def increment(self, name: str, rate: float | None = None) -> None:
        self._legacy(name, "1|c", rate)

    def decrement(self, name: str, rate: float | None = None) -> None:
        self._legacy(name, "-1|c", rate)

    def count(self, name: str, amount: int, rate: float | None = None) -> None:
        self._legacy(name, f"{amount}|c", rate)

    def timing(self, name: str, ms: float, rate: float | None = None) -> None:
        self._legacy(name, f"{round(ms, 4)}|ms", rate)

    def timing_since(self, name: str, start: float, rate: float | None = None) -> None:
        if self.is_on:
            self.timing(name, (green.now() - start) * 1000, rate)

    def transfer_rate(
        self, name: str, seconds: float, size: int, rate: float | None = None
    ) -> None:
        if size:
            self.timing(name, seconds * 1000 / size * 1000, rate)

    def gauge(self, name: str, value: float) -> None:
        self._legacy(name, f"{value}|g", None)

    def labelled_count(
        self, name: str, labels: Labels, amount: int = 1, rate: float | None = None
    ) -> None:
        self._labelled(name, labels, f"{amount}|c", rate)

    def labelled_timing(
        self, name: str, labels: Labels, ms: float, rate: float | None = None
    ) -> None:
        self._labelled(name, labels, f"{round(ms, 4)}|ms", rate)

    def _legacy(self, name: str, value: str, rate: float | None) -> None:
        if self.is_on:
            suffix = self._sampled(rate)
            if suffix is not None:
                self.sender.send(f"{self._prefix}{name}:{value}{suffix}")

    def _labelled(
        self, name: str, labels: Labels, value: str, rate: float | None
    ) -> None:
        if not self.is_labelled:
            return
        suffix = self._sampled(rate)
        if suffix is not None:
            merged = {**self._labels, **labels}
            line = labelled_line(self._config.label_mode, name, merged, value, suffix)
            self.sender.send(line)

    def _sampled(self, rate: float | None) -> str | None:
        """The `|@rate` to append; None when this event is not among the chosen."""
        if rate is None:
            rate = self._config.default_sample_rate
        rate *= self._config.sample_rate_factor
        if rate >= 1:
            return ""
        return f"|@{rate}" if self._random() < rate else None


def labelled_line(mode: str, name: str, labels: Labels, value: str, suffix: str) -> str:
    """One labelled metric in a dialect; `suffix` is the sample rate."""
    pairs = [(key, labels[key]) for key in sorted(labels) if labels[key] is not None]
    if not pairs:
        return f"{name}:{value}{suffix}"
    if mode == "dogstatsd":
        tags = ",".join(f"{key}:{item}" for key, item in pairs)
        return f"{name}:{value}{suffix}|#{tags}"
    if mode == "graphite":
        tags = "".join(f";{key}={item}" for key, item in pairs)
    else:
        joined = ",".join(f"{key}={item}" for key, item in pairs)
        tags = f"#{joined}" if mode == "librato" else f",{joined}"
    return f"{name}{tags}:{value}{suffix}"


def get_metrics(
    conf: Mapping[str, str],
    tail: str,
    *,
    source: str = "-",
    section: str = "DEFAULT",
    sender: StatsdSender | None = None,
) -> Metrics:
    """The metrics that the statsd options describe; NO_METRICS when they are off.

    tail: what legacy names begin with, such as `proxy-server`. Raises ConfigError.
    """
    config = bind(StatsdConfig, conf, source=source, section=section)
    if not config.host:
        return NO_METRICS
    labels = {
        f"user_{key[len(_USER_LABEL) :]}": value
        for key, value in conf.items()
        if key.startswith(_USER_LABEL)
    }
    sender = sender or StatsdSender(config.host, config.port)
    return StatsdMetrics(config, tail, sender, labels)
