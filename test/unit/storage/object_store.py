# SPDX-License-Identifier: Apache-2.0
"""A node's object storage in a temporary directory, for the tests of its rooms."""

from __future__ import annotations

from pathlib import Path

from swift.core.hashing import HashSalt
from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.policy import StoragePolicy
from swift.core.redundancy import Redundancy, Replication
from swift.core.settings import Reserve
from swift.core.timestamp import Timestamp
from swift.runtime.logs import ListSink, Logger
from swift.runtime.metrics import Metrics
from swift.storage.fs import FileSystem
from swift.storage.object.context import DiskConfig
from swift.storage.object.manager import DiskFileManager

SALT = HashSalt(b"prefix", b"suffix")
NAME = ObjectName("AUTH_test", "c", "o")
PARTITION = "7"
NOW = 1_700_000_000.0


class CountedMetrics(Metrics):
    """Metrics that a test can look at."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def increment(self, name, rate=None):
        self.counts[name] = self.counts.get(name, 0) + 1


def at(number: float, offset: int = 0) -> Timestamp:
    """A time `number` seconds after NOW."""
    return Timestamp.at(NOW + number, offset)


class Store:
    """One device `sda1` of one policy, replicated unless told otherwise."""

    def __init__(
        self,
        root: Path,
        fs: FileSystem | None = None,
        redundancy: Redundancy | None = None,
        **options,
    ) -> None:
        self.root = root
        self.device = root / "sda1"
        self.device.mkdir(parents=True, exist_ok=True)
        self.sink = ListSink()
        self.metrics = CountedMetrics()
        self.fs = fs or FileSystem()
        options = {
            "mount_check": False,
            "reclaim_age": 3_000_000_000,
            "fallocate_reserve": Reserve(),
            **options,
        }
        self.policy = StoragePolicy(0, ("gold",), redundancy or Replication(), True)
        self.manager = DiskFileManager(
            DiskConfig(devices=str(root), **options),
            self.policy,
            SALT,
            Logger("test", [self.sink]),
            self.metrics,
            fs=self.fs,
        )

    def file(self, name: ObjectName = NAME, **keywords):
        """The object of a name."""
        return self.manager.diskfile("sda1", PARTITION, name, **keywords)

    def put(self, body: bytes, when: Timestamp, name: ObjectName = NAME, **headers):
        """Store an object in chunks of 64 KiB."""
        metadata = Headers({"Content-Type": "text/plain", **headers})
        with self.file(name).writer(len(body)) as writer:
            for start in range(0, len(body), 65536):
                writer.write(body[start : start + 65536])
            writer.commit(metadata, when)

    def get(self, name: ObjectName = NAME, now: float = NOW) -> bytes:
        """The whole body of an object."""
        with self.file(name).open(now) as opened:
            return b"".join(opened.reader())

    def path(self, name: ObjectName = NAME) -> Path:
        """The hash directory of an object."""
        return Path(self.file(name).directory)

    def names(self, name: ObjectName = NAME) -> list[str]:
        """The names in the hash directory, sorted."""
        path = self.path(name)
        return sorted(entry.name for entry in path.iterdir()) if path.exists() else []

    def partition(self) -> Path:
        """The partition's directory."""
        return self.device / "objects" / PARTITION

    def invalid(self) -> list[str]:
        """The suffixes that are noted as changed."""
        path = self.partition() / "hashes.invalid"
        return path.read_text().split() if path.exists() else []
