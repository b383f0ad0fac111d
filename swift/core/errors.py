# SPDX-License-Identifier: Apache-2.0
"""The tree of domain errors: a class per reaction of a caller, not per place of origin.

Every error carries the values its message needs. What an error means to an HTTP client
is said in `wire/request.py`, to a shell in `cli/`; nothing here knows status codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swift.core.timestamp import Timestamp


class SwiftError(Exception):
    """Anything this project raises on purpose."""


class InvalidInput(SwiftError):
    """A peer or a client sent what the rules forbid; asking again will not help."""


class NotFound(SwiftError):
    """The thing named does not exist here."""


class Conflict(SwiftError):
    """Newer or other state exists than the caller supposes."""


class Unavailable(SwiftError):
    """Not now or not here; the caller tries elsewhere or later."""


class Corrupt(SwiftError):
    """What was read cannot be trusted."""


class ConfigError(SwiftError):
    """A configuration value that does not parse or does not fit.

    source: the file (or other origin) that holds it.
    """

    def __init__(self, source: str, section: str, option: str, reason: str) -> None:
        super().__init__(f"{source} [{section}] {option}: {reason}")
        self.source = source
        self.section = section
        self.option = option
        self.reason = reason


class FormatError(Corrupt):
    """Bytes that are not the format they claim to be."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what = what
        self.reason = reason


class DeviceUnavailable(Unavailable):
    """A device that is absent, unmounted or failing: the server answers 507."""

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(f"device {device}: {reason}")
        self.device = device
        self.reason = reason


class DiskFull(DeviceUnavailable):
    """No space, quota or xattr room left; 507 as for a device that is gone."""


class RecordTooLarge(InvalidInput):
    """Metadata within the limits, but more than the device's file system can hold."""

    def __init__(self, device: str, size_bytes: int) -> None:
        super().__init__(
            f"device {device}: {size_bytes} bytes of metadata do not fit a file's "
            "attributes"
        )
        self.device = device
        self.size_bytes = size_bytes


class LockTimeout(Unavailable):
    """A lock on disk was not had in time."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__(f"lock {path}: not had within {timeout_s}s")
        self.path = path
        self.timeout_s = timeout_s


class ObjectMissing(NotFound):
    """No data file and no tombstone."""


class ObjectDeleted(ObjectMissing):
    """A tombstone, or data that has expired, stands in the object's place.

    timestamp: when it was deleted, or for an expired object its own timestamp. name:
    the decoded path that the tombstone records, empty when it was not looked up.
    """

    def __init__(self, path: str, timestamp: Timestamp, name: str = "") -> None:
        super().__init__(f"{path}: deleted at {timestamp.internal}")
        self.path = path
        self.timestamp = timestamp
        self.name = name


class ObjectExpired(ObjectDeleted):
    """Data is there, but its X-Delete-At has passed."""


class ObjectCollision(Conflict):
    """The stored name differs from the name asked for: 403 by backend-http."""


class ObjectChanged(Unavailable):
    """Files moved underneath a reader; asking again or elsewhere helps (503)."""


class ObjectQuarantined(Corrupt):
    """A corrupt object that has been moved aside."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: quarantined, {reason}")
        self.path = path
        self.reason = reason


class QuarantineRequest(SwiftError):
    """Raised by an audit watcher that wants the object it was shown moved aside."""


class DatabaseMissing(NotFound):
    """No database file of that name."""


class DatabaseExists(Conflict):
    """A database file is there already, or has been deleted too recently."""


class DatabaseCorrupt(Corrupt):
    """A malformed database; it has been moved aside."""


class PeerError(Unavailable):
    """A node or service that could not be reached, broke off or answered nonsense.

    peer: `ip:port` or `ip:port/device`.
    """

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"{peer}: {reason}")
        self.peer = peer
        self.reason = reason


class PeerTimeout(PeerError):
    """The peer did not answer in the time that an option allows."""


class ClientDisconnect(SwiftError):
    """The sender of a request body went away or broke its framing: 499."""


class ClientTimeout(SwiftError):
    """The sender of a request body was silent for client_timeout: 408."""


class BodyTooLarge(InvalidInput):
    """More body bytes than the limit allows: 413."""


class ChecksumMismatch(InvalidInput):
    """The bytes received do not have the checksum their sender gave: 422."""
