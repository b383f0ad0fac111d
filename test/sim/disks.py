# SPDX-License-Identifier: Apache-2.0
"""What lies on the disks of a cluster, read with os and sqlite3 alone."""

from __future__ import annotations

import json
import os
import re
import sqlite3

_FRAGMENT = re.compile(r"#(\d+)(#d)?(?=\.data$)")


def objects_of(world, ring_name, found):
    """path hash → {node number: names of the files that make the object there}.

    Adds to `found` what is not the same on all primaries, or elsewhere, or a fragment
    that is not the node's own.
    """
    ring = world.rings[ring_name]
    primaries = {
        partition: {node.id + 1: node.index for node in ring.primaries(partition)}
        for partition in range(ring.partition_count)
    }
    places = {}
    for node in world.nodes:
        top = f"{node.path}/{_directory(ring_name)}"
        for partition in names_in(top):
            if not partition.isdigit():
                continue
            for suffix in names_in(f"{top}/{partition}"):
                for digest in names_in(f"{top}/{partition}/{suffix}"):
                    names = names_in(f"{top}/{partition}/{suffix}/{digest}")
                    copies = places.setdefault((int(partition), digest), {})
                    if node.number in primaries[int(partition)] or not _is_open(names):
                        copies[node.number] = standing(names)
    for (partition, digest), files in sorted(places.items()):
        # A write that failed may leave an empty directory; it goes when the suffix is
        # hashed again.
        held = {number: names for number, names in files.items() if names}
        found += _misplaced(primaries[partition], digest, held)
    return {digest: files for (_, digest), files in places.items()}


def object_path(world, ring_name, digest, node, name):
    """The path of one file of an object."""
    partition = world.rings[ring_name].partition(bytes.fromhex(digest))
    directory = _directory(ring_name)
    return f"{node.path}/{directory}/{partition}/{digest[-3:]}/{digest}/{name}"


def updates_waiting(node):
    """The number of updates that a node has not told the containers yet."""
    tops = [name for name in names_in(node.path) if name.startswith("async_pending")]
    return sum(len(f) for top in tops for _, _, f in os.walk(f"{node.path}/{top}"))


def _directory(ring_name):
    return ring_name.replace("object", "objects", 1)


def _misplaced(indexes, digest, held):
    if held and set(held) != set(indexes):
        yield f"{digest}: on nodes {sorted(held)}, belongs on {sorted(indexes)}"
    wholes = {tuple(_FRAGMENT.sub("", name) for name in n) for n in held.values()}
    if len(wholes) > 1:
        yield f"{digest}: replicas differ: {held}"
    for number, names in held.items():
        found = [match for match in map(_FRAGMENT.search, names) if match]
        wrong = [m[1] for m in found if int(m[1]) != indexes.get(number)]
        if wrong:
            yield f"{digest}: n{number} has fragment {wrong}, not its own: {names}"


def is_data(name):
    """True when a file holds an object or a fragment of it."""
    return name.endswith(".data")


def is_fragment(name):
    """True when a file holds a part of an object."""
    return _FRAGMENT.search(name) is not None


def standing(names):
    """The files that make the object; older ones go when the suffix is hashed again.

    After a power cut a file that was removed before may be there once more. Fragments
    that were never committed make nothing.
    """
    whole = [name for name in names if name.endswith(".ts") or _is_durable(name)]
    newest = max(map(_stamp, whole), default="")
    made = [name for name in whole if _stamp(name) == newest]
    if any(map(is_data, made)):
        metas = [n for n in names if n.endswith(".meta") and n[:16] > newest[:16]]
        made.append(max(metas, default=""))
    made += [n for n in names if not n.endswith((".data", ".ts", ".meta"))]
    return tuple(sorted(name for name in made if name))


def _is_open(names):
    """True when a fragment that was never committed is newer than the rest.

    A handoff keeps it for the reclaim age, and a tombstone below it as well.
    """
    newest = max(names, key=_stamp, default="")
    return is_data(newest) and not _is_durable(newest)


def _is_durable(name):
    fragment = _FRAGMENT.search(name)
    return is_data(name) and (fragment is None or fragment[2] is not None)


def _stamp(name):
    return name.rpartition(".")[0].partition("#")[0]


def names_in(path):
    try:
        return [
            name
            for name in os.listdir(path)
            if name not in (".lock", "hashes.pkl", "hashes.invalid")
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_database(path, kind, found):
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
    index = info.get("storage_policy_index")
    deleted_at, put_at = info["delete_timestamp"], info["put_timestamp"]
    return {
        "name": name,
        "ring_name": f"object-{index}" if index else "object",
        "rows": live,
        "dead": {
            (row["name"], row.get("storage_policy_index")): row
            for row in all_rows
            if row["deleted"]
        },
        "is_deleted": float(deleted_at or 0) > float(put_at or 0) and not live,
        "metadata": json.loads(info["metadata"] or "{}"),
        "put_timestamp": put_at,
        "delete_timestamp": deleted_at,
    }
