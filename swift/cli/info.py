# SPDX-License-Identifier: Apache-2.0
"""swift-object-info, swift-account-info, swift-container-info: one file explained.

Each reads a file of a storage node and shows what it says, and where the ring would
have it. Contract cli §4.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import md5
from pathlib import Path
from urllib.parse import unquote_plus

from swift.cli.ring_files import read_ring_file
from swift.cli.ring_tools import Location, location_lines
from swift.core import headers as h
from swift.core import metadata as records
from swift.core.errors import InvalidInput, LockTimeout, SwiftError
from swift.core.headers import Headers
from swift.core.names import Name, name_of, split_name
from swift.core.policy import StoragePolicy
from swift.core.shards import STATE_NAMES, ShardRange
from swift.core.timestamp import Timestamp, TimestampError
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import DEFAULT_SWIFT_DIR
from swift.storage.db.account import AccountBroker, AccountStat
from swift.storage.db.connection import Databases
from swift.storage.db.container import ContainerBroker, ContainerStat
from swift.storage.fs import FileSystem

EXIT_STALE = 2
LOCK_WAIT_S = 1.0

_PIECES_MAX = 64
_BLOCK = 1 << 20
_NOTHING = "No metadata found"
_SQLITE_MARK = b"SQLite format 3\0"


# The doors of the three commands come first, what they share after them.


def object_info(argv: Sequence[str] | None = None) -> int:
    """Run swift-object-info; the exit code."""
    parser = _parser("swift-object-info", "FILE", "a .data, .meta or .ts file")
    parser.add_argument(
        "-n", "--no-check-etag", action="store_true", help="do not read the body"
    )
    parser.add_argument("-P", "--policy-name", help="the policy that you expect")
    options = parser.parse_args(argv)
    if len(options.words) != 1:
        parser.print_help()
        return 0
    return _printed(_object_lines, options)


def account_info(argv: Sequence[str] | None = None) -> int:
    """Run swift-account-info; the exit code."""
    return _database_info("account", argv)


def container_info(argv: Sequence[str] | None = None) -> int:
    """Run swift-container-info; the exit code."""
    return _database_info("container", argv)


def _parser(program: str, what: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"%(prog)s [options] {what}",
        description=f"Show what {description} says, and where the ring would have it.",
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("-d", "--swift-dir", default=DEFAULT_SWIFT_DIR)
    parser.add_argument(
        "--drop-prefixes", action="store_true", help="metadata without X-…-Meta-"
    )
    return parser


def _database_info(kind: str, argv: Sequence[str] | None) -> int:
    parser = _parser(f"swift-{kind}-info", "DB_FILE", f"the database of a {kind}")
    parser.add_argument(
        "-s", "--sync", action="store_true", help="show sync points of replicas"
    )
    if kind == "container":
        parser.add_argument(
            "-v", "--verbose", action="store_true", help="show every shard range"
        )
    options = parser.parse_args(argv)
    if len(options.words) != 1:
        parser.print_help()
        return 0
    return _printed(
        _container_lines if kind == "container" else _account_lines, options
    )


def _printed(
    show: Callable[[argparse.Namespace], Iterator[str]], options: argparse.Namespace
) -> int:
    """Print the lines that `show` gives; the exit code.

    A LockTimeout that is the value of the generator's end marks what was shown as
    possibly stale.
    """
    options.is_stale = False
    try:
        for line in show(options):
            # Names are UTF-8 with surrogates for bytes that are not.
            print(line.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    except (SwiftError, OSError) as error:
        print(error)
        return 1
    return EXIT_STALE if options.is_stale else 0


# --- Objects --------------------------------------------------------------------------


def _object_lines(options: argparse.Namespace) -> Iterator[str]:
    path = os.path.abspath(options.words[0])
    fs = FileSystem()
    try:
        fd = fs.open_read(path)
    except OSError as error:
        raise InvalidInput(f"Error opening {path}: {error.strerror}") from error
    try:
        record = stored_record(fs, fd)
        if record is None:
            raise InvalidInput(f"{path} holds no metadata of an object")
        cluster = _cluster_of(options.swift_dir)
        policy_index = policy_index_in(path)
        yield from _policy_warnings(options.policy_name, policy_index, cluster)
        stored_name = record.pop(records.NAME, "")
        yield from _name_lines(stored_name, cluster)
        yield f"Content-Type: {record.pop(h.CONTENT_TYPE, 'Not found in metadata')}"
        yield f"Timestamp: {_moment(record.pop(h.X_TIMESTAMP, ''))}"
        etag = record.pop(h.ETAG, None)
        length = record.pop(h.CONTENT_LENGTH, None)
        yield from _metadata_lines(record, drop_prefixes=options.drop_prefixes)
        yield from _crypto_lines(record)
        yield _etag_line(fs, fd, etag, check=not options.no_check_etag)
        size_bytes = os.fstat(fd).st_size
        if length is None:
            yield "Content-Length: Not found in metadata"
        elif length == str(size_bytes):
            yield f"Content-Length: {length} (valid)"
        else:
            yield f"Content-Length: {length} doesn't match file length of {size_bytes}"
    finally:
        fs.close(fd)
    if cluster is not None and stored_name:
        stem = f"object-{policy_index}" if policy_index else "object"
        yield from _ring_lines(cluster, split_name(stored_name), stem, policy_index)


def stored_record(fs: FileSystem, fd: int) -> Headers | None:
    """The metadata of an object file, also when its checksum differs; else None.

    Raises FormatError for what is no record.
    """
    pieces = []
    for number in range(_PIECES_MAX):
        piece = fs.get_xattr(fd, f"{records.XATTR}{number or ''}")
        if piece is None:
            break
        pieces.append(piece)
    return records.decode(b"".join(pieces)) if pieces else None


def policy_index_in(path: str) -> int:
    """The policy of a file, by the directory `objects[-N]` above it; 0 without one."""
    for word in reversed(path.split("/")):
        base, _, index = word.partition("-")
        if base == "objects" and (not index or index.isdecimal()):
            return int(index or 0)
    return 0


def _policy_warnings(
    name: str | None, index: int, cluster: Cluster | None
) -> Iterator[str]:
    if not name or cluster is None:
        return
    wanted = cluster.policies.by_name(name)
    if wanted is not None and wanted.index != index:
        yield f"WARNING: The path is of policy {index}, not of {name!r}."
        yield f"WARNING: Policy {index} is used."


def _name_lines(stored: str, cluster: Cluster | None) -> Iterator[str]:
    if not stored:
        yield "Path: Not found in metadata"
        return
    yield f"Path: {stored}"
    account, container, obj = [*stored[1:].split("/", 2), "", ""][:3]
    yield f"  Account: {account}"
    yield f"  Container: {container}"
    yield f"  Object: {obj}"
    if cluster is not None:
        digest = cluster.salt.digest(account, container, obj)
        yield f"  Object hash: {digest.hex()}"


def _metadata_lines(record: Headers, *, drop_prefixes: bool) -> Iterator[str]:
    titles = {
        h.OBJECT_SYSMETA: "System Metadata:",
        h.OBJECT_TRANSIENT_SYSMETA: "Transient System Metadata:",
        h.OBJECT_META: "User Metadata:",
        "": "Other Metadata:",
    }
    groups: dict[str, dict[str, str]] = {prefix: {} for prefix in titles}
    for name, value in record.items():
        prefix = next(prefix for prefix in titles if name.startswith(prefix))
        shown = name.removeprefix(prefix) if drop_prefixes else name
        groups[prefix][shown] = value
    for prefix, heading in titles.items():
        yield heading
        for name, value in sorted(groups[prefix].items()):
            yield f"  {name}: {value}"
        if not groups[prefix]:
            yield f"  {_NOTHING}"


def _crypto_lines(record: Headers) -> Iterator[str]:
    for name, label in (
        (h.OBJECT_SYSMETA + "Crypto-Body-Meta", "Data"),
        (h.OBJECT_TRANSIENT_SYSMETA + "Crypto-Meta", "Metadata"),
    ):
        if name in record:
            try:
                details = json.loads(unquote_plus(record[name]))
            except ValueError:
                continue
            text = json.dumps(details, indent=2, sort_keys=True)
            yield f"{label} crypto details: {text}"


def _etag_line(fs: FileSystem, fd: int, etag: str | None, *, check: bool) -> str:
    if etag is None:
        return "ETag: Not found in metadata"
    if not check:
        return f"ETag: {etag} (not checked)"
    digest = md5(usedforsecurity=False)
    offset = 0
    while block := fs.read(fd, _BLOCK, offset):
        digest.update(block)
        offset += len(block)
    if digest.hexdigest() == etag:
        return f"ETag: {etag} (valid)"
    return f"ETag: {etag} doesn't match file hash of {digest.hexdigest()}!"


# --- Databases ------------------------------------------------------------------------


def _account_lines(options: argparse.Namespace) -> Iterator[str]:
    path = _database_path(options.words[0])
    databases = Databases(green.now, report=print)
    try:
        _check_kind(databases, os.path.abspath(options.words[0]), "account")
        broker = AccountBroker(databases, path)
        yield from _merge_pending(broker, options)
        stat = broker.stat(stale_ok=True)
        cluster = _cluster_of(options.swift_dir)
        yield f"Path: /{stat.account}"
        yield f"  Account: {stat.account}"
        yield f"  Deleted: {stat.is_deleted}"
        if cluster is not None:
            yield f"  Account Hash: {cluster.salt.digest(stat.account).hex()}"
        yield "Metadata:"
        yield from _time_lines(stat)
        yield f"  Container Count: {stat.container_count}"
        yield f"  Object Count: {stat.object_count}"
        yield f"  Bytes Used: {stat.bytes_used}"
        yield f"  Chexor: {stat.hash}"
        yield f"  UUID: {stat.id}"
        metadata = _values(stat.metadata)
        yield from _db_metadata_lines("account", metadata, options.drop_prefixes)
        if options.sync:
            yield from _sync_lines(databases, path)
    finally:
        databases.close()
    if cluster is not None:
        yield from _ring_lines(cluster, name_of(stat.account), "account", None)


def _container_lines(options: argparse.Namespace) -> Iterator[str]:
    path = _database_path(options.words[0])
    databases = Databases(green.now, report=print)
    try:
        _check_kind(databases, os.path.abspath(options.words[0]), "container")
        broker = ContainerBroker(databases, path)
        yield from _merge_pending(broker, options)
        stat = broker.stat(stale_ok=True)
        cluster = _cluster_of(options.swift_dir)
        yield from _container_facts(stat, cluster)
        metadata = _values(stat.metadata)
        yield from _db_metadata_lines("container", metadata, options.drop_prefixes)
        yield "Sharding Metadata:"
        yield f"  Type: {'root' if broker.is_root() else 'shard'}"
        yield f"  State: {stat.db_state}"
        own = stat.own_path
        ranges = [row for row in broker.shard_ranges() if row.name != own]
        yield from _shard_lines(
            [row for row in ranges if not row.deleted], verbose=options.verbose
        )
        if options.sync:
            yield from _sync_lines(databases, databases.files(path).fresh)
    finally:
        databases.close()
    if cluster is not None:
        name = name_of(stat.account, stat.container)
        yield from _ring_lines(cluster, name, "container", None)


def _database_path(given: str) -> str:
    """The path by which a broker knows the files beside the given one."""
    path = os.path.abspath(given)
    if not os.path.isfile(path):
        raise InvalidInput(f"{given} does not exist")
    if not path.endswith(".db"):
        raise InvalidInput(f"{given} is no .db file")
    folder, name = os.path.split(path)
    return f"{folder}/{name[:-3].partition('_')[0]}.db"


def _check_kind(databases: Databases, path: str, kind: str) -> None:
    """Raise InvalidInput unless the file is a database of that kind.

    Looked at before a broker is made: a broker moves aside what it cannot use, and a
    command that shows things must not do that to a file of another kind.
    """
    with Path(path).open("rb") as stream:
        mark = stream.read(len(_SQLITE_MARK))
    if mark != _SQLITE_MARK:
        raise InvalidInput(f"{path} is no database")
    with databases.use(path) as connection:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master")
        }
    if not tables & {f"{kind}_stat", f"{kind}_info"}:
        raise InvalidInput(f"{path} is no database of a {kind}")


def _merge_pending(
    broker: AccountBroker | ContainerBroker, options: argparse.Namespace
) -> Iterator[str]:
    try:
        broker.commit_pending(LOCK_WAIT_S)
    except LockTimeout:
        options.is_stale = True
        yield "WARNING: the database is locked; what follows may be stale"


def _time_lines(stat: AccountStat | ContainerStat) -> Iterator[str]:
    yield f"  Created at: {_moment(stat.created_at)}"
    yield f"  Put Timestamp: {_moment(stat.put_timestamp)}"
    yield f"  Delete Timestamp: {_moment(stat.delete_timestamp)}"
    yield f"  Status Timestamp: {_moment(stat.status_changed_at)}"


def _container_facts(stat: ContainerStat, cluster: Cluster | None) -> Iterator[str]:
    yield f"Path: /{stat.own_path}"
    yield f"  Account: {stat.account}"
    yield f"  Container: {stat.container}"
    yield f"  Deleted: {stat.is_deleted}"
    policy: StoragePolicy | None = None
    if cluster is not None:
        policy = cluster.policies.by_index(stat.storage_policy_index)
        digest = cluster.salt.digest(stat.account, stat.container)
        yield f"  Container Hash: {digest.hex()}"
    yield "Metadata:"
    yield from _time_lines(stat)
    yield f"  Object Count: {stat.object_count}"
    yield f"  Bytes Used: {stat.bytes_used}"
    name = policy.name if policy is not None else "Unknown"
    yield f"  Storage Policy: {name} ({stat.storage_policy_index})"
    yield f"  Reported Put Timestamp: {_moment(stat.reported_put_timestamp)}"
    yield f"  Reported Delete Timestamp: {_moment(stat.reported_delete_timestamp)}"
    yield f"  Reported Object Count: {stat.reported_object_count}"
    yield f"  Reported Bytes Used: {stat.reported_bytes_used}"
    yield f"  Chexor: {stat.hash}"
    yield f"  UUID: {stat.id}"
    for number, point in enumerate(
        (stat.x_container_sync_point1, stat.x_container_sync_point2), 1
    ):
        yield f"  {h.X_CONTAINER_SYNC_POINT}{number}: {point}"


def _values(metadata: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Name → value of what is set."""
    return {name: value for name, (value, _at) in metadata.items() if value}


