# SPDX-License-Identifier: Apache-2.0
"""What must be true of a cluster: what a client may see, and what lies on the disks.

The model knows nothing of the servers' code: of every name it keeps the writes, their
times and which were acknowledged. The newest acknowledged write stands, unless a newer
one that was not acknowledged has been done after all. Disks and databases are looked at
with os and sqlite3 alone.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

from swift.wire.local_cache import LocalCache
from test.sim.disks import (
    is_data,
    is_fragment,
    names_in,
    object_path,
    objects_of,
    read_database,
    updates_waiting,
)

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
    object_rings: whose objects are looked for. mixed: containers made of two policies,
    whose objects may be out of reach for a while. closed: accounts that were deleted.
    """

    def __init__(self, world):
        self.world = world
        self.objects = {}
        self.containers = {}
        self.account = Story()
        self.damaged = False
        self.elsewhere = frozenset()
        self.object_rings = ("object",)
        self.mixed = set()
        self.closed = set()
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
                # A PUT leaves a container's metadata alone, be it older or newer.
                marks = story.marks_of(Write(0.0, "PUT"))
                mark = headers.get("X-Container-Meta-Mark", "")
                if mark not in marks:
                    found.append(f"{container}: mark {mark!r}, not {marks}")
        return found

    def read_certain(self):
        """Problems of what must be readable although some nodes are lost."""
        world = self.world
        cache = LocalCache()
        found = []
        now = world.clock.now()
        for (container, obj), story in sorted(self.objects.items()):
            if container in self.mixed or not story.is_certain(now):
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
        for account in self.closed:
            facts = rows.get(("account", self.world.salt.digest(account).hex()))
            if facts and facts["rows"]:
                found.append(f"{account}: still has {sorted(facts['rows'])}")
        return found

    def _stored(self, found):
        """path hash → ring name → what each node has of an object, {number: names}."""
        stored = {}
        for name in self.object_rings:
            for digest, copies in objects_of(self.world, name, found).items():
                stored.setdefault(digest, {})[name] = copies
        for node in self.world.nodes:
            waiting = updates_waiting(node)
            if waiting:
                found.append(f"{node.name}: {waiting} updates are not delivered")
        return stored

    def _rows(self, found):
        """(kind, path hash) → facts of the database, the same on all primaries."""
        merged = {}
        for kind in ("account", "container"):
            ring = self.world.rings[kind]
            places = {}
            for node in self.world.nodes:
                top = f"{node.path}/{kind}s"
                for partition in names_in(top):
                    for suffix in names_in(f"{top}/{partition}"):
                        for digest in names_in(f"{top}/{partition}/{suffix}"):
                            place = f"{top}/{partition}/{suffix}/{digest}"
                            if not _is_born(place):
                                continue
                            path = f"{place}/{digest}.db"
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
            known = (stamp, read_database(path, kind, problems), problems)
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
            facts = rows.get(("container", self._digest(container))) or {}
            row = listed[container].pop(obj, None)
            copies = dict(stored.get(self._digest(container, obj), {}))
            own = copies.pop(facts.get("ring_name", "object"), {})
            for name, others in copies.items():
                left = {f for files in others.values() for f in files if is_data(f)}
                # Of a refused write the only row may have been lost with its node; who
                # moves objects to their container's policy knows them by their rows.
                if not all(_is_refused(story, file[:16]) for file in left):
                    found.append(f"{container}/{obj}: is in the wrong ring {name}")
            files = next((names for names in own.values() if names), ())
            if any(_is_refused(story, name[:16]) for name in files):
                # The only node that had it may have died between the commit and the
                # update. Then nobody was told that the write stands, be it a PUT or a
                # DELETE; the listing is mended by the next write.
                continue
            data = [name for name in files if is_data(name)]
            if not data:
                if row is not None and not self._was_destroyed(story, row):
                    found.append(f"{container}/{obj}: is listed, but not stored")
            elif row is None:
                found.append(f"{container}/{obj}: is stored, but not listed")
            elif not self._was_destroyed(story, row):
                expected = self._content(container, obj, data[0], own)
                found += _compare_row(f"{container}/{obj}", row, data[0], expected)
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

    def _content(self, container, obj, name, copies):
        """(size, etag) of an object that stands in a file, or in a set of fragments."""
        if is_fragment(name):
            story = self.objects[container, obj]
            body = next(w.body for w in story.writes if _time(w) == name[:16])
        else:
            number = next(number for number, names in copies.items() if name in names)
            node = next(node for node in self.world.nodes if node.number == number)
            digest = self._digest(container, obj)
            with open(object_path(self.world, "object", digest, node, name), "rb") as f:
                body = f.read()
        return len(body), hashlib.md5(body).hexdigest()

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


def _is_born(place):
    """False for the directory of a database that was never finished.

    A full disk leaves such; they go when they are old by the kernel's time of files,
    which no clock of ours reaches.
    """
    return not all(name.endswith(".tmp") for name in names_in(place))


def _is_refused(story, stamp):
    """True when the write of a time was not acknowledged."""
    return any(
        not write.acknowledged and _time(write) == stamp for write in story.writes
    )


def _time(write):
    """The time of a write as files and rows have it."""
    return f"{write.stamp:.5f}"


def _compare_row(name, row, file, expected):
    """Problems of the row of an object that stands in a file."""
    if (row["size"], row["etag"]) != expected:
        yield f"{name}: listed as {row['size']} {row['etag']}, stored as {expected}"
    if row["created_at"][:16] != file[:16]:
        yield f"{name}: listed at {row['created_at']}, stored as {file}"


def _difference(ours, theirs):
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return f"{ours} and {theirs}"
    return "; ".join(
        f"{key}: {ours.get(key)} and {theirs.get(key)}"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key)
    )
