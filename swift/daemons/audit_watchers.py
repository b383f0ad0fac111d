# SPDX-License-Identifier: Apache-2.0
"""Plug-ins that see every object an auditor has found good.

A watcher is a class of the entry-point group `swift.object_audit_watcher`: made as
`Watcher(conf, logger)`, told of a scan by `start(audit_type=)`, of each object by
`see_object(object_metadata=, data_file_path=)`, and of the end by `end()`. One that
fails at the start is out for the scan; one that fails at an object is only logged.

Rules: contract daemons §7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swift.core.errors import InvalidInput, QuarantineRequest
from swift.core.headers import ETAG, Headers
from swift.core.names import text_of_wsgi
from swift.runtime.config import ConfFile, load_plugin
from swift.runtime.logs import Logger

GROUP = "swift.object_audit_watcher"
SECTION = "object-auditor"


def watcher_conf(conf: ConfFile | None, name: str) -> dict[str, str]:
    """The auditor's options, overlaid by those of the watcher's own section."""
    if conf is None:
        return {}
    found = {}
    for section in (SECTION, f"{SECTION}:watcher:{name}"):
        if section in conf.sections:
            found.update(conf.section(section))
    return found


class Watchers:
    """The watchers of one scan. Their methods may take as long as they like."""

    def __init__(
        self, names: Sequence[str], conf: ConfFile | None, log: Logger
    ) -> None:
        self._log = log
        self._watchers: dict[str, Any] = {}
        for name in names:
            try:
                kind = load_plugin(GROUP, name)
                own_log = log.with_prefix(f"[audit-watcher {name}] ")
                self._watchers[name] = kind(watcher_conf(conf, name), own_log)
            # A watcher is not our code; nothing it does may stop an audit.
            except Exception:
                log.exception("audit watcher %s cannot be made, it is left out", name)

    def start(self, audit_type: str) -> None:
        """A scan begins: ALL or ZBF."""
        for name, watcher in list(self._watchers.items()):
            try:
                watcher.start(audit_type=audit_type)
            except Exception:
                self._log.exception("audit watcher %s fails, it is left out", name)
                del self._watchers[name]

    def see_object(self, name: str, record: Headers, path: str) -> str | None:
        """Show an object; why it is to be moved aside, if a watcher asks for that."""
        if not self._watchers:
            return None
        metadata = stored_metadata(name, record)
        for watcher_name, watcher in self._watchers.items():
            try:
                watcher.see_object(object_metadata=metadata, data_file_path=path)
            except QuarantineRequest as request:
                return str(request) or f"watcher {watcher_name} asks for it"
            except Exception:
                self._log.exception("audit watcher %s fails at %s", watcher_name, path)
        return None

    def end(self) -> None:
        """The scan is over."""
        for name, watcher in self._watchers.items():
            try:
                watcher.end()
            except Exception:
                self._log.exception("audit watcher %s fails at the end", name)


def stored_metadata(name: str, record: Mapping[str, str]) -> dict[str, str]:
    """A record as it is stored: `name` and `ETag` spelled so, values as text."""
    metadata = {"name": name}
    for key, value in record.items():
        try:
            text = text_of_wsgi(value)
        except InvalidInput:
            text = value
        metadata["ETag" if key == ETAG else key] = text
    return metadata
