# SPDX-License-Identifier: Apache-2.0
"""container-sync-realms.conf: which clusters trust each other, and by which keys.

A section is a realm; names are read in any case and kept in upper case. The file is
looked at again after `mtime_check_interval`; one that is missing means no realms, one
that does not parse leaves the old ones and is logged.

Contract: middleware 7.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from swift.core.errors import ConfigError
from swift.runtime import green
from swift.runtime.config import read_conf
from swift.runtime.logs import NULL_LOG, Logger

FILE_NAME = "container-sync-realms.conf"
CHECK_INTERVAL_S = 300.0
_CLUSTER = "cluster_"


@dataclass(frozen=True, slots=True)
class Realm:
    """Clusters that share a key. clusters: name → endpoint URL, ending in a slash."""

    keys: tuple[str, ...] = ()
    clusters: Mapping[str, str] = field(default_factory=dict)


class SyncRealms:
    """The realms of a file, read again when it has changed."""

    def __init__(self, swift_dir: str, log: Logger = NULL_LOG) -> None:
        self.path = os.path.join(swift_dir, FILE_NAME)
        self._log = log
        self._realms: dict[str, Realm] = {}
        self._interval_s = CHECK_INTERVAL_S
        self._check_at = 0.0
        self._seen: int | None = None

    def realms(self) -> Mapping[str, Realm]:
        """Upper-case name → realm."""
        if green.monotonic() >= self._check_at:
            self._check()
        return self._realms

    def keys(self, realm: str) -> tuple[str, ...]:
        """The keys of a realm, the one to sign with first; empty when unknown."""
        found = self.realms().get(realm.upper())
        return found.keys if found is not None else ()

    def endpoint(self, realm: str, cluster: str) -> str | None:
        """Where a cluster of a realm is, None when unknown."""
        found = self.realms().get(realm.upper())
        return found.clusters.get(cluster.upper()) if found is not None else None

    def _check(self) -> None:
        self._check_at = green.monotonic() + self._interval_s
        try:
            seen = os.stat(self.path).st_mtime_ns
        except OSError:
            # Looked for each time: it is seldom asked for, and may come any moment.
            self._seen, self._realms, self._check_at = None, {}, 0.0
            return
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._read()
        except (ConfigError, ValueError) as error:
            # The keys are in the file; a message must not quote it.
            self._log.error("%s: %s; it is not read", self.path, type(error).__name__)

    def _read(self) -> None:
        conf = read_conf(self.path)
        interval = conf.defaults.get("mtime_check_interval")
        self._interval_s = float(interval) if interval else CHECK_INTERVAL_S
        self._check_at = green.monotonic() + self._interval_s
        self._realms = {
            name.upper(): _realm({**conf.defaults, **values})
            for name, values in conf.sections.items()
        }


def _realm(values: Mapping[str, str]) -> Realm:
    lowered = {name.lower(): value.strip() for name, value in values.items()}
    keys = tuple(lowered[name] for name in ("key", "key2") if lowered.get(name))
    clusters = {
        name.removeprefix(_CLUSTER).upper(): value.rstrip("/") + "/"
        for name, value in lowered.items()
        if name.startswith(_CLUSTER) and value
    }
    return Realm(keys, clusters)


def realm_fault(realms: SyncRealms, target: str) -> str | None:
    """What is wrong with a target `//realm/cluster/account/container`, None if nothing.

    The texts are those that owners are answered with.
    """
    parts = target[2:].split("/")
    if not target.startswith("//") or len(parts) != 4 or not all(parts):
        return (
            "A sync target by realm must be of the form "
            "//realm/cluster/account/container"
        )
    realm, cluster = parts[0].upper(), parts[1].upper()
    if not realms.keys(realm):
        return f"No realm key for {realm!r}"
    if realms.endpoint(realm, cluster) is None:
        return f"No cluster endpoint for {realm!r} {cluster!r}"
    return None
