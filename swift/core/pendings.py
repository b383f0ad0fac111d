# SPDX-License-Identifier: Apache-2.0
"""Container updates that wait on a disk: what one says, and what answers make of it.

An object server that could not tell a container of a change leaves a file; the updater
sends it to every primary of the container until all have it. Which nodes are left,
where a redirect leads, when a container has had enough for now and which containers
wait longest is decided here.

Format: doc/source/formats/async-pending.md (contracts object-on-disk 9, daemons 10).
"""

from __future__ import annotations

import bisect
import heapq
import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from urllib.parse import unquote

from swift.core import pickles
from swift.core.errors import FormatError, InvalidInput
from swift.core.hashing import HashSalt
from swift.core.headers import (
    LOCATION,
    X_BACKEND_LOCATION_IS_QUOTED,
    X_BACKEND_REDIRECT_TIMESTAMP,
    X_TIMESTAMP,
    Headers,
)
from swift.core.names import ContainerName, ObjectName
from swift.core.timestamp import Timestamp

T = TypeVar("T")

_OPS = ("PUT", "DELETE")
_HISTORY_MAX = 1000
"""Shards that a file may remember; no chain of splits is nearly as long."""


def split_file_name(name: str) -> tuple[str, Timestamp] | None:
    """(path hash, time of the update) of a file's name; None when it is no such name.

    The hash is not held to its form: it only has to be the same for the same object.
    """
    path_hash, dash, text = name.partition("-")
    if not path_hash or not dash:
        return None
    try:
        return path_hash, Timestamp.parse(text)
    except InvalidInput:
        return None


@dataclass(frozen=True, slots=True)
class Update:
    """One change of an object that its container has to hear of.

    op: PUT or DELETE. name: in its root container, or of an expirer's row. headers: as
    they are sent. shard: the container that is told in the root's place. successes:
    ids of devices of the container ring that have it. history: shards visited, as
    `account/container`.
    """

    op: str
    name: ObjectName
    headers: Headers
    db_state: str | None = None
    shard: ContainerName | None = None
    successes: frozenset[int] = frozenset()
    history: tuple[str, ...] = ()

    @property
    def target(self) -> ContainerName:
        """The container that is told."""
        return self.shard or self.name.container_name

    @property
    def timestamp(self) -> Timestamp:
        """When the change happened."""
        found = self.headers.timestamp(X_TIMESTAMP)
        assert found is not None, "from_record refuses updates without a time"
        return found

    @classmethod
    def read(cls, data: bytes) -> Update:
        """The update in a file. Raises FormatError."""
        return cls.from_record(pickles.loads(data))

    @classmethod
    def from_record(cls, record: object) -> Update:
        """The update of an unpickled record. Raises FormatError for wrong types."""
        if not isinstance(record, dict):
            raise FormatError("pending update", "is no dict")
        if record.get("op") not in _OPS:
            raise FormatError("pending update", f"op is {record.get('op')!r:.80}")
        name = ObjectName(
            _text(record, "account"), _text(record, "container"), _text(record, "obj")
        )
        db_state = record.get("db_state")
        if db_state is not None and not isinstance(db_state, str):
            raise FormatError("pending update", "db_state is no text")
        path = record.get("container_path")
        return cls(
            op=record["op"],
            name=name,
            headers=_headers(record.get("headers")),
            db_state=db_state,
            shard=None if path is None else _shard(path),
            successes=_ids(record.get("successes")),
            history=_history(record.get("redirect_history")),
        )

    def record(self) -> dict[str, Any]:
        """Plain data for the file; keys without news are left out."""
        record: dict[str, Any] = {
            "op": self.op,
            "account": self.name.account,
            "container": self.name.container,
            "obj": self.name.obj,
            "headers": dict(self.headers),
            "db_state": self.db_state,
            "successes": sorted(self.successes),
        }
        if self.shard is not None or self.history:
            record["container_path"] = self.shard and self.shard.path[1:]
        if self.history:
            record["redirect_history"] = list(self.history)
        return record