def _db_metadata_lines(
    kind: str, metadata: Mapping[str, str], drop_prefixes: bool
) -> Iterator[str]:
    system, user = h.SYSMETA[kind], h.META[kind]
    groups: dict[str, dict[str, str]] = {"": {}, system: {}, user: {}}
    for name, value in metadata.items():
        title = h.title(name)
        prefix = next((p for p in (system, user) if title.startswith(p)), "")
        shown = title.removeprefix(prefix) if drop_prefixes else title
        groups[prefix][shown] = value
    for name, value in sorted(groups[""].items()):
        yield f"  {name}: {value}"
    for prefix, label in ((system, "System"), (user, "User")):
        if not groups[prefix]:
            yield f"No {label.lower()} metadata found in db file"
            continue
        yield f"  {label} Metadata:"
        for name, value in sorted(groups[prefix].items()):
            yield f"    {name}: {value}"


def _shard_lines(ranges: Sequence[ShardRange], *, verbose: bool) -> Iterator[str]:
    if not ranges:
        return
    yield f"Shard Ranges ({len(ranges)}):"
    yield "  States:"
    counts = Counter(row.state for row in ranges)
    for state, count in sorted(counts.items()):
        yield f"    {STATE_NAMES[state]:>9}: {count}"
    if not verbose:
        yield "(Use -v/--verbose to show more Shard Ranges details)"
        return
    for row in ranges:
        yield f"  Name: {row.name}"
        yield f"    lower: {row.lower!r}, upper: {row.upper!r}"
        yield (
            f"    Object Count: {row.object_count}, Bytes Used: {row.bytes_used}, "
            f"State: {STATE_NAMES[row.state]} ({row.state})"
        )
        yield f"    Created at: {_moment(row.timestamp)}"
        yield f"    Meta Timestamp: {_moment(row.meta_timestamp)}"


