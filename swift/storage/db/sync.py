# SPDX-License-Identifier: Apache-2.0
"""Database replication at a database: one function a call of the REPLICATE RPC.

A peer tells what its copy knows; this side takes what is better, and says where it
stands. Rows then come in batches (merge_items), or the peer copies its whole file into
the device's tmp directory and has it put in place (complete_rsync) or merged with what
is here first (rsync_then_merge).

Rules: backend-http contract 9, databases contract 7 and 13.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from swift.core.db_sync import (
    METADATA_MAX,
    PeerAnswer,
    checked_rowid,
    checked_text,
    checked_time,
    policy_facts,
)
from swift.core.errors import (
    Conflict,
    DatabaseExists,
    DatabaseMissing,
    FormatError,
    InvalidInput,
)
from swift.core.names import is_safe_segment
from swift.core.rows import ContainerRow, ObjectRow, PolicyFacts
from swift.core.shards import ShardRange
from swift.storage.db.account import AccountBroker
from swift.storage.db.broker import reidentify
from swift.storage.db.connection import device_of, epoch_of
from swift.storage.db.container import ContainerBroker
from swift.storage.db.metadata import Metadata, parse_metadata

_TMP = "tmp"

AnyBroker = AccountBroker | ContainerBroker

COPY_BATCH = 1000
"""Rows merged in one transaction when a copied file takes in what is here."""


@dataclass(frozen=True, slots=True)
class RemoteInfo:
    """What a sync call says of the caller's copy; times in internal form."""

    max_row: int
    hash: str
    id: str
    created_at: str
    put_timestamp: str
    delete_timestamp: str
    metadata: str
    policy: PolicyFacts | None = None

    @classmethod
    def from_arguments(cls, arguments: Sequence[Any]) -> RemoteInfo:
        """Read the arguments of a sync call; raises InvalidInput."""
        if len(arguments) < 7:
            raise InvalidInput("sync takes at least seven arguments")
        max_row, digest, database_id, created_at, put, delete, metadata = arguments[:7]
        policy = None
        try:
            put, delete = checked_time(put), checked_time(delete)
            if len(arguments) >= 10:
                policy = policy_facts(put, delete, *arguments[7:10])
            return cls(
                checked_rowid(max_row),
                checked_text(digest, "hash"),
                checked_text(database_id, "id"),
                checked_time(created_at),
                put,
                delete,
                checked_text(metadata, "metadata", METADATA_MAX),
                policy,
            )
        except FormatError as error:
            raise InvalidInput(f"sync arguments: {error}") from error


def receive_sync(broker: AnyBroker, remote: RemoteInfo) -> dict[str, Any]:
    """Take what is better of the caller's facts; this copy's info with its `point`.

    The info is of before the caller's metadata and times were merged: the caller merges
    ours in turn.
    """
    info = broker.replication_info()
    if (
        isinstance(broker, ContainerBroker)
        and remote.policy is not None
        and broker.adopt_policy(remote.policy, _policy_of(info))
    ):
        info = broker.replication_info()
    if remote.metadata:
        try:
            broker.update_metadata(received_metadata(remote.metadata))
        except FormatError as error:
            raise InvalidInput("sync metadata does not parse") from error
    times = (remote.created_at, remote.put_timestamp, remote.delete_timestamp)
    names = ("created_at", "put_timestamp", "delete_timestamp")
    if any(info[name] != time for name, time in zip(names, times, strict=True)):
        broker.merge_timestamps(*times)
    point = broker.sync_point(remote.id)
    if info["hash"] == remote.hash and point < remote.max_row:
        broker.merge_syncs([(remote.id, remote.max_row)])
        point = remote.max_row
    return {**info, "point": point}


def _policy_of(info: Mapping[str, Any]) -> PolicyFacts:
    """What of a container's info decides between the policies of two replicas."""
    return PolicyFacts(
        info["storage_policy_index"],
        info["put_timestamp"],
        info["delete_timestamp"],
        info["status_changed_at"],
        info["count"],
    )


def received_metadata(text: str) -> Metadata:
    """A peer's metadata column; raises FormatError.

    Its times are checked: one that is none would be newer than every other for ever.
    """
    metadata = parse_metadata(text)
    for _, timestamp in metadata.values():
        checked_time(timestamp)
    return metadata


def merge_answer(broker: AnyBroker, answer: PeerAnswer) -> None:
    """Take what is better of a peer's answer to our sync call; raises FormatError.

    A container's policy and times too: both sides so settle a conflict alike.
    """
    if isinstance(broker, ContainerBroker):
        stat = broker.stat()
        if answer.policy is not None:
            broker.adopt_policy(answer.policy, stat.policy_facts)
        if answer.times != (
            stat.created_at,
            stat.put_timestamp,
            stat.delete_timestamp,
        ):
            broker.merge_timestamps(*answer.times)
    if answer.metadata:
        broker.update_metadata(received_metadata(answer.metadata))


