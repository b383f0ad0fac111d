# SPDX-License-Identifier: Apache-2.0
"""A real cluster as the simulation's judge sees one, and what may not lie about."""

from __future__ import annotations

import configparser
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from swift.core import pickles
from swift.core.errors import FormatError
from swift.core.headers import Headers
from swift.runtime.cluster import Cluster as Facts
from test.sim.judge import Judge
from test.support.client import Client
from test.support.cluster import ROOT, Cluster, alive, free_port, wait_until
from test.support.crash_load import Load
from test.support.passes import HEALERS, NODES, run_passes

AGED_S = 8 * 86400.0
"""Older than the reclaim age, after which what was interrupted is removed."""

ROUNDS = 8
"""Passes until everything agrees, at most."""

ERASURE_CODED = "ec-4-2"
AUDITORS = ("object-auditor", "container-auditor", "account-auditor")

_RSYNC = re.compile(r"^\..*\.[a-zA-Z0-9_]{6}$")


@dataclass(frozen=True)
class Node:
    """A node as the judge sees it; path: of its first device."""

    number: int
    name: str
    path: str


def make_cluster(folder: Path, *arguments: str, revive: bool = False) -> Cluster:
    """A cluster whose clients may tell the time of a write, and no node is shunned."""
    cluster = Cluster(folder, *arguments, revive=revive)
    made = [sys.executable, str(ROOT / "bin" / "swift-saio"), "--create-only"]
    made += ["--port", str(cluster.port), "--storage-port", str(free_port())]
    subprocess.run(
        [*made, *arguments, str(folder)], check=True, capture_output=True, cwd=ROOT
    )
    conf = configparser.ConfigParser(interpolation=None)
    path = folder / "etc" / "proxy-server.conf"
    conf.read(path)
    conf["filter:gatekeeper"]["shunt_inbound_x_timestamp"] = "false"
    conf["app:proxy-server"]["error_suppression_limit"] = "100000"
    conf["app:proxy-server"]["allow_account_management"] = "true"
    with path.open("w") as stream:
        conf.write(stream)
    return cluster


class _Clock:
    @staticmethod
    def now() -> float:
        return time.time()


