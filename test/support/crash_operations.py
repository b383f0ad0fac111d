# SPDX-License-Identifier: Apache-2.0
"""The operations whose every step a process may die before: `python -m` this, a name.

Prints a JSON object: name → [number of changes, problems]. `mortal.c` must be
preloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path
from random import Random

from swift.cli import ring_files
from swift.core import pickles
from swift.core.erasure import ErasureCoding
from swift.core.errors import (
    DatabaseCorrupt,
    DatabaseExists,
    NotFound,
    ObjectQuarantined,
)
from swift.core.headers import Headers
from swift.core.listing import ListingQuery
from swift.core.names import AccountName, ContainerName
from swift.core.pendings import Update
from swift.core.policy import StoragePolicies
from swift.core.ring.builder import RingBuilder
from swift.core.rows import ContainerRow, ObjectRow
from swift.runtime import green, recon
from swift.runtime.logs import NULL_LOG
from swift.storage.db.account import AccountBroker
from swift.storage.db.connection import Databases, db_path
from swift.storage.db.container import ContainerBroker
from swift.storage.db.sync import complete_rsync, rsync_then_merge
from swift.storage.object.pending_files import PendingTree
from test.support.cluster import ROOT
from test.support.deaths import Operation, deaths_of

sys.path.insert(0, str(ROOT / "test" / "unit" / "storage"))
from object_store import NAME, NOW, PARTITION, Store, at

SMALL, LARGE = b"new body", b"n" * 600_000
HASH = "ab" * 16


class Inline:
    """Runs what is for other threads in this one, so that steps have one order."""

    def call(self, function, args, kwargs):
        return function(*args, **kwargs)


# --- Objects --------------------------------------------------------------------------


def an_object(root):
    """An object, its suffix hashed, and then its metadata changed."""
    store = Store(root)
    store.put(b"old body", at(1))
    store.manager.suffix_hashes("sda1", PARTITION, list_directory=True)
    store.file().post(Headers({"X-Object-Meta-Old": "1"}), at(1.5))


def object_state(root):
    """What a reader gets; digests that are remembered must be those of the files."""
    store = Store(root)
    remembered = store.manager.suffix_hashes("sda1", PARTITION)
    fresh = store.manager.suffix_hashes("sda1", PARTITION, list(remembered))
    assert remembered == fresh, "a stale digest is believed"
    try:
        with store.file().open(NOW) as opened:
            body = b"".join(opened.reader())
            return body[:20], len(body), dict(opened.metadata), fresh
    except NotFound as error:
        return type(error).__name__, fresh


def fragments(root, when, *, index):
    """A PUT of one fragment in two phases."""
    file = Store(root, redundancy=coding()).file()
    headers = Headers({"X-Object-Sysmeta-Ec-Frag-Index": str(index)})
    with file.writer(None) as writer:
        writer.write(archive(when, index))
        writer.commit(headers, at(when), fragment_index=index)
        file.make_durable(at(when), index)


def coding():
    return ErasureCoding("isa_l_rs_vand", 4, 2, segment_size=65536)


def archive(seed, index):
    encoder = coding().encoder(6)
    first = encoder.feed(Random(seed).randbytes(100_000))
    return first[index] + encoder.finish()[index]


def fragment_state(root):
    store = Store(root, redundancy=coding())
    with store.file().open(NOW) as opened:
        return opened.metadata["X-Timestamp"], len(b"".join(opened.reader()))


def a_damaged_object(root):
    an_object(root)
    (data,) = Store(root).path().glob("*.data")
    os.truncate(data, 3)


def meet_damage(root):
    with suppress(ObjectQuarantined, NotFound), Store(root).file().open(NOW):
        pass


def data_files(root):
    """Where the bytes are, in one place or the other."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.data"))


# --- Updates that wait ----------------------------------------------------------------

UPDATE = Headers({"X-Timestamp": at(1).internal, "X-Size": "5"})


def keep_update(root):
    Store(root).manager.pending.save("sda1", "PUT", NAME, UPDATE)