def _sync_lines(databases: Databases, path: str) -> Iterator[str]:
    for label, query in (
        ("Incoming", "SELECT sync_point, remote_id, updated_at FROM incoming_sync"),
        ("Outgoing", "SELECT sync_point, remote_id, updated_at FROM outgoing_sync"),
    ):
        with databases.use(path) as connection:
            rows = list(connection.execute(query))
        yield f"{label} Syncs:"
        yield from _table(
            ("Sync Point", "Remote ID", "Updated At"),
            [(str(point), str(rid), _moment(str(at))) for point, rid, at in rows],
        )


def _table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Columns as wide as their widest cell, parted by tabs; the last one ragged."""
    lines = [heading, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    widths[-1] = 0
    for line in lines:
        yield "  " + "\t".join(
            f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)
        )


# --- Shared ---------------------------------------------------------------------------


def _moment(text: str) -> str:
    """A stored time for people, and as it is stored."""
    try:
        shown = Timestamp.parse(text or "0").iso
    except TimestampError:
        return f"unreadable ({text})"
    return f"{shown} ({text or 0})"


def _cluster_of(swift_dir: str) -> Cluster | None:
    """The cluster that the file belongs to, None (and a note) without swift.conf."""
    try:
        return Cluster.load(swift_dir)
    except SwiftError as error:
        print(f"hash and nodes cannot be shown: {error}", file=sys.stderr)
        return None


def _ring_lines(
    cluster: Cluster, name: Name, stem: str, policy_index: int | None
) -> Iterator[str]:
    """The part that swift-get-nodes shows as well; nothing without the ring."""
    kind = stem.partition("-")[0]
    try:
        ring = read_ring_file(Path(cluster.swift_dir) / f"{stem}.ring.gz")
    except (OSError, SwiftError):
        return
    digest = cluster.salt.digest_of(name)
    data_dir = f"{kind}s-{policy_index}" if policy_index else f"{kind}s"
    yield ""
    yield from location_lines(
        Location(
            ring=ring,
            partition=ring.partition(digest),
            path=name.path,
            digest=digest.hex(),
            data_dir=data_dir,
            policy_index=policy_index,
            all_handoffs=False,
        )
    )
