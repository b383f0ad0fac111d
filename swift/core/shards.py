# SPDX-License-Identifier: Apache-2.0
"""Shard ranges: which part of a container's names another container holds.

A range covers lower < name ≤ upper; an empty bound is open. Times are normal-form text.
Rules: databases contract 9, backend-http contract 6.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import md5
from typing import Any

from swift.core.errors import FormatError, InvalidInput
from swift.core.settings import TRUE_WORDS
from swift.core.timestamp import Timestamp

FOUND, CREATED, CLEAVED, ACTIVE = 10, 20, 30, 40
SHRINKING, SHARDING, SHARDED, SHRUNK = 50, 60, 70, 80

STATE_NAMES = {
    FOUND: "found",
    CREATED: "created",
    CLEAVED: "cleaved",
    ACTIVE: "active",
    SHRINKING: "shrinking",
    SHARDING: "sharding",
    SHARDED: "sharded",
    SHRUNK: "shrunk",
}
LISTING_STATES = frozenset((CLEAVED, ACTIVE, SHRINKING, SHARDING))
UPDATING_STATES = frozenset((CREATED, CLEAVED, ACTIVE, SHARDING))
CLEAVING_STATES = frozenset((SHRINKING, SHRUNK, SHARDING, SHARDED))
"""States in which a range's rows are on their way to others, or there."""
AUDITING_STATES = frozenset(STATE_NAMES) - {FOUND}
STATS_STATES = frozenset((ACTIVE, SHRINKING, SHARDING))
"""States in which a range's counts belong to the root's totals."""

