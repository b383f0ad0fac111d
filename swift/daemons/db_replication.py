# SPDX-License-Identifier: Apache-2.0
"""The options, counts and values of database replication, for the pass and the push."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from swift.core.ring.devices import Device, Node
from swift.core.settings import (
    auto_or,
    boolean,
    natural,
    option,
    positive_int,
    seconds,
)
from swift.daemons.rsync import module_template
from swift.runtime.daemon import DaemonConfig
from swift.runtime.metrics import Metrics
from swift.storage.db.walk import FoundDatabase


@dataclass(frozen=True)
class DbReplicatorConfig(DaemonConfig):
    """Options of both database replicators."""

    interval_s: float = option(
        30.0, name="interval", parse=seconds, doc="Least time between passes' starts."
    )
    run_pause_s: float = option(
        0.0, name="run_pause", parse=seconds, doc="Old name of interval."
    )
    workers: int = option(
        8, name="concurrency", parse=positive_int, doc="Databases handled at once."
    )
    per_diff: int = option(1000, parse=positive_int, doc="Rows in one batch.")
    max_diffs: int = option(
        100, parse=positive_int, doc="Batches to one peer in one visit."
    )
    databases_per_second: float = option(
        50.0, parse=seconds, doc="Databases begun a second; 0 for no limit."
    )
    node_timeout_s: float = option(
        10.0, name="node_timeout", parse=seconds, doc="How long a peer may be silent."
    )
    conn_timeout_s: float = option(
        0.5, name="conn_timeout", parse=seconds, doc="How long connecting may take."
    )
    reclaim_age_s: float = option(
        604800.0, name="reclaim_age", parse=seconds, doc="Age of tombstones that go."
    )
    rsync_compress: bool = option(
        False, parse=boolean, doc="Compress copies that go to another region."
    )
    rsync_module: str = option(
        "",
        parse=module_template,
        doc="Module of a peer's rsync daemon, with placeholders.",
    )
    handoffs_only: bool = option(
        False, parse=boolean, doc="Look only at partitions that are not ours."
    )
    handoff_delete: int | None = option(
        None,
        parse=auto_or(
            lambda text: 0 if text.strip().lower() == "all" else natural(text)
        ),
        doc="Pushes after which a handoff is removed; auto, all or 0: every one.",
    )
    db_preallocation: bool = option(
        False, parse=boolean, doc="Known for compatibility; SQLite allocates itself."
    )

    def __post_init__(self) -> None:
        if self.run_pause_s and self.interval_s == 30.0:
            object.__setattr__(self, "interval_s", self.run_pause_s)


STAT_NAMES = (
    "attempted",
    "success",
    "failure",
    "ts_repl",
    "no_change",
    "hashmatch",
    "rsync",
    "diff",
    "remove",
    "empty",
    "remote_merge",
    "diff_capped",
    "deferred",
)
_LINE_NAMES = (
    "diff",
    "diff_capped",
    "empty",
    "hashmatch",
    "no_change",
    "remote_merge",
    "rsync",
    "ts_repl",
)
_METRIC_NAMES = {
    "attempted": "attempts",
    "success": "successes",
    "failure": "failures",
    "no_change": "no_changes",
    "hashmatch": "hashmatches",
    "rsync": "rsyncs",
    "remote_merge": "remote_merges",
    "diff": "diffs",
    "diff_capped": "diff_caps",
}


@dataclass
class ReplicationStats:
    """What one pass did, by the names of recon's `replication_stats`."""

    started: float
    metrics: Metrics
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAT_NAMES, 0))
    failure_nodes: dict[str, dict[str, int]] = field(default_factory=dict)

    def as_recon(self) -> dict[str, Any]:
        """The dict that recon shows; failure_nodes may be empty and vanishes then."""
        return {
            **self.counts,
            "start": self.started,
            "failure_nodes": self.failure_nodes,
        }

    @property
    def line(self) -> str:
        """How the peers were found, as `key:value` words."""
        return " ".join(f"{name}:{self.counts[name]}" for name in _LINE_NAMES)

    def count(self, name: str) -> None:
        """Count one event, also as a metric."""
        self.counts[name] += 1
        metric = _METRIC_NAMES.get(name)
        if metric is not None:
            self.metrics.increment(metric)

    def failed_at(self, device: Device) -> None:
        """Count a failure of a node's device."""
        by_name = self.failure_nodes.setdefault(device.replication_ip, {})
        by_name[device.name] = by_name.get(device.name, 0) + 1


@dataclass(frozen=True, slots=True)
class Visit:
    """One database of this node, and where its copies belong.

    own: our device in the ring's list. partition: by the ring, which a directory in the
    wrong place does not have. own_index: None when the copy is a handoff. label: the
    decoded path, for the log, once it is known.
    """

    found: FoundDatabase
    own: Device
    partition: int
    primaries: tuple[Node, ...]
    own_index: int | None
    label: str = ""

    def labelled(self, info: dict[str, Any]) -> Visit:
        """The same, knowing the name from the facts of the database."""
        names = [info["account"]]
        if "container" in info:
            names.append(info["container"])
        return replace(self, label="/".join(names))


@dataclass(slots=True)
class Push:
    """How the push to one peer went."""

    node: Node
    succeeded: bool = False
    unmounted: bool = False