class Scene:
    """What `test.sim.judge.Judge` asks of a world, of processes and a folder."""

    clock = _Clock()
    calm_proxy = None

    def __init__(self, cluster: Cluster) -> None:
        facts = Facts.load(str(cluster.folder / "etc"))
        self.salt = facts.salt
        self.rings = {kind: ring.get() for kind, ring in facts.rings.items()}
        self._client = Client.authenticated(
            f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
        )
        self.account = self._client.base.rsplit("/", 1)[-1]
        self.nodes = [
            Node(number, f"d{number}", str(cluster.device(number))) for number in NODES
        ]

    def ask(
        self,
        _proxy: object,
        method: str,
        path: str,
        headers: Mapping[str, str] = {},
        *,
        cache_: object = None,
    ) -> tuple[int, Headers, bytes]:
        """One request to the proxy."""
        got = self._client.request(method, path, dict(headers))
        return got.status, Headers(got.headers), got.body

    def files_of(self, container: str, obj: str) -> list[str]:
        """The suffixes of an object's files, of all replicas."""
        digest = self.salt.digest(self.account, container, obj)
        partition, name = self.rings["object"].partition(digest), digest.hex()
        return sorted(
            path.suffix
            for node in self.nodes
            for path in Path(node.path, "objects", str(partition)).rglob(f"{name}/*")
        )

    # --- What a client sees of containers and the account -----------------------------

    def look_at_listings(self, load: Load) -> list[str]:
        """Problems of listings and counts, compared with GETs of every name."""
        found: list[str] = []
        totals = {}
        for container in sorted(load.containers):
            rows = self._rows(f"/{quote(container)}")
            head = self._client.head(f"{self._client.base}/{container}")
            if rows is None:
                if head.status != 404:
                    found.append(f"{container}: HEAD {head.status}, GET 404")
                continue
            listed = {row["name"]: (row["hash"], row["bytes"]) for row in rows}
            counted = _numbers(
                head.headers, "x-container-object-count", "x-container-bytes-used"
            )
            real = (len(listed), sum(size for _, size in listed.values()))
            totals[container] = real
            if counted != real:
                found.append(f"{container}: HEAD says {counted}, lists {real}")
            found += self._compare(load, container, listed)
        return [*found, *self._look_at_account(load, totals)]

    def _compare(
        self, load: Load, container: str, listed: Mapping[str, tuple[str, int]]
    ) -> Iterator[str]:
        """Problems of one container's listing."""
        for (place, obj), story in sorted(load.objects.items()):
            if place != container:
                continue
            head = self._client.head(f"{self._client.base}/{place}/{obj}")
            seen = None
            if head.status == 200:
                size = int(head.headers["content-length"])
                seen = (head.headers["etag"], size)
            # A write that nobody was told of may have reached one node that was killed
            # before it could tell the container.
            doubted = any(w is None or not w.acknowledged for w in story.candidates())
            if listed.get(obj) != seen and not doubted:
                yield f"{place}/{obj}: listed as {listed.get(obj)}, HEAD gives {seen}"

    def _look_at_account(
        self, load: Load, totals: Mapping[str, tuple[int, int]]
    ) -> Iterator[str]:
        rows = self._rows("") or []
        listed = {row["name"]: (row["count"], row["bytes"]) for row in rows}
        if listed != totals:
            yield f"the account lists {listed}, there are {totals}"
        head = self._client.head(self._client.base).headers
        counted = _numbers(
            head,
            "x-account-container-count",
            "x-account-object-count",
            "x-account-bytes-used",
        )
        real = (
            len(totals),
            sum(count for count, _ in totals.values()),
            sum(size for _, size in totals.values()),
        )
        if counted != real:
            yield f"the account says {counted}, there are {real}"
        marks = load.account.marks_of(load.account.writes[0])
        mark = head.get("x-account-meta-mark", "")
        if mark not in marks:
            yield f"the account's mark is {mark!r}, may be {marks}"

    def _rows(self, path: str) -> list[dict[str, object]] | None:
        """The rows of a listing, in pages; None when there is none."""
        rows: list[dict[str, object]] = []
        while True:
            marker = quote(str(rows[-1]["name"])) if rows else ""
            got = self._client.get(
                f"{self._client.base}{path}?format=json&limit=40&marker={marker}"
            )
            if got.status == 404:
                return None
            page = got.json()
            if not page:
                return rows
            rows += page


def _numbers(headers: Mapping[str, str], *names: str) -> tuple[int, ...]:
    return tuple(int(headers.get(name, "-1")) for name in names)


# --- The end ----------------------------------------------------------------------


def settle(cluster: Cluster, load: Load) -> list[str]:
    """Run passes until nothing is wrong any more; what still is after the last."""
    scene = Scene(cluster)
    judge = judge_of(scene, load)
    rng = random.Random(load.seed)
    problems: list[str] = []
    for number in range(ROUNDS):
        method = {"object-replicator": {"sync_method": rng.choice(("ssync", "rsync"))}}
        daemons = HEALERS if number else [*AUDITORS, *HEALERS]
        run_passes(cluster.folder, daemons, method)
        if number in (0, 3):
            # Counts that a handoff told late stay until the container changes again.
            load.touch(f"z{number}")
        else:
            problems = judge.look() + judge.read_all() + scene.look_at_listings(load)
            problems += leftovers(cluster)
            if not problems:
                break
    return [*load.problems, *problems]


def judge_of(scene: Scene, load: Load) -> Judge:
    """Who knows what clients were told."""
    judge = Judge(scene)
    judge.objects, judge.containers = load.objects, load.containers
    judge.elsewhere = load.places_of(ERASURE_CODED)
    return judge


