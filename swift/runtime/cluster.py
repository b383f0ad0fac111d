# SPDX-License-Identifier: Apache-2.0
"""What a process knows of its cluster: salt, limits, storage policies, and rings.

Loaded once from `swift_dir` and handed to constructors. Rings refresh themselves: a
lookup looks at the file at most every `reload_s`, and a changed file replaces the ring
as a whole; one that cannot be read leaves the old ring in place and is logged once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

from swift.core.errors import ConfigError, SwiftError, Unavailable
from swift.core.hashing import HashSalt
from swift.core.names import Limits
from swift.core.policy import StoragePolicies
from swift.core.ring.codec import read_ring
from swift.core.ring.ring import Ring
from swift.runtime import green
from swift.runtime.config import DEFAULT_SWIFT_DIR, read_sections
from swift.runtime.logs import NULL_LOG, Logger

RELOAD_S = 15.0
SWIFT_CONF = "swift.conf"
ACCOUNT_RING = "account"
CONTAINER_RING = "container"

_HASH_SECTION = "swift-hash"
_LIMITS_SECTION = "swift-constraints"


class RingUnavailable(Unavailable):
    """A ring file that is missing or unreadable, and no older ring to go on with."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"ring {path}: {reason}")
        self.path = path
        self.reason = reason


class RingFile:
    """One ring file and the ring that was last read from it.

    log: gets one line for each broken state of the file.
    """

    def __init__(self, path: str, log: Logger, reload_s: float = RELOAD_S) -> None:
        self.path = path
        self.reload_s = reload_s
        self._log = log
        self._ring: Ring | None = None
        self._seen: tuple[int, int, int] | None = None
        self._check_at = 0.0
        self._refreshing = False
        self._replication: tuple[Ring, Ring] | None = None

    def get(self) -> Ring:
        """The ring. Raises RingUnavailable. Yields only while a new file is read."""
        ring = self._ring
        if ring is not None and green.monotonic() < self._check_at:
            return ring
        return self._checked()

    def get_for_replication(self) -> Ring:
        """The ring with the addresses for replication; as `get` otherwise."""
        ring = self.get()
        if self._replication is None or self._replication[0] is not ring:
            self._replication = (ring, ring.for_replication())
        return self._replication[1]

    @property
    def has_changed(self) -> bool:
        """True when the file on disk is not the one that was last read."""
        return self._stamp() != self._seen

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _checked(self) -> Ring:
        self._check_at = green.monotonic() + self.reload_s
        stamp = self._stamp()
        if self._ring is None:
            if stamp is None:
                raise RingUnavailable(self.path, "no such file")
            self._ring = self._read()
            self._seen = stamp
        elif stamp != self._seen and not self._refreshing:
            self._refresh(stamp)
        return self._ring

    def _refresh(self, stamp: tuple[int, int, int] | None) -> None:
        """Swap in the changed file's ring; others are served the old one meanwhile."""
        self._seen = stamp
        if stamp is None:
            self._log.warning("ring %s is gone; the old one stays in use", self.path)
            return
        self._refreshing = True
        try:
            self._ring = green.in_thread(self._read)
        except RingUnavailable as error:
            self._log.error("%s; the old ring stays in use", error)
        else:
            self._log.info("ring %s was read again", self.path)
        finally:
            self._refreshing = False

    def _read(self) -> Ring:
        try:
            with open(self.path, "rb") as stream:
                return read_ring(stream.read())
        except OSError as error:
            raise RingUnavailable(self.path, error.strerror or str(error)) from error
        except SwiftError as error:
            raise RingUnavailable(self.path, str(error)) from error


@dataclass(frozen=True)
class Cluster:
    """One cluster, as seen from `swift_dir`.

    rings: stem of the file name (`account`, `object-1`) → its file. over_replication:
    nodes have their addresses for replication, which internal traffic goes to.
    """

    swift_dir: str
    salt: HashSalt = field(repr=False)
    limits: Limits
    policies: StoragePolicies
    rings: dict[str, RingFile] = field(repr=False, compare=False)
    over_replication: bool = False

    @classmethod
    def load(
        cls,
        swift_dir: str = DEFAULT_SWIFT_DIR,
        *,
        log: Logger = NULL_LOG,
        reload_s: float = RELOAD_S,
    ) -> Cluster:
        """Read swift.conf; rings are read when they are first asked for.

        Raises ConfigError naming file, section and option.
        """
        # Servers change to `/` once they have started.
        swift_dir = os.path.abspath(swift_dir)
        source = os.path.join(swift_dir, SWIFT_CONF)
        sections = read_sections(source)
        policies = StoragePolicies.from_sections(sections, source)
        stems = [ACCOUNT_RING, CONTAINER_RING]
        stems += [policy.ring_name for policy in policies]
        return cls(
            swift_dir=swift_dir,
            salt=_read_salt(sections.get(_HASH_SECTION, {}), source),
            limits=Limits.from_section(sections.get(_LIMITS_SECTION, {}), source),
            policies=policies,
            rings={
                stem: RingFile(
                    os.path.join(swift_dir, f"{stem}.ring.gz"), log, reload_s
                )
                for stem in stems
            },
        )

    def on_network(self, *, replication: bool) -> Cluster:
        """The cluster, with the addresses of its nodes on one of its two networks."""
        if self.over_replication == replication:
            return self
        return replace(self, over_replication=replication)

    def _ring(self, file: RingFile) -> Ring:
        return file.get_for_replication() if self.over_replication else file.get()

    def account_ring(self) -> Ring:
        """The ring of account databases. Raises RingUnavailable."""
        return self._ring(self.rings[ACCOUNT_RING])

    def container_ring(self) -> Ring:
        """The ring of container databases. Raises RingUnavailable."""
        return self._ring(self.rings[CONTAINER_RING])

    def check_object_rings(self) -> None:
        """Raise ConfigError naming the policy whose ring is not of its size, or has too
        few devices to keep its archives apart.

        A ring that is not there yet is not judged.
        """
        for policy in self.policies:
            wanted = policy.redundancy.ring_size
            if wanted is None:
                continue
            try:
                ring = self.object_ring(policy.index)
            except RingUnavailable:
                continue
            devices = sum(device is not None for device in ring.devices)
            for what, found, fits in (
                ("replicas", ring.replica_count, ring.replica_count == wanted),
                ("devices", devices, devices >= wanted),
            ):
                if not fits:
                    raise ConfigError(
                        os.path.join(self.swift_dir, f"{policy.ring_name}.ring.gz"),
                        f"storage-policy:{policy.index}",
                        what,
                        f"policy {policy.name} needs {wanted}, the ring has {found:g}",
                    )

    def object_ring(self, index: int) -> Ring:
        """The ring of a policy. Raises RingUnavailable, also for an unknown policy."""
        name = f"object-{index}" if index else "object"
        file = self.rings.get(name)
        if file is None:
            raise RingUnavailable(name, "no such storage policy")
        return self._ring(file)


def _read_salt(values: dict[str, str], source: str) -> HashSalt:
    prefix = values.get("swift_hash_path_prefix", "")
    suffix = values.get("swift_hash_path_suffix", "")
    try:
        # The bytes of the file, whatever encoding its author used.
        return HashSalt(_file_bytes(prefix), _file_bytes(suffix))
    except ValueError as error:
        raise ConfigError(
            source, _HASH_SECTION, "swift_hash_path_suffix", str(error)
        ) from error


def _file_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
