# SPDX-License-Identifier: Apache-2.0
"""What two replicas of a database must exchange, and when a handoff may go.

A replica pushes to its peers: it tells what it has (a sync call), the peer answers what
it has and up to which row it knows ours, its *point*. From both follows the next step.
Nothing here knows SQLite or HTTP. Rules: contracts daemons §3, backend-http §9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from swift.core.errors import FormatError
from swift.core.rows import PolicyFacts
from swift.core.timestamp import Timestamp

FAR_BEHIND = 0.5
"""A peer with less than this share of our rows takes our whole file."""

ROWID_MAX = 2**63 - 1
_ID_MAX = 256
METADATA_MAX = 1 << 24
"""Characters of a metadata column that a peer may send."""

_T = TypeVar("_T")


class Step(Enum):
    """What follows the answer to a sync call."""

    NOTHING = "no_change"
    REMEMBER = "hashmatch"
    WHOLE_FILE = "remote_merge"
    ROWS = "diff"


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """What a peer says of its copy; times in internal form.

    point: the highest of our ROWIDs that it knows, -1 for none. shard_max_row: None
    for an account and for peers that do not know shard ranges. policy: of a container.
    """

    max_row: int
    point: int
    hash: str
    id: str
    created_at: str
    put_timestamp: str
    delete_timestamp: str
    metadata: str
    shard_max_row: int | None = None
    policy: PolicyFacts | None = None

    @classmethod
    def from_json(cls, found: object) -> PeerAnswer:
        """Read the body of an answer to a sync call; raises FormatError."""
        if not isinstance(found, Mapping):
            raise FormatError("sync answer", "is no JSON object")
        put = checked_time(found.get("put_timestamp"))
        delete = checked_time(found.get("delete_timestamp"))
        shard_max_row = found.get("shard_max_row")
        policy = None
        if found.get("storage_policy_index") is not None:
            policy = policy_facts(
                put,
                delete,
                found.get("status_changed_at"),
                found.get("count"),
                found.get("storage_policy_index"),
            )
        return cls(
            checked_rowid(found.get("max_row")),
            checked_rowid(found.get("point")),
            checked_text(found.get("hash"), "hash", _ID_MAX),
            checked_text(found.get("id"), "id", _ID_MAX),
            checked_time(found.get("created_at")),
            put,
            delete,
            checked_text(found.get("metadata"), "metadata", METADATA_MAX),
            None if shard_max_row is None else checked_rowid(shard_max_row),
            policy,
        )

    @property
    def times(self) -> tuple[str, str, str]:
        """Creation, put and delete."""
        return self.created_at, self.put_timestamp, self.delete_timestamp


def policy_facts(
    put: str, delete: str, status_changed_at: object, count: object, index: object
) -> PolicyFacts:
    """The facts that decide between policies, as a peer sent them; FormatError."""
    if type(index) is not int or not 0 <= index < 2**31:
        raise FormatError("policy index", f"is {index!r:.40}")
    if count is not None and type(count) is not int:
        raise FormatError("object count", f"is {count!r:.40}")
    changed = checked_time(status_changed_at)
    return PolicyFacts(index, put, delete, changed, count)


def checked_time(value: object) -> str:
    """A time as databases keep it, from a peer; raises FormatError.

    Times are compared as text, so one that is none would win for ever.
    """
    if not isinstance(value, str) or len(value) > 64:
        raise FormatError("time", f"is {value!r:.60}")
    try:
        Timestamp.parse(value)
    except ValueError as error:
        raise FormatError("time", f"is {value!r:.60}") from error
    return value


def checked_rowid(value: object) -> int:
    """A ROWID or -1, from a peer; raises FormatError."""
    if type(value) is not int or not -1 <= value <= ROWID_MAX:
        raise FormatError("row number", f"is {value!r:.40}")
    return value


def checked_text(value: object, what: str, length_max: int = _ID_MAX) -> str:
    """Text of bounded length, from a peer; raises FormatError."""
    if not isinstance(value, str) or len(value) > length_max:
        raise FormatError(what, f"is {value!r:.60}")
    return value


def next_step(
    *,
    max_row: int,
    own_hash: str,
    outgoing: int,
    answer: PeerAnswer,
    per_diff: int,
) -> Step:
    """What to do for a peer that answered a sync call.

    max_row, own_hash: of our copy. outgoing: the last row that we know to have sent.
    """
    if max(answer.point, outgoing) >= max_row:
        return Step.NOTHING
    if answer.hash == own_hash:
        return Step.REMEMBER
    behind = max_row - answer.max_row
    if answer.max_row < FAR_BEHIND * max_row and behind > per_diff:
        return Step.WHOLE_FILE
    return Step.ROWS


def others_in_order(primaries: Sequence[_T], own_index: int | None) -> list[_T]:
    """The primaries to push to: those after ours, then those before it.

    Replicas so start with different peers. own_index: None for a handoff.
    """
    if own_index is None:
        return list(primaries)
    return [*primaries[own_index + 1 :], *primaries[:own_index]]


def handoff_may_go(
    pushes: Sequence[bool], *, grown: bool, handoff_delete: int | None
) -> bool:
    """True when a copy that is none of ours has done its duty.

    pushes: which of them succeeded; without any, nobody has it. grown: rows came in
    meanwhile. handoff_delete: successes that are enough, None for all.
    """
    if grown or not pushes:
        return False
    successes = sum(pushes)
    if handoff_delete:
        return successes >= handoff_delete
    return successes == len(pushes)