_ALIASES = {
    "listing": LISTING_STATES,
    "updating": UPDATING_STATES,
    "auditing": AUDITING_STATES,
}
_NUMBERS = {name: number for number, name in STATE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class Namespace:
    """Part of a container's names, and the container that holds it.

    name: `account/container`, decoded.
    """

    name: str
    lower: str
    upper: str

    def __contains__(self, name: str) -> bool:
        return self.lower < name and (not self.upper or name <= self.upper)

    def overlaps(self, marker: str, end_marker: str) -> bool:
        """True when names above `marker` and below `end_marker` may be in it."""
        if end_marker and self.lower >= end_marker:
            return False
        return not (marker and self.upper and self.upper <= marker)

    def as_namespace(self) -> dict[str, str]:
        """The three fields of a namespace listing."""
        return {"name": self.name, "lower": self.lower, "upper": self.upper}

    @property
    def account(self) -> str:
        """The account of the container."""
        return self.name.partition("/")[0]

    @property
    def container(self) -> str:
        """The container that holds the part."""
        return self.name.partition("/")[2]


@dataclass(frozen=True, slots=True)
class ShardRange(Namespace):
    """A row of the shard-range table, in the order of its columns."""

    timestamp: str = ""
    object_count: int = 0
    bytes_used: int = 0
    meta_timestamp: str = ""
    deleted: int = 0
    state: int = FOUND
    state_timestamp: str = ""
    epoch: str | None = None
    reported: int = 0
    tombstones: int = -1

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ShardRange:
        """Read a range from JSON; what is missing gets its default.

        Raises FormatError for a wrong type, an unknown state or a bad time.
        """
        try:
            timestamp = _time(record["timestamp"])
            meta = record.get("meta_timestamp")
            state_at = record.get("state_timestamp")
            epoch = record.get("epoch")
            made = cls(
                _word(record["name"]),
                _word(record.get("lower") or ""),
                _word(record.get("upper") or ""),
                timestamp,
                max(0, int(record.get("object_count") or 0)),
                max(0, int(record.get("bytes_used") or 0)),
                timestamp if meta is None else _time(meta),
                int(bool(record.get("deleted", 0))),
                int(record.get("state") or FOUND),
                timestamp if state_at is None else _time(state_at),
                None if epoch is None else _time(epoch),
                int(bool(record.get("reported", 0))),
                int(record.get("tombstones", -1)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError("shard range", f"{error!r:.80}") from error
        if made.state not in STATE_NAMES:
            raise FormatError("shard range", f"state {made.state} is unknown")
        if made.upper and made.lower > made.upper:
            raise FormatError("shard range", "lower bound is above the upper")
        if "/" not in made.name:
            raise FormatError("shard range", f"name {made.name!r:.80} has no container")
        return made

    @classmethod
    def whole(cls, name: str, timestamp: str) -> ShardRange:
        """The own range of a container that has none stored: every name, active."""
        return cls(
            name,
            "",
            "",
            timestamp,
            meta_timestamp=timestamp,
            state=ACTIVE,
            state_timestamp=timestamp,
        )

    def as_record(self) -> dict[str, Any]:
        """The 13 fields, in the order of the wire."""
        return {
            "name": self.name,
            "timestamp": self.timestamp,
            "lower": self.lower,
            "upper": self.upper,
            "object_count": self.object_count,
            "bytes_used": self.bytes_used,
            "meta_timestamp": self.meta_timestamp,
            "deleted": self.deleted,
            "state": self.state,
            "state_timestamp": self.state_timestamp,
            "epoch": self.epoch,
            "reported": self.reported,
            "tombstones": self.tombstones,
        }

    def as_listing(self) -> dict[str, Any]:
        """The 13 fields and `last_modified`, as a listing shows them."""
        moment = Timestamp.parse(self.timestamp).iso
        return {**self.as_record(), "last_modified": moment}

    @property
    def sort_key(self) -> tuple[bool, str, int, str, str]:
        """Orders ranges by upper bound (open last), state, lower bound and name."""
        return (not self.upper, self.upper, self.state, self.lower, self.name)


@dataclass(frozen=True, slots=True)
class ShardQuery:
    """Which shard ranges to list (backend-http 6.1).

    states: None for all. fill: append the own range for what is covered by none.
    """

    marker: str = ""
    end_marker: str = ""
    includes: str = ""
    states: frozenset[int] | None = None
    fill: bool = False
    include_own: bool = False
    include_deleted: bool = False
    reverse: bool = False

    @classmethod
    def from_params(
        cls,
        params: Mapping[str, str],
        *,
        include_deleted: bool = False,
        unfiltered: bool = False,
    ) -> ShardQuery:
        """Read decoded query parameters; raises InvalidInput for an unknown state.

        unfiltered: the parameters that filter do not count (override of a proxy that
        caches the whole set).
        """
        states_text = params.get("states", "")
        states, names = parse_states(states_text)
        return cls(
            "" if unfiltered else params.get("marker", ""),
            "" if unfiltered else params.get("end_marker", ""),
            "" if unfiltered else params.get("includes", ""),
            states,
            bool(names & {"listing", "updating"}),
            "auditing" in names,
            include_deleted,
            not unfiltered and params.get("reverse", "").strip().lower() in TRUE_WORDS,
        )


def parse_states(text: str) -> tuple[frozenset[int] | None, frozenset[str]]:
    """The state numbers of a comma list, and its words; (None, …) for an empty one.

    Raises InvalidInput("Bad state").
    """
    words = frozenset(word.strip().lower() for word in text.split(",") if word.strip())
    if not words:
        return None, words
    states: set[int] = set()
    for word in words:
        if word in _ALIASES:
            states |= _ALIASES[word]
        elif word in _NUMBERS:
            states.add(_NUMBERS[word])
        elif word.isascii() and word.isdigit() and int(word[:9]) in STATE_NAMES:
            states.add(int(word))
        else:
            raise InvalidInput("Bad state")
    return frozenset(states), words


def chosen_ranges(
    stored: Iterable[ShardRange], own_name: str, query: ShardQuery, now: str
) -> list[ShardRange]:
    """The ranges that a query asks for, sorted; the answer of a shard listing.

    stored: every row of the table. own_name: `account/container` of this container.
    now: for the default own range, normal form.
    """
    rows = list(stored)
    own = next((row for row in rows if row.name == own_name), None)
    chosen = sorted(
        (
            row
            for row in rows
            if (query.include_deleted or not row.deleted)
            and (query.states is None or row.state in query.states)
            and (query.include_own or row.name != own_name)
        ),
        key=lambda row: row.sort_key,
    )
    if query.includes:
        return [row for row in chosen if query.includes in row][:1]
    marker, end_marker = query.marker, query.end_marker
    if query.reverse:
        marker, end_marker = end_marker, marker
    chosen = [row for row in chosen if row.overlaps(marker, end_marker)]
    if query.fill:
        own = own or ShardRange.whole(own_name, now)
        filler = _filler(chosen, own, marker, end_marker)
        if filler is not None:
            chosen.append(filler)
    if query.reverse:
        chosen.reverse()
    return chosen


def _filler(
    chosen: Sequence[ShardRange], own: ShardRange, marker: str, end_marker: str
) -> ShardRange | None:
    """A copy of the own range for the tail that the chosen ranges leave uncovered."""
    covered = chosen[-1].upper if chosen else max(marker, own.lower)
    if chosen and not covered:
        return None
    wanted = own.upper
    if end_marker and (not wanted or end_marker < wanted):
        wanted = end_marker
    if wanted and wanted <= covered:
        return None
    return replace(own, lower=covered, upper=wanted)


def merged_range(existing: ShardRange | None, new: ShardRange) -> ShardRange | None:
    """The row to store when `new` meets the row of its name; None: nothing is new.

    Bounds and deletion go by `timestamp`, counts by `meta_timestamp`, state and epoch
    by `state_timestamp` and then by the larger state (databases 9.4).
    """
    if existing is None:
        return new
    if existing.timestamp < new.timestamp:
        return replace(new, reported=0)
    if existing.timestamp > new.timestamp:
        return None
    merged = existing
    if new.meta_timestamp > existing.meta_timestamp:
        merged = replace(
            merged,
            object_count=new.object_count,
            bytes_used=new.bytes_used,
            tombstones=new.tombstones,
            meta_timestamp=new.meta_timestamp,
        )
    # What was reported once stays reported while counts, state and epoch are the same.
    same = (
        merged.object_count == existing.object_count
        and merged.bytes_used == existing.bytes_used
        and merged.tombstones == existing.tombstones
        and (new.state, new.epoch) == (existing.state, existing.epoch)
    )
    reported = 1 if existing.reported and same else new.reported
    if (new.state_timestamp, new.state) > (existing.state_timestamp, existing.state):
        merged = replace(
            merged,
            state=new.state,
            state_timestamp=new.state_timestamp,
            epoch=new.epoch,
        )
    if merged == existing and reported <= existing.reported:
        return None
    return replace(merged, reported=reported)


def usage(ranges: Iterable[ShardRange], own_name: str) -> tuple[int, int]:
    """(object_count, bytes_used) of a sharded root: the sum over its live shards."""
    counted = [
        row
        for row in ranges
        if not row.deleted and row.state in STATS_STATES and row.name != own_name
    ]
    return (
        sum(row.object_count for row in counted),
        sum(row.bytes_used for row in counted),
    )


def shards_account(account: str) -> str:
    """The hidden account that holds an account's shards."""
    return f".shards_{account}"


def shard_name(
    account: str, root_container: str, parent_container: str, now: str, index: int
) -> str:
    """`account/container` of a new shard; account: the hidden one, now: normal form."""
    parent = md5(parent_container.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{account}/{root_container}-{parent}-{now}-{index}"


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _time(value: Any) -> str:
    return Timestamp.parse(str(value)).normal
