# SPDX-License-Identifier: Apache-2.0
"""What the reconciler does with an object that is not in its container's policy.

An entry of the queue says: this object has a row of another policy than its container,
from that time. The object goes where the container is, unless something newer is there;
then what was left behind is removed. Each step carries an offset of the entry's time,
so that it wins over what it follows and over nothing that came later.

Rules: contracts daemons §12, backend-http §13; the queue's names: core/misplaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from typing import Any

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.headers import Headers
from swift.core.misplaced import DELETE_TYPE, PUT_TYPE
from swift.core.names import ObjectName, split_name
from swift.core.rows import PolicyFacts, remote_policy_wins
from swift.core.timestamp import Timestamp, decode_triple

SOURCE_OFFSET = 1
ENTRY_OFFSET = 2
DESTINATION_OFFSET = 3


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One entry of the queue.

    container, row: where it stands, below the queue's account. policy_index: where the
    object is. is_delete: the object was deleted there. when: of the object's row.
    recorded: of the entry itself.
    """

    container: str
    row: str
    policy_index: int
    target: ObjectName
    is_delete: bool
    when: Timestamp
    recorded: Timestamp

    @property
    def source_tombstone(self) -> Timestamp:
        """When what was left behind counts as deleted."""
        return self.when.plus(offset=SOURCE_OFFSET)

    @property
    def removal(self) -> Timestamp:
        """When the entry counts as done."""
        return max(self.recorded, self.when).plus(offset=ENTRY_OFFSET)

    def arrival(self, source: Timestamp | None = None) -> Timestamp:
        """The time of the object, or its tombstone, in the container's policy."""
        newest = self.when if source is None else max(source, self.when)
        return newest.plus(offset=DESTINATION_OFFSET)


def parse_entry(container: str, row: Mapping[str, Any]) -> QueueEntry:
    """The entry of a listing's row. Raises InvalidInput when it is none."""
    name = row.get("name")
    kind = row.get("content_type")
    etag, modified = row.get("hash"), row.get("last_modified")
    for text in (name, kind, etag, modified):
        if not isinstance(text, str):
            raise InvalidInput(f"queue entry {name!r:.200} lacks a field")
    assert isinstance(name, str), "has been checked"
    index, colon, path = name.partition(":")
    if not colon or not (index.isascii() and index.isdecimal()) or len(index) > 9:
        raise InvalidInput(f"queue entry {name!r:.200} names no policy")
    target = split_name(path)
    if not isinstance(target, ObjectName):
        raise InvalidInput(f"queue entry {name!r:.200} names no object")
    if kind not in (PUT_TYPE, DELETE_TYPE):
        raise InvalidInput(f"queue entry {name!r:.200} is of type {kind!r:.80}")
    return QueueEntry(
        container=container,
        row=name,
        policy_index=int(index),
        target=target,
        is_delete=kind == DELETE_TYPE,
        when=decode_triple(str(etag))[0],
        recorded=Timestamp.from_iso(str(modified)),
    )


# --- Which policy a container has -----------------------------------------------------


def policy_facts_of(headers: Headers) -> PolicyFacts | None:
    """What one replica's headers say of its policy; None when they do not.

    A replica that was deleted says it with its 404. Raises InvalidInput.
    """
    index = headers.integer(h.X_BACKEND_STORAGE_POLICY_INDEX)
    if index is None:
        return None

    def time_of(name: str) -> str:
        return (headers.timestamp(name) or Timestamp(0)).internal

    return PolicyFacts(
        storage_policy_index=index,
        put_timestamp=time_of(h.X_BACKEND_PUT_TIMESTAMP),
        delete_timestamp=time_of(h.X_BACKEND_DELETE_TIMESTAMP),
        status_changed_at=time_of(h.X_BACKEND_STATUS_CHANGED_AT),
        object_count=headers.integer(h.X_CONTAINER_OBJECT_COUNT) or 0,
    )


def container_policy(
    answers: Sequence[PolicyFacts | None], replicas: int
) -> int | None:
    """The policy that the replicas will agree on; None while too few have answered.

    answers: of the replicas that gave any, None for those that do not know the
    container.
    """
    if len(answers) < replicas // 2 + 1:
        return None
    known = [facts for facts in answers if facts is not None]
    if not known:
        return None
    return reduce(_winner, known).storage_policy_index


def _winner(one: PolicyFacts, other: PolicyFacts) -> PolicyFacts:
    return other if remote_policy_wins(one, other) else one


# --- What is to be done ---------------------------------------------------------------


class Finding(Enum):
    """Why an entry is done, or stays; the values are the names of the counters."""

    NOOP = "noop_object"
    FOUND = "found_object"
    COPIED = "copied"
    DELETED = "deleted"
    LOST = "lost_source"
    UNAVAILABLE_CONTAINER = "unavailable_container"
    UNAVAILABLE_DESTINATION = "unavailable_destination"
    UNAVAILABLE_SOURCE = "unavailable_source"
    PART_POWER = "ppi_skip"
    COPY_FAILED = "copy_failed"
    CLEANUP_FAILED = "cleanup_failed"


DONE = frozenset(
    (Finding.NOOP, Finding.FOUND, Finding.COPIED, Finding.DELETED, Finding.LOST)
)
"""After these the entry leaves the queue."""


class Step(Enum):
    """What to do with the object after looking at its source."""

    COPY = "copy it to the container's policy"
    DELETE = "delete it there"
    GIVE_UP = "it is nowhere; forget it"
    WAIT = "look again later"


def is_superseded(entry: QueueEntry, destination: Timestamp | None) -> bool:
    """True when the container's policy has the object, or a newer fate of it.

    destination: time of the object or of its tombstone there, None for nothing.
    """
    return destination is not None and destination >= entry.when


def step_of(
    entry: QueueEntry,
    status: int,
    source: Timestamp | None,
    *,
    now: float,
    reclaim_age_s: float,
) -> Step:
    """What the source's answer means; status 0 is none.

    source: time of the object, or of its tombstone.
    """
    if entry.is_delete and status == 404:
        return Step.DELETE
    if status // 100 != 2 or source is None or source < entry.when:
        if entry.when.seconds < now - reclaim_age_s:
            return Step.GIVE_UP
        return Step.WAIT
    return Step.COPY
