# SPDX-License-Identifier: Apache-2.0
"""What a node knows of itself: the recon cache files, and facts of the host.

A cache file is one JSON object on one line, written by daemons and read by the recon
filter. Format and keys: contracts backend-http §15, daemons §1.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from swift.runtime import green
from swift.runtime.logs import Logger

CACHE_PATH = "/var/cache/swift"
LOCK_TIMEOUT_S = 2.0

_LOCK_POLL_S = 0.05
_BLOCK = 1 << 20


def merged(cache: Mapping[str, Any], updates: Mapping[str, Any]) -> dict[str, Any]:
    """The cache after updates.

    A dict is merged one level deep into the one that stands; an empty dict, also inside
    another, deletes its key.
    """
    result = dict(cache)
    for key, value in updates.items():
        if not isinstance(value, dict):
            result[key] = value
            continue
        if not value:
            result.pop(key, None)
            continue
        standing = result.get(key)
        inner = dict(standing) if isinstance(standing, dict) else {}
        for name, item in value.items():
            if item == {}:
                inner.pop(name, None)
            else:
                inner[name] = item
        result[key] = inner
    return result


def read_cache(path: str) -> dict[str, Any]:
    """What a cache file holds; empty when it is missing, empty or no JSON object."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def update_cache(
    path: str,
    updates: Mapping[str, Any],
    log: Logger,
    *,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> bool:
    """Merge into a cache file; failing is logged and gives False. Yields.

    Writers exclude each other by a lock on the file; readers see the old or the new.
    """
    try:
        _update(path, updates, lock_timeout_s)
    except (OSError, TimeoutError) as error:
        log.warning("recon cache %s was not written: %s", path, error)
        return False
    return True


def _update(path: str, updates: Mapping[str, Any], lock_timeout_s: float) -> None:
    deadline = green.monotonic() + lock_timeout_s
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, path, deadline)
            if _is_same_file(descriptor, path):
                _replace(path, merged(read_cache(path), updates))
                return
            # Another writer renamed its file over this one while we waited.
        finally:
            os.close(descriptor)


def _lock(descriptor: int, path: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if green.monotonic() >= deadline:
                raise TimeoutError(f"lock on {path} not had in time") from None
            green.sleep(_LOCK_POLL_S)
        else:
            return


def _is_same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _replace(path: str, cache: Mapping[str, Any]) -> None:
    # The lock is held, so one name is enough: what a process left that was killed here
    # is written over by the next.
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.tmp")
    with open(temporary, "w", encoding="utf-8") as stream:
        # `dumps` is compiled, `dump` is not.
        stream.write(json.dumps(cache, sort_keys=True) + "\n")
    os.chmod(temporary, 0o644)
    os.rename(temporary, path)


# --- Facts of the host ---------------------------------------------------------------


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read().splitlines()


def memory(path: str = "/proc/meminfo") -> dict[str, str]:
    """Name → amount, as the kernel writes them (`16314356 kB`)."""
    pairs = (line.partition(":") for line in _lines(path))
    return {name: value.strip() for name, separator, value in pairs if separator}


def load(path: str = "/proc/loadavg") -> dict[str, Any]:
    """Load averages, running and existing tasks, and the newest process id."""
    words = _lines(path)[0].split()
    return {
        "1m": float(words[0]),
        "5m": float(words[1]),
        "15m": float(words[2]),
        "tasks": words[3],
        "processes": int(words[4]),
    }


def mounts(path: str = "/proc/mounts") -> list[dict[str, str]]:
    """What is mounted: device and mount point."""
    found = []
    for line in _lines(path):
        device, point, *_ = line.split()
        found.append({"device": device, "path": point})
    return found


def sockets(folder: str = "/proc/net") -> dict[str, int]:
    """TCP sockets in use, orphaned and waiting, and the memory that they hold."""
    found: dict[str, int] = {}
    for line in _lines(f"{folder}/sockstat"):
        if line.startswith("TCP: inuse"):
            words = line.split()
            found["tcp_in_use"] = int(words[2])
            found["orphan"] = int(words[4])
            found["time_wait"] = int(words[6])
            found["tcp_mem_allocated_bytes"] = int(words[10]) * os.sysconf(
                "SC_PAGE_SIZE"
            )
    try:
        lines = _lines(f"{folder}/sockstat6")
    except FileNotFoundError:
        return found
    for line in lines:
        if line.startswith("TCP6: inuse"):
            found["tcp6_in_use"] = int(line.split()[2])
    return found


def checksum(path: str) -> str:
    """MD5 of a file as hex digits. Raises OSError."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Known:
    stamp: tuple[int, int, int]
    checksum: str


class Checksums:
    """Checksums of files that seldom change: read again only when a file has."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def of(self, paths: Iterable[str]) -> dict[str, str | None]:
        """Path → MD5, None for a file that cannot be read."""
        return {path: self._one(path) for path in paths}

    def _one(self, path: str) -> str | None:
        try:
            facts = os.stat(path)
            stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            known = self._known.get(path)
            if known is None or known.stamp != stamp:
                known = self._known[path] = _Known(stamp, checksum(path))
        except OSError:
            return None
        return known.checksum


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of a file system."""

    size: int
    used: int
    available: int


def space(path: str) -> Space:
    """How full the file system below `path` is. Raises OSError; may block."""
    facts = os.statvfs(path)
    block = facts.f_frsize
    return Space(
        size=facts.f_blocks * block,
        used=(facts.f_blocks - facts.f_bfree) * block,
        available=facts.f_bavail * block,
    )


def quarantined(device_path: str) -> dict[str, int]:
    """Directory below `quarantined` of a device → how many things lie there. Blocks."""
    found = {}
    try:
        kinds = os.listdir(f"{device_path}/quarantined")
    except OSError:
        return {}
    for kind in kinds:
        try:
            found[kind] = len(os.listdir(f"{device_path}/quarantined/{kind}"))
        except OSError:
            continue
    return found
