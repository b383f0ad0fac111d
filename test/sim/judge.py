# SPDX-License-Identifier: Apache-2.0
"""What must be true of a cluster: what a client may see, and what lies on the disks.

The model knows nothing of the servers' code: of every name it keeps the writes, their
times and which were acknowledged. The newest acknowledged write stands, unless a newer
one that was not acknowledged has been done after all. Disks and databases are looked at
with os and sqlite3 alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from dataclasses import dataclass, field

from swift.wire.memcache import LocalCache

ABSENT = None


@dataclass
class Write:
    """One write of one name.

    kind: PUT, POST or DELETE. mark: of its user metadata. expires: seconds since 1970.
    """

    stamp: float
    kind: str
    mark: str = ""
    body: bytes = b""
    acknowledged: bool = False
    expires: int | None = None

    def is_expired(self, now):
        """True when what was written is not to be seen any more."""
        return self.expires is not None and self.expires <= now


@dataclass
class Story:
    """All writes of one name."""

    writes: list = field(default_factory=list)

    def candidates(self):
        """The PUTs and DELETEs of which one stands; None stands for no write at all."""
        whole = [write for write in self.writes if write.kind != "POST"]
        acknowledged = [write for write in whole if write.acknowledged]
        newest = max(acknowledged, key=lambda write: write.stamp, default=None)
        since = newest.stamp if newest else 0.0
        later = [
            write for write in whole if not write.acknowledged and write.stamp > since
        ]
        return [newest, *later]

    def marks_of(self, base):
        """The marks that the metadata of a PUT may have."""
        posts = [
            write
            for write in self.writes
            if write.kind == "POST" and write.stamp > base.stamp
        ]
        acknowledged = [write for write in posts if write.acknowledged]
        newest = max(acknowledged, key=lambda write: write.stamp, default=base)
        later = [
            write
            for write in posts
            if not write.acknowledged and write.stamp > newest.stamp
        ]
        return {newest.mark, *(write.mark for write in later)}

    def allowed(self, now):
        """(etag, mark) that a client may see, ABSENT for no object."""
        found = set()
        for write in self.candidates():
            if write is None or write.kind == "DELETE" or write.is_expired(now):
                found.add(ABSENT)
            else:
                etag = hashlib.md5(write.body).hexdigest()
                found |= {(etag, mark) for mark in self.marks_of(write)}
        return found

    def is_certain(self, now):
        """True when an object must be readable, though perhaps not its newest version.

        That one may be on handoffs alone until a replicator has passed, and a reader
        who meets an older one on a primary looks no further.
        """
        acknowledged = any(w.acknowledged and w.kind == "PUT" for w in self.writes)
        return acknowledged and all(
            write.kind != "DELETE" and not write.is_expired(now + 100)
            for write in self.writes
        )

    def bodies(self):
        """Every body that was ever sent."""
        return {write.body for write in self.writes if write.kind == "PUT"}


class Judge:
    """Looks at a World with the eyes of its clients, and at its disks.

    world: has nodes, rings, salt, account, clock, calm_proxy and ask; that of the
    simulation, or a real cluster seen alike.

    objects: (container, object) → Story; containers: name → Story; each problem is one
    line of text. damaged: something was destroyed for good on one node. elsewhere:
    containers of another policy, whose objects are read, but not looked for on disks.
    """

    def __init__(self, world):
        self.world = world
        self.objects = {}
        self.containers = {}
        self.account = Story()
        self.damaged = False
        self.elsewhere = frozenset()
        self._databases_seen = {}

    # --- What a client sees -----------------------------------------------------------

    def read_all(self):
        """Problems of every object through a fresh proxy without faults."""
        world = self.world
        proxy = world.calm_proxy
        cache = LocalCache()
        found = []
        now = world.clock.now()
        for (container, obj), story in sorted(self.objects.items()):
            status, headers, body = world.ask(
                proxy,
                "GET",
                f"/v1/{world.account}/{container}/{obj}",
                cache_=cache,
            )
            if status == 404:
                seen = ABSENT
            elif status == 200 and body is not None:
                etag = hashlib.md5(body).hexdigest()
                seen = (etag, headers.get("X-Object-Meta-Mark", ""))
                if headers.get("Etag", "").strip('"') != etag:
                    found.append(f"{container}/{obj}: etag is not that of the body")
            else:
                found.append(f"{container}/{obj}: GET answers {status}")
                continue
            allowed = story.allowed(now)
            if seen not in allowed:
                found.append(f"{container}/{obj}: is {seen}, may be {allowed}")
        for container, story in sorted(self.containers.items()):
            status, headers, _ = world.ask(
                proxy, "HEAD", f"/v1/{world.account}/{container}", cache_=cache
            )
            seen = status // 100 == 2
            allowed = {
                write is not None and write.kind == "PUT"
                for write in story.candidates()
            }
            if seen not in allowed:
                found.append(f"{container}: HEAD answers {status}, exists: {allowed}")
            elif seen:
                base = next(
                    (write for write in story.writes if write.kind == "PUT"), None
                )
                mark = headers.get("X-Container-Meta-Mark", "")
                posts = [w for w in story.writes if w.kind == "POST"]
                if posts and mark not in story.marks_of(base):
                    found.append(
                        f"{container}: mark {mark!r}, not {story.marks_of(base)}"
                    )
        return found

    def read_certain(self):
        """Problems of what must be readable although some nodes are lost."""
        world = self.world
        cache = LocalCache()
        found = []
        now = world.clock.now()
        for (container, obj), story in sorted(self.objects.items()):
            if not story.is_certain(now):
                continue
            status, _, seen = world.ask(
                world.calm_proxy,
                "GET",
                f"/v1/{world.account}/{container}/{obj}",
                {"X-Newest": "true"},
                cache_=cache,
            )
            if status != 200 or seen not in story.bodies():
                found.append(f"{container}/{obj}: acknowledged, but GET gives {status}")
        return found

    # --- What lies on the disks -------------------------------------------------------

    def look(self):
        """Problems of objects, listings and counters on the disks."""
        found = []
        stored = self._stored(found)
        rows = self._rows(found)
        self._compare_listings(stored, rows, found)
        return found

    def _stored(self, found):
        """path hash → file names, the same on all primaries and nowhere else."""
        ring = self.world.rings["object"]
        places = {}
        for node in self.world.nodes:
            top = f"{node.path}/objects"
            for partition in _names(top):
                if not partition.isdigit():
                    continue
                for suffix in _names(f"{top}/{partition}"):
                    for digest in _names(f"{top}/{partition}/{suffix}"):
                        path = f"{top}/{partition}/{suffix}/{digest}"
                        files = _standing(_names(path))
                        places.setdefault((int(partition), digest), {})[node.number] = (
                            files
                        )
            waiting = sum(len(f) for _, _, f in os.walk(f"{node.path}/async_pending"))
            if waiting:
                found.append(f"{node.name}: {waiting} updates are not delivered")
        for (partition, digest), files in sorted(places.items()):
            primaries = {each.id + 1 for each in ring.primaries(partition)}
            # A write that failed may leave an empty directory; it goes when the suffix
            # is hashed again.
            held = {number: names for number, names in files.items() if names}
            if held and set(held) != primaries:
                found.append(
                    f"{digest}: on nodes {sorted(held)}, belongs on {sorted(primaries)}"
                )
            if len(set(held.values())) > 1:
                found.append(f"{digest}: replicas differ: {held}")
        return {digest: files for (_, digest), files in places.items()}

    def _rows(self, found):
        """(kind, path hash) → facts of the database, the same on all primaries."""
        merged = {}
        for kind in ("account", "container"):
            ring = self.world.rings[kind]
            places = {}
            for node in self.world.nodes:
                top = f"{node.path}/{kind}s"
                for partition in _names(top):
                    for suffix in _names(f"{top}/{partition}"):
                        for digest in _names(f"{top}/{partition}/{suffix}"):
                            path = f"{top}/{partition}/{suffix}/{digest}/{digest}.db"
                            key = (int(partition), digest)
                            facts = self._facts(path, kind, found)
                            places.setdefault(key, {})[node.number] = facts
            for (partition, digest), copies in sorted(places.items()):
                primaries = {each.id + 1 for each in ring.primaries(partition)}
                name = next(iter(copies.values())).get("name", digest)
                if set(copies) != primaries:
                    found.append(
                        f"{kind} {name}: on nodes {sorted(copies)}, belongs on "
                        f"{sorted(primaries)}"
                    )
                several = list(copies.values())
                for facts in several[1:]:
                    for key in facts:
                        ours, theirs = facts[key], several[0].get(key)
                        if ours != theirs:
                            found.append(
                                f"{kind} {name}: {key} differs: "
                                f"{_difference(ours, theirs)}"
                            )
                merged[kind, digest] = several[0]
        return merged

    def _facts(self, path, kind, found):
        try:
            with open(path, "rb") as stream:
                # SQLite counts the changes of a file in its header.
                stamp = (os.fstat(stream.fileno()).st_ino, stream.read(28)[24:])
        except FileNotFoundError:
            found.append(f"{path}: is not there")
            return {}
        known = self._databases_seen.get(path)
        if known is None or known[0] != stamp:
            problems = []
            known = (stamp, _read_database(path, kind, problems), problems)
            self._databases_seen[path] = known
        found += known[2]
        if os.path.exists(f"{path}.pending") and os.path.getsize(f"{path}.pending"):
            found.append(f"{path}: rows are pending")
        return known[1]

    def _compare_listings(self, stored, rows, found):
        listed = {}
        for container in self.containers.keys() - self.elsewhere:
            facts = rows.get(("container", self._digest(container)))
            listed[container] = {} if facts is None else dict(facts["rows"])
        for (container, obj), story in sorted(self.objects.items()):
            if container in self.elsewhere:
                continue
            digest = self._digest(container, obj)
            copies = stored.get(digest, {})
            files = next((names for names in copies.values() if names), ())
            row = listed[container].pop(obj, None)
            if any(_is_refused(story, name[:16]) for name in files):
                # The only node that had it may have died between the commit and the
                # update. Then nobody was told that the write stands, be it a PUT or a
                # DELETE; the listing is mended by the next write.
                continue
            data = [name for name in files if name.endswith(".data")]
            if not data:
                if row is not None and not self._was_destroyed(story, row):
                    found.append(f"{container}/{obj}: is listed, but not stored")
                continue
            if row is None:
                found.append(f"{container}/{obj}: is stored, but not listed")
                continue
            place = self._data_file(digest, data[0], copies)
            with open(place, "rb") as stream:
                body = stream.read()
            expected = (len(body), hashlib.md5(body).hexdigest())
            if (row["size"], row["etag"]) != expected:
                found.append(
                    f"{container}/{obj}: listed as {row['size']} {row['etag']}, stored "
                    f"as {expected}"
                )
            if row["created_at"][:16] != data[0][:16]:
                found.append(
                    f"{container}/{obj}: listed at {row['created_at']}, stored as "
                    f"{data[0]}"
                )
        for container, rest in sorted(listed.items()):
            for obj in sorted(rest):
                found.append(f"{container}/{obj}: is listed, but unknown")
        facts = rows.get(("account", self._digest()))
        if facts is None:
            found.append("the account is nowhere")
            return
        self._compare_account(facts, rows, found)

    def _digest(self, *names):
        """The path hash of the account, of a container in it or of an object."""
        return self.world.salt.digest(self.world.account, *names).hex()

    def _was_destroyed(self, story, row):
        """True when a row may tell of a write whose only copy was damaged.

        A write that was not acknowledged may have reached one node only.
        """
        return self.damaged and _is_refused(story, row["created_at"][:16])

    def _data_file(self, digest, name, copies):
        number = next(number for number, names in copies.items() if name in names)
        node = self.world.nodes[number - 1]
        ring = self.world.rings["object"]
        partition = ring.partition(bytes.fromhex(digest))
        return f"{node.path}/objects/{partition}/{digest[-3:]}/{digest}/{name}"

    def _compare_account(self, facts, rows, found):
        for container in self.containers:
            own = rows.get(("container", self._digest(container)))
            exists = own is not None and not own["is_deleted"]
            row = facts["rows"].get(container)
            if exists != (row is not None):
                found.append(
                    f"{container}: exists: {exists}, in the account: {row is not None}"
                )
            elif exists:
                counted = (row["object_count"], row["bytes_used"])
                real = (
                    len(own["rows"]),
                    sum(each["size"] for each in own["rows"].values()),
                )
                if counted != real:
                    found.append(
                        f"{container}: the account says {counted}, it has {real}"
                    )


def _is_refused(story, stamp):
    """True when the write of a time was not acknowledged."""
    return any(
        not write.acknowledged and f"{write.stamp:.5f}" == stamp
        for write in story.writes
    )


def _standing(names):
    """The files that make the object; older ones go when the suffix is hashed again.

    After a power cut a file that was removed before may be there once more.
    """
    whole = [name for name in names if name.endswith((".data", ".ts"))]
    newest = max(whole, default="")
    metas = []
    if newest.endswith(".data"):
        metas = [n for n in names if n.endswith(".meta") and n[:16] > newest[:16]]
    others = [n for n in names if not n.endswith((".data", ".ts", ".meta"))]
    made = [newest, max(metas, default=""), *others]
    return tuple(sorted(name for name in made if name))


def _difference(ours, theirs):
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return f"{ours} and {theirs}"
    return "; ".join(
        f"{key}: {ours.get(key)} and {theirs.get(key)}"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key)
    )


def _names(path):
    try:
        return [
            name
            for name in os.listdir(path)
            if name not in (".lock", "hashes.pkl", "hashes.invalid")
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_database(path, kind, found):
    """Name, live rows by name, and what of it must agree; counters are checked."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        info = dict(connection.execute(f"SELECT * FROM {kind}_stat").fetchone())
        table = "object" if kind == "container" else "container"
        all_rows = [
            dict(row) for row in connection.execute(f"SELECT * FROM {table}").fetchall()
        ]
        policy = [dict(row) for row in connection.execute("SELECT * FROM policy_stat")]
    except sqlite3.Error as error:
        found.append(f"{path}: {error}")
        return {}
    finally:
        connection.close()
    for row in all_rows:
        row.pop("ROWID", None)
    live = {row["name"]: row for row in all_rows if not row["deleted"]}
    name = info["account"] + "/" + info.get("container", "")
    if kind == "container":
        real = (len(live), sum(row["size"] for row in live.values()))
        counted = (info["object_count"], info["bytes_used"])
        by_policy = (
            sum(row["object_count"] for row in policy),
            sum(row["bytes_used"] for row in policy),
        )
    else:
        real = (
            len(live),
            sum(row["object_count"] for row in live.values()),
            sum(row["bytes_used"] for row in live.values()),
        )
        counted = tuple(
            info[key] for key in ("container_count", "object_count", "bytes_used")
        )
        by_policy = tuple(
            sum(row[key] for row in policy)
            for key in ("container_count", "object_count", "bytes_used")
        )
    if counted != real:
        found.append(f"{path} ({name}): counts {counted}, has {real}")
    if by_policy != real:
        found.append(f"{path} ({name}): policy counts {by_policy}, has {real}")
    deleted_at, put_at = info["delete_timestamp"], info["put_timestamp"]
    return {
        "name": name,
        "rows": live,
        "dead": {row["name"]: row for row in all_rows if row["deleted"]},
        "is_deleted": float(deleted_at or 0) > float(put_at or 0) and not live,
        "metadata": json.loads(info["metadata"] or "{}"),
        "put_timestamp": put_at,
        "delete_timestamp": deleted_at,
    }
