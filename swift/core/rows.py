# SPDX-License-Identifier: Apache-2.0
"""Which of two rows stands: objects in a container, containers in an account.

A row reaches a replica late, twice and in any order, so merging must be commutative,
associative and idempotent; the tests hold it to that and name the ties where
compatibility bends the law. Nothing here knows SQLite.

Format: doc/source/formats/databases.md. Interop: golden rows merge alike
(test/interop/test_golden_db.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import md5
from typing import Any, NamedTuple

from swift.core.errors import FormatError
from swift.core.timestamp import Timestamp, decode_triple, encode_triple

DELETED_CONTENT_TYPE = "application/deleted"
DELETED_ETAG = "noetag"
ZERO_HASH = "0" * 32

_SWIFT_BYTES = "swift_bytes="
_PLAIN_TIME = re.compile(r"[0-9]{10}\.[0-9]{5}").fullmatch


class ObjectRow(NamedTuple):
    """What a container knows of one object; also the tuple of a pending file.

    created_at: a time, or the triple of data, content-type and metadata time (timestamp
    room). ctype_timestamp, meta_timestamp: times not yet encoded into `created_at`.
    """

    name: str
    created_at: str
    size: int
    content_type: str
    etag: str
    deleted: int = 0
    storage_policy_index: int = 0
    ctype_timestamp: str | None = None
    meta_timestamp: str | None = None

    @classmethod
    def tombstone(cls, name: str, created_at: str, policy_index: int) -> ObjectRow:
        """The row of a deleted object."""
        return cls(
            name, created_at, 0, DELETED_CONTENT_TYPE, DELETED_ETAG, 1, policy_index
        )

    @classmethod
    def from_pending(cls, fields: Any) -> ObjectRow:
        """Read a pending tuple of 6 to 9 fields; raises FormatError."""
        if not isinstance(fields, tuple) or not 6 <= len(fields) <= 9:
            raise FormatError("pending object row", f"is {fields!r:.80}")
        name, created_at, size, content_type, etag, deleted, *rest = fields
        rest += [None] * (3 - len(rest))
        return cls(
            _text(name),
            _row_time(created_at),
            _integer(size),
            _text(content_type),
            _text(etag),
            _integer(deleted),
            _integer(rest[0]),
            _time_or_none(rest[1]),
            _time_or_none(rest[2]),
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ObjectRow:
        """Read a row of an UPDATE or merge_items call; raises FormatError."""
        try:
            return cls(
                _text(record["name"]),
                _row_time(record["created_at"]),
                _integer(record["size"]),
                _text(record["content_type"]),
                _text(record["etag"]),
                _integer(record["deleted"]),
                _integer(record.get("storage_policy_index", 0)),
                _time_or_none(record.get("ctype_timestamp")),
                _time_or_none(record.get("meta_timestamp")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError("object row", f"lacks {error}") from error


class ContainerRow(NamedTuple):
    """What an account knows of one container; also the tuple of a pending file.

    None in a time or count keeps what is there. Counts come as text from headers and
    are turned into numbers by the column.
    """

    name: str
    put_timestamp: str | None
    delete_timestamp: str | None
    object_count: int | str | None
    bytes_used: int | str | None
    deleted: int = 0
    storage_policy_index: int | str | None = 0

    @classmethod
    def from_pending(cls, fields: Any) -> ContainerRow:
        """Read a pending tuple of 6 or 7 fields; raises FormatError."""
        if not isinstance(fields, tuple) or not 6 <= len(fields) <= 7:
            raise FormatError("pending container row", f"is {fields!r:.80}")
        name, put, delete, count, size, deleted, *policy = fields
        return cls(
            _text(name),
            _time_or_none(put),
            _time_or_none(delete),
            None if count is None else _integer(count),
            None if size is None else _integer(size),
            _integer(deleted),
            _integer(policy[0]) if policy and policy[0] is not None else 0,
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ContainerRow:
        """Read a row of a merge_items call; raises FormatError."""
        try:
            return cls.from_pending(
                (
                    record["name"],
                    record["put_timestamp"],
                    record["delete_timestamp"],
                    record["object_count"],
                    record["bytes_used"],
                    record.get("deleted", 0),
                    record.get("storage_policy_index", 0),
                )
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError("container row", f"lacks {error}") from error


def merged_object(old: ObjectRow | None, new: ObjectRow) -> ObjectRow | None:
    """The row to store when `new` meets `old`, or None when nothing of it is newer.

    The result's `created_at` is the encoded triple; its last two fields are None. Data
    (size, etag, deleted, swift_bytes), content type and metadata time are judged each
    by their own time; what is there wins a tie. Raises FormatError for times that are
    none.
    """
    if _is_plain(new):
        if old is None:
            return new
        if _is_plain(old):
            return new if new.created_at > old.created_at else None
    try:
        return _merged_times(old, new)
    except ValueError as error:
        raise FormatError("object row", f"time {new.created_at!r:.60}") from error


def _is_plain(row: ObjectRow) -> bool:
    """True for one time without offset, compared as text, for all that the row says."""
    return (
        row.ctype_timestamp is None
        and row.meta_timestamp is None
        and _PLAIN_TIME(row.created_at) is not None
    )


def _times(row: ObjectRow) -> tuple[Timestamp, Timestamp, Timestamp]:
    data, ctype, meta = decode_triple(row.created_at)
    if row.ctype_timestamp:
        ctype = meta = Timestamp.parse(row.ctype_timestamp)
    if row.meta_timestamp:
        meta = Timestamp.parse(row.meta_timestamp)
    return data, ctype, meta


def _merged_times(old: ObjectRow | None, new: ObjectRow) -> ObjectRow | None:
    data, ctype, meta = _times(new)
    if old is None:
        return new._replace(
            created_at=encode_triple(data, ctype, meta),
            ctype_timestamp=None,
            meta_timestamp=None,
        )
    old_data, old_ctype, old_meta = _times(old)
    if old_data >= data and old_ctype >= ctype and old_meta >= meta:
        return None
    if old_data >= data:
        data, of_data = old_data, old
    else:
        of_data = new
    if old_ctype >= ctype:
        ctype, of_ctype = old_ctype, old
    else:
        of_ctype = new
    meta = max(meta, old_meta)
    content_type, _ = split_swift_bytes(of_ctype.content_type)
    _, swift_bytes = split_swift_bytes(of_data.content_type)
    if swift_bytes is not None:
        content_type += f";{_SWIFT_BYTES}{swift_bytes}"
    return ObjectRow(
        new.name,
        encode_triple(data, ctype, meta),
        of_data.size,
        content_type,
        of_data.etag,
        of_data.deleted,
        new.storage_policy_index,
    )


def split_swift_bytes(content_type: str) -> tuple[str, str | None]:
    """A content type without its `swift_bytes` parameter, and that parameter's value.

    A large object's row carries its whole size there, beside the size of its manifest.
    """
    if _SWIFT_BYTES not in content_type:
        return content_type, None
    kept, value = [], None
    for part in content_type.split(";"):
        stripped = part.strip()
        if stripped.startswith(_SWIFT_BYTES):
            value = stripped[len(_SWIFT_BYTES) :].strip('"')
        else:
            kept.append(part)
    return ";".join(kept), value


def merged_container(old: ContainerRow | None, new: ContainerRow) -> ContainerRow:
    """The row to store when `new` meets `old`: newest times, but the last counts told.

    Accounts do not protect counts against an older report; the next report puts them
    right. A container is deleted when its delete is newer than its put and it is empty.
    """
    if old is not None:
        put = max(new.put_timestamp or "0", old.put_timestamp or "0")
        delete = max(new.delete_timestamp or "0", old.delete_timestamp or "0")
        count = old.object_count if new.object_count is None else new.object_count
        size = old.bytes_used if new.bytes_used is None else new.bytes_used
        policy = new.storage_policy_index
        if policy is None:
            policy = old.storage_policy_index
    else:
        put, delete = new.put_timestamp or "0", new.delete_timestamp or "0"
        count, size = new.object_count or 0, new.bytes_used or 0
        policy = new.storage_policy_index or 0
    deleted = int(delete > put and is_zero_like(count))
    return ContainerRow(new.name, put, delete, count, size, deleted, policy)


def is_zero_like(count: object) -> bool:
    """True for the forms in which a count says nothing: NULL, '', 0 and '0'."""
    return count in (None, "", 0, "0")


def chexor(old: str, name: str, text: str) -> str:
    """The hash of a set of rows after `name` with `text` is put in or taken out.

    Exclusive-or of MD5s, so that equal sets of rows have equal hashes in any order.
    """
    digest = md5(f"{name}-{text}".encode("utf-8", "surrogateescape")).digest()
    return f"{int(old, 16) ^ int.from_bytes(digest, 'big'):032x}"


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """What decides between the policies of two replicas of a container.

    Times in internal form, compared as text.
    """

    storage_policy_index: int
    put_timestamp: str
    delete_timestamp: str
    status_changed_at: str
    object_count: int | None = 0

    @property
    def is_deleted(self) -> bool:
        """True when the container is empty and its delete is the newer."""
        return (
            is_zero_like(self.object_count)
            and self.delete_timestamp > self.put_timestamp
        )

    @property
    def is_recreated(self) -> bool:
        """True when the container was deleted once and is back."""
        was_deleted = self.delete_timestamp.strip("0.") != ""
        return was_deleted and self.put_timestamp > self.delete_timestamp


def remote_policy_wins(local: PolicyFacts, remote: PolicyFacts) -> bool:
    """True when the local replica must take the remote's policy (databases 13)."""
    if local.storage_policy_index == remote.storage_policy_index:
        return False
    if local.is_deleted or remote.is_deleted:
        if not (local.is_deleted and remote.is_deleted):
            return local.is_deleted
        return remote.status_changed_at > local.status_changed_at
    if local.is_recreated or remote.is_recreated:
        if not (local.is_recreated and remote.is_recreated):
            return remote.is_recreated
        newest_delete = max(local.delete_timestamp, remote.delete_timestamp)
        local_stale = local.put_timestamp < newest_delete
        remote_stale = remote.put_timestamp < newest_delete
        if local_stale != remote_stale:
            return local_stale
    return remote.status_changed_at < local.status_changed_at


def _text(value: Any) -> str:
    """Text, from old writers also as UTF-8 bytes; raises FormatError."""
    if type(value) is str:
        return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError("row", "text is not UTF-8") from error
    raise FormatError("row", f"{value!r:.40} is no text")


def _row_time(value: Any) -> str:
    """An object row's time or triple of times; raises FormatError.

    Checked on the way in: one row without a time would break every listing.
    """
    text = _text(value)
    if _PLAIN_TIME(text) is None:
        try:
            decode_triple(text)
        except ValueError as error:
            raise FormatError("row", f"{text!r:.60} is no time") from error
    return text


def _time_or_none(value: Any) -> str | None:
    if value is None:
        return None
    text = _text(value)
    if _PLAIN_TIME(text) is None:
        try:
            Timestamp.parse(text)
        except ValueError as error:
            raise FormatError("row", f"{text!r:.60} is no time") from error
    return text


def _integer(value: Any) -> int:
    if type(value) is int:
        return value
    if value is None:
        return 0
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise FormatError("row", f"{value!r:.40} is no number") from error
