# SPDX-License-Identifier: Apache-2.0
"""Reconstructors on the nodes of an erasure-coded cluster in one process."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from swift.core.settings import Reserve
from swift.daemons.object_reconstructor import ObjectReconstructor, ReconstructorConfig
from swift.runtime.daemon import Frame, Scope, run_pass
from swift.runtime.logs import ListSink, Logger
from swift.runtime.metrics import Metrics
from test.support.fragments import DEVICES, FragmentSetup
from test.support.nodes import PORTS

ADDRESSES = [f"10.0.0.{number}" for number in range(1, DEVICES + 1)]


class Counts(Metrics):
    """Metrics that can be asked."""

    is_on = True

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def increment(self, name: str, rate: float | None = None) -> None:
        """As Metrics."""
        self.count(name, 1)

    def count(self, name: str, amount: int, rate: float | None = None) -> None:
        """As Metrics."""
        self.counts[name] = self.counts.get(name, 0) + amount


class ReconstructSetup(FragmentSetup):
    """A proxy, eight nodes, and a reconstructor on each that is asked for.

    sink, metrics: what all reconstructors have said and counted.
    """

    def __init__(self, root: Path, *arguments: Any, **options: Any) -> None:
        super().__init__(root / "nodes", *arguments, **options)
        self.root = root
        self.sink = ListSink()
        self.metrics = Counts()
        for ip in ADDRESSES:
            self.nodes.device(ip).mkdir(parents=True)

    def reconstructor(self, ip: str, **options: Any) -> ObjectReconstructor:
        """The daemon of one node."""
        values: dict[str, Any] = {
            "devices": str(self.nodes.root / ip),
            "mount_check": False,
            "bind_ip": self._replication_address(ip),
            "bind_port": PORTS["object"],
            "recon_cache_path": str(self.root),
            "fallocate_reserve": Reserve(),
            **options,
        }
        log = Logger("reconstructor", [self.sink], level=0)
        return ObjectReconstructor(
            ReconstructorConfig(**values),
            Frame(self.cluster, log, self.metrics),
            connector=self.nodes,
            rng=random.Random(1),
        )

    def _replication_address(self, ip: str) -> str:
        """The address by which daemons know a node."""
        devices = self.cluster.object_ring(0).devices
        return next(each.replication_ip for each in devices if each and each.ip == ip)

    def reconstruct(self, *addresses: str, **options: Any) -> None:
        """One pass on each of some nodes; on all when none is named."""
        for ip in addresses or ADDRESSES:
            run_pass(self.reconstructor(ip, **options), Scope(once=True))

    def lines(self) -> list[str]:
        """What reconstructors have logged."""
        return [text for _level, text in self.sink.lines]

    def archives(self) -> dict[str, dict[str, bytes]]:
        """ip → name of a data file → its bytes; nodes without any are left out."""
        found = {}
        for ip in ADDRESSES:
            here = {path.name: path.read_bytes() for path in self.nodes.paths(ip)}
            if here:
                found[ip] = here
        return found