def rewrite_update(root):
    device = root / "sda1"
    store = Store(root)
    tree = PendingTree(str(device), StoragePolicies([store.policy]), NULL_LOG)
    for file in tree.walk(Random(1)):
        tree.rewrite(file, Update("PUT", NAME, UPDATE, successes=frozenset((1, 2))))


def updates(root):
    kept = (root / "sda1" / "async_pending").rglob("*-*")
    return sorted(repr(pickles.loads(path.read_bytes())) for path in kept)


# --- Databases ------------------------------------------------------------------------


def container(databases, root, device="sda1"):
    path = db_path(str(root), device, "containers", 7, HASH)
    return ContainerBroker(databases, path, ContainerName("a", "c"))


def account(databases, root):
    path = db_path(str(root), "sda1", "accounts", 7, HASH)
    return AccountBroker(databases, path, AccountName("a"))


def on(make, act):
    """`act` with a broker, whose connections are closed afterwards."""

    def run(root):
        with closing(Databases(lambda: NOW)) as databases:
            return act(make(databases, root))

    return run


def row(name, second, deleted=0):
    size = 0 if deleted else 7
    return ObjectRow(name, at(second).internal, size, "a/b", "e" * 32, deleted)


def make_container(broker):
    with suppress(DatabaseExists):
        broker.create(at(0), 0)


def some_rows(broker):
    make_container(broker)
    broker.merge_rows([row(f"o{number}", number) for number in range(5)])
    broker.merge_rows([row("o0", 6, deleted=1)])
    broker.update_metadata({"X-Container-Meta-A": ("old", at(1).internal)})


def waiting_rows(broker):
    some_rows(broker)
    for number in range(3, 9):
        broker.put_object(row(f"o{number}", 20 + number))


def more_rows(broker):
    broker.merge_rows([row(f"o{number}", 30) for number in range(2, 9)])


def container_state(broker):
    """Rows, counts and metadata; the counts are those of the rows."""
    if not broker.exists():
        return None
    stat = broker.stat()
    broker.databases.close()
    path = broker.live_file()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = broker.rows_since(-1, 1000)
    live = [each for each in rows if not each["deleted"]]
    assert stat.object_count == len(live), (stat, rows)
    assert stat.bytes_used == sum(each["size"] for each in live)
    facts = sorted((r["name"], r["created_at"], r["deleted"]) for r in rows)
    return facts, stat.hash, stat.delete_timestamp, sorted(broker.metadata().items())


def container_and_copy(root):
    """A container, and another replica of it with rows of its own."""
    on(container, some_rows)(root)
    copy_alone(root)


def copy_alone(root):
    def fill(broker):
        make_container(broker)
        broker.merge_rows([row(f"p{number}", 40 + number) for number in range(40)])

    on(lambda databases, _: container(databases, root, "sdb1"), fill)(root)


def receive(finish):
    """What a peer does: rsync of its file, then a REPLICATE call."""

    def act(root):
        with closing(Databases(lambda: NOW)) as databases:
            sender = container(databases, root, "sdb1")
            (root / "sda1" / "tmp").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sender.path, root / "sda1" / "tmp" / "the-id")
            with suppress(DatabaseExists):
                finish(container(databases, root), "the-id", None)

    return act


def some_containers(broker):
    with suppress(DatabaseExists):
        broker.create(at(0))
    for number in range(4):
        name, put = f"c{number}", at(number).internal
        broker.put_container(ContainerRow(name, put, "0", number, 7 * number))


def account_state(broker):
    stat = broker.stat()
    names = [entry[:3] for entry in broker.list_containers(ListingQuery())]
    assert stat.container_count == len(names)
    assert stat.object_count == sum(entry[1] for entry in names)
    return names, stat.hash


def a_broken_database(root):
    on(container, some_rows)(root)
    path = container(None, root).path
    Path(path).write_bytes(b"no database" * 1000)


def meet_broken(root):
    with suppress(DatabaseCorrupt, NotFound):
        on(container, lambda broker: broker.stat())(root)