def told(load: Load, problems: Iterable[str]) -> str:
    """Problems, and what happened to the names that they begin with."""
    names = {problem.partition(":")[0] for problem in problems}
    lines = [line for line in load.trace if any(name in line for name in names)]
    return "\n".join([f"SEED={load.seed}", *problems, *lines])


# --- What lies about --------------------------------------------------------------


def files_of(cluster: Cluster) -> Iterator[tuple[Path, list[str], list[str]]]:
    """(directory, directories, files) of every directory below the devices."""
    for folder, folders, names in os.walk(cluster.folder / "srv"):
        yield Path(folder), folders, names


def is_temporary(folder: Path, name: str) -> bool:
    """True for a file that somebody writes and has not named yet."""
    return (
        folder.name.startswith("tmp")
        or name.endswith((".tmp", "-journal"))
        or bool(_RSYNC.match(name))
        or (name.startswith("tmp") and folder.parent.name.startswith("objects"))
    )


def age_temporaries(cluster: Cluster) -> int:
    """Make what was interrupted old enough to be removed; how many files."""
    count = 0
    then = time.time() - AGED_S
    for folder, _, names in files_of(cluster):
        old = [name for name in names if is_temporary(folder, name)]
        count += len(old)
        if len(folder.name) == 32 and not any(n.endswith(".db") for n in names):
            old += [*names, "."]  # a database that never came into being
        for name in old:
            os.utime(folder / name, (then, then))
    return count


def leftovers(cluster: Cluster) -> list[str]:
    """What lies on the devices and in the caches and belongs to nothing."""
    found = []
    for folder, folders, names in files_of(cluster):
        place = folder.relative_to(cluster.folder)
        for name in names:
            path = folder / name
            if is_temporary(folder, name):
                found.append(f"{place}/{name}: a temporary file")
            elif "quarantined" in folder.parts or "async_pending" in str(place):
                found.append(f"{place}/{name}: is kept")
            elif name.endswith(".pending") and path.stat().st_size:
                found.append(f"{place}/{name}: rows are pending")
            elif name == "hashes.pkl" and not _is_pickle(path):
                found.append(f"{place}/{name}: half a file")
        locks = [name for name in names if name.startswith(".lock")]
        if locks and len(locks) == len(names) and not folders:
            found.append(f"{place}: {locks} and nothing else")
    for path in (cluster.folder / "cache").rglob("*"):
        if path.is_file() and not _is_json(path):
            found.append(f"{path.relative_to(cluster.folder)}: no facts for recon")
    return sorted(found)


def _is_pickle(path: Path) -> bool:
    try:
        return isinstance(pickles.loads(path.read_bytes()), dict)
    except FormatError:
        return False


def _is_json(path: Path) -> bool:
    if path.name.endswith(".lock"):
        return True
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except ValueError:
        return False


# --- Processes --------------------------------------------------------------------


def processes_of(cluster: Cluster) -> dict[int, str]:
    """pid → command line of the living processes that were started for a cluster."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(cluster.folder) in line and alive(int(entry.name)):
            found[int(entry.name)] = line
    return found


def black_out(cluster: Cluster) -> None:
    """SIGKILL every process of a cluster at once, swift-saio first."""
    parent = cluster._process
    assert parent is not None
    parent.kill()
    parent.wait(10)
    for pid in processes_of(cluster):
        with suppress(ProcessLookupError):  # gone with its parent
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(cluster), 10, "the end of all processes")


def removed_but_open(cluster: Cluster) -> list[str]:
    """Files below the devices that servers hold open although nobody can name them."""
    found = []
    for pid in processes_of(cluster):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(fd.readlink())
            except OSError:
                continue
            if str(cluster.folder / "srv") in target and target.endswith("(deleted)"):
                found.append(f"{pid}: {target}")
    return found


def open_count(cluster: Cluster) -> dict[int, int]:
    """pid → number of its descriptors."""
    return {
        pid: len(list(Path(f"/proc/{pid}/fd").iterdir()))
        for pid in processes_of(cluster)
    }