def merge_items(
    broker: AnyBroker, records: Sequence[Mapping[str, Any]], source: str | None
) -> None:
    """Merge a batch of rows from another copy; raises InvalidInput."""
    try:
        if source is not None:
            checked_text(source, "id")
        rowids = [
            checked_rowid(record["ROWID"]) for record in records if "ROWID" in record
        ]
        if isinstance(broker, ContainerBroker):
            objects = [ObjectRow.from_record(record) for record in records]
            broker.merge_rows(objects, source, rowids[-1] if rowids else -1)
        else:
            containers = [ContainerRow.from_record(record) for record in records]
            broker.merge_rows(containers, source, max(rowids, default=-1))
    except (FormatError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"bad rows: {error}") from error


def merge_syncs(broker: AnyBroker, records: Sequence[Mapping[str, Any]]) -> None:
    """Take another copy's incoming sync points; raises InvalidInput."""
    try:
        points = [
            (
                checked_text(record["remote_id"], "id"),
                checked_rowid(record["sync_point"]),
            )
            for record in records
        ]
    except (FormatError, LookupError, TypeError, ValueError) as error:
        raise InvalidInput("bad sync points") from error
    broker.merge_syncs(points)


def merge_shard_ranges(
    broker: ContainerBroker, records: Sequence[Mapping[str, Any]]
) -> None:
    """Merge shard ranges from another copy; raises InvalidInput."""
    try:
        ranges = [ShardRange.from_record(record) for record in records]
        broker.merge_shard_ranges(ranges)
    except (FormatError, TypeError, OverflowError) as error:
        raise InvalidInput(f"bad shard ranges: {error}") from error


def complete_rsync(broker: AnyBroker, tmp_name: str, file_name: str | None) -> None:
    """Put a copied file in place of a database that is not here.

    tmp_name: of the file in the device's tmp directory, which is the sender's id.
    file_name: of the file to make, by default `<hash>.db`. Raises DatabaseExists or
    DatabaseMissing, both 404 to the sender.
    """
    source, target = _copy_paths(broker, tmp_name, file_name)
    if broker.databases.is_file(target):
        raise DatabaseExists(f"{target} exists")
    broker.databases.adopt(source)
    copy = broker.of_file(source)
    _give_own_id(copy, target, tmp_name, copy.last_row())
    broker.databases.move_into_place(source, target, replace=False)


def rsync_then_merge(broker: AnyBroker, tmp_name: str, file_name: str | None) -> None:
    """Merge what is here into a copied file, and put that in place.

    The local database is locked for writing while the last of it is copied, so that no
    row is lost. Raises DatabaseMissing (no local database, no copy) and Conflict
    (sharding has begun), all 404 to the sender.
    """
    source, target = _copy_paths(broker, tmp_name, file_name)
    files = broker.databases.files(broker.path)
    if not broker.databases.is_file(source):
        raise DatabaseMissing(f"{source}: no copy")
    if len(files.paths) > 1 or files.fresh != target:
        raise Conflict(f"{broker.path}: sharding has begun")
    if isinstance(broker, ContainerBroker) and epoch_of(target) is None:
        own = broker.own_shard_range()
        if own is not None and own.epoch is not None:
            raise Conflict(f"{broker.path}: sharding has begun")
    broker.commit_pending()
    broker.databases.adopt(source)
    copy = broker.of_file(source)
    # Taken before our rows are added: the sender would think rows of its own that have
    # the ROWIDs of ours to be here already.
    point = copy.last_row()
    last = _merge_rows_since(copy, broker, -1)
    with broker.writing():
        _merge_rows_since(copy, broker, last)
        merge_syncs(copy, broker.syncs())
        if isinstance(broker, ContainerBroker) and isinstance(copy, ContainerBroker):
            copy.merge_shard_ranges(broker.shard_ranges())
        copy.update_metadata(broker.metadata())
        _give_own_id(copy, target, tmp_name, point)
        broker.databases.move_into_place(source, target, replace=True)


def _merge_rows_since(copy: AnyBroker, broker: AnyBroker, start: int) -> int:
    """Merge the rows of `broker` after ROWID `start` into `copy`; the last ROWID."""
    while True:
        records = broker.rows_since(start, COPY_BATCH)
        if not records:
            return start
        merge_items(copy, records, None)
        start = records[-1]["ROWID"]


def _copy_paths(
    broker: AnyBroker, tmp_name: str, file_name: str | None
) -> tuple[str, str]:
    """(the copy in tmp, the file to make); raises InvalidInput for unsafe names."""
    directory, _, base = broker.path.rpartition("/")
    file_name = file_name or base
    stem = base.partition(".db")[0]
    if not is_safe_segment(tmp_name) or not is_safe_segment(file_name):
        raise InvalidInput("bad file name")
    if file_name != base and not (
        file_name.startswith(f"{stem}_") and file_name.endswith(".db")
    ):
        raise InvalidInput(f"{file_name} is not of this database")
    device = directory.rsplit("/", 4)[0]
    return f"{device}/{_TMP}/{tmp_name}", f"{directory}/{file_name}"


def _give_own_id(copy: AnyBroker, target: str, remote_id: str, point: int) -> None:
    with copy.writing() as connection:
        reidentify(
            connection,
            stat_table=copy.stat_table,
            new_id=f"{uuid4()}-{device_of(target)}",
            remote_id=remote_id,
            remote_point=point,
        )
        if isinstance(copy, ContainerBroker):
            copy.forget_reports(connection)
