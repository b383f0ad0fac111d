# SPDX-License-Identifier: Apache-2.0
"""Expiring objects: when an object goes, and which queue row says so.

Every X-Delete-At has a row in a container of the hidden queue account, named by the
day and, so that one day does not load one container, by the object's hash. The expirer
reads those rows. Format: doc/source/formats/expirer-queue.md; the golden names pin it
(test/interop/test_interop_expiry.py).
"""

from __future__ import annotations

from swift.core.errors import InvalidInput
from swift.core.hashing import HashSalt
from swift.core.headers import X_DELETE_AT, Headers
from swift.core.names import ObjectName
from swift.core.timestamp import Timestamp, normal_delete_at

QUEUE_ACCOUNT = ".expiring_objects"
DAY_S = 86400
SPREAD = 100
"""Queue containers of one day, at most."""

EMPTY_ETAG = "d41d8cd98f00b204e9800998ecf8427e"
"""The etag of a queue row, which has no bytes of its own."""

TASK_TYPE = "text/plain"
_BYTES_PARAMETER = "swift_expirer_bytes"


def delete_at_of(headers: Headers) -> int | None:
    """The X-Delete-At of a request or of stored metadata, in whole seconds.

    None when there is none (an empty value counts as none); raises InvalidInput when
    it is no whole number.
    """
    text = headers.get(X_DELETE_AT)
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise InvalidInput(f"bad {X_DELETE_AT}: {text!r}") from error


def queue_container(delete_at: int, name: ObjectName, salt: HashSalt) -> str:
    """The container of the queue that holds the task of one object."""
    shift = int.from_bytes(salt.digest_of(name), "big") % SPREAD
    return normal_delete_at(delete_at // DAY_S * DAY_S - shift)


def task_name(delete_at: int, name: ObjectName) -> str:
    """The name of the queue row: time, dash, and the path of the object."""
    return f"{normal_delete_at(delete_at)}-{name.path[1:]}"


def task_content_type(size_bytes: int | str) -> str:
    """The content type of a queue row, which carries the size of the object."""
    return f"{TASK_TYPE};{_BYTES_PARAMETER}={size_bytes}"


def is_past(delete_at: int, timestamp: Timestamp) -> bool:
    """True when the time was over before the request that sets it."""
    return delete_at < timestamp.seconds