def databases_of(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.db"))


# --- Rings and facts ------------------------------------------------------------------


def ring(root, devices):
    builder = RingBuilder(4, 3, 1)
    for number in range(devices):
        builder.add_device(
            region=1, zone=number, ip="10.0.0.1", port=6200, name=f"d{number}",
            weight=1.0,
        )  # fmt: skip
    builder.rebalance(now=NOW, rng=Random(1))
    ring_files.write_ring_file(root / "object.ring.gz", builder.ring())


def ring_state(root):
    return len(list(ring_files.read_ring_file(root / "object.ring.gz").devices))


def facts(root, value):
    recon.update_cache(str(root / "object.recon"), {"passes": value}, NULL_LOG)


def facts_state(root):
    return json.loads((root / "object.recon").read_text())


OPERATIONS = [
    Operation(
        "small PUT", an_object, lambda r: Store(r).put(SMALL, at(2)), object_state
    ),
    Operation(
        "large PUT", an_object, lambda r: Store(r).put(LARGE, at(2)), object_state
    ),
    Operation(
        "first PUT",
        lambda root: Store(root),
        lambda root: Store(root).put(SMALL, at(2)),
        object_state,
    ),
    Operation(
        "POST",
        an_object,
        lambda root: Store(root).file().post(Headers({"X-Object-Meta-A": "1"}), at(2)),
        object_state,
    ),
    Operation(
        "DELETE", an_object, lambda r: Store(r).file().delete(at(2)), object_state
    ),
    Operation(
        "suffix hashes",
        an_object,
        lambda root: Store(root).manager.suffix_hashes("sda1", PARTITION),
        object_state,
    ),
    Operation(
        "fragment PUT in two phases",
        lambda root: fragments(root, 1, index=2),
        lambda root: fragments(root, 2, index=3),
        fragment_state,
    ),
    Operation("quarantine of an object", a_damaged_object, meet_damage, data_files),
    Operation("async pending", lambda root: Store(root), keep_update, updates),
    Operation("rewritten async pending", keep_update, rewrite_update, updates),
    Operation(
        "new container",
        lambda root: None,
        on(container, make_container),
        on(container, container_state),
    ),
    Operation(
        "row into the pending file",
        on(container, some_rows),
        on(container, lambda broker: broker.put_object(row("p", 9))),
        on(container, container_state),
    ),
    Operation(
        "merge of the pending file",
        on(container, waiting_rows),
        on(container, lambda broker: broker.commit_pending()),
        on(container, container_state),
    ),
    Operation(
        "merge of rows",
        on(container, some_rows),
        on(container, more_rows),
        on(container, container_state),
    ),
    Operation(
        "container metadata",
        on(container, some_rows),
        on(
            container,
            lambda broker: broker.update_metadata(
                {"X-Container-Meta-A": ("new", at(50).internal)}
            ),
        ),
        on(container, container_state),
    ),
    Operation(
        "deletion of a container",
        on(container, some_rows),
        on(container, lambda broker: broker.delete(at(60).internal)),
        on(container, container_state),
    ),
    Operation(
        "reclaim of tombstones",
        on(container, some_rows),
        on(container, lambda broker: broker.reclaim(NOW + 7, NOW - 1)),
        on(container, container_state),
    ),
    Operation(
        "complete_rsync",
        copy_alone,
        receive(complete_rsync),
        on(container, container_state),
    ),
    Operation(
        "rsync_then_merge",
        container_and_copy,
        receive(rsync_then_merge),
        on(container, container_state),
    ),
    Operation(
        "container rows of an account",
        on(account, some_containers),
        on(account, lambda broker: broker.commit_pending()),
        on(account, account_state),
    ),
    Operation("quarantine of a database", a_broken_database, meet_broken, databases_of),
    Operation("ring file", lambda r: ring(r, 3), lambda r: ring(r, 5), ring_state),
    Operation("recon facts", lambda r: facts(r, 1), lambda r: facts(r, 2), facts_state),
]


def main(folder: str, *names: str) -> None:
    """Print what came of the operations of these names, of all without any."""
    green.install_threads(Inline())
    found = {
        operation.name: deaths_of(operation, Path(folder, str(number)))
        for number, operation in enumerate(OPERATIONS)
        if not names or operation.name in names
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
