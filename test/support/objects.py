# SPDX-License-Identifier: Apache-2.0
"""Object disks in a test's folder: devices with real objects, no servers."""

from __future__ import annotations

from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.daemon import Frame
from swift.runtime.logs import DEBUG, ListSink, Logger
from swift.runtime.metrics import NO_METRICS
from swift.storage.object.manager import DiskConfig, DiskFileManager
from test.support.nodes import make_cluster


class Disks:
    """Devices below a root, and objects that are put on them.

    frame: for a daemon that works on them.
    """

    def __init__(self, root, devices=("sda1",), conf=None, cluster=None):
        self.root = root
        for device in devices:
            (root / device).mkdir()
        self.sink = ListSink()
        self.log = Logger("daemon", [self.sink], level=DEBUG)
        self.cluster = cluster or make_cluster()
        self.frame = Frame(self.cluster, self.log, NO_METRICS, conf)
        config = DiskConfig(devices=str(root), mount_check=False)
        self.managers = {
            policy.index: DiskFileManager(
                config, policy, self.cluster.salt, self.log, NO_METRICS
            )
            for policy in self.cluster.policies
        }

    def diskfile(self, obj, *, device="sda1", policy=0):
        """The DiskFile of `/a/c/<obj>` in the partition of the ring."""
        name = ObjectName("a", "c", obj)
        ring = self.cluster.object_ring(policy)
        partition = ring.partition(self.cluster.salt.digest_of(name))
        return self.managers[policy].diskfile(device, partition, name)

    def put(self, obj, body=b"body", *, when=None, device="sda1", policy=0, **headers):
        """Store an object; its DiskFile."""
        disk = self.diskfile(obj, device=device, policy=policy)
        with disk.writer(len(body)) as writer:
            writer.write(body)
            record = Headers({"Content-Type": "text/plain"})
            record.update(**headers)
            writer.commit(record, Timestamp.at(green.now() if when is None else when))
        return disk

    def data_file(self, disk):
        """The path of the only data file of an object."""
        return next((self.root / disk.directory).glob("*.data"))

    def lines(self):
        """All that was logged."""
        return "\n".join(line for _, line in self.sink.lines)

    def quarantined(self, device="sda1", policy_dir="objects"):
        """The names in quarantine."""
        folder = self.root / device / "quarantined" / policy_dir
        return sorted(path.name for path in folder.glob("*"))
