# SPDX-License-Identifier: Apache-2.0
"""The recon filter: a node's own facts under /recon, as JSON.

What daemons have written into the cache files is passed on; a key that nobody wrote is
null. Contracts backend-http §15, middleware §25.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import swift
from swift.core.headers import ALLOW, CONTENT_TYPE, Headers
from swift.core.settings import boolean, option
from swift.runtime import green, recon
from swift.runtime.config import DEFAULT_SWIFT_DIR
from swift.storage.devices import Devices
from swift.wire import environ as env
from swift.wire.environ import Environ
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import Response, StartResponse, WsgiApp

PREFIX = "/recon/"

_REPLICATION = ("replication_time", "replication_stats", "replication_last")
_AUDITS = ("audits_passed", "auditor_pass_completed", "audits_since", "audits_failed")

CACHED: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("async", ""): ("object", ("async_pending", "async_pending_last")),
    ("replication", "account"): ("account", _REPLICATION),
    ("replication", "container"): ("container", _REPLICATION),
    ("replication", "object"): (
        "object",
        (*_REPLICATION, "object_replication_time", "object_replication_last"),
    ),
    ("replication", ""): (
        "object",
        (*_REPLICATION, "object_replication_time", "object_replication_last"),
    ),
    ("reconstruction", "object"): (
        "object",
        ("object_reconstruction_last", "object_reconstruction_time"),
    ),
    ("updater", "container"): ("container", ("container_updater_sweep",)),
    ("updater", "object"): (
        "object",
        (
            "object_updater_sweep",
            "object_updater_stats",
            "object_updater_last",
            "object_updater_per_device",
        ),
    ),
    ("auditor", "account"): ("account", tuple(f"account_{key}" for key in _AUDITS)),
    ("auditor", "container"): (
        "container",
        tuple(f"container_{key}" for key in _AUDITS),
    ),
    ("auditor", "object"): (
        "object",
        ("object_auditor_stats_ALL", "object_auditor_stats_ZBF"),
    ),
    ("expirer", "object"): ("object", ("object_expiration_pass", "expired_last_pass")),
    ("sharding", ""): (
        "container",
        ("sharding_time", "sharding_stats", "sharding_last"),
    ),
    ("relinker", ""): ("relinker", ("devices", "workers")),
    ("driveaudit", ""): ("drive", ("drive_audit_errors",)),
}
"""(check, type) → the cache file and its keys that are shown."""


@dataclass(frozen=True)
class ReconConfig:
    """[filter:recon] of a storage server's file."""

    recon_cache_path: str = option(recon.CACHE_PATH, doc="Where the cache files are.")
    devices: str = option("/srv/node", doc="Where the devices are mounted.")
    mount_check: bool = option(
        True, parse=boolean, doc="A device that is not mounted counts as absent."
    )
    swift_dir: str = option(DEFAULT_SWIFT_DIR, doc="Where swift.conf and rings are.")


class Recon(Filter):
    """Answers GET /recon/<check>[/<type>]; everything else passes."""

    Config = ReconConfig
    config: ReconConfig

    def __init__(self, app: WsgiApp, config: Any, context: PipelineContext) -> None:
        super().__init__(app, config, context)
        self._devices = Devices(self.config.devices, self.config.mount_check)
        self._checksums = recon.Checksums()
        self._facts: dict[str, Callable[[], Any]] = {
            "version": lambda: {"version": swift.__version__},
            "mem": recon.memory,
            "load": recon.load,
            "time": green.now,
            "sockstat": recon.sockets,
            "mounted": recon.mounts,
            "unmounted": self._unmounted,
            "devices": self._device_names,
            "diskusage": self._disk_usage,
            "ringmd5": self._ring_checksums,
            "swiftconfmd5": self._conf_checksum,
            "quarantined": self._quarantined,
        }

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        if not environ[env.PATH_INFO].startswith(PREFIX):
            return self.app(environ, start_response)
        return self._answer(environ)(environ, start_response)

    def _answer(self, environ: Environ) -> Response:
        if environ[env.REQUEST_METHOD] not in ("GET", "HEAD"):
            return Response(405, {ALLOW: "GET, HEAD"})
        words = environ[env.PATH_INFO][len(PREFIX) :].rstrip("/").split("/")
        check, kind = words[0], "/".join(words[1:])
        look = self._facts.get(check) if not kind else None
        if look is None and (check, kind) in CACHED:
            look = self._cached_look(check, kind)
        if look is None:
            return Response.text(404, f"Invalid path: {environ[env.PATH_INFO]}")
        try:
            # Files of the host and of the devices: any of them may block.
            content = green.in_thread(look)
        except (OSError, ValueError, LookupError):
            self.log.exception("recon %s failed", environ[env.PATH_INFO])
            return Response.text(500, "Internal server error")
        return Response(
            200, Headers({CONTENT_TYPE: "application/json"}), json.dumps(content)
        )

    def _cached_look(self, check: str, kind: str) -> Callable[[], Any]:
        file, keys = CACHED[check, kind]
        path = f"{self.config.recon_cache_path}/{file}.recon"

        def look() -> dict[str, Any]:
            cache = recon.read_cache(path)
            return {key: cache.get(key) for key in keys}

        return look

    def _device_names(self) -> dict[str, list[str]]:
        return {self.config.devices: self._devices.names()}

    def _unmounted(self) -> list[dict[str, Any]]:
        return [
            {"device": name, "mounted": False}
            for name in self._devices.names()
            if not self._devices.is_available(name)
        ]

    def _disk_usage(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for name in self._devices.names():
            facts: dict[str, Any] = {
                "device": name,
                "mounted": False,
                "size": "",
                "used": "",
                "avail": "",
            }
            if self._devices.is_available(name):
                try:
                    space = recon.space(f"{self.config.devices}/{name}")
                except OSError as error:
                    facts["mounted"] = str(error)
                else:
                    facts.update(
                        mounted=True,
                        size=space.size,
                        used=space.used,
                        avail=space.available,
                    )
            found.append(facts)
        return found

    def _ring_checksums(self) -> dict[str, str | None]:
        rings = self.context.cluster.rings
        known = self._checksums.of(ring.path for ring in rings.values())
        return {path: checksum for path, checksum in known.items() if checksum}

    def _conf_checksum(self) -> dict[str, str | None]:
        return self._checksums.of([f"{self.config.swift_dir}/swift.conf"])

    def _quarantined(self) -> dict[str, Any]:
        counts = {"accounts": 0, "containers": 0, "objects": 0}
        policies = {
            str(policy.index): {"objects": 0}
            for policy in self.context.cluster.policies
        }
        for name in self._devices.names():
            found = recon.quarantined(f"{self.config.devices}/{name}")
            for kind, count in found.items():
                base, _, index = kind.partition("-")
                if base not in counts:
                    continue
                counts[base] += count
                if base == "objects" and (index or "0") in policies:
                    policies[index or "0"]["objects"] += count
        return {**counts, "policies": policies}


filter_factory = factory(Recon)