def _text(record: Mapping[Any, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise FormatError("pending update", f"{key} is {value!r:.80}")
    return value


def _headers(value: object) -> Headers:
    if not isinstance(value, dict):
        raise FormatError("pending update", "headers are no dict")
    headers = Headers()
    for name, item in value.items():
        text = str(item) if type(item) in (str, int, float) else None
        if not isinstance(name, str) or text is None or not _is_line(name + text):
            raise FormatError("pending update", f"header {name!r:.80} is no text")
        headers[name] = text
    try:
        timestamp = headers.timestamp(X_TIMESTAMP)
    except InvalidInput as error:
        raise FormatError("pending update", str(error)) from error
    if timestamp is None:
        raise FormatError("pending update", "has no time")
    return headers


def _is_line(text: str) -> bool:
    """True for what can stand in one line of a request's head."""
    if "\r" in text or "\n" in text or "\0" in text:
        return False
    return text.isascii() or max(text) <= "\xff"


def _shard(value: object) -> ContainerName:
    text = value if isinstance(value, str) else ""
    account, _, container = text.partition("/")
    if not account or not container or "/" in container:
        raise FormatError("pending update", f"container_path is {value!r:.80}")
    return ContainerName(account, container)


def _ids(value: object) -> frozenset[int]:
    if value is None:
        return frozenset()
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(item, int) for item in value
    ):
        raise FormatError("pending update", "successes are no numbers")
    return frozenset(value)


def _history(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if (
        not isinstance(value, (list, tuple))
        or len(value) > _HISTORY_MAX
        or not all(isinstance(item, str) for item in value)
    ):
        raise FormatError("pending update", "redirect_history is no list of paths")
    return tuple(value)


# --- Answers --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Redirect:
    """A container's word that another one keeps this part of its names."""

    target: ContainerName
    timestamp: Timestamp


@dataclass(frozen=True, slots=True)
class Answer:
    """What one node said; status 0 when it said nothing."""

    node_id: int
    status: int
    redirect: Redirect | None = None

    @property
    def is_success(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300


def redirect_of(status: int, headers: Headers) -> Redirect | None:
    """Where an answer sends the update; None when it is no redirect that can be used.

    The location is `/account/container/object`, in bytes or percent-encoded.
    """
    if status != 301:
        return None
    location = dict.get(headers, LOCATION, "")
    try:
        timestamp = headers.timestamp(X_BACKEND_REDIRECT_TIMESTAMP)
        if headers.true(X_BACKEND_LOCATION_IS_QUOTED):
            location = unquote(location, errors="surrogateescape")
        elif not location.isascii():
            location = location.encode("latin-1").decode("utf-8", "surrogateescape")
    except (InvalidInput, UnicodeError):
        return None
    parts = location.split("/", 3)
    if timestamp is None or len(parts) < 3 or parts[0] or not parts[1] or not parts[2]:
        return None
    return Redirect(ContainerName(parts[1], parts[2]), timestamp)


@dataclass(frozen=True, slots=True)
class Settled:
    """What an update has become after its answers.

    delivered: every node has it, the file can go. redirected: it should be sent to
    `update.target` now. changed: the file says less than `update`.
    """

    update: Update
    delivered: bool = False
    redirected: bool = False
    changed: bool = False


def settle(update: Update, answers: Sequence[Answer]) -> Settled:
    """What the answers of all nodes that were asked make of an update.

    A redirect makes successes worthless, as they were another container's. One that
    leads to where the update has been starts over at the root: the shards have moved.
    """
    redirects = [answer.redirect for answer in answers if answer.redirect is not None]
    if redirects:
        newest = max(redirects, key=lambda redirect: redirect.timestamp)
        path = newest.target.path[1:]
        if path in update.history or len(update.history) >= _HISTORY_MAX:
            moved = replace(update, successes=frozenset(), shard=None, history=())
        else:
            moved = replace(
                update,
                successes=frozenset(),
                shard=newest.target,
                history=(*update.history, path),
            )
        return Settled(moved, redirected=True, changed=moved != update)
    if all(answer.is_success for answer in answers):
        return Settled(update, delivered=True)
    new = {answer.node_id for answer in answers if answer.is_success}
    if new <= update.successes:
        return Settled(update)
    return Settled(replace(update, successes=update.successes | new), changed=True)


# --- Not too many for one container ---------------------------------------------------


class ContainerPace(Generic[T]):
    """Holds updates back whose container has had its share of this moment.

    Containers fall into `buckets` by a salted hash, so that memory has a bound and two
    that fall together in one process do not in another. `per_second` is the rate of a
    bucket, 0 for no limit. Of what is held back, the newest `held_max` are kept.
    """

    def __init__(
        self, per_second: float, *, buckets: int, held_max: int, salt: HashSalt
    ) -> None:
        self._interval_s = 1.0 / per_second if per_second > 0 else 0.0
        self._ready_at = [0.0] * (buckets if self._interval_s else 0)
        self._held_max = held_max
        self._salt = salt
        self._held: OrderedDict[int, tuple[int, T]] = OrderedDict()
        self._queues: dict[int, deque[int]] = {}
        self._number = 0

    def __len__(self) -> int:
        """How many are held back."""
        return len(self._held)

    def admit(self, container: ContainerName, now: float) -> int | None:
        """None when an update may be sent at `now`; else the bucket to `hold` it in."""
        if not self._interval_s:
            return None
        digest = self._salt.digest_of(container)
        bucket = int.from_bytes(digest, "big") % len(self._ready_at)
        if now < self._ready_at[bucket]:
            return bucket
        self._ready_at[bucket] = now + self._interval_s
        return None

    def hold(self, bucket: int, item: T) -> int:
        """Keep an item for later; how many had to be given up for it, 0 or 1."""
        if not self._held_max:
            return 1
        dropped = 0
        if len(self._held) >= self._held_max:
            _, (oldest_bucket, _item) = self._held.popitem(last=False)
            # The oldest of all is the oldest of its bucket.
            self._queues[oldest_bucket].popleft()
            dropped = 1
        self._number += 1
        self._held[self._number] = (bucket, item)
        self._queues.setdefault(bucket, deque()).append(self._number)
        return dropped

    def next_at(self) -> float | None:
        """When the next of those held back may be sent; None when there is none."""
        return min(
            (self._ready_at[bucket] for bucket, queue in self._queues.items() if queue),
            default=None,
        )

    def release(self, now: float) -> list[T]:
        """Take out what may be sent at `now`: one a bucket, its newest."""
        found = []
        for bucket, queue in list(self._queues.items()):
            if not queue:
                del self._queues[bucket]
            elif now >= self._ready_at[bucket]:
                found.append(self._held.pop(queue.pop())[1])
                self._ready_at[bucket] = now + self._interval_s
        return found


# --- Who waits longest ----------------------------------------------------------------


class OldestPendings:
    """The oldest undelivered update of each container, of as many as the bound allows.

    When there are too many containers, those with the newest times are forgotten.
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._times: dict[ContainerName, Timestamp] = {}
        self._sorted: list[tuple[Timestamp, str, str]] = []

    def add(self, container: ContainerName, timestamp: Timestamp) -> None:
        """Note that an update of that time was not delivered."""
        known = self._times.get(container)
        if known is not None:
            if known <= timestamp:
                return
            entry = (known, container.account, container.container)
            del self._sorted[bisect.bisect_left(self._sorted, entry)]
        self._times[container] = timestamp
        entry = (timestamp, container.account, container.container)
        bisect.insort(self._sorted, entry)
        if len(self._sorted) > self._entries_max:
            _, account, name = self._sorted.pop()
            del self._times[ContainerName(account, name)]

    def report(self, now: float, dump_count: int) -> dict[str, Any]:
        """The facts for recon: `dump_count` containers at most are named."""
        entries = [
            {"timestamp": timestamp.normal, "account": account, "container": container}
            for timestamp, account, container in self._sorted[:dump_count]
        ]
        oldest = self._sorted[0][0].seconds if self._sorted else None
        return {
            OLDEST: oldest,
            OLDEST_AGE: None if oldest is None else now - oldest,
            CONTAINER_COUNT: len(self._sorted),
            OLDEST_ENTRIES: {"oldest_count": len(entries), "oldest_entries": entries},
            MEMORY: self._size_bytes(),
        }

    def _size_bytes(self) -> int:
        size = sys.getsizeof(self._times) + sys.getsizeof(self._sorted)
        return size + sum(
            sys.getsizeof(entry) + sys.getsizeof(entry[1]) + sys.getsizeof(entry[2])
            for entry in self._sorted
        )


OLDEST = "failures_oldest_timestamp"
OLDEST_AGE = "failures_oldest_timestamp_age"
CONTAINER_COUNT = "failures_account_container_count"
OLDEST_ENTRIES = "failures_oldest_timestamp_account_containers"
MEMORY = "tracker_memory_usage"


def combined_report(
    reports: Iterable[Mapping[str, Any]], *, workers: int, dump_count: int
) -> dict[str, Any]:
    """One report of the reports of all devices, which may be of any shape.

    A container may be named once for each device. Memory is that of the processes that
    run at a time.
    """
    good = [report for report in reports if isinstance(report, Mapping)]
    entries: list[Mapping[str, Any]] = []
    for report in good:
        named = report.get(OLDEST_ENTRIES)
        found = named.get("oldest_entries") if isinstance(named, Mapping) else None
        if isinstance(found, list):
            entries += [
                entry
                for entry in found
                if isinstance(entry, Mapping)
                and isinstance(entry.get("timestamp"), str)
            ]
    entries = heapq.nsmallest(dump_count, entries, key=lambda entry: entry["timestamp"])
    memory = _numbers(good, MEMORY)
    return {
        OLDEST: min(_numbers(good, OLDEST), default=None),
        OLDEST_AGE: max(_numbers(good, OLDEST_AGE), default=None),
        CONTAINER_COUNT: max(_numbers(good, CONTAINER_COUNT), default=0),
        OLDEST_ENTRIES: {"oldest_count": len(entries), "oldest_entries": entries},
        MEMORY: sum(memory) / len(memory) * workers if memory else 0,
    }


def _numbers(reports: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [
        report[key] for report in reports if isinstance(report.get(key), (int, float))
    ]
